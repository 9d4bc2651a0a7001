"""The default of ``calibrate``: measured DAC ranges, kept where the model's outputs allow them.

The unit of the weight scale is chosen for the whole model, and each DAC range by the error of its
own layer. Then the outputs of the model are compared with those of the uncalibrated one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from analogtorch.calibration.adc import Limits
from analogtorch.calibration.choice import CalibrationReport, Effort, Step, Verdict
from analogtorch.calibration.described import layer_choice, notes
from analogtorch.calibration.inputs import Ranges, Seen
from analogtorch.calibration.judge import Error
from analogtorch.calibration.options import LABELS, Way, aware, both, by_column, label
from analogtorch.calibration.output_error import NoisyJudge, NothingLeftError
from analogtorch.calibration.outputs import DETECTIONS
from analogtorch.calibration.settings import Calibration, Setting, uncalibrated
from analogtorch.calibration.worth import worth
from analogtorch.chips import Chip
from analogtorch.chips.choices import Choices
from analogtorch.values.warned import warn

CHIPS = 2
"""Number of noisy chips for an error: each takes a forward pass of the batches held back."""
SCALE_GAIN = 0.1
"""Share of the error that a weight scale per column must save, as it changes the chips of layers.
In ``benchmarks.convert --table efforts`` it saved 15 to 62 %; in LSTM_L it cost 20 %."""
RANGE_COST = 0.1
"""Share by which fixed ranges may increase the error of a range per vector, which takes digital
operations. They cost the nets of that table 2 to 27 %, and LSTM_L, whose accuracy they lowered,
11 %."""
FELT = 0.005
"""Least increase of the error, in units of the variance of the outputs, that counts: on a chip with
little noise fixed ranges cost much of an error that nobody would feel. They cost LSTM_L 0.013."""
_AS_RANGES = "choices are those of effort='ranges'"
_KEPT = "measured DAC ranges are kept without a comparison"
_SEED = 2_000
"""Seed of the chips: others than those of a search."""


@dataclass
class Default:
    """The choice of the settings of one model."""

    calibration: Calibration
    """The model, its layers that ran, and its batches."""
    inputs: Mapping[str, Seen]
    """The inputs of each layer."""
    effort: Effort
    """``default``: noisy chips judge the ranges and, if a digital unit scales columns, decide on
    targets and weight scale. ``ranges``: the converters alone judge them, and the chips of the
    layers stay."""
    way: Way
    """Way to find DAC ranges: ``measured``, or ``tile`` for ranges of row blocks."""
    tried: list[tuple[str, Tensor]] = field(default_factory=list)
    """What was tried on noisy chips, and its errors."""
    _last: tuple[Mapping[str, Chip], Mapping[str, Ranges]] | None = field(default=None, init=False)
    """The chips for which DAC ranges were measured last, and these ranges."""
    _known: dict[str, Tensor] = field(default_factory=dict, init=False)
    """The errors of the uncalibrated model by what the report calls it."""
    _bare: Error | None = field(default=None, init=False)
    """The error of the uncalibrated model without noise."""
    _refused: list[Mapping[str, Chip]] = field(default_factory=list, init=False)
    """Changed chips that did not save enough."""
    _warned: bool = field(default=False, init=False)
    _warnings: list[str] = field(default_factory=list, init=False)
    """What ``warn`` is to say of the choice."""

    def __post_init__(self) -> None:
        """Keep the exact outputs on the batches to judge on, and the chips of the layers."""
        whole = self.calibration
        self.chips = {name: layer.chip for name, layer in whole.layers.items()}
        first = 0 if whole.judged is whole.batches else len(whole.batches)
        self.judge = NoisyJudge(whole.model, whole.judged, whole.forward, _SEED, first)
        self.noisy = self.effort == "default" and self.judge.refusal is None
        self.nothing = uncalibrated(self.chips)

    def run(self) -> tuple[dict[str, Setting], CalibrationReport]:
        """Return the settings to keep and the report."""
        if self.effort == "default" and self.judge.refusal is not None:
            self._warn(self.judge.refusal, _AS_RANGES)
        try:
            return self._chosen()
        except NothingLeftError:
            self._warn(self.judge.nothing_left, _AS_RANGES)
            self.noisy = False
            for found in (self.tried, self._known, self._refused, self.judge.apart):
                found.clear()
            return self._chosen()

    def warn(self, *, notes: bool = True) -> None:
        """Warn of the choice, once it is known that the model keeps it.

        Args:
            notes: whether to warn of outputs that do not count, too.
        """
        for what in (*self._warnings, *(self.judge.notes() if notes and not self._warned else ())):
            warn(f"calibrate: {what}")

    def _chosen(self) -> tuple[dict[str, Setting], CalibrationReport]:
        errors: dict[Verdict, Tensor] = {}
        chips: Mapping[str, Chip] = self.chips
        least: Tensor | None = None
        ranges: Mapping[str, Ranges] | None = None
        if self.noisy:
            least = self._bare_on(chips)
            errors["uncalibrated"] = least
        scales = any(chip.periphery.scales_columns for chip in self.chips.values())
        if least is not None and scales:
            if (ranges := self._unclipped()) is not None:
                least = self._noisy_error(LABELS[self.way], on(chips, ranges))
            for change, asked in ((aware, worth), (by_column, saves)):
                chips, least = self._changed(chips, change, ranges, least, asked)
            # on few vectors each alone may be in doubt, where both together are not
            asked = saves if chips == self.chips else worth
            chips, least = self._changed(chips, both, ranges, least, asked)
            if ranges is not None:  # ranges per vector serve all the same, if they clip less
                least = min(least, self._bare_on(chips), key=self.judge.mean)
        costly: tuple[dict[str, Setting], Tensor] | None = None
        ways: tuple[Way, ...] = (self.way, "vector")
        for way in ways:
            found = self._settings(way, chips)
            if found is None or not self._is_no_worse(found):
                continue
            if least is not None:
                new = self._felt(found, way, chips, errors)
                if way != "vector" and exceeds(*self.judge.left(new, least)):
                    costly = found, new
                    continue
                mean = self.judge.mean
                if costly is not None and mean(new) >= mean(costly[1]):  # it costs as much
                    found, way = costly[0], self.way
                    errors[self.effort] = costly[1]
            return found, self._report(found, way, errors, self.effort)
        left, kept = self._left(chips, ranges, least)
        if left is not None:  # rounding may move more outputs than none does, and devices far more
            way = "vector" if ranges is None else self.way
            found = self._settings(way, chips, early=False)
            if found is not None:
                new = self._felt(found, way, chips, errors)
                if not exceeds(*self.judge.left(new, left)):
                    return found, self._report(found, way, errors, self.effort)
        where = "given" if self.calibration.judged is self.calibration.batches else "held back"
        self._warnings.append(
            f"on the batches {where}, the outputs of the model are closer to the "
            "digital ones without calibration, so it is left uncalibrated: every input vector sets "
            f"its own DAC range{self._unrounded()}. Pass method='percentile' or 'absmax' to fix "
            "ranges all the same"
        )
        if left is None or kept == self.nothing:
            return self.nothing, self._report(self.nothing, self.way, errors, "uncalibrated")
        errors[self.effort] = left  # what is chosen for the chips stays
        return kept, self._report(kept, self.way, errors, self.effort)

    def _unrounded(self) -> str:
        """Return what a model without ranges lacks of its chips, for the warning."""
        bits = sorted({b for c in self.chips.values() if (b := c.periphery.output_bits)})
        if not bits:
            return ""
        return (
            f", and outputs, which have no range either, are not rounded to the "
            f"{' or '.join(map(str, bits))} bits that leave a tile, so that results are better "
            "than those of the chip"
        )

    def _left(
        self,
        chips: Mapping[str, Chip],
        ranges: Mapping[str, Ranges] | None,
        least: Tensor | None,
    ) -> tuple[Tensor | None, dict[str, Setting]]:
        """Return the errors and the settings of the model if it is left uncalibrated.

        It keeps the chips that were chosen. Where that was with DAC ranges, it does so only if that
        saves error: the ADC clips more sums where each vector sets its range.
        """
        kept = uncalibrated(chips)
        if least is None or ranges is None:
            return least, kept
        if kept != self.nothing:
            found = self._bare_on(chips)
            if worth(*self.judge.left(found, self._bare_on(self.chips))):
                return found, kept
        return self._bare_on(self.chips), self.nothing

    def _changed(
        self,
        chips: Mapping[str, Chip],
        change: Callable[[Chip], Chip],
        ranges: Mapping[str, Ranges] | None,
        least: Tensor,
        asked: Callable[[Tensor, Tensor], bool],
    ) -> tuple[Mapping[str, Chip], Tensor]:
        """Return changed chips, if they save as much of the errors ``least`` as is ``asked``.

        The errors are those of the model with these DAC ranges, or uncalibrated, on the chips,
        which are returned with them.
        """
        new = {name: change(chip) for name, chip in chips.items()}
        if new == chips or new in self._refused:
            return chips, least
        if ranges is None:
            errors = self._bare_on(new)
        else:
            errors = self._noisy_error(f"{LABELS[self.way]}{self._label(new)}", on(new, ranges))
        if asked(*self.judge.left(errors, least)):
            return new, errors
        self._refused.append(new)
        return chips, least

    def _unclipped(self) -> Mapping[str, Ranges] | None:
        """Return DAC ranges with which the ADC clips no sums, whatever is chosen for the chips.

        None: ranges per vector serve to compare chips. Where some layer needs a range beyond its
        largest input, they do not: they leave the sums to be clipped, most so where targets or
        weight scale make them larger.
        """
        if self.calibration.wanted is not None:
            return None
        ranges = self._measured({name: both(chip) for name, chip in self.chips.items()})
        clipped = any(
            max(r) > max(h.largest for h in self.inputs[name].magnitudes)
            for name, r in ranges.items()
            if r is not None
        )
        return ranges if clipped else None

    def _measured(self, chips: Mapping[str, Chip]) -> Mapping[str, Ranges]:
        """Return the measured DAC ranges on these chips, those of the last call if they are its."""
        if self._last is None or self._last[0] != chips:
            self.calibration.apply(uncalibrated(chips))
            self._last = chips, self.calibration.measured(self.inputs, chips)
        return self._last[1]

    def _label(self, chips: Mapping[str, Chip]) -> str:
        """Return what is changed of the chips."""
        new = [(Choices.of(chips[n]), Choices.of(self.chips[n])) for n in chips]
        scaled = any(a.weight_scale != b.weight_scale for a, b in new)
        return label(
            aware=any(a.target_time != b.target_time for a, b in new),
            scale="column" if scaled else None,
        )

    def _felt(
        self,
        settings: Mapping[str, Setting],
        way: Way,
        chips: Mapping[str, Chip],
        errors: dict[Verdict, Tensor],
    ) -> Tensor:
        """Return the errors of settings on noisy chips, and note them."""
        errors[self.effort] = self._noisy_error(f"{LABELS[way]}{self._label(chips)}", settings)
        return errors[self.effort]

    def _settings(
        self, way: Way, chips: Mapping[str, Chip], early: bool = True
    ) -> dict[str, Setting] | None:
        """Return the settings by a way; None: its DAC ranges alone make the model worse.

        Then the ranges behind the array, which take longest to find, are not needed. They are found
        all the same if ``early`` is False.
        """
        whole = self.calibration
        if way == "vector":
            return whole.on(chips, lambda: dict.fromkeys(whole.layers))
        ranges = self._measured(chips)
        early = early and self.noisy and whole.wanted is None
        if early and not self._is_no_worse(on(chips, ranges)):
            return None
        return whole.on(chips, lambda: ranges)

    def _noisy_error(self, what: str, settings: Mapping[str, Setting]) -> Tensor:
        self.calibration.apply(settings)
        errors = self.judge.errors(chips=CHIPS, shared=True)
        self.tried.append((what, errors))
        return errors

    def _is_no_worse(self, settings: Mapping[str, Setting]) -> bool:
        """Return whether the model errs no more than uncalibrated, without noise."""
        if not self.judge.judges:
            if self.judge.without == DETECTIONS:  # others return nothing on purpose
                self._warn(DETECTIONS, _KEPT)
            return True
        self._bare = self._bare or self._error(self.nothing)
        new = self._error(settings)
        if new.vectors != self._bare.vectors:  # since then another output has become ``apart``
            self._bare = self._error(self.nothing)
        if not new.vectors:
            self._warn(self.judge.nothing_left, _KEPT)
        return not new.exceeds(self._bare)

    def _error(self, settings: Mapping[str, Setting]) -> Error:
        """Return the error of the model without noise."""
        self.calibration.apply(settings)
        return self.judge.error()

    def _warn(self, why: str, instead: str) -> None:
        """Warn once that outputs cannot be compared."""
        if not self._warned:
            self._warnings.append(f"there is nothing to compare, as {why}; {instead}")
            self._warned = True

    def _bare_on(self, chips: Mapping[str, Chip]) -> Tensor:
        """Return the errors of the uncalibrated model on these chips, with noise."""
        what = f"not calibrated{self._label(chips)}"
        if what not in self._known:
            self._known[what] = self._noisy_error(what, uncalibrated(chips))
        return self._known[what]

    def _report(
        self,
        settings: Mapping[str, Setting],
        way: Way,
        errors: dict[Verdict, Tensor],
        kept: Verdict,
    ) -> CalibrationReport:
        whole = self.calibration
        judged = len(whole.judged) if self.judge.judges else 0
        return CalibrationReport(
            effort=self.effort,
            layers=tuple(
                layer_choice(name, setting, self.chips[name], way, whole.wanted)
                for name, setting in settings.items()
            ),
            steps=tuple(Step(what=what, error=self.judge.mean(x)) for what, x in self.tried),
            errors={verdict: self.judge.mean(x) for verdict, x in errors.items()},
            kept=kept,
            batches=(len(whole.batches), judged, judged),
            notes=(*notes(settings, self.chips, whole.wanted), *self.judge.notes()),
        )


def on(chips: Mapping[str, Chip], ranges: Mapping[str, Ranges]) -> dict[str, Setting]:
    """Return the settings of layers on these chips by their DAC ranges alone."""
    return {name: Setting(r, Limits(), chips[name]) for name, r in ranges.items()}


def saves(new: Tensor, before: Tensor) -> bool:
    """Return whether errors of output vectors are smaller than before by enough to change chips.

    They must be so by ``SCALE_GAIN`` and by more than chance.
    """
    return worth(new, before) and bool(new.mean() < (1 - SCALE_GAIN) * before.mean())


def exceeds(new: Tensor, before: Tensor) -> bool:
    """Return whether errors of output vectors are larger by over ``RANGE_COST`` and ``FELT``.

    Infinite ones are larger than any finite ones, and not than one another.
    """
    return bool(new.mean() > before.mean() + (RANGE_COST * before.mean()).clamp_min(FELT))
