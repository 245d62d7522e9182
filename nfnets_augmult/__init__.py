"""Training of normalizer-free networks with augmentation multiplicity, in JAX and Haiku."""

import sys

__version__ = '0.1.0'

# `python -m nfnets_augmult.PROGRAM` imports this before the program, which takes over as its first
# act, see `ops/console.py`. Until then an interrupt ends the process without a traceback.
if sys.argv[:1] == ['-m']:
  import signal

  signal.signal(signal.SIGINT, signal.SIG_DFL)
