"""What every room stands on: files, locks, hashes, random numbers, workers, progress, devices, plots.

Nothing here knows about diffusion models or training data. A module belongs here if another project could use it as is.
It may import `errors` only.
"""
