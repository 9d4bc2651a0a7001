"""Resistive memory of metal oxides (ReRAM) as published, each fit with its source."""

import math
from numbers import Real

import torch
from torch import Tensor

from analogtorch.devices.binary import BinaryDevice
from analogtorch.devices.curves import Composed, Curve, LogClip, Polynomial
from analogtorch.devices.timed import TimedDevice
from analogtorch.values import checks


def rram_wan() -> TimedDevice:
    """Return the 130-nm RRAM of NeuRRAM, with ``g_max`` 40 uS and fits at 1 s, 1 day and 2 days.

    Source: Wan et al., Nature 608, 504 (2022). The fits state the total error at their time. Read
    noise: about 1 % of a weight's full scale, shared by the two devices of a pair. Coefficients as
    published in the open simulator aihwkit (MIT), where a fit is in microsiemens whatever ``g_max``
    is; here it scales with ``g_max``.
    """
    fits = {
        1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
        86_400.0: (0.701, 22.086, -50.773, 47.095, -16.458),
        172_800.0: (0.782, 20.274, -43.507, 37.062, -11.934),
    }
    return TimedDevice(
        name="130 nm RRAM (Wan 2022)",
        g_max=40.0,
        g_reference=40.0,
        times=tuple(fits),
        stds=tuple(Polynomial(coefficients=c) for c in fits.values()),
        read_std=Polynomial(coefficients=(0.01 / math.sqrt(2) * 40.0,)),
    )


_ACCEPTANCE = {
    0.2: (0.00081107, 0.00106879),
    2: (0.0112185391, 0.01129027418),
}
"""Programming spread, uS, over the target in uS, constant first, by the acceptance range in %."""


def rram_cmo(*, acceptance: float = 0.2) -> TimedDevice:
    """Return conductive-metal-oxide/HfOx ReRAM, from 8 to 90 uS.

    Source: Falcone et al. 2025, arXiv 2502.04524.
    Program-and-verify leaves a spread that grows with the target. Then every device relaxes by
    itself, whatever its target: ``t`` seconds later the mean has fallen by ``0.0890 ln t`` uS, with
    a spread of ``0.0420 ln t + 0.412`` uS. The relaxation was measured from 1 s to 1 hour, which
    ends the data; beyond, the law goes on, as the paper carries it on to ten years. Coefficients as
    published in the open simulator aihwkit (MIT), which limits conductances to the range between
    ``g_min`` and ``g_max``; here they may leave it, and end at 0.

    Args:
        acceptance: the acceptance range of program-and-verify, % of the target: 0.2 or 2.

    Raises:
        ValueError: another acceptance range.
    """
    if not isinstance(acceptance, Real) or acceptance not in _ACCEPTANCE:
        raise ValueError(
            f"acceptance must be 0.2 or 2, in % of the target, got {checks.shown(acceptance)}: "
            "Falcone 2025 measured these two"
        )
    base, slope = _ACCEPTANCE[acceptance]
    g_max, hour = 90.0, 3600.0
    spread = Polynomial(coefficients=(base, slope * g_max))
    read = 0.0277316483 / math.log(10)  # of the natural logarithm of uS
    return TimedDevice(
        name=f"CMO/HfOx ReRAM, acceptance range {acceptance:g} % (Falcone 2025)",
        g_max=g_max,
        g_reference=g_max,
        g_min=8.0,
        times=(1.0, hour),
        stds=(spread, spread),
        shifts=tuple(_flat(-0.08900206 * math.log(t)) for t in (1.0, hour)),
        relaxations=tuple(_flat(0.04201137 * math.log(t) + 0.41183342) for t in (1.0, hour)),
        extrapolates=True,
        read_std=LogClip(slope=read, offset=read * math.log(g_max), low=0.0, high=1.0),
        t_read=1e-6,
    )


def rram_milo() -> TimedDevice:
    """Return HfO2 ReRAM programmed by the algorithm IGVVA-100, from 50 to 225 uS.

    Source: Milo et al., IRPS 2021, Fig. 4. The paper's data are those of programming alone: no
    drift, no read noise, and every time after programming is beyond them. ``milo_curves`` has the
    curvature of its cells for ``Chip.iv``. Coefficients as published in the open simulator
    CrossSim.
    """
    g_max = 225.0
    return TimedDevice(
        name="HfO2 ReRAM, IGVVA-100 (Milo 2021)",
        g_max=g_max,
        g_reference=g_max,
        g_min=50.0,
        times=(0.0,),
        stds=(Polynomial(coefficients=(4.782321, -0.009107 * g_max)),),
    )


_MILO_SQUARE = (0.007063, 0.005711, 0.001541, 0.0001388)
_MILO_CUBE = (1.2968e-3, 6.7919e-4, 8.8710e-5)
"""Coefficients of ``milo_current``, S/V and S/V^2, by the powers of ``log10`` of the conductance in
S."""


def milo_current(g: Tensor, volt: Tensor) -> Tensor:
    """Return the current, uA, of a ReRAM cell: ``g V + a V^2 + b V^3``.

    Source: Milo et al., IRPS 2021, Fig. 1. ``a`` and ``b`` are polynomials of ``log10(g)``, fitted
    to cells of 62.5 to 110 uS and to 0 at 225 uS, where the cell is taken for linear. A read of few
    tenths of a volt deviates by some percent from ``g V``. Programmed chips have it by
    ``milo_curves``. Coefficients as published in the open simulator CrossSim.

    Args:
        g: conductance near 0 V, uS, from 50 to 225; any shape.
        volt: voltage across the cell, V, from -0.5 to 0.5; a shape that broadcasts with ``g``.

    Raises:
        TypeError: conductance or voltage is no tensor.
        ValueError: a conductance or voltage beyond the data.

    Example:
        >>> at.devices.milo_current(torch.tensor(100.0), torch.tensor(0.2))  # 19.7 uA, not 20
    """
    for name, given, low, high, unit in (
        ("g", g, 50.0, 225.0, "uS"),
        ("volt", volt, -0.5, 0.5, "V"),
    ):
        checks.instance(f"milo_current: {name}", given, Tensor, f"torch.tensor({high:g})")
        if not bool(((given >= low) & (given <= high)).all()):
            raise ValueError(
                f"milo_current: {name} must lie from {low:g} to {high:g} {unit}, where the paper "
                f"has data; got values from {given.min():g} to {given.max():g}"
            )
    decade = torch.log10(g * 1e-6)
    square = Polynomial(coefficients=_MILO_SQUARE)(decade)
    cube = Polynomial(coefficients=_MILO_CUBE)(decade)
    return g * volt + 1e6 * (square * volt**2 + cube * volt**3)


def milo_curves() -> dict[str, Curve]:
    """Return the curves ``square`` and ``cube`` of ``chips.IVCurve`` for ``rram_milo``.

    Source: Milo et al., IRPS 2021, Fig. 1, as ``milo_current``. Conductances below 50 and above 225
    uS have the curvature at these ends of the data.

    Example:
        >>> iv = at.chips.IVCurve(**at.devices.milo_curves(), read_voltage=0.2)
    """
    g_max = rram_milo().g_max * 1e-6  # S
    ends = (math.log10(50e-6), math.log10(225e-6))
    decade = LogClip(slope=1 / math.log(10), offset=math.log10(g_max), low=ends[0], high=ends[1])

    def per_g_max(coefficients: tuple[float, ...]) -> Curve:
        relative = tuple(c / g_max for c in coefficients)
        return Composed(outer=Polynomial(coefficients=relative), inner=decade)

    return {"square": per_g_max(_MILO_SQUARE), "cube": per_g_max(_MILO_CUBE)}


def rram_binary() -> BinaryDevice:
    """Return a binary ReRAM cell: a state of 6 kOhm and one of 900 kOhm, each with its spread.

    The resistances are the defaults of NeuroSim, as the open simulator CiMLoop lists them.
    ILLUSTRATIVE: the spreads, 5 % of the conductance of the state of low resistance and 20 % of the
    other's, which stand for no measured cell. One pair holds the weights -1, 0 and 1; ``n`` devices
    per polarity that are filled one after the other hold ``2 n + 1`` levels.
    """
    low, high = 1e3 / 900, 1e3 / 6
    return BinaryDevice(
        name="binary ReRAM (illustrative)",
        g_min=low,
        g_max=high,
        low_std=0.2 * low,
        high_std=0.05 * high,
    )


def _flat(value: float) -> Polynomial:
    return Polynomial(coefficients=(value,))
