"""What a model computes, found by running it: its matrices, its operations and their order."""

from analogtorch.graph.types import Matrix, Operation

__all__ = ["Matrix", "Operation"]
