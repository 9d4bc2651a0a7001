"""Chips with noise for evaluation, drawn anew in every forward, without programming one.

Devices are programmed, drift for a day and are read with noise, as hardware-aware training draws
them (``TrainingNoise(weight="device")``). The same seed gives the same devices.
"""

import contextlib
from collections.abc import Collection, Iterator

from torch import nn

from analogtorch.calibration.passes import exact_execution
from analogtorch.chips import Chip, TrainingNoise
from analogtorch.conversion.kinds import analog_layers
from analogtorch.nn import Tap, tapped

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
        noisy = alone is None or name in alone
        on_chip = layer.executions_on(drawn_chip(layer.chip)).training if noisy else None
        taps[layer] = Tap(execution=on_chip or exact_execution(layer))
    with tapped(taps):
        yield


def drawn_chip(chip: Chip) -> Chip:
    """Return the chip with the noise of its devices after a day, or at the end of their data."""
    return chip.replace(training=_DAY.within(chip.cell.device))
