"""Measuring how large a learning rate can be, before a run is trained."""
