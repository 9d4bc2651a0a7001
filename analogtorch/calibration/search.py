"""The settings with the least error of the model's outputs on noisy chips, found by trying them.

First all layers are set in the same way, and each kind of setting is changed in turn: the targets
of the devices, the unit of the weight scale, the way to find DAC ranges, the range of the ADC. Then
single layers try the settings that did best, the layer that causes most of the error first. What
they come to must err less than the default does, on the last batches and on other chips.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from analogtorch.calibration.choice import CalibrationReport, Step, Verdict
from analogtorch.calibration.default import Default
from analogtorch.calibration.described import layer_choice, notes
from analogtorch.calibration.inputs import Ranges, Seen, by_magnitude, observe
from analogtorch.calibration.options import WAYS, Option, Way, changed
from analogtorch.calibration.output_error import NoisyJudge, in_search
from analogtorch.calibration.settings import Calibration, Setting, held_back, uncalibrated
from analogtorch.calibration.worth import worth
from analogtorch.chips import Chip
from analogtorch.values.listed import counted

BATCHES = 3
"""Fewest batches: ranges are found on some, chosen on others, and judged on the last."""
CHOOSING = 4
"""Most batches to choose on, which are run for every trial."""
ALTERNATIVES = 3
"""Settings of all layers that a single layer tries, those with the least errors. With 2, layers of
a depthwise net did not get to try a weight scale per block, which saved 5 % of its error."""
LAYERS = 32
"""Most layers that try settings of their own."""
SHARE = 0.01
"""Share of the error below which a layer tries none."""
_CHOOSING_SEED, _JUDGING_SEED = 0, 1_000
"""Seeds of the chips: those that judge are others than those that settings were chosen on."""


def parts(batches: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Return the batches to find ranges on, those to choose on, and the last quarter to judge on.

    Raises:
        ValueError: there are fewer than ``BATCHES``.
    """
    if 0 < len(batches) < BATCHES:
        raise ValueError(
            f"calibrate: effort='search' needs at least {BATCHES} batches, because ranges are "
            "found on some, chosen on others and judged on the last; got "
            f"{len(batches)}. Split them into smaller ones, or use effort='default'"
        )
    several = len(batches) > BATCHES
    fitted, judged = held_back(batches) if several else (batches[:-1], batches[-1:])
    last = max(1, len(batches) // 4)
    return fitted[:-last], fitted[-last:][:CHOOSING], judged


@dataclass(frozen=True)
class Tried:
    """An option with its settings, and the errors of the output vectors."""

    option: Option
    settings: Mapping[str, Setting]
    errors: Tensor


@dataclass
class Search:
    """The search for the settings of one model."""

    calibration: Calibration
    """The model, its layers that ran, and the batches to find ranges on."""
    inputs: Mapping[str, Seen]
    """The inputs of each layer."""
    choosing: Sequence[Any]
    """Batches to choose on."""
    judging: Sequence[Any]
    """Batches to judge on."""
    percentile: float
    """As ``calibrate`` takes it."""
    by_default: Calibration
    """The same model and layers with the batches of ``effort="default"``."""
    tried: list[Tried] = field(default_factory=list)
    """All settings of all layers that were tried."""
    steps: list[tuple[str, Tensor]] = field(default_factory=list)
    """What was tried, and its errors."""

    def __post_init__(self) -> None:
        """Keep the exact outputs, and the chips of the layers."""
        model, forward = self.calibration.model, self.calibration.forward
        self.chips = {name: layer.chip for name, layer in self.calibration.layers.items()}
        first = len(self.calibration.batches)
        last = first + len(self.judging)  # as many are there to choose on
        self.judge = NoisyJudge(model, self.choosing, forward, _CHOOSING_SEED, first)
        self.last_judge = NoisyJudge(model, self.judging, forward, _JUDGING_SEED, last)
        for judge in (self.judge, self.last_judge):
            if judge.refusal is not None:
                raise ValueError(in_search(judge.refusal))

    def run(self) -> tuple[dict[str, Setting], CalibrationReport]:
        """Return the settings to keep and the report."""
        inputs = _observed(self.by_default, "layer")
        default = Default(self.by_default, inputs, "default", "measured")
        by_default, _ = default.run()
        adc = self.calibration.wanted is not None
        measured = best = self._try(Option("measured", adc=adc))
        self._tell("not calibrated", self._errors(uncalibrated(self.chips), self.judge))
        changes: tuple[dict[str, Any], ...] = ({"aware": True}, {"scale": "column"})
        for change in changes:
            option = dataclasses.replace(best.option, **change)
            if self._chips(option) != self._chips(best.option):
                best = self._better(best, option)
        for way in self._other_ways():
            best = self._better(best, dataclasses.replace(best.option, way=way))
        if adc:
            best = self._better(best, dataclasses.replace(best.option, adc=False))
        shares = self._shares(best)
        found, options, gains = self._by_layer(best, shares)
        settings: dict[Verdict, Mapping[str, Setting]] = {
            "search": found, "default": by_default, "uncalibrated": uncalibrated(self.chips),
        }  # fmt: skip
        last = {kind: self._errors(each, self.last_judge) for kind, each in settings.items()}
        errors = {kind: self.last_judge.mean(each) for kind, each in last.items()}
        kept = min(errors, key=errors.__getitem__)
        if kept == "default":
            default.warn(notes=False)  # they are in the report of a search
        if kept != "search":
            options, gains = dict.fromkeys(found, measured.option), {}
        report = CalibrationReport(
            effort="search",
            layers=tuple(
                layer_choice(
                    name,
                    setting,
                    self.chips[name],
                    options[name].way,
                    self.calibration.wanted,
                    shares.get(name),
                    gains.get(name, 0.0),
                )
                for name, setting in settings[kept].items()
            ),
            steps=tuple(Step(what=what, error=self.judge.mean(x)) for what, x in self.steps),
            errors=errors,
            kept=kept,
            batches=(len(self.calibration.batches), len(self.choosing), len(self.judging)),
            notes=(
                *notes(settings[kept], self.chips, self.calibration.wanted),
                *self.judge.notes(),
                *self.last_judge.notes(),
            ),
        )
        return dict(settings[kept]), report

    # settings of all layers

    def _other_ways(self) -> list[Way]:
        """Return the ways to find DAC ranges that differ from the measured ones on this chip."""
        layers = self.calibration.layers.values()
        if all(layer.chip.dac.bits is None for layer in layers):
            return []
        tiles = any(x.row_blocks > 1 and x.takes_range_per_block for x in layers)
        return [way for way in WAYS if way != "measured" and (way != "tile" or tiles)]

    def _better(self, best: Tried, option: Option) -> Tried:
        """Try an option, and return what has the smaller error.

        A range per vector costs digital operations, so that it must save more than chance.
        """
        new = self._try(option)
        if option.way == "vector" != best.option.way:
            return new if worth(*self.judge.left(new.errors, best.errors)) else best
        return new if self._error(new) < self._error(best) else best

    def _error(self, tried: Tried) -> float:
        return self.judge.mean(tried.errors)

    def _try(self, option: Option) -> Tried:
        settings = self._settings(option)
        errors = self._errors(settings, self.judge)
        self._tell(str(option), errors)
        self.tried.append(Tried(option, settings, errors))
        return self.tried[-1]

    def _chips(self, option: Option) -> dict[str, Chip]:
        return {name: changed(chip, option) for name, chip in self.chips.items()}

    def _settings(self, option: Option) -> dict[str, Setting]:
        """Return the settings of all layers by an option."""
        whole = self.calibration
        if not option.adc:
            whole = dataclasses.replace(whole, wanted=None)
        chips = self._chips(option)
        return whole.on(chips, lambda: self._ranges(option, chips, whole))

    def _ranges(
        self, option: Option, chips: Mapping[str, Chip], whole: Calibration
    ) -> dict[str, Ranges]:
        if option.way == "vector":
            return dict.fromkeys(whole.layers)
        if option.way == "percentile":
            return by_magnitude(whole.layers, self.inputs, option.way, self.percentile)
        return whole.measured(self.inputs if option.way == "measured" else self._by_tile, chips)

    @functools.cached_property
    def _by_tile(self) -> Mapping[str, Seen]:
        """Return the inputs of each layer by row block; its routes are known by now."""
        return _observed(self.calibration, "tile")

    def _errors(self, settings: Mapping[str, Setting], judge: NoisyJudge) -> Tensor:
        self.calibration.apply(settings)
        return judge.errors()

    def _tell(self, what: str, errors: Tensor) -> None:
        self.steps.append((what, errors))

    # settings of single layers

    def _shares(self, best: Tried) -> dict[str, float]:
        """Return the share of each layer in the sum of the errors that single layers cause."""
        layers = self.calibration.layers
        if len(layers) < 2:
            return dict.fromkeys(layers, 1.0)
        self.calibration.apply(best.settings)
        found = {n: self.judge.errors([n], chips=1) for n in layers}
        alone = {name: self.judge.mean(errors) for name, errors in found.items()}
        total = sum(alone.values())
        return {name: error / total if total > 0 else 0.0 for name, error in alone.items()}

    def _by_layer(
        self, best: Tried, shares: Mapping[str, float]
    ) -> tuple[dict[str, Setting], dict[str, Option], dict[str, float]]:
        """Return the setting, option and gain of each layer, starting from those of all layers."""
        found, errors, gains = dict(best.settings), best.errors, dict[str, float]()
        options = dict.fromkeys(found, best.option)
        ranked = sorted(self.tried, key=self._error)
        others = [tried for tried in ranked if tried is not best][:ALTERNATIVES]
        worst = sorted(shares, key=shares.__getitem__, reverse=True)[:LAYERS]
        for name in worst if len(found) > 1 else ():
            if shares[name] < SHARE:
                break
            for other in others:
                if same(other.settings[name], found[name]):
                    continue
                trial = {**found, name: other.settings[name]}
                new = self._screened(trial, errors)
                if new is not None and worth(*(pair := self.judge.left(new, errors))):
                    saved = (pair[1] - pair[0]).mean() / self._error(best)
                    # all is saved where errors were infinite
                    gains[name] = gains.get(name, 0.0) + saved.nan_to_num(1.0).item()
                    found, errors, options[name] = trial, new, other.option
        self._tell(f"own settings of {counted(len(gains), 'layer')}", errors)
        return found, options, gains

    def _screened(self, settings: Mapping[str, Setting], before: Tensor) -> Tensor | None:
        """Return the errors with these settings; None if the first chips have no less error."""
        self.calibration.apply(settings)
        first = self.judge.errors(chips=1)
        if self.judge.mean(first) >= self.judge.mean(before[: len(first)]):
            return None
        return first if len(first) == len(before) else self.judge.errors()


def _observed(whole: Calibration, per: Literal["layer", "tile"]) -> Mapping[str, Seen]:
    """Return the inputs of each layer, whose routes are known by now."""
    with whole.without_converters():
        return observe(
            whole.model, dict(whole.layers), per, whole.batches, whole.forward, whole.progress,
            route=False, allow_unused=False,
        )  # fmt: skip


def same(one: Setting, other: Setting) -> bool:
    """Return whether two settings of a layer differ in nothing that matters."""
    adcs = (one.limits.adc_ranges, other.limits.adc_ranges)
    equal = adcs[0] is adcs[1] or (None not in adcs and torch.equal(*adcs))  # type: ignore[arg-type]
    return equal and one.ranges == other.ranges and one.chip == other.chip
