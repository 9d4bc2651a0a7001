"""The quantised pair: binary or ternary weights in a differential pair."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from analogtorch.devices.cell import binary
from analogtorch.devices.pair import DifferentialPair
from analogtorch.devices.registry import register
from analogtorch.devices.spread import Spread
from analogtorch.values import checks


@register
@dataclass(frozen=True, kw_only=True)
class QuantisedPair(DifferentialPair):
    """A differential pair of which one polarity is full, or none: the weights -1, 1 and maybe 0.

    All weights stand in units of the largest of their block or column, so that a network keeps its
    scale only if a digital factor follows: ``Periphery.column_calibration``, or the compensation
    ``least_squares``. Evaluation before programming has exact weights, as for any cell. In
    training, ``TrainingNoise(weight="device")`` quantises the weights with that factor, and
    gradients pass straight through; ``weight="programming"`` adds the noise of the devices alone.
    """

    levels: Literal[2, 3] = 3
    """Number of weights: 2 (-1 for negative weights, else 1) or 3 (-1, 0 and 1)."""
    threshold: float = 0.2
    """With three levels: magnitude below which a weight becomes 0, in (0, 1). By default about 0.7
    of the mean magnitude of normal weights that are clipped at 2.5 standard deviations, the best
    threshold by Li and Liu, arXiv 1605.04711 (2016)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("QuantisedPair.levels", self.levels, (2, 3))
        checks.numbers(self, "threshold", above=0, below=1)

    def quantised(self, w: Tensor) -> Tensor:
        """Return the weights -1, 0 or 1 that the weights ``w``, of any shape, become."""
        if self.levels == 2:
            return binary(w)
        none = torch.zeros_like(w)
        return none.masked_fill(w >= self.threshold, 1.0).masked_fill(w <= -self.threshold, -1.0)

    def targets(self, w: Tensor) -> Tensor:
        """Return the target conductances, uS, (devices, *S), of weights ``w`` (S)."""
        return super().targets(self.quantised(w))

    def changes(self, change: Tensor, target: Tensor) -> Tensor:
        """Return the changes of conductance, uS, that change weights by ``change``.

        ``target`` holds the weights to reach, quantised or not.
        """
        return super().changes(change, self.quantised(target))

    @property
    def spread(self) -> Spread | None:
        """None: kernels know no levels."""
        return None
