"""The learning-rate finder: measures the largest stable learning rate of a run."""
