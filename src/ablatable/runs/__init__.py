"""Runs: train an ensemble into a folder, open it, check it, and draw with it.

A module belongs here if it writes or reads a run. Training one component sees the component's split and nothing else.
It may import `diffusion` and the rooms before it.
"""
