"""How good a distilled set is: fresh nets trained on it and tested on real images."""
