"""The rough analog inverse: arrays in feedback loops, and blocks of larger systems (BlockAMC).

A system that fits no array is cut into two by two blocks, with the Schur complement ``S``, computed
digitally, in place of the last block:

    [A1 A2]  [y]   [f]        S = A4 - A3 inv(A1) A2
    [A3 A4]  [z] = [g]

    y1 = inv(A1) f    g1 = g - A3 y1    z = inv(S) g1    f1 = f - A2 z    y = inv(A1) f1

Source: BlockAMC, DATE 2024 (arXiv:2401.10042), and Zuo et al., Nat. Electron. (2025). ``A1`` and
``S`` are cut again until they fit. ASSUMED: what passes from one circuit to the next is held in
analog and exactly, so that only ``f``, ``g``, ``y`` and ``z`` meet converters. A digital ``S`` is
that of the matrix before it is rounded to the levels of the arrays.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from analogtorch.chips.converters import levels
from analogtorch.devices import Cell
from analogtorch.ops import fold, stream
from analogtorch.ops.converters import in_steps
from analogtorch.solver.arrays import power_above, programmed
from analogtorch.solver.chip import InverseCircuit, SolverChip


@dataclass(frozen=True)
class Leaf:
    """One block in an inverse circuit, as its arrays hold it: ``a`` and, transposed, ``b``."""

    a: Tensor
    b: Tensor
    scale: Tensor
    """The matrix element that the highest level stands for, (B, 1, 1)."""

    @property
    def mT(self) -> "Leaf":
        """The circuit with its arrays driven by their columns."""
        return Leaf(self.b.mT, self.a.mT, self.scale)


@dataclass(frozen=True)
class Split:
    """Two by two blocks: circuits for ``A1`` and ``S``, and arrays for ``A2`` and ``A3``."""

    first: "Blocks"
    upper: Tensor
    lower: Tensor
    schur: "Blocks"

    @property
    def mT(self) -> "Split":
        """The blocks of the transposed matrix, in the same arrays."""
        return Split(self.first.mT, self.lower.mT, self.upper.mT, self.schur.mT)


Blocks: TypeAlias = Leaf | Split


def place(a: Tensor, chip: SolverChip, key: Tensor, name: str = "A") -> Blocks:
    """Return matrices, (B, n, n), in the arrays of inverse circuits."""
    n, size = a.shape[-1], chip.inverse.size
    if size is None or n <= size:
        return _leaf(a, chip, key, name)
    m = halves(n, size)
    a1, a2, a3, a4 = a[:, :m, :m], a[:, :m, m:], a[:, m:, :m], a[:, m:, m:]
    first = place(a1, chip, key, f"{name}1")
    upper = _tiles(a2, chip.inverse, chip.cell, key, f"{name}2")
    lower = _tiles(a3, chip.inverse, chip.cell, key, f"{name}3")
    if chip.inverse.schur == "analog":
        taken = converted(lower @ matrix(first, chip.inverse), a2, chip.inverse)
    else:
        # infinite where A1 has no inverse, which the checks refuse
        taken = a3 @ torch.linalg.solve_ex(a1, a2).result
    return Split(first, upper, lower, place(a4 - taken, chip, key, f"{name}S"))


def halves(n: int, size: int) -> int:
    """Return the rows of the first of two blocks of a matrix of ``n`` rows."""
    return size * math.ceil(n / size / 2)


def leaves(blocks: Blocks) -> Iterator[Leaf]:
    """Yield the inverse circuits of a system, in the order in which they compute."""
    if isinstance(blocks, Leaf):
        yield blocks
    else:
        yield from leaves(blocks.first)
        yield from leaves(blocks.schur)


def dynamics(leaf: Leaf, circuit: InverseCircuit) -> Tensor:
    """Return the matrix ``M`` of ``dx/dt = 2 pi f (c - M x)``, (B, n, n)."""
    forward = leaf.a / (1 + leaf.a.abs().sum(-1, keepdim=True))
    if circuit.circuit == "inverse":
        return forward
    back = leaf.b.mT
    return back / (1 + back.abs().sum(-1, keepdim=True)) @ forward


def matrix(blocks: Blocks, circuit: InverseCircuit) -> Tensor:
    """Return what the circuits multiply their inputs by, (B, n, n): about the inverse.

    Elements are not finite where a block has no inverse.
    """
    if isinstance(blocks, Leaf):
        return _settled(blocks, circuit)
    first, schur = matrix(blocks.first, circuit), matrix(blocks.schur, circuit)
    right, left = first @ blocks.upper @ schur, blocks.lower @ first
    above = torch.cat((first + right @ left, -right), -1)
    return torch.cat((above, torch.cat((-schur @ left, schur), -1)), -2)


def converted(inverse: Tensor, r: Tensor, circuit: InverseCircuit) -> Tensor:
    """Return ``inverse r`` between the converters of the circuits, (B, n, k).

    The range of the DACs is the largest element of their vector, that of the ADCs the power of two
    above the largest of theirs (ASSUMED).

    Args:
        inverse: what circuits multiply by, (B, n, m).
        r: (B, m, k).
        circuit: the circuit, with its converters.
    """
    if circuit.input_bits is not None:
        largest = r.abs().amax(1, keepdim=True)
        r = in_steps(r, torch.where(largest > 0, largest, 1.0), levels(circuit.input_bits))
    d = inverse @ r
    if circuit.output_bits is not None:
        # steps that are powers of two, so that bits of the code are pulses
        steps = levels(circuit.output_bits)
        full = power_above(d.abs().amax(1, keepdim=True))
        d = in_steps(d, full * (steps / (steps + 1)), steps)
    return d


def _settled(leaf: Leaf, circuit: InverseCircuit) -> Tensor:
    inverse, info = torch.linalg.inv_ex(leaf.a)
    inverse = torch.where((info != 0).view(-1, 1, 1), torch.nan, inverse)
    if circuit.settling_time is not None:
        exponent = -2 * math.pi * circuit.bandwidth * circuit.settling_time
        rest = torch.linalg.matrix_exp(exponent * dynamics(leaf, circuit))
        inverse = inverse - rest @ inverse
    return inverse / leaf.scale


def _leaf(a: Tensor, chip: SolverChip, key: Tensor, name: str) -> Leaf:
    scale = _largest(a)
    held = _held(a / scale, chip.inverse, chip.cell, fold(key, stream("inverse", name)))
    if chip.inverse.circuit == "inverse":
        return Leaf(held, held, scale)
    again = _held(a / scale, chip.inverse, chip.cell, fold(key, stream("transposed", name)))
    return Leaf(held, again, scale)


def _tiles(a: Tensor, circuit: InverseCircuit, cell: Cell, key: Tensor, name: str) -> Tensor:
    """Return matrices, (B, rows, columns), as arrays for MVMs hold them, each with its scale."""
    size, (rows, columns) = circuit.size, a.shape[1:]
    assert size is not None
    padded = pad(a, (0, -columns % size, 0, -rows % size))
    tiles = padded.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    scale = _largest(tiles.movedim(3, 2)).movedim(2, 3).expand_as(tiles)
    scale = scale.flatten(3, 4).flatten(1, 2)[:, :rows, :columns]
    return _held(a / scale, circuit, cell, fold(key, stream("mvm", name))) * scale


def _largest(a: Tensor) -> Tensor:
    largest = a.abs().amax((-2, -1), keepdim=True)
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def _held(a: Tensor, circuit: InverseCircuit, cell: Cell, key: Tensor) -> Tensor:
    """Return matrices of elements in [-1, 1] as the arrays hold them."""
    if circuit.bits is None:
        return a
    steps = 2.0 ** (circuit.bits * circuit.slices) - 1
    planes = programmed((a * steps).round(), circuit.bits, circuit.slices, cell, key)
    weights = 2.0 ** (circuit.bits * torch.arange(circuit.slices, device=a.device))
    return (planes * weights.to(a.dtype).view(-1, 1, 1, 1)).sum(0) / steps
