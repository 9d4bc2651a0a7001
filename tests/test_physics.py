"""The MVM error of whole programmed blocks: the setting and the figures are stated in each test."""

from typing import Any

import pytest
import torch
from torch import nn

import analogtorch as at
from tests.crossbar import crossbar

SEEDS = 4
TIMES = ("0 s", "60 s", "1 h", "1 day", "30 days", "360 days")


def _uniform(generator: torch.Generator, *shape: int, zeros: float) -> torch.Tensor:
    x = torch.rand(*shape, generator=generator) * 2 - 1
    return torch.where(torch.rand(*shape, generator=generator) < zeros, 0.0, x)


def _errors(weight, times, compensation: str, device: str, **parts: Any) -> list[float]:
    """Return the mean ||error|| / ||y|| in percent over 128 inputs and four chips.

    The layer is 512x512, with 8-bit inputs and exact outputs.
    """
    total = torch.zeros(len(times))
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        x = _uniform(generator, 128, 512, zeros=0.5)
        layer = nn.Linear(512, 512, bias=False)
        layer.weight.data = weight(generator)
        exact = crossbar(
            device=device,
            array={"rows": 512, "columns": 512},
            adc={"bits": None, "noise": 0.0},
        )
        chip = exact.replace(**parts)
        y = x @ layer.weight.detach().T
        physical = at.program(at.convert(layer, chip), seed=seed)
        for i, time in enumerate(times):
            error = physical.at(time, compensation=compensation)(x) - y
            total[i] += (error.norm(dim=1) / y.norm(dim=1)).mean() * 100
    return (total / SEEDS).tolist()


def _weights(generator: torch.Generator) -> torch.Tensor:
    return _uniform(generator, 512, 512, zeros=0.3)


# figures computed from the papers' formulas in an independent numpy program, four seeds; agreement
# within 0.3 points
@pytest.mark.parametrize(
    ("device", "compensation", "expected"),
    [
        ("pcm_like", "none", (8.10, 10.51, 23.99, 34.62, 44.46, 50.70)),
        ("pcm_like", "global", (8.10, 8.27, 9.49, 11.11, 13.24, 14.94)),
        ("two_device", "none", (10.02, 10.02, 13.76, 22.18, 31.17, 37.10)),
        ("two_device", "global", (10.02, 10.03, 11.08, 14.15, 18.67, 22.35)),
    ],
)
def test_error_over_time(device: str, compensation: str, expected: tuple[float, ...]) -> None:
    assert _errors(_weights, TIMES, compensation, device) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize(
    ("device", "time", "compensation", "expected"),
    [
        ("pcm_like", "360 days", "column", 14.92),
        ("two_device", "360 days", "least_squares", 20.0),
        ("two_device", "programmed", "none", 7.6),
        ("two_equal", "0 s", "none", 11.4),
        ("two_sequential", "0 s", "none", 11.2),
    ],
)
def test_error_of_other_options(device: str, time: str, compensation: str, expected: float) -> None:
    assert _errors(_weights, (time,), compensation, device) == pytest.approx([expected], abs=0.3)


@pytest.mark.parametrize(
    ("clip", "weight_scale", "expected"),
    [(9.0, "block", 17.7), (9.0, "column", 14.5), (2.5, "block", 12.4), (2.5, "column", 12.4)],
)
def test_error_of_gaussian_weights(clip: float, weight_scale: str, expected: float) -> None:
    def weight(generator: torch.Generator) -> torch.Tensor:
        return torch.randn(512, 512, generator=generator).clamp(-clip, clip)

    assert _errors(
        weight, ("0 s",), "none", "two_device", periphery={"weight_scale": weight_scale}
    ) == pytest.approx([expected], abs=0.3)


def test_block_diagonal_depthwise_costs_accuracy_and_least_squares_gives_some_back() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(64, 64, 3, groups=64, padding=1, bias=False), torch.randn(4, 64, 12, 12)
    y = layer(x).detach()

    def error(grouped: str, compensation: str) -> float:
        chip = crossbar(array={"grouped": grouped}, adc={"noise": 0.0, "bits": None})
        analog = at.convert(nn.Conv2d(64, 64, 3, groups=64, padding=1, bias=False), chip)
        analog.load_state_dict(layer.state_dict())
        runs = [
            at.program(analog, seed=s).at("1 day", compensation=compensation)(x) - y
            for s in range(SEEDS)
        ]
        return sum((run.norm() / y.norm()).item() for run in runs) / SEEDS

    assert error("block_diagonal", "global") > 1.2 * error("sequential", "global")
    assert error("block_diagonal", "least_squares") < 0.85 * error("block_diagonal", "global")


def _shipped(chip: at.Chip, time: str, compensation: str | None = None) -> float:
    """Return ``_errors`` for 256x256 Gaussian weights and uniform inputs, with the converters."""
    options = {} if compensation is None else {"compensation": compensation}
    total = 0.0
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        layer = nn.Linear(256, 256, bias=False)
        layer.weight.data = torch.randn(256, 256, generator=generator)
        x = _uniform(generator, 256, 256, zeros=0.0)
        y = x @ layer.weight.detach().T
        analog = at.convert(layer, chip)
        analog.set_input_range(1.0)
        error = at.program(analog, seed=seed).at(time, **options)(x) - y
        total += (error.norm() / y.norm()).item() * 100
    return total / SEEDS


@pytest.mark.parametrize(
    ("noise", "time", "none", "expected"),
    [
        (0.0, "1 day", 33.6, 18.6),
        (0.0, "1 year", 52.9, 22.8),
        (0.04, "1 day", 33.7, 18.8),
        (0.04, "1 year", 52.9, 23.0),
    ],
)
def test_hermes64_as_shipped(noise: float, time: str, none: float, expected: float) -> None:
    chip = at.chips.hermes64(output_noise=noise)
    default = _shipped(chip, time)
    assert default == pytest.approx(expected, abs=0.3)
    assert _shipped(chip, time, "none") == pytest.approx(none, abs=0.4)
    assert (
        default <= min(_shipped(chip, time, c) for c in ("none", "global", "least_squares")) + 0.3
    )


@pytest.mark.parametrize(("time", "expected"), [("1 day", 19.8), ("1 year", 23.7)])
def test_a_spread_of_gains_costs_its_size_where_no_column_is_calibrated(
    time: str, expected: float
) -> None:
    spread = at.chips.hermes64().replace(periphery={"column_calibration": False})
    error = _shipped(spread, time)
    assert error == pytest.approx(expected, abs=0.3)
    even = _shipped(spread.replace(adc={"gain_std": 0.0}), time)
    # independent errors add as squares: 7.09 % of each column
    assert error == pytest.approx((even**2 + 7.09**2) ** 0.5, abs=0.3)
    assert _shipped(at.chips.hermes64(), time) == pytest.approx(even, abs=0.2)
