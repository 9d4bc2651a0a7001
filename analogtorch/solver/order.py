"""Order and signs of rows in which circuits settle: the largest elements on the diagonal."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """A row and its sign for each place of each system, (B, n, 1)."""

    rows: Tensor
    signs: Tensor

    def of(self, t: Tensor) -> Tensor:
        """Return the rows of ``t`` (B, n, k) in this order, with these signs."""
        return self.signs * t.gather(1, self.rows.expand_as(t))

    def back(self, t: Tensor) -> Tensor:
        """Return the rows as ``of`` took them."""
        return torch.zeros_like(t).scatter(1, self.rows.expand_as(t), self.signs * t)


def as_given(a: Tensor) -> Order:
    """Return the order that rows of matrices (B, n, n) have."""
    rows = torch.arange(a.shape[1], device=a.device).view(1, -1, 1).expand(len(a), -1, 1)
    return Order(rows, torch.ones_like(a[:, :, :1]))


def dominant(a: Tensor) -> Order:
    """Return an order with positive and large elements on the diagonal.

    The largest element of all that are left takes its place, again and again. A matrix that is
    symmetric and positive definite stays as it is.
    """
    systems, n, _ = a.shape
    left, each = a.abs(), torch.arange(systems, device=a.device)
    rows = torch.zeros(systems, n, dtype=torch.long, device=a.device)
    for _ in range(n):
        at = left.flatten(1).argmax(1)
        row, place = at // n, at % n
        rows[each, place] = row
        left[each, row] = -1.0
        left[each, :, place] = -1.0
    diagonal = a[each.unsqueeze(1), rows, torch.arange(n, device=a.device)]
    signs = torch.where(diagonal < 0, -1.0, 1.0).to(a.dtype)
    return Order(rows.unsqueeze(-1), signs.unsqueeze(-1))
