"""What a fit may be told, for commands that parse before they load NumPy."""

METHODS = ("certified", "paper")
"""Of finding the optimum: `scaling.solve`, or the grid and L-BFGS of arXiv 2512.23407 (`scaling.paper`)."""
BOOTSTRAPS = 4000
"""Unless another number is asked for."""
