"""Training batches that are a pure function of (seed, epoch)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from analogtorch.ops import derived

Make = Callable[[Tensor, int], tuple[Any, Any]]
"""A pure function from (indices of the samples, epoch) to (inputs, labels), which are tensors or
tuples of them, called in any process."""


class Batches:
    """Shuffled batches of one training split, in another order in each epoch.

    Args:
        make: a function that returns the inputs and labels of the samples at the indices (int64,
            (batch_size,)) in an epoch.
        size: number of samples in the split.
        batch_size: number of samples in a batch; an epoch leaves out those that do not fill one.
        seed: seed of the order.
        workers: number of processes that call ``make`` ahead of the training; 0 calls it in this
            process. The batches are the same.

    Raises:
        ValueError: there are fewer samples than one batch, or ``workers`` is negative.
    """

    def __init__(
        self, make: Make, size: int, *, batch_size: int, seed: int, workers: int = 0
    ) -> None:
        if batch_size > size:
            raise ValueError(
                f"batch_size={batch_size} is more than the {size} training samples; use at most "
                f"{size}"
            )
        if workers < 0:
            raise ValueError(f"workers={workers}; use 0 or more")
        self.make = make
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers

    def __len__(self) -> int:
        """Return the number of batches of one epoch."""
        return self.size // self.batch_size

    def indices(self, epoch: int) -> Tensor:
        """Return the samples of each batch of the epoch: int64, (batches, batch_size)."""
        key = derived(self.seed, "order", epoch)
        order = torch.randperm(
            self.size, generator=torch.Generator().manual_seed(key), device="cpu"
        )
        return order[: len(self) * self.batch_size].view(len(self), self.batch_size)

    def epoch(self, epoch: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[Any, Any]]:
        """Return the batches of that epoch: of each, the share of one of several ranks."""
        share = _Epoch(self, epoch, rank, ranks)
        return iter(DataLoader(share, batch_size=None, num_workers=self.workers))


class _Epoch(Dataset):
    def __init__(self, batches: Batches, epoch: int, rank: int, ranks: int) -> None:
        self.make, self.number = batches.make, epoch
        self.indices = batches.indices(epoch)[:, rank::ranks]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, step: int) -> tuple[Any, Any]:
        return self.make(self.indices[step], self.number)
