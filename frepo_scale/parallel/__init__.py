"""Where things are: the mesh, and how a state is laid out over it."""
