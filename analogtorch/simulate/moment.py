"""At which moment, and how warm, a chip computes and its compensation is read."""

from torch import nn

from analogtorch.conversion import analog_layers
from analogtorch.devices.thermal import kelvin
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.values import checks


def warmth(model: nn.Module, t: float | None, temperature: str | float | None) -> float | None:
    """Return a temperature in K that ``ProgrammedChip.at`` was given; None: the device model's.

    Raises:
        ValueError: it is no temperature, there is none at this time, or it changes nothing.
    """
    if temperature is None:
        return None
    found = kelvin(temperature)
    if t is None:
        raise ValueError(
            "at('programmed') is the chip before any read, which has no temperature; leave it "
            "out, or take '0 s'"
        )
    if not any(layer.chip.thermal.activation_energy for _, layer in analog_layers(model)):
        raise ValueError(
            f"at: temperature {temperature!r} would change nothing, because the chip has no "
            "activation energy; give it that of your devices before convert: "
            "chip.replace(thermal={'activation_energy': 0.2}), in eV"
        )
    return found


def compensated(
    model: nn.Module, t: float | None, warm: float | None, recalibration: Recalibration | None
) -> tuple[float, float | None] | None:
    """Return time and temperature of the last read of the compensation before ``t``.

    Args:
        model: the model on the chip.
        t: seconds after programming.
        warm: temperature at which the chip computes, K.
        recalibration: the schedule; None: there is none, and so no such read.

    Raises:
        TypeError: ``recalibration`` is of another type.
        ValueError: ``warmth`` refuses its temperature.
    """
    if recalibration is None:
        return None
    checks.instance("at: recalibration", recalibration, Recalibration, "at.Recalibration(...)")
    if t is None:
        return None
    when = recalibration.last(t)
    if recalibration.temperature is None:
        return when, warm
    return when, warmth(model, when, recalibration.temperature)
