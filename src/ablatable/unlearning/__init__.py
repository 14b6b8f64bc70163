"""Opt-outs: remove units from a run for good, repair or extend it, and prove what was done.

A module belongs here if it makes a new run out of an old one, or checks such a claim.
It may import `analysis` and the rooms before it.
"""
