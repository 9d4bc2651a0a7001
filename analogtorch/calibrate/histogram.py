"""How often every magnitude was met, and the converter range that suits it."""

import math
from typing import Literal

import torch
from torch import Tensor

Method = Literal["mse", "percentile", "absmax", "std"]

_PER_OCTAVE = 32
_OCTAVES, _LOWEST = 192, -64  # 2^-64 .. 2^128, all that float32 holds; smaller magnitudes count as 2^-64
_EDGES = 2.0 ** (torch.arange(1, _PER_OCTAVE * _OCTAVES + 1, dtype=torch.float64) / _PER_OCTAVE + _LOWEST)
"""Upper ends of the bins."""


class Histogram:
    """Magnitudes in bins 2.2 % wide, and the standard deviation of the numbers themselves."""

    def __init__(self) -> None:
        self.counts = torch.zeros(_PER_OCTAVE * _OCTAVES, dtype=torch.float64)
        self.squares = torch.zeros_like(self.counts)
        """As ``counts``, each number weighted by what an error of 1 in it costs, squared."""
        self.zeros = 0.0
        self._zero_squares = 0.0
        self.largest = 0.0
        self._numbers, self._mean, self._spread = 0, 0.0, 0.0

    def add(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Count the numbers of ``x``; ``weight``: of their squared errors, of ``x``'s shape; None: 1 each."""
        x = x.detach().flatten().float()
        if x.numel() == 0:
            return
        self._add_moments(x)
        x = x.abs()
        used = x > 0
        positive = x[used]
        self.zeros += x.numel() - positive.numel()
        self._zero_squares += x.numel() - positive.numel() if weight is None else weight.flatten()[~used].sum().item()
        if positive.numel():
            self.largest = max(self.largest, positive.max().item())
            bins = ((positive.log2() - _LOWEST) * _PER_OCTAVE).floor().clamp(0, self.counts.numel() - 1).long().cpu()
            counts = torch.bincount(bins, minlength=self.counts.numel())
            self.counts += counts
            if weight is None:
                self.squares += counts
            else:
                own = weight.flatten()[used].double().cpu()
                self.squares += torch.bincount(bins, own, minlength=self.counts.numel())

    def _add_moments(self, x: Tensor) -> None:
        """Chan's update of mean and sum of squared deviations."""
        var, mean = torch.var_mean(x, correction=0)
        n, total, step = x.numel(), self._numbers + x.numel(), mean.item() - self._mean
        self._spread += var.item() * n + step * step * self._numbers * n / total
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
        magnitudes = torch.cat([_EDGES.new_zeros(1), _EDGES[used] * 2 ** (-0.5 / _PER_OCTAVE)])
        low, high = (int(torch.searchsorted(_EDGES, x)) for x in (deviation * 1e-4, self.largest + 9 * deviation))
        edges = _EDGES[low:high].unsqueeze(1)
        below = torch.special.ndtr((edges - magnitudes) / deviation) - torch.special.ndtr(
            (-edges - magnitudes) / deviation
        )
        new = Histogram()
        for mine, given, zero in (
            (new.counts, self.counts, self.zeros),
            (new.squares, self.squares, self._zero_squares),
        ):
            reached = below @ torch.cat([given.new_tensor([zero]), given[used]])
            mine[low:high] = torch.diff(reached, prepend=reached.new_zeros(1)).clamp_min(0)
        beyond = self.zeros + self.counts.sum() - new.counts.cumsum(0)[low:high]
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
            counted = self.zeros + self.counts.cumsum(0)
            asked = percentile / 100 * counted[-1]
            return (
                0.0 if self.zeros >= asked else min(_EDGES[int((counted >= asked).nonzero()[0])].item(), self.largest)
            )
        return self._least_error(bits, beyond)

    def _least_error(self, bits: int, beyond: float) -> float:
        """The bin edge with the least squared error: uniform rounding inside, distance to the edge outside."""
        middle = _EDGES * 2 ** (-0.5 / _PER_OCTAVE)
        used = self.counts.nonzero().squeeze(1)
        candidates = _EDGES[int(used[0]) : int(used[-1]) + 1].clamp_max(self.largest)
        inside = self.squares.cumsum(0)[int(used[0]) : int(used[-1]) + 1]
        rounding = inside * (candidates / (2 ** (bits - 1) - 1)).square() / 12
        excess = (middle[used].unsqueeze(0) - candidates.unsqueeze(1)).clamp_min(0).square()
        clipping = (excess * self.squares[used]).sum(1)
        further = beyond * (self.zeros + inside[-1].item()) * candidates.square()
        return candidates[int((rounding + clipping + further).argmin())].item()
