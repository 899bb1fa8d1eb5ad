"""Weights in: one door, `load`; the other rooms know files, names, layouts and where to fetch."""
