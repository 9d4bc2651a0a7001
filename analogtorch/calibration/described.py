"""The settings that a calibration kept, in the words of its report and its warnings."""

from collections.abc import Iterator, Mapping

from analogtorch.calibration.adc import Wanted
from analogtorch.calibration.choice import Effort, LayerChoice
from analogtorch.calibration.options import Way
from analogtorch.calibration.settings import Setting
from analogtorch.chips import Chip
from analogtorch.chips.choices import Choices
from analogtorch.nn.converters import dac_ranges_text
from analogtorch.values.warned import warn

ADC_ERROR = 0.1
"""Relative error of the partial sums from which on a warning names the ADC, if all else errs
less."""
_SCALED = (
    "weights scaled by column, by chip.replace(periphery={'weight_scale': 'column'}) before convert"
)
_LARGER = (
    "DAC ranges beyond the largest input, which make the sums smaller: method='mse' tries them and "
    "takes those that err less"
)
_DIGITAL = "leave these layers digital, by at.convert(..., exclude=[...])"


def layer_choice(
    name: str,
    setting: Setting,
    chip: Chip,
    way: Way,
    wanted: Wanted | None,
    share: float | None = None,
    gain: float = 0.0,
) -> LayerChoice:
    """Return the row of a layer.

    Args:
        name: full name of the layer.
        setting: what it has now.
        chip: its chip before.
        way: way in which its DAC range was found.
        wanted: the way to find ADC ranges; None leaves those of the chip.
        share: see ``LayerChoice``.
        gain: see ``LayerChoice``.
    """
    by_vector = setting.ranges is None
    return LayerChoice(
        name=name,
        share=share,
        dac="vector" if by_vector else way,
        input_range="absmax" if by_vector else dac_ranges_text(setting.ranges or []),
        weight_scale=(setting.chip or chip).periphery.weight_scale,
        target_time=Choices.of(setting.chip or chip).target_time,
        adc="chip" if setting.limits.adc_ranges is None or not wanted else wanted.method,
        gain=gain,
    )


def notes(
    settings: Mapping[str, Setting], chips: Mapping[str, Chip], wanted: Wanted | None
) -> Iterator[str]:
    """Yield what the chips do not offer, what costs digital operations, and deviations."""
    if not any(chip.periphery.scales_columns for chip in chips.values()):
        yield "weight scale: not searched, as the digital unit of the chip scales no columns"
    if wanted is None:
        if any(chip.adc.levels for chip in chips.values()):
            yield (
                "ADC range: that of the chip; where the hardware can set it, pass adc='mse' and "
                "adc_per"
            )
    elif any(s.limits.adc_ranges is not None for s in settings.values()):
        yield "ADC ranges were found: a deviation, unless the hardware offers that"
    new = {n: Choices.of(s.chip or chips[n]) for n, s in settings.items()}
    old = {n: Choices.of(chips[n]) for n in settings}
    if scaled := sum(new[n].weight_scale != old[n].weight_scale for n in new):
        yield (
            f"{scaled} of {len(settings)} layers now have a weight scale per column, which the "
            "digital unit applies"
        )
    if aware := sum(new[n].target_time != old[n].target_time for n in new):
        yield (
            f"{aware} of {len(settings)} layers are now written to targets that allow for drift "
            "(Chip.drift_aware)"
        )
    by_vector = sum(s.ranges is None for s in settings.values())
    if by_vector:
        yield (
            f"{by_vector} of {len(settings)} layers scale each input vector digitally; summary has "
            "what that takes"
        )


def taken_back(settings: Mapping[str, Setting], before: Mapping[str, Chip]) -> Iterator[str]:
    """Yield which choices of earlier calibrations end; ``before``: the chips that had them."""
    changes = [
        (Choices.of(before[n]), Choices.of(s.chip or before[n])) for n, s in settings.items()
    ]
    scales = sum(old.weight_scale != new.weight_scale == "block" for old, new in changes)
    times = sum(old.target_time is not None and new.target_time is None for old, new in changes)
    kinds = ((scales, "weight scale per column"), (times, "targets that allow for drift"))
    for count, what in kinds:
        if count:
            yield f"an earlier choice is taken back: {what}, in {count} of {len(changes)} layers"


def warn_of_adc(
    chosen: Mapping[str, Setting], chips: Mapping[str, Chip], effort: Effort | None
) -> None:
    """Name the layers whose error the range of the ADC decides, too wide or too narrow for them.

    Args:
        chosen: what each layer is to get.
        chips: its chip before.
        effort: how settings were compared, as what was tried is no remedy; None: they were not.
    """
    coarse = {
        name: setting.limits
        for name, setting in chosen.items()
        if setting.limits.adc_error > max(ADC_ERROR, setting.limits.other_error)
    }
    for clips, why in ((False, "use little of it"), (True, "exceed it")):
        found = ((x.adc_error, name) for name, x in coarse.items() if x.clips == clips)
        if worst := sorted(found, reverse=True):
            shown = ", ".join(f"{name!r} ({100 * error:.0f} %)" for error, name in worst[:5])
            units = [(chosen[name].chip or chips[name]).periphery for _, name in worst]
            if effort in ("default", "search"):
                units = [unit for unit in units if not unit.scales_columns]
            untried = effort is None if clips else any(u.weight_scale != "column" for u in units)
            remedy = _DIGITAL if not untried else _LARGER if clips else _SCALED
            warn(
                f"calibrate: the fixed range of the ADC decides the error of {len(worst)} of "
                f"{len(chosen)} layers, whose partial sums {why}: relative error of {shown}. A "
                "chip whose ADC range can be set helps, by calibrate(adc='mse', "
                f"adc_per='column'), or {remedy}"
            )
