"""The settings that a calibration finds, and the model's error with them."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import nn

from analogtorch.calibration.adc import Limits, Wanted, limits
from analogtorch.calibration.inputs import Ranges
from analogtorch.calibration.judge import Error, Judge
from analogtorch.calibration.passes import Forward, without_adc
from analogtorch.chips import Chip
from analogtorch.nn import AnalogLayer, Tap, tapped


@dataclass(frozen=True)
class Setting:
    """The ranges of the converters of one layer."""

    ranges: Ranges
    limits: Limits
    chip: Chip | None = None
    """The chip of the layer, if the setting changes it; None: that of the conversion."""


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

    def apply(self, settings: Mapping[str, Setting]) -> None:
        """Set the ranges of the layers."""
        for name, setting in settings.items():
            layer = self.layers[name]
            if setting.chip is not None and layer.chip is not setting.chip:
                layer.chip = setting.chip
            if setting.ranges is None:
                layer.forget_input_range()
            else:
                layer.set_input_range(setting.ranges)
            layer.set_adc_ranges(setting.limits.adc_ranges)
            layer.set_output_ranges(setting.limits.output_ranges)

    def no_worse(self, chosen: dict[str, Setting]) -> dict[str, Setting]:
        """Return the chosen settings, unless the model errs less without them.

        In that case they are a range per vector, or no settings at all.
        """
        first = 0 if self.judged is self.batches else len(self.batches)
        judge = Judge(self.model, self.judged, self.forward, first)
        if not judge.judges:
            return chosen
        nothing = dict.fromkeys(self.layers, Setting(None, Limits(None, None)))
        least = self._error(nothing, judge)
        if not self._error(chosen, judge).exceeds(least):
            return chosen
        by_vector = self.settings(dict.fromkeys(self.layers))
        if not self._error(by_vector, judge).exceeds(least):
            return by_vector
        warnings.warn(
            "calibrate: on the batches held back, the outputs of the model are closer to the "
            "digital ones without calibration, so it is left uncalibrated: every input vector sets "
            "its own DAC range. Pass method='percentile' or 'absmax' to fix ranges all the same",
            stacklevel=4,
        )
        return nothing

    def _error(self, settings: Mapping[str, Setting], judge: Judge) -> Error:
        self.forget()
        self.apply(settings)
        return judge.error()


def held_back(batches: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the batches without the last quarter, and that quarter.

    With fewer than four batches, both are all of them.
    """
    last = len(batches) // 4
    return (batches[:-last], batches[-last:]) if last else (batches, batches)
