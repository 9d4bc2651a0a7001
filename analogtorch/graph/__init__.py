"""What a model computes: its matrices, its operations and their order, found by running it."""

from analogtorch.graph.types import Matrix, Operation

__all__ = ["Matrix", "Operation"]
