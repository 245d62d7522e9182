"""A run: from its config to its parts, training, evaluation and export."""
