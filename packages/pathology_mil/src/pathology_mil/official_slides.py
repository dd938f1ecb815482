"""CLAM's tissue, grid and heat map under their published names (components of `acmil`)."""
