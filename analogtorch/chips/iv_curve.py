"""The curvature of the current of a memory device over its voltage."""

from dataclasses import dataclass, field
from typing import Any

import torch

from analogtorch.chips.non_ideality import non_ideality
from analogtorch.chips.read_noise import larger
from analogtorch.devices import Curve, register
from analogtorch.devices.curves import check_curve
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

_POINTS = 101


@register
@dataclass(frozen=True, kw_only=True)
class IVCurve:
    """The current of a device that is not proportional to its voltage.

    A device of the conductance ``r`` conducts ``g_max (r V + square(r) V^2 + cube(r) V^3)``, and
    one that is read as exactly 0 conducts nothing at any voltage, whatever its curves are at 0. It
    matters where inputs are voltages (``DAC.encoding="amplitude"``): an input x of a row with the
    DAC range R is the voltage ``read_voltage x / R``. A partial sum then is

        sum of w x + sum of w_2 x^2 / R + sum of w_3 x^3 / R^2

    with the weights that cells have whose devices conduct ``square(r) read_voltage`` and ``cube(r)
    read_voltage^2`` instead of ``r``. Programmed chips have it; training and evaluation before do
    not. Products with it run in plain torch and take three times the multiplications.
    """

    square: Curve | None = field(
        default=None, metadata=non_ideality("iv_curve", absent=None, grown=larger)
    )
    """Coefficient of the square of the voltage, 1/V, as a function of ``r = g / g_max``; None:
    0."""
    cube: Curve | None = field(
        default=None, metadata=non_ideality("iv_curve", absent=None, grown=larger)
    )
    """Coefficient of its cube, 1/V^2, likewise."""
    read_voltage: float | None = None
    """Voltage of a full-scale input, V, > 0; needed with either curve."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.numbers(self, "read_voltage", optional=True, above=0)
        r = torch.linspace(0.01, 1.0, _POINTS, dtype=torch.float64, device="cpu")
        for name in ("square", "cube"):
            curve = getattr(self, name)
            if curve is None:
                continue
            check_curve(f"IVCurve.{name}", curve)
            if not bool(torch.isfinite(curve(r).float()).all()):  # as MVMs compute
                raise ValueError(
                    f"IVCurve.{name} must be finite for r from 0.01 to 1, got {checks.shown(curve)}"
                )
        if self.on and self.read_voltage is None:
            raise ValueError(
                "IVCurve.read_voltage must be the voltage of a full-scale input, in V, got None: "
                "the curves are functions of it"
            )
        check_sources(self)

    @property
    def on(self) -> bool:
        """Whether currents are curved."""
        return self.square is not None or self.cube is not None


def check_iv(chip: Any) -> None:
    """Raise ValueError unless the parts of ``chip`` fit its curve of currents."""
    if not chip.iv.on:
        return
    if chip.dac.encoding != "amplitude":
        raise ValueError(
            "Chip.iv is the curve of devices that are read at many voltages: it needs "
            f"dac={{'encoding': 'amplitude'}}, got {chip.dac.encoding!r}. Pulses have one voltage, "
            "at which a conductance says all"
        )
    if not chip.wires.ideal:
        raise ValueError(
            "Chip.iv and Chip.wires exclude each other, as IR drop is computed for devices of "
            "straight currents; give wires=analogtorch.chips.Wires(), or iv=at.chips.IVCurve()"
        )
    if chip.phases == 4:
        raise ValueError(
            "Chip.iv is that of both polarities together: give adc={'separate_phases': False}, or "
            "a cost without 4 phases"
        )
