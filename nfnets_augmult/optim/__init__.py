"""Parts of the optimiser: parameter groups, schedules, clipping, averages."""
