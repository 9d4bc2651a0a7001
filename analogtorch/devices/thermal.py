"""Temperature: kelvin from what a user writes, and thermally activated conduction.

    G(T) = G(T0) exp(-(Ea / kB) (1 / T - 1 / T0))

ILLUSTRATIVE: the activation energy ``Ea`` falls in a straight line from that of the reset state, at
conductance 0, to 0 at the largest conductance. In phase-change memory, amorphous material conducts
by thermal activation and crystalline material hardly does; no measured curve stands behind the
line. Boybat et al., IEDM 2021, characterised such devices over time and temperature and found that
one factor per array takes most of the change back.
"""

import math
import re

import torch
from torch import Tensor

from analogtorch.values import checks

BOLTZMANN = 8.617e-5
"""Boltzmann constant, eV/K."""
ROOM = 298.15
"""25 °C in K, at which devices are taken to be characterised."""
COLDEST, HOTTEST = 200.0, 600.0
"""Range of thermal activation, K: at lower temperatures conduction follows other laws, and at
higher ones phase-change memory crystallises within seconds."""
_CELSIUS = 273.15


def kelvin(temperature: str | float) -> float:
    """Return a temperature in K.

    Args:
        temperature: a number in K, or a text such as ``"85 C"``, ``"85 °C"`` or ``"358 K"``.

    Raises:
        ValueError: it is a text of another form, not above 0 K, or outside 200 to 600 K.

    Example:
        >>> kelvin("85 C")
        358.15
    """
    if isinstance(temperature, str):
        match = re.fullmatch(r"\s*([+-]?[0-9.]+)\s*(K|°?C)\s*", temperature)
        if match is None or match[1].count(".") > 1:
            raise ValueError(
                f"temperature {temperature!r} is not understood; give kelvin as a number, or a "
                "text such as '85 C' or '358 K'"
            )
        value = float(match[1]) + (0.0 if match[2] == "K" else _CELSIUS)
    else:
        value = checks.number("temperature", temperature, what="temperature in kelvin")
    if value <= 0:
        raise ValueError(
            f"temperature must be above 0 K, got {value:g} K; write degrees Celsius as a text, "
            "such as '-20 C'"
        )
    if not COLDEST <= value <= HOTTEST:
        hint = f"; if that is in degrees Celsius, write '{value:g} C'" if value < COLDEST else ""
        raise ValueError(
            f"temperature must lie from {COLDEST:g} to {HOTTEST:g} K, the range of thermally "
            f"activated conduction, got {value:g} K{hint}"
        )
    return value


def thermal_factor(r: Tensor, energy: float, temperature: float, reference: float) -> Tensor:
    """Return what conductances are multiplied by at a temperature.

    Args:
        r: programmed conductances in units of the largest, of any shape; those outside [0, 1] have
            the activation energy of the nearer end.
        energy: activation energy of the reset state, eV, >= 0.
        temperature: T, K, > 0.
        reference: temperature T0, K, > 0, of the conductances.

    Returns:
        A tensor of the shape of ``r``, above 1 where ``temperature`` exceeds ``reference``.

    Example:
        >>> thermal_factor(torch.tensor([0.0, 1.0]), 0.2, 358.15, 298.15)
        tensor([3.6845, 1.0000])
    """
    exponent = -energy / BOLTZMANN * (1 / temperature - 1 / reference)
    assert math.isfinite(exponent)
    return torch.exp(exponent * (1.0 - r.clamp(0.0, 1.0)))
