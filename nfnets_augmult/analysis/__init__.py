"""Pictures and measurements of runs."""
