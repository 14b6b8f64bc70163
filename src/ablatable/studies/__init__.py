"""Studies: many runs and universes from one configuration, resumable, ending in a table and a figure."""
