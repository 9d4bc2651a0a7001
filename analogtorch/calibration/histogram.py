"""Histograms of magnitudes, and the converter range that suits them.

They count all numbers, or each column apart.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Method = Literal["mse", "percentile", "absmax", "std"]

_BITS = 5
"""Bits of the mantissa of a float32 that separate bins: 2^5 per octave."""
_DROPPED = 23 - _BITS
_BINS = 255 << _BITS  # all finite float32
_STARTS = torch.cat(
    [
        2.0 ** (max(e, 1) - 127)
        * (torch.arange(1 << _BITS, device="cpu") / (1 << _BITS) + (e > 0)).double()
        for e in range(256)
    ]
)
"""Where the bins begin, and one octave more. The first bin holds 0 and numbers below 2^-131."""
_EDGES = _STARTS[1 : _BINS + 1]
"""Where the bins end."""
_MIDDLES = (_STARTS[:_BINS] + _EDGES) / 2
_SERIAL = 2**15 - 1
"""Numbers on which torch works in one thread. It shares more among several, which spin while they
wait for each other: where other programs keep the cores busy, counting took ten times as long.
Pieces of this size also stay in cache."""


class Histogram:
    """Magnitudes in bins 1.6 to 3.1 % wide, and the standard deviation of the numbers."""

    def __init__(self) -> None:
        self.counts = torch.zeros(_BINS, dtype=torch.float64, device="cpu")
        """Numbers per bin; zeros count in the first."""
        self.squares = torch.zeros_like(self.counts)
        """The same, each number weighted by the square of what an error of 1 in it costs."""
        self.largest = 0.0
        self._numbers, self._mean, self._spread = 0, 0.0, 0.0

    @property
    def any_nonzero(self) -> bool:
        """Whether any number was not zero."""
        return self.largest > 0

    def add(self, x: Tensor, weight: Tensor | None = None, first: int = 0) -> None:
        """Count the numbers of ``x``, all finite.

        Args:
            x: numbers of any shape.
            weight: weights of their squared errors, of the same shape; None: 1 each.
            first: ignored, as columns are not separated here.
        """
        if x.numel() == 0:
            return
        pieces = _pieces(x.detach().flatten())
        weights = (None,) * len(pieces) if weight is None else _pieces(weight.flatten())
        for piece, of_piece in zip(pieces, weights, strict=True):
            self._add(piece.float(), of_piece)

    def _add(self, x: Tensor, weight: Tensor | None) -> None:
        self._add_moments(x)
        x = x.abs()
        self.largest = max(self.largest, x.max().item())
        # the bits of a float32 order magnitudes as integers
        bins = (x.view(torch.int32) >> _DROPPED).cpu()
        counts = torch.bincount(bins, minlength=_BINS)
        self.counts += counts
        if weight is None:
            self.squares += counts
        else:
            self.squares += torch.bincount(bins, weight.double().cpu(), _BINS)

    def _add_moments(self, x: Tensor) -> None:
        """Update mean and sum of squared deviations by Chan's method."""
        mean = x.mean()
        n, total, step = x.numel(), self._numbers + x.numel(), mean.item() - self._mean
        self._spread += (x - mean).square().sum().item() + step * step * self._numbers * n / total
        self._mean += step * n / total
        self._numbers = total

    def noisy(self, deviation: float) -> "Histogram":
        """Return the expected histogram with normal noise of a standard deviation on every number.

        Nothing is drawn, so that it does not depend on the order of the numbers. Its largest
        magnitude is the one that as many noisy numbers exceed in one case of two.
        """
        if not deviation:
            return self
        used = self.counts.nonzero().squeeze(1)
        magnitudes = torch.where(used > 0, _MIDDLES[used], 0.0)
        low = int(torch.searchsorted(_EDGES, deviation * 1e-4))
        # whatever bin the largest is in, all of it is below the last edge
        high = 1 + int(torch.searchsorted(_EDGES, self.largest + 9 * deviation))
        below = _within(_EDGES[low:high], magnitudes, deviation)
        new = Histogram()
        for noisy, given in ((new.counts, self.counts), (new.squares, self.squares)):
            reached = below @ given[used]
            noisy[low:high] = torch.diff(reached, prepend=reached.new_zeros(1)).clamp_min(0)
        beyond = self.counts.sum() - new.counts.cumsum(0)[low:high]
        new.largest = _EDGES[low + int((beyond <= math.log(2)).nonzero()[0])].item()
        return new

    @property
    def std(self) -> float:
        """Standard deviation of the numbers around their mean."""
        return math.sqrt(self._spread / self._numbers) if self._numbers else 0.0

    @property
    def offset(self) -> float:
        """Magnitude of the mean over the standard deviation; 0 of numbers that are all alike."""
        return abs(self._mean) / self.std if self._spread > 0 else 0.0

    def bound(
        self, method: str, steps: float | None, percentile: float, deviations: float = 3.0
    ) -> float:
        """Return the range of a converter with this many steps on each side of zero.

        Without steps it is the largest magnitude.
        """
        if method == "absmax" or not steps:
            return self.largest
        if method == "std":
            return deviations * self.std
        if method == "percentile":  # 0 where that many are zero, which is no bound
            counted = self.counts.cumsum(0)
            reached = int(torch.searchsorted(counted, percentile / 100 * counted[-1]))
            return min(_EDGES[reached].item(), self.largest) if reached else 0.0
        return self._least_error(steps)

    def _least_error(self, steps: float) -> float:
        """Return the bin edge with the least squared error.

        It counts uniform rounding inside, and the distance to the edge outside.
        """
        used = self.counts[1:].nonzero().squeeze(1) + 1  # zeros are read exactly
        bins = slice(int(used[0]), int(used[-1]) + 1)
        candidates = _EDGES[bins].clamp_max(self.largest)
        inside = self.squares[1:].cumsum(0)[bins.start - 1 : bins.stop - 1]
        rounding = inside * (candidates / steps).square() / 12
        middles, squares = _MIDDLES[used], self.squares[used]
        each = _pieces(candidates.unsqueeze(1), max(1, _SERIAL // len(used)))
        clipping = torch.cat(
            [((middles - edge).clamp_min(0).square() * squares).sum(1) for edge in each]
        )
        return candidates[int((rounding + clipping).argmin())].item()


_COARSE = 3
"""Bits of the mantissa that separate the bins of columns."""
_OCTAVES = range(-15, 17)
_COLUMN_EDGES = torch.cat(
    [torch.tensor([2.0**_OCTAVES.start], dtype=torch.float64, device="cpu")]
    + [
        2.0**e * (1 + torch.arange(1, 1 + (1 << _COARSE), device="cpu").double() / (1 << _COARSE))
        for e in _OCTAVES
    ]
)
"""Where the bins end. The first holds all that is smaller than every octave, the last all that is
larger."""
_COLUMN_MIDDLES = torch.cat(
    [
        torch.zeros(1, dtype=torch.float64, device="cpu"),
        (_COLUMN_EDGES[1:] + _COLUMN_EDGES[:-1]) / 2,
    ]
)
_OCTAVES_OF_RMS = range(-1, 6)
_MULTIPLES = 2.0 ** (
    torch.arange(8 * _OCTAVES_OF_RMS.start, 8 * _OCTAVES_OF_RMS.stop + 1, device="cpu").double() / 8
)
"""Ranges in units of the root of the mean square of the numbers in them."""
_PRIOR = 300
"""Numbers that are added to each column, spread as all columns are: of 10 to 1000, this kept most
of MiniLM, EfficientNet-Lite0 and nn.Transformer."""


class ColumnHistogram:
    """Magnitudes of each column, in bins 6 to 12 % wide.

    Numbers are in units of (full-scale input x weight scale). A column takes 2 KB, or 4 KB if its
    numbers have weights. Numbers below 2^-15 of full scale count as zeros, in a column that has
    larger ones.
    """

    def __init__(self, columns: int, weighted: bool = False) -> None:
        self.counts = torch.zeros(columns, len(_COLUMN_EDGES), dtype=torch.int64, device="cpu")
        self.squares = torch.zeros_like(self.counts, dtype=torch.float64) if weighted else None
        """As in ``Histogram``; None: all numbers of a column have the same weight, which does not
        matter."""
        self.largest = torch.zeros(columns, dtype=torch.float64, device="cpu")

    @property
    def any_nonzero(self) -> bool:
        """Whether any number was not zero."""
        return bool(self.largest.any())

    def add(self, x: Tensor, weight: Tensor | None = None, first: int = 0) -> None:
        """Count the numbers of ``x``, all finite.

        Args:
            x: numbers of shape (numbers, columns).
            weight: weights, as in ``Histogram``.
            first: index of the first of these columns.
        """
        if x.numel() == 0:
            return
        columns = slice(first, first + x.shape[1])
        width = len(_COLUMN_EDGES)
        below = ((127 + _OCTAVES.start) << _COARSE) - 1  # bins of float32 below the second one here
        begin = width * torch.arange(x.shape[1], device=x.device)
        parts = []
        for piece in _pieces(x.detach(), max(1, _SERIAL // x.shape[1])):
            piece = piece.float().abs().contiguous()
            largest = piece.amax(0).double().cpu()
            self.largest[columns] = torch.maximum(self.largest[columns], largest)
            bins = ((piece.view(torch.int32) >> 23 - _COARSE) - below).clamp_(0, width - 1)
            parts.append((bins + begin).cpu())
        bins = torch.cat(parts).flatten()
        counts = torch.bincount(bins, minlength=width * x.shape[1])
        self.counts[columns] += counts.view(-1, width)
        if self.squares is not None and weight is not None:
            squares = torch.bincount(bins, weight.reshape(-1).double().cpu(), width * x.shape[1])
            self.squares[columns] += squares.view(-1, width)

    def noisy(self, deviation: float) -> "ColumnHistogram":
        """Return the expected histogram with noise, as in ``Histogram``."""
        if not deviation:
            return self
        within = _within(_COLUMN_EDGES, _COLUMN_MIDDLES, deviation).T
        new = ColumnHistogram(len(self.counts))
        reached = self.counts.double() @ within
        new.counts = _increments(reached)
        if self.squares is not None:
            new.squares = _increments(self.squares @ within)
        beyond = self.counts.sum(1, keepdim=True) - reached
        new.largest = _COLUMN_EDGES[(beyond > math.log(2)).sum(1).clamp_max(len(_COLUMN_EDGES) - 1)]
        return new

    def bound(self, method: str, steps: float | None, percentile: float) -> Tensor:
        """Return the range, for each column, of a converter with this many steps on a side of zero.

        It is 0 for a column without range. A column of few numbers does not show its tail. So
        ``_PRIOR`` numbers are added to each, spread as those of all columns are in units of the
        root of each column's mean square, which is taken two standard errors larger than measured.
        """
        if method == "absmax" or not steps:
            return self.largest
        counts = self.counts.double()
        numbers = counts.sum(1, keepdim=True)
        if self.squares is not None and method == "mse":
            counts = self.squares * (numbers / self.squares.sum(1, keepdim=True).clamp_min(1e-300))
        total = counts.cumsum(1)
        rms = (counts @ _COLUMN_MIDDLES.square() / numbers.squeeze(1)).sqrt().unsqueeze(1)
        there = (rms > 0).squeeze(1)
        ends = _COLUMN_EDGES
        bins = torch.searchsorted(ends, (rms * _MULTIPLES)[there]).clamp_max(len(ends) - 1)
        larger = (rms * (1 + 2 * (2 * numbers).rsqrt())).clamp_min(1e-30)
        near = (ends / larger).nan_to_num(math.inf).log2()
        near = (8 * (near - _OCTAVES_OF_RMS.start)).clamp(0, len(_MULTIPLES) - 1).round().long()
        if method == "percentile":
            spread = (total / numbers)[there].gather(1, bins).mean(0)
            inside = (total + _PRIOR * spread[near]) / (numbers + _PRIOR)
            index = (inside < percentile / 100).sum(1).clamp_max(len(ends) - 1)
            found = torch.where(index > 0, ends[index], 0.0)
            return torch.where(self.largest <= ends[0], self.largest, found)
        rounding = (total - total[:, :1]) * (ends / steps).square() / 12  # zeros are read exactly
        errors = rounding + counts @ (_COLUMN_MIDDLES - ends.unsqueeze(1)).clamp_min(0).square().T
        spread = (errors / (numbers * rms.square()))[there].gather(1, bins).mean(0)
        index = (errors + _PRIOR * rms.square() * spread[near]).argmin(1)
        return torch.where(self.largest <= ends[0], self.largest, ends[index])


def _pieces(x: Tensor, count: int = _SERIAL) -> tuple[Tensor, ...]:
    """Return ``x`` in pieces of ``count``, or whole on a GPU, which would wait between them."""
    return x.split(count) if x.device.type == "cpu" else (x,)


def _increments(cumulated: Tensor) -> Tensor:
    """Return what each column of ``cumulated`` (rows, bins) adds to the one before, >= 0."""
    first = cumulated.new_zeros(len(cumulated), 1)
    return torch.diff(cumulated, dim=1, prepend=first).clamp_min(0)


def _within(edges: Tensor, magnitudes: Tensor, deviation: float) -> Tensor:
    """Return the probability that a magnitude with normal noise lies below an edge.

    Its shape is (edges, magnitudes).
    """
    found = []
    for edge in _pieces(edges.unsqueeze(1), max(1, _SERIAL // max(1, len(magnitudes)))):
        above = torch.special.ndtr((edge - magnitudes) / deviation)
        found.append(above - torch.special.ndtr((-edge - magnitudes) / deviation))
    return torch.cat(found)
