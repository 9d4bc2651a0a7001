"""Curves and cells are checked when they are made."""

import math

import numpy as np
import pytest
import torch

from analogtorch.devices import (
    PCM,
    DifferentialPair,
    LogClip,
    Piecewise,
    Polynomial,
    PowerClip,
    TimedDevice,
    pcm_like,
    rram_wan,
)

LOG = {"slope": -0.01, "offset": 0.02, "low": 0.01, "high": 0.1}
POWER = {"scale": 0.01, "power": 0.5, "floor": 1e-3, "high": 0.2}
FLAT = Polynomial(coefficients=(0.05,))


def test_a_list_of_coefficients_becomes_a_tuple_of_python_numbers() -> None:
    curve = Polynomial(coefficients=[np.float32(0.5), 2])
    assert curve == Polynomial(coefficients=(0.5, 2.0))
    assert hash(curve) == hash(Polynomial(coefficients=(0.5, 2.0)))
    assert [type(c) for c in curve.coefficients] == [float, int]


@pytest.mark.parametrize("bad", [math.nan, math.inf, True, "0.1", None, torch.tensor(0.1)])
@pytest.mark.parametrize(
    "curve", [(LogClip, LOG), (PowerClip, POWER)], ids=["LogClip", "PowerClip"]
)
def test_what_is_no_finite_number_is_refused(curve, bad) -> None:
    kind, fields = curve
    for name in fields:
        with pytest.raises(ValueError, match=f"{kind.__name__}.{name} must be a .*number"):
            kind(**{**fields, name: bad})
    with pytest.raises(ValueError, match=r"Polynomial.coefficients\[1\] must be a finite number"):
        Polynomial(coefficients=(0.1, bad))
    with pytest.raises(ValueError, match="Piecewise.split must be a finite number"):
        Piecewise(split=bad, below=FLAT, above=FLAT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Polynomial(coefficients=()), "Polynomial.coefficients must be a tuple of numbers"),
        (
            lambda: Polynomial(coefficients="abc"),
            "Polynomial.coefficients must be a tuple of numbers",
        ),
        (
            lambda: LogClip(**{**LOG, "low": 0.2}),
            "LogClip.low must not be above high, got 0.2 and 0.1",
        ),
        (
            lambda: LogClip(**{**LOG, "slope": 0}),
            "LogClip.slope must not be 0; a constant is Polynomial",
        ),
        (lambda: PowerClip(**{**POWER, "floor": 0}), "PowerClip.floor must be a positive number"),
    ],
)
def test_curves_that_make_no_sense_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_piece_that_is_no_curve_is_named() -> None:
    with pytest.raises(TypeError, match="Piecewise.below must be a curve, such as Polynomial"):
        Piecewise(split=0.1, below=0.5, above=FLAT)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (
            "pcm",
            r"Pair.device must be a device such as analogtorch.devices.pcm_like\(\), got 'pcm'",
        ),
        (pcm_like, r"got <function pcm_like.*; call it"),
        (PCM, "got <class .*PCM'>; call it"),
        (None, "got None"),
    ],
)
def test_what_is_no_device_is_refused_by_the_cell(device, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        DifferentialPair(device=device)


def test_the_methods_that_a_device_lacks_are_named() -> None:
    class Mine:
        name, g_max = "mine", 10.0

        def program(self, g, z):
            return g

    with pytest.raises(
        TypeError,
        match="Mine lacks programming_sigma, drift_coefficient, drift, read, g_min, valid_until",
    ):
        DifferentialPair(device=Mine())


def test_devices_know_how_long_their_data_last() -> None:
    assert pcm_like().valid_until == math.inf
    assert rram_wan().valid_until == 172_800.0
    times = TimedDevice(name="mine", g_max=1, g_reference=1, times=[1, 10], stds=[FLAT, FLAT])
    assert (times.times, times.valid_until) == ((1, 10), 10)


@pytest.mark.parametrize("slope", [-0.01, 0.01, -1e-4, 1e-4])
@pytest.mark.parametrize("low", [-1.0, 0.02])
def test_a_clipped_logarithm_is_that_of_torch_to_the_bit_down_to_zero(
    slope: float, low: float
) -> None:
    tiny = torch.finfo(torch.float32).tiny
    r = torch.tensor([0.0, tiny / 2, tiny, 1e-30, 1e-3, 0.5, 1.0, torch.nan])
    found = LogClip(slope=slope, offset=0.03, low=low, high=0.04)(r)
    assert torch.equal(found[:-1], (slope * r.log() + 0.03).clamp(low, 0.04)[:-1])
    assert found[-1].isnan()
