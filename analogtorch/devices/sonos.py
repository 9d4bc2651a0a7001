"""SONOS charge-trap flash as analog memory: currents below threshold, over days."""

from analogtorch.devices.curves import Composed, Curve, Piecewise, Polynomial, Saturating
from analogtorch.devices.time import SECONDS
from analogtorch.devices.timed import TimedDevice
from analogtorch.values import checks

_VOLT = 0.1
"""Read voltage, V, that turns currents into conductances."""
_FULL = 1600.0
"""Largest current, nA, and the unit of the curves: ``r = 1``."""

_SPREAD = (
    (19.88665, 176.3115),
    (25.59102, 186.85544),
    (28.72753, 193.56834),
    (31.04318, 198.90332),
    (33.76214, 204.77023),
    (34.57909, 207.34309),
)
"""``A`` and ``B``, nA, of the random variability ``A (1 - exp(-I / B))`` after 0 to 5 days; ``I``
is the current after the mean drift."""

# fmt: off
_DRIFT = (
    (),
    (6.83650e-01, 6.51250e-03, -4.03163e-04, 3.37944e-06, -1.87435e-08, 5.88902e-11,
     -1.07685e-13, 1.17751e-16, -7.60016e-20, 2.67255e-23, -3.94954e-27),
    (6.60925e-01, 8.60627e-03, -1.72936e-04, 7.44096e-07, -5.94866e-09, 2.36734e-11,
     -4.83740e-14, 5.56072e-17, -3.65397e-20, 1.28405e-23, -1.87450e-27),
    (1.15821e00, 1.96116e-02, -4.70807e-04, 3.67510e-06, -2.08786e-08, 6.59752e-11,
     -1.19499e-13, 1.28435e-16, -8.11574e-20, 2.78802e-23, -4.02057e-27),
    (8.72216e-01, 1.70926e-02, -2.23370e-04, 1.57526e-06, -1.32779e-08, 5.08256e-11,
     -1.01251e-13, 1.14633e-16, -7.46124e-20, 2.60559e-23, -3.78724e-27),
    (1.15294e00, 1.03149e-02, -6.05199e-05, 1.76086e-08, -6.46690e-09, 3.39044e-11,
     -7.53872e-14, 8.98185e-17, -6.00346e-20, 2.12615e-23, -3.11099e-27),
)
"""Change of the mean current, nA, after 0 to 5 days: coefficients of a polynomial in the target
current in nA, constant first."""
# fmt: on


def sonos(*, drift_until: float = _FULL) -> TimedDevice:
    """Return SONOS charge-trap memory in 40 nm, read below threshold, with fits after 0 to 5 days.

    Source: Agrawal et al., IEDM 2022, 21.7.1-4 (128 K devices), with coefficients as published in
    the open simulator CrossSim. The paper states currents, up to 1,600 nA for a full weight. A cell
    is read at one drain voltage, so a current stands for a conductance: here ``g = I / 0.1 V``,
    which makes ``g_max`` 16 uS as CrossSim suggests. No result depends on that voltage, as all
    errors scale with it. ``g_min`` is ``g_max / 1e7``, the on/off ratio that CrossSim suggests.

    Between the days CrossSim interpolates the coefficients in time, and here the curves are, which
    is the same for the mean and within 0.1 nA for the spread. The paper's read noise is drawn in
    every MVM; here it is drawn once per time, as all read noise of devices, which leaves the error
    of one MVM as large.

    The published polynomials of the mean drift, of degree 10, bend down steeply above about 1,400
    nA: at 1,600 nA they say -246 nA after one day, -98 after two and -118 after five, where -39 to
    -60 nA at 1,400 nA is in the order of the days.

    Args:
        drift_until: largest current, nA, > 0, up to 1,600, at which those polynomials are
            evaluated; the mean of larger targets moves as the one there. 1,600, the default, is the
            published model; 1,400 leaves its steep end out.

    Raises:
        ValueError: the current is out of range.
    """
    until = checks.number("sonos: drift_until", drift_until, above=0, most=_FULL) / _FULL
    stds, shifts = [], []
    for (scale, rate), drift in zip(_SPREAD, _DRIFT, strict=True):
        change = tuple(c * _FULL ** (i - 1) for i, c in enumerate(drift)) or (0.0, 0.0)
        moved, after = _held(change, until)
        spread = Saturating(scale=_conductance(scale), rate=rate / _FULL)
        stds.append(Composed(outer=spread, inner=after))
        shifts.append(moved)
    g_max = _conductance(_FULL)
    return TimedDevice(
        name="40 nm SONOS (Agrawal 2022)",
        g_max=g_max,
        g_reference=g_max,
        g_min=g_max / 1e7,
        times=tuple(SECONDS["day"] * day for day in range(len(_SPREAD))),
        stds=tuple(stds),
        shifts=tuple(shifts),
        between="linear",
        read_std=Saturating(scale=_conductance(12.58037), rate=215.36557 / _FULL),
    )


def _held(change: tuple[float, ...], until: float) -> tuple[Curve, Curve]:
    """Return the shift in uS, and ``r`` after it.

    Args:
        change: coefficients of the shift over ``r``, both in units of the largest current.
        until: the ``r`` beyond which the shift is held.
    """
    full = _conductance(_FULL)
    shift: Curve = Polynomial(coefficients=tuple(full * c for c in change))
    after: Curve = Polynomial(coefficients=(change[0], 1.0 + change[1], *change[2:]))
    if until < 1:
        last = sum(c * until**i for i, c in enumerate(change))
        held = Polynomial(coefficients=(full * last,))
        shift = Piecewise(split=until, below=shift, above=held)
        after = Piecewise(split=until, below=after, above=Polynomial(coefficients=(last, 1.0)))
    return shift, after


def _conductance(current: float) -> float:
    """Return a current, nA, as a conductance, uS."""
    return current * 1e-3 / _VOLT
