"""What a universe shows: significance, nearest training units, unattributable samples, features, retraining.

A module belongs here if it reads runs or universes and answers a question about them; it changes neither.
It may import `universes` and the rooms before it.
"""
