"""Attribution methods and how well they agree with what removal shows.

A module belongs here if it scores units for samples, or judges such scores.
It may import `analysis` and the rooms before it.
"""
