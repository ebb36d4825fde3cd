"""The cost of a recipe on hardware that is not on this machine."""
