"""Which layers of common models become analog: ``python -m benchmarks.coverage``."""
