"""The settings that a calibration finds, and a model that is being calibrated."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from analogtorch.calibration.adc import Limits, Wanted, limits
from analogtorch.calibration.batches import ends_with_rest
from analogtorch.calibration.inputs import Ranges, Seen
from analogtorch.calibration.measured import choose
from analogtorch.calibration.passes import Forward, without_adc
from analogtorch.chips import Chip
from analogtorch.nn import AnalogLayer, Tap, tapped


@dataclass(frozen=True)
class Setting:
    """The ranges of the converters of one layer."""

    ranges: Ranges
    limits: Limits
    chip: Chip | None = None
    """The chip of the layer, if the setting changes it; None: that which it has."""


@dataclass(frozen=True)
class Calibration:
    """A model that is being calibrated, and its batches."""

    model: nn.Module
    layers: Mapping[str, AnalogLayer]
    batches: Sequence[Any]
    """Batches on which settings are found."""
    judged: Sequence[Any]
    """Batches on which settings are compared."""
    wanted: Wanted | None
    """The way to find ADC ranges; None leaves those of the chips."""
    forward: Forward | None
    progress: bool

    def without_converters(self, *, dac: bool = True) -> AbstractContextManager[None]:
        """Let layers compute without ADC and digital unit, and, if ``dac``, without DAC.

        It lasts as long as the context.
        """
        taps = {}
        for layer in self.layers.values():
            chip = without_adc(layer.chip)
            chip = chip.without("dac") if dac else chip
            taps[layer] = Tap(execution=layer.executions_on(chip).evaluation)
        return tapped(taps)

    def forget(self) -> None:
        """Let the layers compute uncalibrated, so that new ranges do not depend on earlier ones."""
        for layer in self.layers.values():
            layer.adc_ranges = layer.output_ranges = None
            layer.calibrated = False

    def take_back(self) -> None:
        """Put the layers on the chips that they were given, so that earlier choices end."""
        self.apply(uncalibrated({n: layer.given_chip for n, layer in self.layers.items()}))

    def settings(self, ranges: Mapping[str, Ranges]) -> dict[str, Setting]:
        """Return these DAC ranges with the ranges of ADC and digital unit that suit them."""
        self.forget()
        for name, values in ranges.items():
            if values is not None:
                self.layers[name].set_input_range(values)
        with self.without_converters(dac=False):
            found = limits(
                self.model, self.layers, self.batches, self.wanted, self.forward, self.progress
            )
        return {name: Setting(ranges[name], found[name]) for name in self.layers}

    def on(
        self, chips: Mapping[str, Chip], find: Callable[[], Mapping[str, Ranges]]
    ) -> dict[str, Setting]:
        """Return the settings on these chips with the DAC ranges that ``find`` returns there.

        The layers have the chips from then on.
        """
        self.apply(uncalibrated(chips))
        found = self.settings(find())
        return {name: dataclasses.replace(each, chip=chips[name]) for name, each in found.items()}

    def measured(self, inputs: Mapping[str, Seen], chips: Mapping[str, Chip]) -> dict[str, Ranges]:
        """Return the DAC ranges with the least measured error on these chips."""
        # an ADC range that is found afterwards fits whatever DAC range is chosen now
        tried = {n: chip if self.wanted is None else without_adc(chip) for n, chip in chips.items()}
        with self.without_converters():
            return choose(
                self.model, self.layers, tried, inputs, self.batches, self.forward, self.progress
            )

    def apply(self, settings: Mapping[str, Setting]) -> None:
        """Set the ranges of the layers."""
        for name, setting in settings.items():
            layer = self.layers[name]
            if setting.chip is not None and layer.chip is not setting.chip:
                layer.put_on(setting.chip)
            if setting.ranges is None:
                layer.forget_input_range()
            else:
                layer.set_input_range(setting.ranges)
            layer.set_adc_ranges(setting.limits.adc_ranges)
            layer.set_output_ranges(setting.limits.output_ranges)


def uncalibrated(chips: Mapping[str, Chip]) -> dict[str, Setting]:
    """Return the settings of layers on these chips without calibration."""
    return {name: Setting(None, Limits(), chip) for name, chip in chips.items()}


def undone(layers: Iterable[AnalogLayer]) -> Callable[[], None]:
    """Return what takes layers back to their present chips and ranges, and to whether they learn.

    Weights are left alone. The DAC range stays the same Parameter.
    """
    names = ("adc_ranges", "output_ranges", "calibrated", "input_range")
    with torch.inference_mode(False):  # what is put back must be able to learn
        before = [
            (
                layer,
                layer.chip,
                {name: getattr(layer, name) for name in names},
                r.detach().clone(),
                r.grad,
                r.requires_grad,
            )
            for layer in layers
            for r in (layer.input_range,)
        ]

    def undo() -> None:
        for layer, chip, attributes, values, grad, learns in before:
            if layer.chip is not chip:  # another chip makes other executions
                layer.put_on(chip)
            for name, value in attributes.items():
                setattr(layer, name, value)
            r = layer.input_range
            if r.shape != values.shape:
                r.data = values
            r.requires_grad_(False).copy_(values)
            r.requires_grad_(learns).grad = grad

    return undo


def held_back(
    batches: Sequence[Any], most: int | None = None
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the batches without the last quarter, or the last ``most`` of it, and these.

    With fewer than four batches, both are all of them. What is left of the inputs for a last batch
    is no batch to decide by: it joins those of the quarter.
    """
    last = len(batches) // 4 if most is None else min(len(batches) // 4, most)
    last += bool(last) and ends_with_rest(batches)
    return (batches[:-last], batches[-last:]) if last else (batches, batches)
