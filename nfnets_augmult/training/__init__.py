"""Plan, state, step, loop, checkpoints and records of a training run."""
