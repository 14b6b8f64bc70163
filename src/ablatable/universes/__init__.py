"""Universes: factual samples with the counterfactual of every unit, drawn from a run and stored.

A module belongs here if it draws counterfactuals, or stores, reads or exchanges them.
It may import `runs` and the rooms before it.
"""
