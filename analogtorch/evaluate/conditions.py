"""What a reader of a result must know of its chips: how they differ from chips by default."""

from torch import nn

from analogtorch.conversion import analog_layers
from analogtorch.devices.thermal import kelvin
from analogtorch.devices.time import duration
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.simulate.writing import Method
from analogtorch.values.listed import listed as shortened

_COMPENSATIONS: dict[Compensation, str] = {
    "none": "drift is not compensated",
    "global": "drift is compensated by one factor per block, of the mean magnitude of its cells",
    "column": "drift is compensated by one factor per column, of the mean magnitude of its cells",
}
"""What differs from the default, ``least_squares``."""


def conditions(
    method: Method | None,
    defects: Defects | None,
    compensation: Compensation,
    *,
    temperature: str | float | None = None,
    recalibration: Recalibration | None = None,
) -> dict[str, str]:
    """Return what of simulated chips is not as by default, in words, by argument.

    Args:
        method: how cells are written, as ``program`` takes it.
        defects: what is broken, as ``program`` takes it.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it.
        temperature: that of the chips, as ``ProgrammedChip.at`` takes it.
        recalibration: when the compensation is read; None: at each time.
    """
    warmth = "" if temperature is None else f"the temperature is {kelvin(temperature):g} K"
    found = {
        "defects": "" if defects is None else defects.summary,
        "method": "" if method is None else method.summary,
        "compensation": _COMPENSATIONS.get(compensation, ""),
        "temperature": warmth,
        "recalibration": "" if recalibration is None else _reads(recalibration, compensation),
    }
    return {name: text for name, text in found.items() if text}


def unrounded(model: nn.Module) -> tuple[str, ...]:
    """Return which layers of a model do not round their outputs as their chip does, in words.

    ``calibrate`` finds the ranges in which it rounds; without it the number of bits has no effect.
    """
    layers = dict(analog_layers(model))
    found = {
        name or "(root)": layer.chip.periphery.output_bits
        for name, layer in layers.items()
        if layer.unrounded
    }
    if not found:
        return ()
    bits = " or ".join(dict.fromkeys(map(str, found.values())))
    return (
        f"outputs of {len(found)} of {len(layers)} layers ({shortened(found)}) are not rounded to "
        f"{bits} bits: calibrate finds the ranges",
    )


def _reads(schedule: Recalibration, compensation: Compensation) -> str:
    """Return when the compensation is read, or what follows it alone is fitted, in words."""
    when = [f"at {duration(float(t))}" for t in (0.0, *schedule.times)]
    if schedule.every is not None:
        when.append(f"every {duration(float(schedule.every))}")
    at = "" if schedule.temperature is None else f", each at {kelvin(schedule.temperature):g} K"
    what = "corrections are fitted" if compensation == "none" else "drift is read"
    return f"{what} {' and '.join(when)}{at}"


def remarks(texts: tuple[str, ...]) -> list[str]:
    """Return a line for each condition, to stand under a table."""
    return [f"on the chips, {text}" for text in texts]


def listed(texts: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the entry of results with these conditions, for JSON; empty without any."""
    return {"conditions": list(texts)} if texts else {}
