"""Sweeps: grids of runs, one after another or in groups that train in one program."""
