"""Devices and processes: the mesh, the processes of a run, and its exit codes."""
