"""From images on disk to batches in which every image appears n times."""
