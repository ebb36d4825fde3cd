"""Real images: where they come from, how they are whitened, in which order they arrive."""
