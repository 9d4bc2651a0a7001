"""The mask of saturated partial sums, which a forward pass keeps for the backward: one bit each.

All kernels have the same form: a graph that ``torch.compile`` kept on disk, or an exported one,
allocates the mask and passes it from one pass to the other, and may run on a machine with other
kernels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MASK = torch.uint8
"""Type of a mask."""


def mask_shape(y: Sequence[int], blocks: int, dims: int) -> tuple[int, ...]:
    """Return (blocks, rows, bytes) of the mask for an output of shape ``y``.

    The bits of a row fill whole 32-bit words.

    Args:
        y: (*, outputs) of a linear layer, (N, outputs, *sizes) of a convolution.
        blocks: row blocks of the weight.
        dims: spatial dimensions; 0 for a linear layer, whose rows are vectors. The rows of a
            convolution are samples and outputs.
    """
    last = math.prod(y[2:]) if dims else y[-1]
    # Size.numel() would fix a batch size that is traced
    rows = y[0] * y[1] if dims else math.prod(y[:-1])
    return blocks, rows, (last + 31) // 32 * 4


def packed(outside: Tensor) -> Tensor:
    """Return the mask of one row block, (rows, bytes), from bool (rows, last).

    Bit i of byte j is number 8 j + i.
    """
    bits = F.pad(outside.to(MASK), (0, -outside.shape[1] % 32)).unflatten(1, (-1, 8))
    return (bits * _weights(outside)).sum(2, dtype=MASK)


def unpacked(mask: Tensor, last: int) -> Tensor:
    """Return the argument of ``packed``, (rows, last)."""
    return (mask.unsqueeze(2) & _weights(mask)).bool().flatten(1)[:, :last]


def _weights(like: Tensor) -> Tensor:
    # not torch.tensor: exporters find no form for a constant that is made while they trace
    return 2 ** torch.arange(8, dtype=MASK, device=like.device)
