"""Times after programming: one moment is one number, however it is written."""

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.devices import seconds


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.1 h", "66 min"),
        ("0.7 days", "16.8 h"),
        (0.0, -0.0),
        (1.1 * 3600, 3960),
        ("3e3", "50 min"),
    ],
)
def test_one_moment_is_one_number_and_one_read(one: str | float, other: str | float) -> None:
    assert str(seconds(one)) == str(seconds(other))
    torch.manual_seed(0)
    physical = at.program(at.convert(nn.Sequential(nn.Linear(8, 4)), at.chips.hermes64()), seed=1)
    x = torch.randn(3, 8)
    assert torch.equal(physical.at(one)(x), physical.at(other)(x))


def test_times_that_differ_stay_apart() -> None:
    assert seconds(1e9 + 0.01) != seconds(1e9)
    assert seconds(1e308) == 1e308
    assert seconds(1e-30) == 1e-30
