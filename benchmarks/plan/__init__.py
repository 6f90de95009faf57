"""Deployments that are really run here, and what the planner says of them."""
