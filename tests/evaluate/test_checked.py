"""Models that cannot be measured are refused by the function that was called."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import analogtorch as at
from tests.crossbar import crossbar


def _never(model: nn.Module) -> float:
    raise AssertionError


def _model() -> nn.Sequential:
    return at.convert(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(), crossbar())


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("sweep", at.sweep),
        ("budget", at.budget),
        ("sensitivity", at.sensitivity),
        ("plan", partial(at.plan, example=torch.randn(2, 4))),
        ("recalibration_interval", partial(at.recalibration_interval, limit=0.5)),
    ],
)
def test_no_weights(name: str, measured: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: layer '0' is on the meta device; load weights"):
        measured(_model().to("meta"), metric=_never)


@pytest.mark.parametrize("measured", [at.sweep, at.budget, at.sensitivity])
def test_no_numbers_of_a_digital_layer(measured: Any, tmp_path: Path) -> None:
    model = _model()
    model[1].to("meta")
    with pytest.raises(ValueError, match=f"^{measured.__name__}: '1.weight' is on the meta device"):
        measured(model, _never, folder=tmp_path)
