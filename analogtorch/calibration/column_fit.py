"""Least-squares fits of the outputs of columns, from moments that are summed over batches."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from analogtorch.calibration.passes import shares
from analogtorch.calibration.units import are_alike

Fit = Literal["affine", "gain", "offset"]

_FEW = 10
"""Outputs of a column that clipping must leave, below which its correction is a guess."""

_CACHED = 2**15
"""Numbers of a part of the vectors, few enough for caches."""

_LEAST = 4
"""Outputs below which a gain makes chips worse."""

_CONSTANT = 1e-12
"""Variance in units of the mean square up to which outputs differ by rounding alone."""

_TRUSTED = 4.0
"""Standard errors by which the agreement of two MVMs must exceed that of pure noise to be a
divisor, and by which a gain above 4 must differ from zero."""


class ColumnSums:
    """Means and co-moments, per output, of two MVMs with the same inputs and of their target.

    Vectors that converters clip are left out.
    """

    def __init__(self, outputs: int, device: torch.device) -> None:
        self.n = torch.zeros(outputs, dtype=torch.float64, device=device)
        """Number of vectors of each output, as parts of a matrix may run alone."""
        self.seen = self.n.clone()
        """Number with those that converters clip."""
        self.mean = self.n.new_zeros(3, outputs)
        """Means of the first MVM, the second MVM and the target."""
        self.moments = self.n.new_zeros(3, 3, outputs)
        """Sums of the products of their deviations from the means."""

    def add(
        self,
        outputs: slice,
        *,
        first: Tensor,
        second: Tensor,
        target: Tensor,
        clipped: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        """Count outputs of both MVMs and the target, each (vectors, outputs), by Chan's update.

        The outputs contain a ``bias``, unless it is None.

        Those that are ``clipped``, of the same shape, are left out; None: none is. Targets that
        repeat most of the others count once together: a line through few is exact by chance.
        """
        if len(target) == 0:
            return
        counts = shares(target)
        weights = None if counts is None else counts.unsqueeze(1)
        self.seen[outputs] += len(target) if counts is None else counts.sum()
        if clipped is not None and clipped.any():
            weights = (~clipped).double() if weights is None else weights * ~clipped
        rows = max(1, _CACHED // target.shape[1])
        parts = [None] * -(-len(target) // rows) if weights is None else weights.split(rows)
        bias = None if bias is None else bias.double()
        of_parts = zip(
            first.split(rows), second.split(rows), target.split(rows), parts, strict=True
        )
        for *outs, exact, part in of_parts:  # in double precision part by part: memory is slow
            y = [out.double() if bias is None else out.double() - bias for out in outs]
            self._add(outputs, (*y, exact.double()), part)

    def _add(self, outputs: slice, z: Sequence[Tensor], weights: Tensor | None) -> None:
        """Count some vectors; ``weights``, (vectors, outputs or 1), None: each counts once."""
        like = z[0]
        m = like.new_full(like.shape[1:], len(like))
        if weights is not None:
            m = weights.expand_as(like).sum(0)
        deviations, weighed, mean = [], [], []
        for values in z:
            total = (values if weights is None else weights * values).sum(0)
            mean.append(total / torch.where(m > 0, m, 1.0))
            deviations.append(values - mean[-1])
            weighed.append(deviations[-1] if weights is None else weights * deviations[-1])
        within = self.moments.new_empty(3, 3, like.shape[1])
        for i, j in itertools.combinations_with_replacement(range(3), 2):
            within[i, j] = within[j, i] = (weighed[i] * deviations[j]).sum(0)
        n, step = self.n[outputs], torch.stack(mean) - self.mean[:, outputs]
        share = m / torch.where(m > 0, n + m, 1.0)
        between = step.unsqueeze(0) * step.unsqueeze(1) * (n * share)
        self.moments[..., outputs] += within + between
        self.mean[:, outputs] += step * share
        self.n[outputs] += m

    def of(self, outputs: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return number, means and variances of the first MVM and the target, for some outputs.

        They are (outputs,), (2, outputs) and (2, outputs).
        """
        kept, n = [0, 2], self.n[outputs]
        return n, self.mean[kept][:, outputs], self.moments[kept, kept][:, outputs] / n.clamp_min(1)

    def solve(self, fit: Fit) -> tuple[Tensor, Tensor]:
        """Return gain and offset of each output; 1 and 0 where nothing was counted.

        An output of which converters clip more than half, or leave too few, gets the mean gain: the
        slope of what is left would be that of its errors.
        """
        mean, c = self.mean, self.moments
        enough = (self.n >= self.seen.clamp_max(_FEW)) & (2 * self.n >= self.seen)
        measured = (mean[0] + mean[1]) / 2
        gain = torch.ones_like(measured)
        if fit != "offset":
            if fit == "gain":  # through the origin
                c = c + self.n * mean.unsqueeze(0) * mean.unsqueeze(1)
            agreement = c[0, 1] / (c[0, 0] * c[1, 1]).sqrt().clamp_min(torch.finfo(c.dtype).tiny)
            trusted = agreement > (_TRUSTED / self.n.clamp_min(1).sqrt()).clamp_max(0.5)
            # a line through so few points hides its error, and one of zero weights has none
            trusted &= enough & (self.n > _LEAST - 0.5)
            for i in (0, 2):  # what differs by rounding alone agrees as the signal does
                trusted &= c[i, i] > _CONSTANT * self.n * mean[i].square()
            signal = torch.where(trusted, c[0, 1], 1.0)
            gain = torch.where(trusted, (c[0, 2] + c[1, 2]) / 2 / signal, gain)
            variance = self._left(c, gain) * (c[0, 0] + 2 * c[0, 1] + c[1, 1]) / 4 / signal.square()
            # gains are about 1: an error of 1 or more says nothing, also where all columns have it
            known = trusted & (variance.sqrt() <= (gain.abs() / _TRUSTED).clamp_min(1.0))
            gain = torch.where(known, _shrunk(gain, variance, known), 1.0)
            if known.any():
                gain = torch.where(known | (enough & ~trusted), gain, gain[known].mean())
        if fit == "gain":
            return gain, torch.zeros_like(measured)
        variance = self._left(c, gain) / self.n.clamp_min(1)
        several = enough & (self.n > 1.5)  # the noise of a single one would pass for an offset
        offset = torch.where(several, mean[2] - gain * measured, 0.0)
        unit = self._units(several)
        shrunk = _shrunk(offset / unit, variance / unit.square(), several, around=0.0)
        return gain, unit * shrunk

    def _units(self, several: Tensor) -> Tensor:
        """Return the standard deviation of each target where they differ in units, else 1.

        The smallest unit would decide for all others. An output that does not vary has the median.
        """
        square = self.moments[2, 2] / self.n.clamp_min(1)
        varied = several & (square > _CONSTANT * self.mean[2].square())
        if not varied.any() or are_alike(square[varied], int(self.n[varied].amin())):
            return torch.ones_like(square)
        return torch.where(varied, square, square[varied].median()).sqrt()

    def _left(self, c: Tensor, gain: Tensor) -> Tensor:
        """Return the variance that is left of the targets after scaling by ``gain``.

        The mean of the two MVMs is scaled.
        """
        mean_square = (c[0, 0] + 2 * c[0, 1] + c[1, 1]) / 4
        left = c[2, 2] - gain * (c[0, 2] + c[1, 2]) + gain.square() * mean_square
        return left.clamp_min(0) / (self.n - 2).clamp_min(1)


def _shrunk(values: Tensor, variance: Tensor, used: Tensor, around: float | None = None) -> Tensor:
    """Return estimates drawn to their mean, or to ``around``, by their share of error.

    That is the share of their spread that is error.

    This is empirical Bayes: the spread of the true values is that of DerSimonian and Laird,
    Control. Clin. Trials 7, 177 (1986). Values that are not ``used`` stay as they are.
    """
    if used.any():  # one that seems exact does not decide for all others
        variance = variance.clamp_min(max(0.01 * variance[used].median().item(), 1e-30))
    weight = torch.where(used, 1 / variance, 0.0)
    total = weight.sum().clamp_min(1e-30)
    if around is None:
        centre, lost = (weight * values).sum() / total, weight.square().sum() / total
    else:
        centre, lost = total.new_tensor(around), total.new_tensor(0.0)
    excess = (weight * (values - centre).square()).sum() - (used.sum() - int(around is None))
    spread = (excess / (total - lost).clamp_min(1e-30)).clamp_min(0)
    kept = spread / (spread + variance).clamp_min(1e-30)
    return torch.where(used, centre + (values - centre) * kept, values)
