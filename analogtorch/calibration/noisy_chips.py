"""Chips with noise for evaluation, drawn anew in every forward, without programming one.

Devices are programmed, drift for a day and are read with noise, as hardware-aware training draws
them (``TrainingNoise(weight="device")``). The digital corrections of a programmed chip follow: one
factor per block, or per column where the chip calibrates its columns, by least squares. The same
seed gives the same devices.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.passes import exact_execution
from analogtorch.chips import Chip, TrainingNoise
from analogtorch.conversion.kinds import analog_layers
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.nn.execution import Execution
from analogtorch.nn.reborn import cut
from analogtorch.nn.training import Training
from analogtorch.ops.drift import ratio
from analogtorch.ops.slices import cells

if TYPE_CHECKING:
    from analogtorch.chips.tiling import Section

_DAY = TrainingNoise(weight="device", time="1 day")


@contextlib.contextmanager
def on_noisy_chips(model: nn.Module, alone: Collection[str] | None = None) -> Iterator[None]:
    """Let every analog layer compute on devices that are drawn anew in each forward.

    Args:
        model: the model.
        alone: names of the layers that do, while all others are exact; None: all.
    """
    taps = {}
    for name, layer in analog_layers(model):
        here = alone is None or name in alone
        taps[layer] = Tap(execution=noisy_execution(layer) if here else exact_execution(layer))
    with tapped(taps):
        yield


def noisy_execution(layer: AnalogLayer) -> Execution:
    """Return the execution of the layer on noisy chips; one that has no noise is as it is."""
    drawn = layer.executions_on(drawn_chip(layer.chip)).training
    if not isinstance(drawn, Training) or not drawn.in_torch:
        return drawn
    return Corrected(**{f.name: getattr(drawn, f.name) for f in fields(drawn)})


def drawn_chip(chip: Chip) -> Chip:
    """Return the chip with the noise of its devices after a day, or at the end of their data."""
    return chip.replace(training=_DAY.within(chip.cell.device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrected(Training):
    """The product with noisy devices, and the digital factors that fit them to their targets."""

    def weights(
        self,
        layer: AnalogLayer,
        index: int,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> dict[str, Any]:
        """Return the operands of the weights, with the gains of a programmed chip."""
        found = super().weights(layer, index, keys, samples, dtype, outputs)
        section = self.sections[index]
        target = cut(cells(section, layer.placed_matrix(layer.weight)), outputs)
        columns = self.chip.periphery.column_calibration or outputs is not None
        found["gain"] = _gains(section, target, found["w"], columns)
        return found


def _gains(section: "Section", target: Tensor, read: Tensor, columns: bool) -> Tensor:
    """Return the factors, (row blocks, outputs), that fit weights to their targets.

    They are those for white inputs: of each column, or of each block.
    """
    t, w = target.detach().flatten(1).float(), read.detach().flatten(1).float()
    gains = []
    for a, b in zip(section.bounds[:-1], section.bounds[1:], strict=True):
        sums = (t[:, a:b] * w[:, a:b]).sum(1), w[:, a:b].square().sum(1)
        gains.append(ratio(*sums if columns else map(section.block_sums, sums)))
    return torch.stack(gains).to(read.dtype)
