"""Who trains on what: codewords, their design, what survives a removal, and what a code costs.

A module belongs here if it works on the binary matrix (units, components) and needs no images and no models.
It may import `data` and `_runtime`.
"""
