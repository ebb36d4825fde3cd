"""Types, random keys and errors: what every other package may import."""
