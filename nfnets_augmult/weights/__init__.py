"""Parameter files: the released ones, `.npz` of this package, and timm's."""
