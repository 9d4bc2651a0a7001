"""What whole networks lose on a chip: ``python -m benchmarks.convert``."""
