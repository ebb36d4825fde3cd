"""Real images: sources, whitening, and the order of the target batches."""
