"""Files made from a distilled set: two formats to train on, a gallery and the result page."""
