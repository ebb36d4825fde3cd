"""The training loop, which does not depend on the algorithm."""
