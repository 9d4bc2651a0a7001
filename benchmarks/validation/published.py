"""The published figures that the models are checked against, each with its source.

Tests and ``python -m benchmarks.validation`` read them here. ``published`` stands in the paper;
``derived`` is arithmetic on figures of the paper; ``recomputed`` comes from the formulas of the
paper, by code that shares nothing with the library's, or from all nodes of a tile, solved by
``analogtorch.simulate.nodal``; ``printed`` by another program.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["published", "derived", "recomputed", "printed"]

SOURCES = {
    "Agrawal 2022": "Agrawal et al., IEDM 2022; coefficients as in CrossSim (2023)",
    "aihwkit 1.2.0": "aihwkit 1.2.0, its Python code run once on five seeds",
    "Ambrogio 2023": "Ambrogio et al., Nature 620, 768 (2023)",
    "Analog Foundation Models 2025": "Büchel et al., NeurIPS 2025",
    "Demasius 2021": "Demasius, Kirschen, Parkin, Nat. Electron. 4, 748 (2021)",
    "Falcone 2025": "Falcone et al., arXiv 2502.04524; coefficients as in aihwkit",
    "Frank 2023": "Frank et al., IRPS 2023",
    "Hung 2021": "Hung et al., Nat. Electron. 4, 921 (2021)",
    "Joshi 2020": "Joshi et al., Nat. Commun. 11, 2473 (2020), and Nandakumar et al., ICECS 2019; "
    "coefficients as in aihwkit",
    "Khaddam-Aljameh 2022": "Khaddam-Aljameh et al., JSSC 57, 1027 (2022)",
    "Kirchhoff": "all nodes of a tile, solved by `analogtorch.simulate.nodal`",
    "Le Gallo 2023": "Le Gallo et al., Nat. Electron. 6, 680 (2023); coefficients as in aihwkit",
    "Li 2018": "Li et al., VLSI 2018; pulse as in aihwkit",
    "Milo 2021": "Milo et al., IRPS 2021; coefficients as in CrossSim",
    "Rasch 2023": "Rasch et al., Nat. Commun. 14, 5282 (2023); constants as in aihwkit",
    "Tang 2018": "Tang et al., IEDM 2018; pulse as in aihwkit",
    "Kim 2019": "Kim et al., IEDM 2019; pulse as in aihwkit",
    "Wan 2022": "Wan et al., Nature 608, 504 (2022); coefficients as in aihwkit, table of "
    "efficiencies as in CiMLoop",
    "Xiao 2022": "Xiao et al., TCAS-I 69, 1480 (2022)",
}
"""Each source in full, by its short name."""

HOUR, DAY, MONTH, YEAR = 3600.0, 86_400.0, 2_592_000.0, 31_536_000.0


@dataclass(frozen=True)
class Reference:
    """Values of a quantity, by where they hold, such as a conductance, a time or a unit."""

    values: Mapping[str, float]
    source: str
    """Short name in ``SOURCES``."""
    kind: Kind = "recomputed"

    def __post_init__(self) -> None:
        assert self.source in SOURCES, self.source
        assert self.kind in get_args(Kind), self.kind

    @property
    def numbers(self) -> tuple[float, ...]:
        """The values alone."""
        return tuple(self.values.values())


def _by(labels: Iterable[object], values: Iterable[float]) -> dict[str, float]:
    return {str(label): value for label, value in zip(labels, values, strict=True)}


# ---- devices: programming

R = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Targets, in units of the largest conductance."""
CMO_PROGRAMMING = {0.2: (0.00081107, 0.00106879), 2: (0.01121854, 0.01129027)}
"""Spread, uS, over the target, uS, constant first, by the acceptance range in %."""
MILO_PROGRAMMING = (4.782321, -0.009107)
"""The same."""
PULSES = {"ecram": 1000, "ecram_metal_oxide": 7088.7, "capacitor": 400}
"""Pulses over the range of conductance."""


def polynomial(coefficients: Iterable[float], x: float) -> float:
    """Return the polynomial, constant first."""
    return sum(c * x**i for i, c in enumerate(coefficients))


def _spread(percent: Iterable[float], source: str) -> Reference:
    return Reference(_by(R, percent), source)


def _line(coefficients: tuple[float, float], g_min: float, g_max: float) -> list[float]:
    span = g_max - g_min
    return [100 * polynomial(coefficients, g_min + r * span) / g_max for r in R]


def _half_a_pulse(name: str, source: str) -> Reference:
    return Reference({"1": 100 / PULSES[name] / math.sqrt(12)}, source)


PROGRAMMING = {
    "pcm_like()": _spread((1.05, 1.44, 1.79, 2.73, 3.81, 4.31, 4.22), "Joshi 2020"),
    "hermes_one_device()": _spread(
        [100 * polynomial((0.15781817, 2.32443916, -2.16310839, 0.68841818), r) / 10.35 for r in R],
        "Le Gallo 2023",
    ),
    "hermes_two_device()": _spread((0.80, 1.84, 2.69, 4.29, 4.79, 4.41, 5.28), "Le Gallo 2023"),
    "pcm_afm()": Reference(
        _by(R[1:], (2.40, 3.10, 4.35, 4.69, 5.49, 10.67)), "Analog Foundation Models 2025"
    ),
    "rram_wan()": _spread((0.87, 2.61, 3.89, 5.65, 5.06, 3.83, 2.76), "Wan 2022"),
    "rram_cmo()": _spread(_line(CMO_PROGRAMMING[0.2], 8, 90), "Falcone 2025"),
    "rram_cmo(acceptance=2)": _spread(_line(CMO_PROGRAMMING[2], 8, 90), "Falcone 2025"),
    "rram_milo()": _spread(_line(MILO_PROGRAMMING, 50, 225), "Milo 2021"),
    "sonos()": Reference({"1": 1.24}, "Agrawal 2022"),
    "ecram()": _half_a_pulse("ecram", "Tang 2018"),
    "ecram_metal_oxide()": _half_a_pulse("ecram_metal_oxide", "Kim 2019"),
    "capacitor()": _half_a_pulse("capacitor", "Li 2018"),
}
"""Standard deviation of the programmed conductance before it is clamped at 0, % of the largest, by
target: of a device in ``at.devices``."""
LATER = {
    ("rram_wan()", DAY): _spread((1.75, 4.21, 6.12, 9.30, 9.77, 8.42, 6.63), "Wan 2022"),
    ("sonos()", 5 * DAY): Reference({"1": 2.16}, "Agrawal 2022"),
}
"""The same with the spread that has grown since programming, by device and time in seconds."""
MEMCAPACITOR_RANGE = Reference({"largest / smallest": 60.0}, "Demasius 2021", "published")

# ---- devices: drift and read noise

_DRIFT_TIMES = {"1 h": HOUR, "1 day": DAY, "30 days": MONTH, "1 year": YEAR}
DRIFT = {
    "pcm_like()": Reference(_by(_DRIFT_TIMES, (0.775, 0.664, 0.562, 0.497)), "Joshi 2020"),
    "hermes_two_device()": Reference(
        _by(_DRIFT_TIMES, (0.956, 0.906, 0.854, 0.818)), "Le Gallo 2023"
    ),
}
"""Mean drift factor of the largest conductance, by time."""
SECONDS = {"programmed": None, "0 s": 0.0, "60 s": 60.0, **_DRIFT_TIMES}
"""The times that these figures name."""
CMO_DRIFT = {"mean": -0.08900206, "spread": 0.04201137, "spread at 1 s": 0.41183342}
"""Change of the mean and spread by relaxation, uS, per unit of ln(t / s)."""
SONOS_DRIFT = (
    1.15294, 1.03149e-2, -6.05199e-5, 1.76086e-8, -6.46690e-9, 3.39044e-11, -7.53872e-14,
    8.98185e-17, -6.00346e-20, 2.12615e-23, -3.11099e-27,
)  # fmt: skip
"""Change of the mean current over 5 days, nA, over the current, nA."""
SONOS_SPREAD = (34.57909, 207.34309)
"""A and B of the spread after 5 days, nA: ``A (1 - exp(-I / B))``."""


def log_clip(r: float, slope: float, offset: float, low: float, high: float) -> float:
    """Return ``slope ln r + offset`` within its bounds."""
    return min(max(slope * math.log(r) + offset, low), high)


def _hermes_drift_spread(r: float) -> float:
    if r < 0.3055:
        return log_clip(r, -0.0117, -0.0057, 0.0091, 0.04)
    return polynomial((0.0073, 0.0093, -0.0118), r)


DRIFT_SPREAD = {
    "pcm_like()": Reference(
        _by(R[1:], (log_clip(r, -0.0125, -0.0059, 0.008, 0.045) for r in R[1:])), "Joshi 2020"
    ),
    "hermes_two_device()": Reference(_by(R[1:], map(_hermes_drift_spread, R[1:])), "Le Gallo 2023"),
}
"""Standard deviation of the drift exponent over devices, by target."""
_PAIR_TIMES = ("programmed", "1 h", "1 day", "1 year")
_PAIR_MOMENTS = {
    0.0: ((None, 0.0087), (0.0, 0.0069), (0.0, 0.0056), (0.0, 0.0042)),
    0.1: ((None, 0.0189), (0.0710, 0.0217), (0.0595, 0.0209), (0.0434, 0.0201)),
    1.0: ((None, 0.0427), (0.7731, 0.0566), (0.6630, 0.0608), (0.4989, 0.0663)),
}
PAIR = {w: dict(zip(_PAIR_TIMES, each, strict=True)) for w, each in _PAIR_MOMENTS.items()}
"""Mean and standard deviation of a pair's weight as read, by weight and time; ``pcm_like``, Joshi
2020, recomputed."""


def integrated(spectrum: Callable[[float], float], low: float, high: float) -> float:
    """Return the standard deviation of noise of a spectrum from ``low`` to ``high`` in Hz.

    The trapezoidal rule over the logarithm of the frequency, in 10,000 steps.
    """
    steps = 10_000
    width = math.log(high / low) / steps
    power = [f * spectrum(f) for f in (low * math.exp(width * i) for i in range(steps + 1))]
    return math.sqrt(width * (sum(power) - (power[0] + power[-1]) / 2))


def _read_noise(q: float, t0: float, t_read: float, source: str) -> Reference:
    """Return 1/f noise of half the largest conductance, % of it.

    A read of ``t_read``, ``t + t0`` after the pulse, sees the frequencies between them.
    """
    percent = [
        100 * integrated(lambda f: q * q / f, 1 / (t + t0 + t_read), 1 / (2 * t_read))
        for t in (0.0, *_DRIFT_TIMES.values())
    ]
    return Reference(_by(("0 s", *_DRIFT_TIMES), percent), source)


READ_NOISE = {
    "pcm_like()": _read_noise(0.0088 / 0.5**0.65, 20, 250e-9, "Joshi 2020"),
    "hermes_two_device()": _read_noise(
        polynomial((0.0123, 0.0211, -0.0280, 0.0069), 0.5), 300, 512e-9, "Le Gallo 2023"
    ),
}
"""Standard deviation of the read noise at half of the largest conductance, % of it, by time."""

AIHWKIT_TIMES = _PAIR_TIMES
_AIHWKIT = {
    0.0: ((), (0.008696, 0.006700, 0.005381, 0.003895)),
    0.1: ((0.09579, 0.07057, 0.05894, 0.04278), (0.01896, 0.02241, 0.02140, 0.02022)),
    0.25: ((0.24577, 0.19086, 0.16382, 0.12377), (0.02796, 0.03318, 0.03192, 0.03029)),
    0.5: ((0.49582, 0.38464, 0.32974, 0.24798), (0.03860, 0.04437, 0.04282, 0.04075)),
    1.0: ((0.99579, 0.77255, 0.66222, 0.49811), (0.04263, 0.05878, 0.06236, 0.06705)),
}
AIHWKIT = {
    w: tuple(
        Reference(_by(AIHWKIT_TIMES, each), "aihwkit 1.2.0", "printed") if each else None
        for each in found
    )
    for w, found in _AIHWKIT.items()
}
"""Mean and standard deviation by weight: ``PCMLikeNoiseModel`` of aihwkit 1.2.0, one matrix of
400,000 weights of each value, ``apply_programming_noise`` and then ``apply_drift_noise``; the mean
of five seeds."""

# ---- MVM

TIMES = ("0 s", "60 s", "1 h", "1 day", "30 days", "360 days")
_MVM = {
    ("pcm_like", "none"): (8.10, 10.51, 23.99, 34.62, 44.46, 50.70),
    ("pcm_like", "global"): (8.10, 8.27, 9.49, 11.11, 13.24, 14.94),
    ("two_device", "none"): (10.02, 10.02, 13.76, 22.18, 31.17, 37.10),
    ("two_device", "global"): (10.02, 10.03, 11.08, 14.15, 18.67, 22.35),
}
_DEVICE_SOURCE = {"pcm_like": "Joshi 2020"}
MVM = {
    key: Reference(_by(TIMES, values), _DEVICE_SOURCE.get(key[0], "Le Gallo 2023"))
    for key, values in _MVM.items()
}
"""MVM error, %, by device and compensation, over time: the setting of ``validation.mvm``."""
_OTHER_MVM = {
    ("pcm_like", "column", "360 days"): 14.92,
    ("two_device", "least_squares", "360 days"): 20.0,
    ("two_device", "none", "programmed"): 7.6,
    ("two_equal", "none", "0 s"): 11.4,
    ("two_sequential", "none", "0 s"): 11.2,
}
OTHER_MVM = {
    key: Reference({key[2]: value}, _DEVICE_SOURCE.get(key[0], "Le Gallo 2023"))
    for key, value in _OTHER_MVM.items()
}
"""The same by device, compensation and time."""
GAUSSIAN_MVM = {
    (9.0, "block"): 17.7,
    (9.0, "column"): 14.5,
    (2.5, "block"): 12.4,
    (2.5, "column"): 12.4,
}
"""The same at 0 s for Gaussian weights, clipped at this many sigma, by weight scale: two devices of
Le Gallo 2023."""
HERMES_WEIGHTS = {
    2.5: Reference({"0 s, a two-layer net": 4.8}, "Khaddam-Aljameh 2022", "published"),
    2.0: Reference({"0 s, ResNet-9": 5.3}, "Khaddam-Aljameh 2022", "published"),
}
"""Standard deviation of the errors of programmed weights, % of the largest, by the clip, in sigma,
of the Gaussian weights that stand for those of the nets here."""
HERMES_MVM = Reference({"0 s": 1.94}, "Khaddam-Aljameh 2022", "published")
"""Standard deviation of the errors of 8-bit MVMs, %. Of what is not said in the sources used."""
STANDARD = {
    "8-bit inputs": 0.39,
    "8-bit outputs": 5.52,
    "output noise": 0.98,
    "read noise": 2.80,
    "IR drop": 2.07,
    "all": 6.69,
}
"""MVM error, %, of each part of the standard crossbar model of Rasch 2023, alone and together."""
STANDARD_PCM = {
    "global": {"1 s": 13.3, "1 h": 13.6, "1 day": 15.2, "1 year": 19.4},
    "none": {"1 year": 51.8},
}
"""MVM error, %, of all parts with the PCM of Joshi 2020, by compensation and time."""
WIRES = {False: 2e-4, True: 6e-3}
"""Stated error of IR drop by ladders, in units of the output without it: for inputs of one sign,
and of both."""
WIRES_BY_MODEL = {
    False: {"pulses": 0.005, "standard": 0.03, "ladder": 0.07},
    True: {"pulses": 0.015, "standard": 0.03, "ladder": 0.05},
}
"""Stated error of IR drop where inputs are pulse widths, in the same units, by ``Wires.model``: of
columns with weights >= 0, and of pairs."""

# ---- chips

_PEAK_UNITS = ("ns", "uJ", "W", "nJ per tile", "fJ per MAC")
HERMES_PEAK = {
    1: Reference(_by(_PEAK_UNITS, (133, 0.859, 6.47, 13.4, 205)), "Le Gallo 2023", "derived"),
    4: Reference(_by(_PEAK_UNITS, (521, 3.383, 6.49, 52.9, 806)), "Le Gallo 2023", "derived"),
}
"""An MVM of all 64 tiles, by phases."""
HERMES_EFFICIENCY = {
    1: Reference({"TOPS": 63.1, "TOPS/W": 9.76}, "Le Gallo 2023", "published"),
    4: Reference({"TOPS": 16.1, "TOPS/W": 2.48}, "Le Gallo 2023", "published"),
}
HERMES_OPERATIONS = 8_388_608
HERMES_CORE = {
    "peak": Reference({"TOPS": 1.008, "TOPS/W": 10.5}, "Khaddam-Aljameh 2022", "published"),
    "MVM": Reference({"ns": 130.0, "nJ": 12.48}, "Khaddam-Aljameh 2022", "derived"),
}
RERAM_4MB = {
    1: Reference({"ns": 5.2, "TOPS/W": 194.4}, "Hung 2021", "published"),
    8: Reference({"ns": 15.2, "TOPS/W": 15.6}, "Hung 2021", "published"),
}
"""By bits of inputs and weights."""
SONOS_EFFICIENCY = Reference({"TOPS/W": 20.0}, "Xiao 2022", "published")
MEMCAPACITOR_EFFICIENCY = Reference({"TOPS/W": 29_600.0}, "Demasius 2021", "published")
SCOPES = ("tile", "chip", "system")
LADDER = {
    "TOPS/W": Reference(_by(SCOPES, (20.0, 12.4, 6.94)), "Ambrogio 2023", "published"),
    "nJ per 512x512 MVM": Reference(_by(SCOPES, (26.2, 42.3, 75.5)), "Ambrogio 2023", "derived"),
    "fJ per MAC": Reference(_by(SCOPES, (100, 161, 288)), "Ambrogio 2023", "derived"),
}
NEURRAM = {
    (4, 2): (1.793, 40.33),
    (5, 3): (1.165, 23.09),
    (6, 4): (0.744, 15.95),
    (7, 5): (0.525, 11.03),
    (8, 6): (0.418, 8.26),
    (9, 7): (0.344, 7.75),
    (10, 8): (0.264, 6.44),
}
"""TOPS of 48 tiles and TOPS/W by (output bits, input bits); Wan 2022."""
DRIFT_GAIN = (3, 15)
"""Smallest and largest gain of efficiency by drift from 1 day to 10 years, %; Frank 2023."""
