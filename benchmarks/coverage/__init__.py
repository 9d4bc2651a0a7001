"""What becomes analog in models that people use, and which steps work on them: ``python -m
benchmarks.coverage``.
"""
