"""How often every magnitude was met, and the converter range that suits it."""

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
    [2.0 ** (max(e, 1) - 127) * (torch.arange(1 << _BITS) / (1 << _BITS) + (e > 0)).double() for e in range(256)]
)
"""Where the bins begin, and one octave more. The first holds 0 and what is smaller than 2^-131."""
_EDGES = _STARTS[1 : _BINS + 1]
"""Where they end."""
_MIDDLES = (_STARTS[:_BINS] + _EDGES) / 2


class Histogram:
    """Magnitudes in bins 1.6 to 3.1 % wide, and the standard deviation of the numbers themselves."""

    def __init__(self) -> None:
        self.counts = torch.zeros(_BINS, dtype=torch.float64)
        """Of the first bin as of the others: zeros are met too."""
        self.squares = torch.zeros_like(self.counts)
        """As ``counts``, each number weighted by what an error of 1 in it costs, squared."""
        self.largest = 0.0
        self._numbers, self._mean, self._spread = 0, 0.0, 0.0

    def add(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Count the numbers of ``x``, all finite; ``weight``: of their squared errors, of its shape; None: 1 each."""
        x = x.detach().flatten().float()
        if x.numel() == 0:
            return
        self._add_moments(x)
        x = x.abs()
        self.largest = max(self.largest, x.max().item())
        bins = (x.view(torch.int32) >> _DROPPED).cpu()  # the bits of a float32 order magnitudes as integers
        counts = torch.bincount(bins, minlength=_BINS)
        self.counts += counts
        self.squares += counts if weight is None else torch.bincount(bins, weight.flatten().double().cpu(), _BINS)

    def _add_moments(self, x: Tensor) -> None:
        """Chan's update of mean and sum of squared deviations."""
        mean = x.mean()
        n, total, step = x.numel(), self._numbers + x.numel(), mean.item() - self._mean
        self._spread += (x - mean).square().sum().item() + step * step * self._numbers * n / total
        self._mean += step * n / total
        self._numbers = total

    def noisy(self, deviation: float) -> "Histogram":
        """What would be met, on average, if every number were read with normal noise of this standard deviation.

        Nothing is drawn, so that it does not depend on the order of the numbers. The largest magnitude is what that of
        as many readings exceeds in one case of two.
        """
        if not deviation:
            return self
        used = self.counts.nonzero().squeeze(1)
        magnitudes = torch.where(used > 0, _MIDDLES[used], 0.0)
        low, high = (int(torch.searchsorted(_EDGES, x)) for x in (deviation * 1e-4, self.largest + 9 * deviation))
        high += 1  # whatever bin the largest is in, all of it is below the last edge
        edges = _EDGES[low:high].unsqueeze(1)
        below = torch.special.ndtr((edges - magnitudes) / deviation) - torch.special.ndtr(
            (-edges - magnitudes) / deviation
        )
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
        self, method: str, bits: int | None, percentile: float, deviations: float = 3.0, beyond: float = 0.0
    ) -> float:
        """The range of a converter of so many bits; without one, the largest magnitude.

        ``beyond``: squared error that a range of 1 causes further on, per number met; it grows with the range squared.
        """
        if method == "absmax" or bits is None:
            return self.largest
        if method == "std":
            return deviations * self.std
        if method == "percentile":  # 0 where that many are zero, which is no bound
            counted = self.counts.cumsum(0)
            reached = int(torch.searchsorted(counted, percentile / 100 * counted[-1]))
            return min(_EDGES[reached].item(), self.largest) if reached else 0.0
        return self._least_error(bits, beyond)

    def _least_error(self, bits: int, beyond: float) -> float:
        """The bin edge with the least squared error: uniform rounding inside, distance to the edge outside."""
        used = self.counts[1:].nonzero().squeeze(1) + 1  # zeros are read exactly
        bins = slice(int(used[0]), int(used[-1]) + 1)
        candidates = _EDGES[bins].clamp_max(self.largest)
        inside = self.squares[1:].cumsum(0)[bins.start - 1 : bins.stop - 1]
        rounding = inside * (candidates / (2 ** (bits - 1) - 1)).square() / 12
        excess = (_MIDDLES[used].unsqueeze(0) - candidates.unsqueeze(1)).clamp_min(0).square()
        clipping = (excess * self.squares[used]).sum(1)
        further = beyond * (self.counts[0] + inside[-1]) * candidates.square()
        return candidates[int((rounding + clipping + further).argmin())].item()
