"""One sweep per figure or table of the paper; see docs/sweeps.md."""
