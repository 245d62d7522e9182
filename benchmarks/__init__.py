"""What the package costs, measured on this machine, beside pipelines of the usual kind.

Programs, run from the root of the repository: `python -m benchmarks.input`, `benchmarks.step` and
`benchmarks.device_input`. They measure the run of a config. None of this is installed.
"""
