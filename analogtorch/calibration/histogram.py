"""How often every magnitude was met, and the converter range that suits it: of all numbers, or of
each column.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Method = Literal["mse", "percentile", "absmax", "std"]

_BITS = 5
"""Of the mantissa of a float32 that tell bins apart: 2^5 in an octave."""
_DROPPED = 23 - _BITS
_BINS = 255 << _BITS  # all finite float32
_STARTS = torch.cat(
    [
        2.0 ** (max(e, 1) - 127) * (torch.arange(1 << _BITS) / (1 << _BITS) + (e > 0)).double()
        for e in range(256)
    ]
)
"""Where the bins begin, and one octave more. The first holds 0 and what is smaller than 2^-131."""
_EDGES = _STARTS[1 : _BINS + 1]
"""Where they end."""
_MIDDLES = (_STARTS[:_BINS] + _EDGES) / 2
_SERIAL = 2**15 - 1
"""Numbers on which torch works in one thread. It shares more among several, which spin while they
wait for each other: where other programs keep the cores busy, counting took ten times as long.
Pieces also stay in cache."""


class Histogram:
    """Magnitudes in bins 1.6 to 3.1 % wide, and the standard deviation of the numbers
    themselves.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(_BINS, dtype=torch.float64)
        """Of the first bin as of the others: zeros are met too."""
        self.squares = torch.zeros_like(self.counts)
        """As ``counts``, each number weighted by what an error of 1 in it costs, squared."""
        self.largest = 0.0
        self._numbers, self._mean, self._spread = 0, 0.0, 0.0

    @property
    def met(self) -> bool:
        """Whether any number was not zero."""
        return self.largest > 0

    def add(self, x: Tensor, weight: Tensor | None = None, first: int = 0) -> None:
        """Count the numbers of ``x``, all finite.

        Args:
            x: of any shape.
            weight: of their squared errors, of the same shape; None: 1 each.
            first: of the columns of ``x``, which are not told apart here.
        """
        if x.numel() == 0:
            return
        pieces = _pieces(x.detach().flatten())
        weights = (None,) * len(pieces) if weight is None else _pieces(weight.flatten())
        for piece, own in zip(pieces, weights, strict=True):
            self._add(piece.float(), own)

    def _add(self, x: Tensor, weight: Tensor | None) -> None:
        self._add_moments(x)
        x = x.abs()
        self.largest = max(self.largest, x.max().item())
        # the bits of a float32 order magnitudes as integers
        bins = (x.view(torch.int32) >> _DROPPED).cpu()
        counts = torch.bincount(bins, minlength=_BINS)
        self.counts += counts
        self.squares += (
            counts if weight is None else torch.bincount(bins, weight.double().cpu(), _BINS)
        )

    def _add_moments(self, x: Tensor) -> None:
        """Chan's update of mean and sum of squared deviations."""
        mean = x.mean()
        n, total, step = x.numel(), self._numbers + x.numel(), mean.item() - self._mean
        self._spread += (x - mean).square().sum().item() + step * step * self._numbers * n / total
        self._mean += step * n / total
        self._numbers = total

    def noisy(self, deviation: float) -> "Histogram":
        """What would be met, on average, if every number were read with normal noise of this
        standard deviation.

        Nothing is drawn, so that it does not depend on the order of the numbers. The largest
        magnitude is what that of as many readings exceeds in one case of two.
        """
        if not deviation:
            return self
        used = self.counts.nonzero().squeeze(1)
        magnitudes = torch.where(used > 0, _MIDDLES[used], 0.0)
        low, high = (
            int(torch.searchsorted(_EDGES, x))
            for x in (deviation * 1e-4, self.largest + 9 * deviation)
        )
        high += 1  # whatever bin the largest is in, all of it is below the last edge
        below = _within(_EDGES[low:high], magnitudes, deviation)
        new = Histogram()
        for mine, given in ((new.counts, self.counts), (new.squares, self.squares)):
            reached = below @ given[used]
            mine[low:high] = torch.diff(reached, prepend=reached.new_zeros(1)).clamp_min(0)
        beyond = self.counts.sum() - new.counts.cumsum(0)[low:high]
        new.largest = _EDGES[low + int((beyond <= math.log(2)).nonzero()[0])].item()
        return new

    @property
    def std(self) -> float:
        """Standard deviation of the numbers around their mean."""
        return math.sqrt(self._spread / self._numbers) if self._numbers else 0.0

    def bound(
        self, method: str, steps: int | None, percentile: float, deviations: float = 3.0
    ) -> float:
        """The range of a converter of so many steps on each side of zero; without one, the largest
        magnitude.
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

    def _least_error(self, steps: int) -> float:
        """The bin edge with the least squared error: uniform rounding inside, distance to the edge
        outside.
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
"""Bits of the mantissa that tell the bins of columns apart."""
_OCTAVES = range(-15, 17)
_COLUMN_EDGES = torch.cat(
    [torch.tensor([2.0**_OCTAVES.start], dtype=torch.float64)]
    + [
        2.0**e * (1 + torch.arange(1, 1 + (1 << _COARSE)).double() / (1 << _COARSE))
        for e in _OCTAVES
    ]
)
"""Where the bins end. The first holds all that is smaller than every octave, the last all that is
larger."""
_COLUMN_MIDDLES = torch.cat(
    [torch.zeros(1, dtype=torch.float64), (_COLUMN_EDGES[1:] + _COLUMN_EDGES[:-1]) / 2]
)
_OCTAVES_OF_RMS = range(-1, 6)
_MULTIPLES = 2.0 ** (
    torch.arange(8 * _OCTAVES_OF_RMS.start, 8 * _OCTAVES_OF_RMS.stop + 1).double() / 8
)
"""Ranges in units of the root of the mean square of what goes through them."""
_PRIOR = 300
"""Numbers that each column is given as all columns are spread: what kept most of MiniLM,
EfficientNet-Lite0 and nn.Transformer, of 10 to 1000."""


class ColumnHistogram:
    """Magnitudes of each column of numbers in units of (full-scale input x weight scale), in bins 6
    to 12 % wide.

    A column takes 2 KB, or 4 where its numbers have weights. What is below 2^-15 of full scale
    counts as zeros do, where a column has more than that.
    """

    def __init__(self, columns: int, weighted: bool = False) -> None:
        self.counts = torch.zeros(columns, len(_COLUMN_EDGES), dtype=torch.int64)
        self.squares = torch.zeros_like(self.counts, dtype=torch.float64) if weighted else None
        """As of a ``Histogram``; None: the weight is the same for all numbers of a column, and does
        not matter."""
        self.largest = torch.zeros(columns, dtype=torch.float64)

    @property
    def met(self) -> bool:
        """Whether any number was not zero."""
        return bool(self.largest.any())

    def add(self, x: Tensor, weight: Tensor | None = None, first: int = 0) -> None:
        """Count the numbers of ``x``, all finite.

        Args:
            x: (numbers, columns).
            weight: as of a ``Histogram``.
            first: the number of the first of these columns.
        """
        if x.numel() == 0:
            return
        mine, width = slice(first, first + x.shape[1]), len(_COLUMN_EDGES)
        below = ((127 + _OCTAVES.start) << _COARSE) - 1  # bins of float32 below the second one here
        begin, parts = width * torch.arange(x.shape[1], device=x.device), []
        for piece in _pieces(x.detach(), max(1, _SERIAL // x.shape[1])):
            piece = piece.float().abs().contiguous()
            self.largest[mine] = torch.maximum(self.largest[mine], piece.amax(0).double().cpu())
            parts.append(
                (
                    ((piece.view(torch.int32) >> 23 - _COARSE) - below).clamp_(0, width - 1) + begin
                ).cpu()
            )
        bins = torch.cat(parts).flatten()
        self.counts[mine] += torch.bincount(bins, minlength=width * x.shape[1]).view(-1, width)
        if self.squares is not None and weight is not None:
            squares = torch.bincount(bins, weight.reshape(-1).double().cpu(), width * x.shape[1])
            self.squares[mine] += squares.view(-1, width)

    def noisy(self, deviation: float) -> "ColumnHistogram":
        """As of a ``Histogram``."""
        if not deviation:
            return self
        within = _within(_COLUMN_EDGES, _COLUMN_MIDDLES, deviation).T
        new, reached = ColumnHistogram(len(self.counts)), self.counts.double() @ within
        new.counts = torch.diff(
            reached, dim=1, prepend=reached.new_zeros(len(reached), 1)
        ).clamp_min(0)
        if self.squares is not None:
            costly = self.squares @ within
            new.squares = torch.diff(
                costly, dim=1, prepend=costly.new_zeros(len(costly), 1)
            ).clamp_min(0)
        beyond = self.counts.sum(1, keepdim=True) - reached
        new.largest = _COLUMN_EDGES[(beyond > math.log(2)).sum(1).clamp_max(len(_COLUMN_EDGES) - 1)]
        return new

    def bound(self, method: str, steps: int | None, percentile: float) -> Tensor:
        """The range of a converter of so many steps on each side of zero, for each column; 0 where
        it has none.

        A column of few numbers does not show its tail. So ``_PRIOR`` numbers are added to each,
        spread as those of all columns are in units of the root of each one's mean square, taken two
        standard errors larger than it was.
        """
        if method == "absmax" or not steps:
            return self.largest
        counts = self.counts.double()
        numbers = counts.sum(1, keepdim=True)
        if self.squares is not None and method == "mse":
            counts = self.squares * (numbers / self.squares.sum(1, keepdim=True).clamp_min(1e-300))
        total = counts.cumsum(1)
        rms = (counts @ _COLUMN_MIDDLES.square() / numbers.squeeze(1)).sqrt().unsqueeze(1)
        there, ends = (rms > 0).squeeze(1), _COLUMN_EDGES
        bins = torch.searchsorted(ends, (rms * _MULTIPLES)[there]).clamp_max(len(ends) - 1)
        near = (
            (ends / (rms * (1 + 2 * (2 * numbers).rsqrt())).clamp_min(1e-30))
            .nan_to_num(math.inf)
            .log2()
        )
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
    """``x`` in pieces of ``count``; in one where a GPU would wait for the next."""
    return x.split(count) if x.device.type == "cpu" else (x,)


def _within(edges: Tensor, magnitudes: Tensor, deviation: float) -> Tensor:
    """Probability that a number of a magnitude, with normal noise, is read below an edge: (edges,
    magnitudes).
    """
    found = []
    for edge in _pieces(edges.unsqueeze(1), max(1, _SERIAL // max(1, len(magnitudes)))):
        above = torch.special.ndtr((edge - magnitudes) / deviation)
        found.append(above - torch.special.ndtr((-edge - magnitudes) / deviation))
    return torch.cat(found)
