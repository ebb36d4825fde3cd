"""Ridge regression from net features to labels, and the loss on its predictions."""
