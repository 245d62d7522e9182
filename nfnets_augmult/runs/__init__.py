"""A run, from its config to its parts, its training and what is done with it afterwards."""
