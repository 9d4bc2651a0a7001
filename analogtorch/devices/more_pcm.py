"""Further fits of phase-change memory.

One is a fit of weights, one does not depend on the state, one describes a projected cell.
"""

from analogtorch.devices.curves import Interpolated, Piecewise, Polynomial
from analogtorch.devices.pcm import PCM, pcm_like
from analogtorch.devices.timed import TimedDevice
from analogtorch.values import checks

_SCALE = 180.0
"""The largest weight, in the units that Analog Foundation Models state its fit in."""
_ONE = (2.5797410660159494, 0.22419685954327148, -0.00371581208142707, 2.939751381126213e-05)
_TWO = (2.110295720240385, 0.2453487119885723, -0.003054993405157235, 1.2329755395573392e-05)


def pcm_afm() -> TimedDevice:
    """Return the PCM of Analog Foundation Models: one device for small weights, two for large ones.

    Source: Analog Foundation Models, NeurIPS 2025, and the authors' code. Weights above 29 % of the
    largest take two devices per polarity. The fit is one of signed weights, each with one draw, and
    of weights in units of the largest, 180. Below 0.6 a weight is 0 exactly. So one of these stands
    for all devices of a polarity, and an empty polarity adds no error: the spread of a weight is
    that of the fit. It ends at 0, where the authors let a small weight change its sign.
    Conductances are in units of the largest (``g_max`` 1), as the fit states no microsiemens.
    Programming alone: no drift, no read noise, and every time after programming is beyond the data.
    """
    one, two = (
        Polynomial(coefficients=tuple(c * _SCALE ** (i - 1) for i, c in enumerate(fit)))
        for fit in (_ONE, _TWO)
    )
    filled = Piecewise(split=52.5 / _SCALE, below=one, above=two)
    empty = Polynomial(coefficients=(0.0,))
    return TimedDevice(
        name="PCM of Analog Foundation Models (2025)",
        g_max=1.0,
        g_reference=1.0,
        times=(0.0,),
        stds=(Piecewise(split=0.6 / _SCALE, below=empty, above=filled),),
    )


def state_independent(
    *,
    programming_std: float = 0.2,
    drift_mean: float = 0.1,
    drift_std: float = 0.05,
    read_noise: float = 0.04,
) -> PCM:
    """Return a device whose errors do not depend on its conductance, ``g_max`` 25 uS.

    The defaults are those of the open simulator aihwkit (MIT), which cites no measurement. Its read
    noise is one microsiemens at ``g_max`` for each unit of the 1/f growth, which is 0.04 of the
    conductance.

    Args:
        programming_std: standard deviation of programming, uS, >= 0.
        drift_mean: mean drift exponent, >= 0.
        drift_std: its standard deviation from device to device, >= 0.
        read_noise: ``Q`` of the 1/f spectrum, in units of the conductance, >= 0.

    Raises:
        ValueError: a number is out of range.
    """

    def flat(name: str, value: float) -> Polynomial:
        number = checks.number(f"state_independent: {name}", value, least=0)
        return Polynomial(coefficients=(number,))

    return PCM(
        name="state-independent device",
        g_max=25.0,
        g_reference=25.0,
        t0=20.0,
        t_read=250e-9,
        programming_std=flat("programming_std", programming_std),
        drift_mean=flat("drift_mean", drift_mean),
        drift_std=flat("drift_std", drift_std),
        read_noise=flat("read_noise", read_noise),
    )


def pcm_projected(
    *,
    g: tuple[float, ...] = (0.0, 10.0, 25.0),
    nu_mean: tuple[float, ...] = (0.08, 0.05, 0.03),
    nu_std: tuple[float, ...] = (0.03, 0.02, 0.01),
) -> PCM:
    """Return the PCM of ``pcm_like`` with other drift exponents, by default of projected cells.

    The exponents are given at some conductances, and lie on straight lines between them. The
    default is the example of the open simulator aihwkit (MIT) for a projected cell as in Li et al.,
    Adv. Electron. Mater. 2023 (ILLUSTRATIVE).

    Args:
        g: conductances, uS, from 0 to 25, ascending; at least two.
        nu_mean: mean drift exponent at each, >= 0.
        nu_std: its standard deviation from device to device at each, >= 0.

    Raises:
        ValueError: conductances do not ascend or lie out of range, an exponent is below 0, or lists
            differ in length.
    """
    base = pcm_like()
    for name, given, most in (
        ("g", g, base.g_max),
        ("nu_mean", nu_mean, None),
        ("nu_std", nu_std, None),
    ):
        for i, value in enumerate(checks.items(f"pcm_projected: {name}", given, "(0.0, 25.0)")):
            checks.number(f"pcm_projected: {name}[{i}]", value, least=0, most=most)
    r = tuple(value / base.g_max for value in g)
    return PCM(
        name="PCM with drift exponents of its own",
        g_max=base.g_max,
        g_reference=base.g_reference,
        t0=base.t0,
        t_read=base.t_read,
        programming_std=base.programming_std,
        drift_mean=Interpolated(points=r, values=tuple(nu_mean)),
        drift_std=Interpolated(points=r, values=tuple(nu_std)),
        read_noise=base.read_noise,
    )
