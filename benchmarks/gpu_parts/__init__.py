"""The parts of `benchmarks/gpu_check.py`: one module per part, and what they share."""
