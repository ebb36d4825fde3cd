"""Evaluates distilled sets: fresh nets are trained on them and tested on real images."""
