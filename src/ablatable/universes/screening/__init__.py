"""Screening: find the units that move a sample most without drawing every counterfactual.

A surrogate guesses the ablations that are not drawn yet; the search draws the most promising ones.
"""
