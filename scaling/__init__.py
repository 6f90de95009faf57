"""The scaling law of families: read runs, fit the law, certify the fit, and ask it what to train (arXiv 2512.23407)."""
