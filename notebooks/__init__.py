"""Notebooks that reproduce the paper, and what executes them."""
