"""`calibrate-family`: thresholds per exit that keep a promise about how often the last exit would have chosen
otherwise.

A prompt's risk at some thresholds is the share of its text's tokens that differ from what the last exit would have
chosen after the same tokens, where the text is the one that a node writes with these thresholds (`trajectories`). The
thresholds to be tested are made of one part of the prompts (`tuning`); on the others their risks are measured
(`measure`) and tested (`certify`).
"""

DELTA = 0.05
"""Chance that a promise fails, where nothing else is said."""
