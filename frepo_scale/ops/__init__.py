"""Parts of every long job: checkpoints, metrics, signals, progress, watchdog, workdir."""
