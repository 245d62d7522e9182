"""Training of normalizer-free networks with augmentation multiplicity, in JAX and Haiku."""

__version__ = '0.1.0'
