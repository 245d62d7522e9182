"""The variance of the gradient: its parts from images and from augmentation (Appendix A)."""
