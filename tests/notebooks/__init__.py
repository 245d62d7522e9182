"""The notebooks, their sources, and what executes them."""
