"""What every long job needs, whatever it computes: checkpoints, metrics, signals, progress."""
