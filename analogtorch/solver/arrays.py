"""Matrices in arrays: digits of their elements, programmed into cells."""

import torch
from torch import Tensor

from analogtorch.devices import Cell
from analogtorch.devices.cell import program
from analogtorch.ops import fold, normal
from analogtorch.ops.slices import digits


def programmed(numbers: Tensor, bits: int, count: int, cell: Cell, key: Tensor) -> Tensor:
    """Return digits as cells hold them, in units of one step of a digit.

    Args:
        numbers: integers, (B, rows, columns), float64.
        bits: bits of a digit.
        count: digits of a number, one array for each.
        cell: the cell of each digit.
        key: from ``ops.fold``; the errors of a cell depend on it, on the number of its system and
            on its position there.

    Returns:
        (count, B, rows, columns), the least significant digit first, float64.
    """
    full = 2.0**bits - 1
    planes = torch.stack(digits(numbers, bits, count)) / full
    # a system's are the same however many follow it
    shape = planes.movedim(1, 0).shape
    z = torch.stack([_normals(fold(key, d), shape).movedim(0, 1) for d in range(cell.devices)])
    g = program(cell, planes, z.to(planes.device, planes.dtype), lambda g: g)
    return cell.weights(g) * full


def _normals(key: Tensor, shape: torch.Size) -> Tensor:
    *lines, columns = shape
    rows = torch.arange(torch.Size(lines).numel(), device=key.device)
    return normal(key, rows, torch.zeros_like(rows), columns).view(shape)


def power_above(largest: Tensor) -> Tensor:
    """Return the least powers of two above these numbers, and 1 for 0."""
    _, exponent = torch.frexp(largest)
    found = torch.ldexp(torch.ones_like(largest), exponent)
    return torch.where(largest > 0, found, torch.ones_like(found))
