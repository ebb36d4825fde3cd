"""FRePo itself: the synthetic set, the pool of nets, and the outer step that updates both."""
