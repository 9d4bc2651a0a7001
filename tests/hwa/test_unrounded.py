"""``adapt`` where calibration loses to a model that rounds no outputs, as only a simulation can."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.calibration import default
from analogtorch.calibration.judge import Error
from analogtorch.chips.choices import Choices
from analogtorch.hwa import adaptation

HERMES = at.chips.hermes64()
RECIPE = at.hwa.Recipe(looks=1)


def _adapted(chip: at.Chip, **options: Any) -> at.hwa.Adapted:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))
    batches = list(torch.randn(8, 32, 12).unbind())
    return at.hwa.adapt(
        net, batches, chip=chip, recipe=RECIPE, steps=2, num_chips=1, calibration=options
    )


def _kept(adapted: at.hwa.Adapted) -> dict[str, bool]:
    return {stage.name: stage.kept for stage in adapted.stages}


def test_a_calibration_that_is_undone_leaves_outputs_that_are_rounded() -> None:
    found = _adapted(HERMES, method="std", deviations=0.01)
    assert _kept(found)["calibrated"] is False
    assert _kept(found)["ranges per vector"] is True
    assert all(layer.output_ranges is not None for _, layer in at.analog_layers(found.model))


def test_what_rounds_is_compared_with_what_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, looks = adaptation.OnChips.measure, []

    def least_where_nothing_rounds(self: Any, *recovery: Any) -> Any:
        reading = copy.copy(measure(self, *recovery))
        looks.append(reading)
        if len(looks) == 1:  # converted
            object.__setattr__(reading, "error", 0 * reading.error)
        return reading

    monkeypatch.setattr(adaptation.OnChips, "measure", least_where_nothing_rounds)
    found = _adapted(HERMES, effort="ranges")
    kept = _kept(found)
    assert kept["calibrated"] is not kept["ranges per vector"]
    assert all(layer.output_ranges is not None for _, layer in at.analog_layers(found.model))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_recalibration_leaves_outputs_that_are_rounded(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(256, 20)
    hidden = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    net = nn.Sequential(hidden, nn.Linear(64, 5)).eval()
    chip = HERMES.replace(periphery={"output_bits": 3})
    with pytest.warns(UserWarning, match="left uncalibrated"):
        found = at.hwa.adapt(net, list(x.split(32)), chip=chip, steps=20, num_chips=1)
    assert "recalibrated" in _kept(found)
    assert all(layer.output_ranges is not None for _, layer in at.analog_layers(found.model))


def test_a_chip_that_rounds_nothing_goes_back_to_no_ranges() -> None:
    chip = HERMES.replace(periphery={"output_bits": None})
    found = _adapted(chip, method="std", deviations=0.01)
    assert _kept(found)["calibrated"] is False
    assert "ranges per vector" not in _kept(found)


def test_a_model_that_is_left_uncalibrated_keeps_the_chips_that_were_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Error, "exceeds", lambda *_: True)
    monkeypatch.setattr(default, "exceeds", lambda *_: True)
    with pytest.warns(UserWarning, match="left uncalibrated"):
        found = _adapted(HERMES)
    assert _kept(found)["calibrated"] is True
    for _, layer in at.analog_layers(found.model):
        assert layer.output_ranges is not None
        assert Choices.of(layer.chip).target_time == 86_400
