import copy

import pytest
import torch
from torch import nn

import analogtorch as at


def test_counts_blocks_cells_and_tiles() -> None:
    model = nn.Sequential(
        nn.Linear(250, 436),
        nn.ReLU(),
        nn.Linear(436, 436),
        nn.ReLU(),
        nn.Linear(436, 12),
        nn.LayerNorm(12),
    )
    summary = at.summary(at.convert(model, at.chips.hermes64()))
    assert [row.blocks for row in summary.layers] == [2, 4, 2]
    assert summary.tiles == 8
    assert summary.tiles_lower_bound == 5
    assert [name for name, _, _ in summary.skipped] == ["5"]
    text = str(summary)
    assert "8 of 64 tiles of hermes64 at one block per tile" in text
    assert "digital: 5 (24 weights; no analog layer for LayerNorm)" in text
    assert "absmax of each input (not calibrated)" in text


def test_ranges_per_vector_that_calibration_set_are_told_from_none() -> None:
    model = at.convert(nn.Sequential(nn.Linear(12, 8)), at.chips.hermes64())
    text = str(at.summary(at.calibrate(model, [torch.randn(40, 12)], method=None)))
    assert "absmax of each input (chosen)" in text
    assert "not calibrated" not in text
    assert "not rounded" not in text


def test_ranges_that_this_process_does_not_hold_are_not_those_of_each_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = at.convert(nn.Sequential(nn.Linear(12, 8)), at.chips.hermes64())
    at.calibrate(model, [torch.randn(40, 12)], effort="ranges")
    assert at.summary(copy.deepcopy(model).to("meta")).layers[0].input_range == "meta"
    elsewhere = property(lambda layer: True)  # as in all processes of FSDP but the first
    monkeypatch.setattr(at.nn.AnalogLayer, "range_is_elsewhere", elsewhere)
    assert at.summary(model).layers[0].input_range == "in another process"


def test_of_as_many_layers_on_two_chips_those_that_are_no_preset_differ() -> None:
    chip = at.chips.hermes64()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    at.convert(model, chip, per_layer={"0": {"cell": chip.cell.enlarged(2)}})
    assert "differs from hermes64: 0 (cell.devices_per_polarity 2)" in str(at.summary(model))


def test_excluded_layers_are_listed() -> None:
    model = at.convert(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), at.chips.hermes64(), exclude="1"
    )
    assert at.summary(model).skipped == (("1", "not converted", 20),)


@pytest.mark.parametrize(
    ("tiles", "expected"), [(7, "fits only if blocks share tiles"), (2, "TOO LARGE for one chip")]
)
def test_what_does_not_fit_is_said(tiles: int, expected: str) -> None:
    chip = at.chips.hermes64().replace(array={"tiles": tiles})
    model = at.convert(nn.Sequential(nn.Linear(436, 436), nn.Linear(436, 436)), chip)
    assert expected in str(at.summary(model))


def test_outputs_that_no_range_rounds_are_named() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    at.convert(model, at.chips.hermes64())
    text = str(at.summary(model))
    assert "2 of 2 layers (0, 2) do not round their outputs to the 8 bits that leave a tile" in text
    at.calibrate(model, [torch.randn(32, 8)])
    assert "do not round" not in str(at.summary(model))
    ideal = at.convert(nn.Sequential(nn.Linear(8, 8)), at.chips.ideal())
    assert "do not round" not in str(at.summary(ideal))


def test_a_digital_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no analog layer"):
        at.summary(nn.Linear(2, 2))


def test_layers_on_several_chips_are_counted_apart() -> None:
    model = nn.Sequential(
        nn.Linear(436, 436), nn.Linear(436, 436), nn.Linear(436, 12), nn.Linear(12, 12)
    )
    chip, other = at.chips.hermes64(), at.chips.ibm_speech34()
    at.convert(
        model,
        chip,
        per_layer={
            "0": other,
            "2": {"periphery": {"output_bits": 10}, "training": at.TrainingNoise(weight="none")},
        },
    )
    summary = at.summary(model)
    assert summary.chips == (other, chip)
    assert [row.chip.name for row in summary.layers] == [
        "ibm_speech34",
        "hermes64",
        "hermes64",
        "hermes64",
    ]
    assert summary.tiles == 8
    text = str(summary)
    assert (
        "1 of 34 tiles of ibm_speech34 at one block per tile; 190,096 of 8,912,896 cells." in text
    )
    assert "7 of 64 tiles of hermes64 at one block per tile; 195,472 of 4,194,304 cells." in text
    assert "differs from hermes64: 2 (periphery.output_bits 10, training.weight none)" in text
    assert summary.tiles_lower_bound == 1 + 3


def test_lazy_layers_are_named_and_refused_where_weights_are_needed() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, 4))

    x, chip = torch.randn(2, 6), at.chips.hermes64()
    converted = at.convert(model(), chip)
    text = str(at.summary(converted))
    assert (
        "1 lazy layer has no weights yet, which count nowhere; run the model once first: 0" in text
    )
    with pytest.raises(ValueError, match="program: layer '0' is lazy and has no weights yet; run"):
        at.program(converted, seed=0)
    with pytest.raises(ValueError, match="map_to_chip: layer '0' is lazy"):
        at.map_to_chip(model(), x, chip=chip)
    converted(x)
    assert "lazy layer" not in str(at.summary(converted))
    at.program(converted, seed=0)
