"""Offline: images in any known form to records of squares of one size, once."""
