"""Training data as removable units: where images come from, how they become pixels, and distances between them.

A module belongs here if it answers "what is in the training set?" or "how far apart are two images?".
It may import `_runtime`.
"""
