"""The MVM error of whole programmed blocks: the setting and the figures are stated in each test."""

import pytest
import torch
from torch import nn

import analogtorch as at
from benchmarks.validation import mvm, published
from tests.crossbar import crossbar

SEEDS = mvm.CHIPS


@pytest.mark.parametrize("key", published.MVM, ids=", ".join)
def test_error_over_time(key: tuple[str, str]) -> None:
    device, compensation = key
    expected = published.MVM[key].numbers
    assert mvm.over_time(device)[compensation] == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("key", published.OTHER_MVM, ids=", ".join)
def test_error_of_other_options(key: tuple[str, str, str]) -> None:
    device, compensation, time = key
    found = mvm.errors(mvm.plain_chip(device), (time,), (compensation,))[compensation]
    assert found == pytest.approx(published.OTHER_MVM[key].numbers, abs=0.3)


@pytest.mark.parametrize(("clip", "weight_scale"), published.GAUSSIAN_MVM)
def test_error_of_gaussian_weights(clip: float, weight_scale: str) -> None:
    expected = published.GAUSSIAN_MVM[clip, weight_scale]
    assert mvm.gaussian_error(clip, weight_scale) == pytest.approx([expected], abs=0.3)


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
        x = mvm.uniform(generator, 256, 256, zeros=0.0)
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
