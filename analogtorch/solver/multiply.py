"""The precise product of the residual: bit-sliced MVMs whose ADCs count.

With matrix elements ``a = alpha sum_k a_k 2^(b k)`` and inputs ``x = xi sum_p x_p 2^(c p)`` in
fixed point, ``alpha`` and ``xi`` powers of two:

    y = alpha xi sum_k sum_p 2^(b k + c p) round(sum over the rows of a_k x_p)

where cells hold ``a_k`` with an error, and each row block has its own count.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from analogtorch.ops import fold, normal, stream
from analogtorch.ops.converters import in_steps
from analogtorch.ops.slices import digits
from analogtorch.solver.arrays import power_above, programmed
from analogtorch.solver.chip import SlicedMVM, SolverChip

_AT_A_TIME = 1 << 17
"""Counts that are computed together, in some passes each, which then stay in cache."""


@dataclass(frozen=True)
class SlicedMatrix:
    """Matrices in the arrays of bit-sliced MVMs."""

    planes: Tensor
    """Digits as the cells hold them, (slices, B, n, m); the matrix itself where it is exact."""
    alpha: Tensor
    """What the matrix is in units of, (B, 1, 1)."""
    mvm: SlicedMVM
    key: Tensor
    """Key of the noise of the ADCs."""
    systems: Tensor
    """The number of each system, int64 (B,), by which its noise is keyed."""

    @property
    def mT(self) -> "SlicedMatrix":
        """The same arrays, driven by their columns."""
        return replace(self, planes=self.planes.mT)

    def of(self, which: Tensor | slice) -> "SlicedMatrix":
        """Return those of the systems that ``which`` selects."""
        planes, alpha, systems = self.planes[:, which], self.alpha[which], self.systems[which]
        return replace(self, planes=planes, alpha=alpha, systems=systems)

    def times(self, x: Tensor, number: int, bits: int | None = None) -> Tensor:
        """Return the products with ``x`` (B, m, k): (B, n, k).

        Args:
            x: the vectors.
            number: counts the products, each of which has other noise; those of a solution from 0
                up, other ones from -1 down.
            bits: bits of the magnitude of an input; None: those of the registers.
        """
        if self.mvm.bits is None:
            return self.planes[0] @ x
        bits = self.mvm.input_bits if bits is None else bits
        slices, _, n, _ = self.planes.shape
        counts = slices * n * self.mvm.pulses(bits) * x.shape[-1]
        step = max(1, _AT_A_TIME // counts)
        runs = [slice(i, i + step) for i in range(0, len(x), step)]
        return torch.cat([self.of(run)._run(x[run], number, bits) for run in runs])

    def stored(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, m, k) as the registers hold it, from which pulses are made."""
        if self.mvm.bits is None:
            return x
        numbers, unit = _in_units(x, self.mvm.input_bits)
        return numbers * unit

    def _run(self, x: Tensor, number: int, bits: int) -> Tensor:
        mvm, (slices, _, n, m), count = self.mvm, self.planes.shape, self.mvm.pulses(bits)
        numbers, unit = _in_units(x, bits)
        pulses = torch.stack(digits(numbers, mvm.bits_per_pulse, count), 1)
        driven = pulses.movedim(1, 2).flatten(2)  # (B, m, pulses x vectors)
        held = self.planes.movedim(0, 1).flatten(1, 2)  # (B, slices x n, m)
        k = 2.0 ** (mvm.bits_per_slice * torch.arange(slices, device=x.device)).to(x.dtype)
        p = 2.0 ** (mvm.bits_per_pulse * torch.arange(count, device=x.device)).to(x.dtype)
        y = x.new_zeros(len(x), n, x.shape[-1])
        for block, first in enumerate(range(0, m, mvm.rows)):
            rows = slice(first, first + mvm.rows)
            counts = self._counted(held[:, :, rows] @ driven[:, rows], number, block)
            counts = counts.unflatten(2, (count, -1)).unflatten(1, (slices, n))
            y = y + torch.einsum("bknpv,k,p->bnv", counts, k, p)
        assert mvm.bits is not None
        return y * (self.alpha * unit / 2.0**mvm.bits)

    def _counted(self, sums: Tensor, number: int, block: int) -> Tensor:
        """Return the ADC outputs of a row block, (B, slices x n, pulses x vectors)."""
        full = self.mvm.full_count
        if self.mvm.noise:
            lines = torch.arange(sums.shape[1], device=sums.device)
            rows = (self.systems.unsqueeze(1) * len(lines) + lines).flatten()
            own = fold(self.key, stream("count", number, block))
            z = normal(own, rows, torch.zeros_like(rows), sums.shape[2])
            sums = sums + self.mvm.noise * z.view(sums.shape).to(sums.dtype)
        return in_steps(sums, sums.new_tensor(float(full)), full)


def slice_up(a: Tensor, chip: SolverChip, key: Tensor) -> SlicedMatrix:
    """Return matrices, (B, n, m), in the arrays of bit-sliced MVMs."""
    mvm, noise = chip.mvm, fold(key, stream("counts"))
    systems = torch.arange(len(a), device=a.device)
    if mvm.bits is None:
        return SlicedMatrix(a.unsqueeze(0), torch.ones_like(a[:, :1, :1]), mvm, noise, systems)
    alpha = power_above(a.abs().amax((-2, -1), keepdim=True))
    numbers = fixed_point(a, mvm.bits) * (2.0**mvm.bits / alpha)
    own = fold(key, stream("slices"))
    planes = programmed(numbers, mvm.bits_per_slice, mvm.slices, chip.cell, own)
    return SlicedMatrix(planes, alpha, mvm, noise, systems)


def fixed_point(a: Tensor, bits: int | None) -> Tensor:
    """Return matrices (B, n, m) rounded to this many bits below the largest of their elements."""
    if bits is None:
        return a
    alpha, top = power_above(a.abs().amax((-2, -1), keepdim=True)), 2.0**bits
    return (a / alpha * top).round().clamp(1 - top, top - 1) * (alpha / top)


def _in_units(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return vectors (B, m, k) as integers of this many bits, and what they are in units of."""
    unit, top = power_above(x.abs().amax(1, keepdim=True)) / 2.0**bits, 2.0**bits
    return (x / unit).round().clamp(1 - top, top - 1), unit
