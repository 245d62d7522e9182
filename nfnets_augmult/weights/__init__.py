"""Parameters in files: the released ones, our own, and timm's."""
