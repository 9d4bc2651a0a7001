import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel
from transformers.pytorch_utils import Conv1D

import analogtorch as at
from analogtorch.checkpoint import load, read, save, saving
from analogtorch.checkpoint.description import DESCRIPTION, WEIGHTS
from analogtorch.checkpoint.folder import PREVIOUS, _digest
from analogtorch.nn.adapters import unwrapped
from tests.crossbar import crossbar

CHIP = crossbar()
OTHER = CHIP.replace(dac={"bits": 6}, name="other")
TOKENS = torch.arange(22).view(2, 11) % 11


class Net(nn.Module):
    """Shared module, tied weight, buffers, and things that stay digital."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(11, 8)
        self.body = nn.ModuleDict(
            {"conv": nn.Conv1d(8, 8, 3, padding=1), "norm": nn.BatchNorm1d(8)}
        )
        self.shared = nn.Linear(8, 8)
        self.again = self.shared
        self.last = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).transpose(1, 2)
        x = self.body["norm"](self.body["conv"](x)).transpose(1, 2)
        return self.head(self.last(self.again(self.shared(x).relu())))


class ByWeight(nn.Module):
    """Computes with the weight of a layer and does not call it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.block[0].weight, self.block[0].bias)


def _analog() -> nn.Module:
    """Two chips, one layer digital, one not calibrated."""
    model = at.convert(Net(), CHIP, exclude="last")
    with torch.no_grad():
        model.train()(TOKENS)
    model.body["conv"].set_input_range(3.25)
    model.head.set_input_range(0.7)
    model.shared.chip = OTHER
    return model.eval()


def _facts(named: tuple[str, at.nn.AnalogLayer]) -> tuple:
    name, m = named
    return (
        name,
        type(m),
        m.layer_name,
        m.chip,
        m.calibrated,
        m.executions.training.streams,
        m.input_range.item(),
    )


def _same(a: nn.Module, b: nn.Module) -> bool:
    layers = [list(map(_facts, at.analog_layers(x))) for x in (a, b)]
    states = a.state_dict(), b.state_dict()
    return (
        layers[0] == layers[1]
        and states[0].keys() == states[1].keys()
        and all(torch.equal(t, states[1][name]) for name, t in states[0].items())
        and torch.equal(a.eval()(TOKENS), b.eval()(TOKENS))
    )


def _edit(folder: Path, **values) -> None:
    """Change fields by hand, of a file without a checksum: as older versions wrote it."""
    data = json.loads((folder / DESCRIPTION).read_text())
    del data["checksum"]
    (folder / DESCRIPTION).write_text(json.dumps(data | values))


def _files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_digital_model_becomes_the_saved_one(tmp_path: Path) -> None:
    model = _analog()
    assert save(model, tmp_path / "deep" / "net") == tmp_path / "deep" / "net"
    assert sorted(_files(tmp_path / "deep" / "net")) == [DESCRIPTION, WEIGHTS]
    other = Net(1)
    loaded = load(str(tmp_path / "deep" / "net"), other)
    assert loaded is other
    assert _same(loaded, model)
    assert loaded.head.weight is loaded.embed.weight
    assert loaded.shared is loaded.again
    assert type(loaded.last) is nn.Linear
    assert loaded.head.input_range.requires_grad
    with at.noise(3):
        a = loaded.train()(TOKENS)
    with at.noise(3):
        assert torch.equal(model.train()(TOKENS), a)


def test_a_converted_model_keeps_its_layers_and_ranges_are_those_of_the_file(
    tmp_path: Path,
) -> None:
    model = _analog()
    save(model, tmp_path)
    other = at.convert(Net(1), CHIP, exclude="last")
    other.shared.chip = OTHER
    other.shared.set_input_range(2.0)  # not calibrated in the file
    layers = dict(at.analog_layers(other))
    parameters = dict(other.named_parameters())
    assert _same(load(tmp_path, other), model)
    assert dict(at.analog_layers(other)) == layers
    assert all(p is parameters[name] for name, p in other.named_parameters())
    assert not other.shared.input_range.requires_grad


def test_a_model_that_is_analog_in_part_becomes_so_in_full(tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    assert _same(load(tmp_path, at.convert(Net(1), OTHER, include="shared")), _analog())


def test_a_model_on_meta_gets_the_tensors(tmp_path: Path) -> None:
    model = _analog()
    save(model, tmp_path)
    with torch.device("meta"):
        other = Net()
    loaded = load(tmp_path, other)
    assert _same(loaded, model)
    assert loaded.head.weight is loaded.embed.weight
    assert isinstance(loaded.head.weight, nn.Parameter)


def test_a_buffer_on_meta_that_no_file_has_is_refused_by_name(tmp_path: Path) -> None:
    def net() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 2))
        model[0].register_buffer("scale", torch.ones(2), persistent=False)
        return model

    folder = save(at.convert(net(), CHIP), tmp_path)
    with torch.device("meta"):
        other = net()
    with pytest.raises(ValueError, match=r"load: buffer '0.scale' is on the meta device"):
        load(folder, other)
    assert type(other[0]) is nn.Linear
    other.get_submodule("0").register_buffer("scale", torch.ones(2), persistent=False)
    assert not load(folder, other)(torch.ones(1, 4)).is_meta


def test_a_tie_that_the_model_on_meta_does_not_have_is_not_made(tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    with torch.device("meta"):
        other = Net()
        other.head.weight = nn.Parameter(torch.empty(11, 8))
    loaded = load(tmp_path, other)
    assert torch.equal(loaded.head.weight, loaded.embed.weight)
    assert loaded.head.weight.data_ptr() != loaded.embed.weight.data_ptr()


def _fabric(model: nn.Module) -> nn.Module:
    wrapped: nn.Module = Fabric(accelerator="cpu", devices=1).setup_module(model)
    return wrapped


@pytest.mark.parametrize(
    "wrap",
    [lambda m: torch.compile(m, backend="eager"), AveragedModel, nn.DataParallel, _fabric],
    ids=["compiled", "averaged", "parallel", "fabric"],
)
def test_of_a_wrapped_model_the_one_inside_is_saved(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    model = _analog()
    save(wrap(model), tmp_path / "net")
    assert _same(load(tmp_path / "net", Net(1)), model)
    other = wrap(Net(1))
    assert load(tmp_path / "net", other) is other
    assert _same(unwrapped(other), model)
    physical = at.program(model, seed=3)
    expected = physical.at("1 day")(TOKENS)
    for target in (Net(1), wrap(Net(1))):
        again = load(save(at.program(wrap(model), seed=3), tmp_path / "chip"), target)
        assert torch.equal(again.at("1 day")(TOKENS), expected)


def test_a_root_layer_stays_in_its_wrapper(tmp_path: Path) -> None:
    average = AveragedModel(at.convert(nn.Linear(8, 4), CHIP))
    average.update_parameters(average.module)
    save(average, tmp_path)
    target = AveragedModel(nn.Linear(8, 4))
    assert load(tmp_path, target) is target
    assert type(target.module) is at.nn.AnalogLinear
    assert target.n_averaged.item() == 1
    target.update_parameters(average.module)
    fabric = _fabric(nn.Linear(8, 4))
    assert load(tmp_path, fabric) is fabric
    assert type(fabric.module) is type(fabric._forward_module) is at.nn.AnalogLinear
    compiled = load(tmp_path, torch.compile(nn.Linear(8, 4), backend="eager"))
    assert type(compiled) is at.nn.AnalogLinear
    assert torch.equal(compiled.weight, average.module.weight)


def test_a_wrapper_that_gives_keys_other_names_is_refused(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return self.model.state_dict(*args, **kwargs)

    with pytest.raises(ValueError, match=r"calls no Parameter .* save the model inside"):
        save(Wrapper(_analog()), tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_an_average_goes_on_where_it_was(tmp_path: Path) -> None:
    model = _analog()
    averages = [AveragedModel(model) for _ in range(2)]
    with torch.no_grad():
        for average in (averages[0], averages[0], averages[1]):
            model.head.bias.add_(1)
            average.update_parameters(model)
        load(save(averages[0], tmp_path), averages[1])
        model.head.bias.add_(1)
        for average in averages:
            average.update_parameters(model)
    assert averages[1].n_averaged.item() == 3
    assert torch.equal(*(average.module.head.bias for average in averages))
    assert load(tmp_path, Net(1)).head.bias.shape == (11,)


def test_files_with_the_names_of_a_wrapper_load_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _analog()
    monkeypatch.setattr(saving, "unwrapped", lambda model: model)
    save(torch.compile(model, backend="eager"), tmp_path)
    assert "_orig_mod.head.bias" in safetensors.torch.load_file(tmp_path / WEIGHTS)
    other = torch.compile(Net(1), backend="eager")
    assert load(tmp_path, other) is other
    assert _same(unwrapped(other), model)


def test_a_root_layer(tmp_path: Path) -> None:
    layer = at.convert(nn.Linear(3, 2), CHIP)
    layer.set_input_range(1.5)
    loaded = load(save(layer, tmp_path), nn.Linear(3, 2))
    assert isinstance(loaded, at.nn.AnalogLinear)
    assert loaded.input_range.item() == 1.5
    assert "(root)" in str(read(tmp_path))


def test_the_weights_load_into_the_digital_model_by_safetensors(tmp_path: Path) -> None:
    model = _analog()
    save(model, tmp_path)
    plain = Net(1)
    safetensors.torch.load_model(plain, tmp_path / WEIGHTS, strict=True)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in plain.state_dict().items())
    assert plain.state_dict().keys() - safetensors.torch.load_file(tmp_path / WEIGHTS).keys() == {
        "head.weight", "again.weight", "again.bias",
    }  # fmt: skip


def test_the_names_that_key_the_noise_travel(tmp_path: Path) -> None:
    model = nn.Sequential(at.convert(nn.Sequential(nn.Linear(4, 4)), CHIP))
    assert model[0][0].layer_name == "0"
    loaded = load(save(model, tmp_path), nn.Sequential(nn.Sequential(nn.Linear(4, 4))))
    assert loaded[0][0].layer_name == "0"
    ours, theirs = loaded[0][0].executions.training, model[0][0].executions.training
    assert ours.streams == theirs.streams


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_of_weight(dtype: torch.dtype, tmp_path: Path) -> None:
    model = at.convert(nn.Sequential(nn.Linear(4, 4)), CHIP).to(dtype)
    model[0].set_input_range(0.3)
    loaded = load(save(model, tmp_path), nn.Sequential(nn.Linear(4, 4)).to(dtype))
    assert torch.equal(loaded[0].weight, model[0].weight)
    assert torch.equal(loaded[0].input_range, model[0].input_range)


def test_views_of_one_storage_and_other_strides(tmp_path: Path) -> None:
    flat = torch.randn(40)
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)])
    for i, view in enumerate(
        (flat[:16].view(4, 4), flat[8:24].view(4, 4), flat[24:].view(4, 4).t())
    ):
        model[i].weight = nn.Parameter(view)
    loaded = load(
        save(at.convert(model, CHIP), tmp_path), nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)])
    )
    assert all(torch.equal(loaded[i].weight, model[i].weight) for i in range(3))


def test_read_tells_what_is_saved(tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    saved = read(tmp_path)
    assert [(e.name, e.key, e.kind, e.chip, e.shape, e.input_range) for e in saved.layers][1:] == [
        ("shared", "shared", "AnalogLinear", OTHER, (8, 8), None),
        ("head", "head", "AnalogLinear", CHIP, (11, 8), pytest.approx(0.7)),
    ]
    assert saved.analogtorch == at.__version__
    lines = str(saved).splitlines()
    assert lines[2].split() == ["shared", "AnalogLinear", "8x8", "other", "not", "calibrated"]
    assert lines[-1].startswith("a model, ")


# programmed chips


def _recipes(model: nn.Module, chip: at.Chip) -> list[dict]:
    return [
        {},
        {"method": at.GradientDescent(rounds=3), "defects": at.Defects(cells=0.02, tile_gain=0.05)},
        {
            "method": at.ProgramAndVerify(rounds=2, margin=0.01),
            "defects": at.Defects(columns=0.1),
            "mapping": at.map_to_chip(model, torch.zeros(2, 40), chip=chip),
        },
        {
            "method": at.ProgramAndVerify(rounds=2),
            "defects": at.Defects(
                stuck_on=0.05, on_level=0.5, on_drifts=True, short_devices=0.02, open_columns=0.1
            ),
        },
    ]


def _program(model: nn.Module, **recipe) -> at.ProgrammedChip:
    physical = at.program(model, seed=-7, **recipe)
    for name in ("method", "mapping"):
        if not hasattr(physical, name):
            setattr(physical, name, recipe.get(name))
    return physical


@pytest.mark.parametrize("chip", [CHIP, at.chips.hermes64()], ids=lambda chip: chip.name)
@pytest.mark.parametrize("number", range(4))
def test_a_programmed_chip_comes_back_with_the_same_numbers(
    number: int, chip: at.Chip, tmp_path: Path
) -> None:
    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5))

    x = torch.randn(6, 40)
    model = at.convert(net(0), chip)
    model(x)
    model[0].set_input_range(2.5)
    model[0].set_output_ranges(torch.rand(1, 30) + 1)
    recipe = _recipes(model, chip)[number]
    physical = _program(model, **recipe)
    with torch.no_grad():
        model[0].weight.zero_()  # later training does not reach the chip
    save(physical, tmp_path)
    assert "a chip programmed with seed -7, " in str(read(tmp_path))
    target = net(1)
    state = copy.deepcopy(target.state_dict())
    again = load(tmp_path, target)
    assert type(target[0]) is nn.Linear
    assert all(torch.equal(t, state[name]) for name, t in target.state_dict().items())
    for time in ("programmed", "1 s", "1 month"):
        assert torch.equal(physical.at(time)(x), again.at(time)(x))
    assert again.yield_map().keys() == physical.yield_map().keys()
    assert again.defects == physical.defects
    assert str(again.yield_map()) == str(physical.yield_map())
    assert torch.equal(again.at(0)[0].weight, physical.at(0)[0].weight)


def test_files_without_faults_of_devices_and_lines_load(tmp_path: Path) -> None:
    """Earlier files list five defects; files of now list the others where they have them."""
    model = at.convert(nn.Sequential(nn.Linear(4, 4)), CHIP)
    save(_program(model, defects=at.Defects(cells=0.1)), tmp_path)
    written = json.loads((tmp_path / DESCRIPTION).read_text())["programmed"]["defects"]
    assert written == {
        "cells": 0.1,
        "worst_tile": 0.0,
        "columns": 0.0,
        "tiles": 0.0,
        "tile_gain": 0.0,
    }
    assert load(tmp_path, model).defects == at.Defects(cells=0.1)


def test_chips_of_an_earlier_gradient_descent_are_refused_by_name(tmp_path: Path) -> None:
    model = at.convert(nn.Sequential(nn.Linear(4, 4)), CHIP)
    save(_program(model, method=at.GradientDescent(rounds=2)), tmp_path)
    assert load(tmp_path, model).method == at.GradientDescent(rounds=2)
    written = json.loads((tmp_path / DESCRIPTION).read_text())["programmed"]
    del written["method"]["full_steps"]
    _edit(tmp_path, programmed=written)
    with pytest.raises(ValueError, match="earlier version.*program it anew"):
        load(tmp_path, model)


def test_chips_of_several_sizes_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    other = CHIP.replace(array={"tiles": 2}, name="other")
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model = at.convert(model, CHIP, per_layer={"1": other})
    x, physical = torch.randn(2, 4), _program(model)
    save(physical, tmp_path)
    assert torch.equal(load(tmp_path, model).at("1 h")(x), physical.at("1 h")(x))
    written = json.loads((tmp_path / DESCRIPTION).read_text())["programmed"]
    del written["chips_by_array"]
    for earlier in (written, {**written, "chips_by_array": True}):
        save(physical, tmp_path)
        _edit(tmp_path, programmed=earlier)
        with pytest.raises(ValueError, match="several sizes, by an earlier.*program it anew"):
            load(tmp_path, model)


def test_load_gives_what_was_saved(tmp_path: Path) -> None:
    model = at.convert(nn.Sequential(nn.Linear(4, 4)), CHIP)
    assert load(save(model, tmp_path), model) is model
    assert isinstance(load(save(_program(model), tmp_path), model), at.ProgrammedChip)
    assert load(save(model, tmp_path), model) is model


def _camera() -> nn.Sequential:
    convolutions = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()
    return nn.Sequential(*convolutions, nn.Linear(64, 3)).eval()


@pytest.mark.parametrize("programmed", [False, True])
def test_a_model_with_a_sensor_is_loaded_into_a_fresh_one(tmp_path: Path, programmed: bool) -> None:
    torch.manual_seed(0)
    model, x = at.convert(_camera(), at.chips.hermes64(), sensor="0"), torch.rand(2, 1, 8, 8)
    saved = at.program(model, seed=1) if programmed else model
    loaded = at.load(at.save(saved, tmp_path / "camera"), _camera())
    a, b = (each.at("0 s") if programmed else each for each in (saved, loaded))
    assert torch.equal(a(x), b(x))
    chips = [layer.chip.name for _, layer in at.analog_layers(b)]
    assert chips == ["photodiode_sensor", "hermes64", "hermes64"]


def test_a_programmed_chip_needs_its_generator_and_its_type(tmp_path: Path) -> None:
    model = at.convert(nn.Sequential(nn.Linear(4, 4)), CHIP)
    save(_program(model), tmp_path)
    with pytest.raises(
        ValueError, match=r"'0.weight' is torch.float64 in the model and torch.float32 in the file"
    ):
        load(tmp_path, copy.deepcopy(model).double())
    _edit(tmp_path, generator=99)
    with pytest.raises(
        ValueError, match=r"version 99 of the noise generator.*would make another chip of seed -7"
    ):
        load(tmp_path, model)


# what is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"version": 2, "analogtorch": "9.0"},
            r"version 2, .* reads version 1: update AnalogTorch.*by 9\.0",
        ),
        ({"version": "1"}, "damaged"),
        ({"format": "x"}, "not written by analogtorch.save"),
        ({"extra": 1}, r"missing fields \[\], unknown \['extra'\]"),
        ({"layers": []}, "no layer is analog"),
        ({"layers": [3]}, "must be a mapping, got 3"),
        ({"layers": 3}, "wrong shape"),
        ({"weights": {"file": "../x", "bytes": 1, "sha256": ""}}, "file must be"),
        ({"weights": {"file": WEIGHTS, "bytes": float("inf"), "sha256": ""}}, "wrong shape"),
        (
            {"tied": {"head.weight": "nothing"}},
            "do not fit together: tied 'head.weight' as 'nothing'",
        ),
        ({"programmed": {"seed": 1}}, r"missing fields \['defects', 'mapping', 'method'\]"),
        (
            {"programmed": {"seed": 1.5, "method": None, "defects": None, "mapping": None}},
            "seed must be an integer",
        ),
        (
            {
                "programmed": {
                    "seed": 1,
                    "method": {"type": "Guess"},
                    "defects": None,
                    "mapping": None,
                }
            },
            r"method must be one of \['GradientDescent', 'ProgramAndVerify'\], got 'Guess'",
        ),
        (
            {"programmed": {"seed": 1, "method": None, "defects": {"cells": 1}, "mapping": None}},
            r"defects: missing fields \['columns', 'tile_gain', 'tiles', 'worst_tile'\]",
        ),
    ],
)
def test_bad_descriptions_are_refused(values: dict, message: str, tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    _edit(tmp_path, **values)
    _refused(tmp_path, Net(1), message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chip": 2}, "on chip 2, but the file has 2 chips"),
        ({"given_chip": 2}, "on chip 2, but the file has 2 chips"),
        ({"input_range": -1.0}, "positive finite input_range, got -1"),
        ({"input_range": "x"}, "positive finite input_range, got 'x'"),
        ({"input_range": True}, "positive finite input_range, got True"),
        ({"input_range": [1.0, 2.0, 3.0]}, "has 3 DAC ranges.* and 1 row block in the model"),
        ({"key": None}, "key must be text, got None"),
        (
            {"kind": "AnalogLinear"},
            "layer 'body.conv'.*is an AnalogLinear there and would be an AnalogConv1d",
        ),
        ({"input_range": 1e300}, "does not fit in torch.float32"),
        ({"calibrated": False}, "has calibrated False and input_range 3.25"),
        (
            {"shape": [1, 2]},
            r"has shape \(1, 2\) in analog.json and \(8, 8, 3\) in weights.safetensors",
        ),
        (
            {"name": "body.cov"},
            r"layer 'body.conv'|no module of the model \(nearest: 'body.conv'\)",
        ),
        ({"name": "body.norm"}, "cannot be analog in the model: no analog layer for BatchNorm1d"),
    ],
)
def test_bad_layers_are_refused(values: dict, message: str, tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    layers = json.loads((tmp_path / DESCRIPTION).read_text())["layers"]
    layers[0] |= values
    _edit(tmp_path, layers=layers)
    _refused(tmp_path, Net(1), message)


def test_a_layer_of_another_kind_is_refused_though_its_weight_fits(tmp_path: Path) -> None:
    class Projection(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

    save(at.convert(Projection(nn.Linear(8, 8)), CHIP), tmp_path)
    # its weight is transposed
    for model in (Projection(Conv1D(8, 8)), at.convert(Projection(Conv1D(8, 8)), CHIP)):
        kind = type(model.layer)
        with pytest.raises(
            ValueError, match="is an AnalogLinear there and would be an AnalogConv1D"
        ):
            load(tmp_path, model)
        assert type(model.layer) is kind


def test_an_unknown_chip_field_names_the_nearest(tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    chips = json.loads((tmp_path / DESCRIPTION).read_text())["chips"]
    chips[1]["dac"]["bit"] = chips[1]["dac"].pop("bits")
    _edit(tmp_path, chips=chips)
    _refused(
        tmp_path,
        Net(1),
        r"analog\.json: chip.dac: DAC has no field \['bit'\], did you mean 'bits'",
    )


def test_a_description_without_a_checksum_is_accepted_and_an_edited_one_is_named(
    tmp_path: Path,
) -> None:
    save(_analog(), tmp_path)
    text = (tmp_path / DESCRIPTION).read_text()
    (tmp_path / DESCRIPTION).write_text(text.replace('"input_range": 3.25', '"input_range": 3.5'))
    _refused(
        tmp_path,
        Net(1),
        r"analog\.json: its 'checksum' does not belong.* remove the field 'checksum'",
    )
    (tmp_path / DESCRIPTION).write_text(text)
    _edit(tmp_path)
    assert _same(load(tmp_path, Net(1)), _analog())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 60 + "]" * 60])
def test_deep_nesting_is_refused(text: str, tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    (tmp_path / DESCRIPTION).write_text(text)
    _refused(tmp_path, Net(1), r"analog\.json: is nested more than 50 levels deep")


@pytest.mark.parametrize("size", [0, 10, 700])
def test_a_truncated_description_is_refused(size: int, tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    os.truncate(tmp_path / DESCRIPTION, size)
    _refused(tmp_path, Net(1), "is not JSON in UTF-8, it may be truncated")


def test_truncated_mixed_up_damaged_and_missing_weights_are_refused(tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    os.truncate(tmp_path / WEIGHTS, 100)
    _refused(tmp_path, Net(1), r"has 100 bytes, analog\.json belongs to one of .*truncated")
    (tmp_path / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    _refused(tmp_path, Net(1), r"is not the file that analog\.json belongs to")
    save(at.convert(Net(1), CHIP), tmp_path / "other")
    (tmp_path / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    _refused(tmp_path, Net(1), "copy both files of a checkpoint together")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights\.safetensors"):
        load(tmp_path, Net(1))
    with pytest.raises(
        FileNotFoundError,
        match=r"has no analog\.json; give the folder that analogtorch\.save wrote",
    ):
        load(tmp_path / "nowhere", Net(1))


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"x" * 50)
    size, sha256 = _digest(tmp_path / WEIGHTS)
    _edit(tmp_path, weights={"file": WEIGHTS, "bytes": size, "sha256": sha256})
    _refused(tmp_path, Net(1), "no safetensors file that can be read")


class Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 9)


class Renamed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lats = self.last
        del self.last


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    _refused(
        tmp_path,
        Renamed(),
        r"the file lacks 'lats.bias' \(nearest: 'last.bias'\).*the model lacks 'last",
    )
    _refused(
        tmp_path, Wider(), r"'last.weight' has shape \(9, 8\) in the model and \(8, 8\) in the file"
    )
    tied = Net(1)
    tied.last.weight = tied.shared.weight
    _refused(
        tmp_path,
        tied,
        "'shared.weight' and 'last.weight' are one tensor in the model and two in the file",
    )
    _refused(
        tmp_path,
        nn.Sequential(*[nn.Linear(2, 2) for _ in range(9)]),
        "; and more. The model is unchanged",
    )
    lazy = Net(1)
    lazy.last = nn.LazyLinear(8)
    _refused(tmp_path, lazy, "'last.weight' is not initialised; run the model once first")


def test_a_model_that_is_analog_otherwise_is_refused(tmp_path: Path) -> None:
    save(_analog(), tmp_path)
    _refused(
        tmp_path,
        at.convert(Net(1), CHIP),
        r"'last' is analog in the model and digital in .*to_digital\(model\)",
    )
    _refused(
        tmp_path,
        at.convert(Net(1), CHIP, exclude="last"),
        r"'shared'.* is on another chip in the model",
    )
    _refused(tmp_path, at.program(_analog(), seed=1).at(0), "belongs to a programmed chip")
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got str"):
        load(tmp_path, "net")  # type: ignore[arg-type]


def test_what_calibrate_chose_goes_into_a_model_that_is_only_converted(tmp_path: Path) -> None:
    chip = at.chips.hermes64()
    saved = at.convert(Net(1), chip)
    for _, layer in at.analog_layers(saved):
        layer.chip = chip.replace(periphery={"weight_scale": "column"}).drift_aware("1 day")
    at.calibrate(saved, [TOKENS], effort="ranges")
    save(saved, tmp_path)
    loaded = load(tmp_path, at.convert(Net(2), chip))
    assert loaded.last.chip == saved.last.chip != chip
    assert torch.equal(loaded.eval()(TOKENS), saved.eval()(TOKENS))
    _refused(tmp_path, at.convert(Net(2), at.chips.hermes64(phases=1)), "is on another chip")


def _refused(folder: Path, model: nn.Module, message: str) -> None:
    """The load fails, and changes nothing of the model."""
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    state = {
        name: None if nn.parameter.is_lazy(t) else t.clone()
        for name, t in model.state_dict().items()
    }
    with pytest.raises(ValueError, match=message):
        load(folder, model)
    assert {name: dict(vars(m)) for name, m in model.named_modules()} == before
    after = model.state_dict()
    assert all(t is None or torch.equal(t, after[name]) for name, t in state.items())


class _Stateful(nn.Linear):
    """A layer with a state beside its tensors."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.state: Any = {"step": 1}

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


def test_a_state_that_is_a_tensor_is_kept(tmp_path: Path) -> None:
    model = at.convert(nn.Sequential(_Stateful()), CHIP)
    model[0].state = torch.tensor([3.0])
    other = nn.Sequential(_Stateful())
    other[0].state = torch.zeros(1)
    assert load(save(model, tmp_path), other)[0].state.item() == 3


def test_models_that_cannot_be_saved_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = _analog()
    parametrized = copy.deepcopy(model)
    nn.utils.parametrizations.orthogonal(parametrized.shared)
    meta = copy.deepcopy(model).to("meta")
    sparse = copy.deepcopy(model)
    sparse.register_buffer("graph", torch.eye(3).to_sparse())
    stateful = at.convert(nn.Sequential(_Stateful()), CHIP)
    for bad, message in [
        (stateful, "'0._extra_state' is no tensor but dict.*let .*get_extra_state"),
        (Net(), "no analog layer; call analogtorch.convert"),
        (at.program(model, seed=1).at(0), "save what analogtorch.program returned"),
        (parametrized, "layer 'shared': its weight is not a plain Parameter"),
        (meta, "is on the meta device"),
        (sparse, "'graph' is no plain dense tensor"),
    ]:
        with pytest.raises(ValueError, match=message):
            save(bad, tmp_path / "new")
    with pytest.raises(TypeError, match=r"ProgrammedChip, got int"):
        save(3, tmp_path / "new")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def _assigned(layer: nn.Module) -> None:
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.weight = weight


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.parametrize(
    ("change", "back", "name"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "prune.remove", "weight"),
        (lambda layer: prune.l1_unstructured(layer, "bias", 0.5), "prune.remove", "bias"),
        (nn.utils.weight_norm, "remove_weight_norm", "weight"),
        (nn.utils.spectral_norm, "remove_spectral_norm", "weight"),
        (nn.utils.parametrizations.weight_norm, "parametrize.remove_parametrizations", "weight"),
        (_assigned, "layer.weight = torch.nn.Parameter", "weight"),
    ],
    ids=["pruned", "pruned bias", "normed", "spectral", "parametrized", "assigned"],
)
def test_computed_weights_are_refused_with_the_call_that_makes_them_plain(
    change: Callable[[nn.Module], Any], back: str, name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(8, 4)), CHIP)
    change(model[0])
    model.eval()
    message = f"layer '0': its {name} is not a plain Parameter; make it one by "
    for refused in (
        lambda: save(model, tmp_path / "new"),
        lambda: at.program(model, seed=1),
        lambda: at.hwa.clip_weights_(model),
    ):
        with pytest.raises(ValueError, match=f"{message}.*{back}") as error:
            refused()
    assert not list(tmp_path.iterdir())
    exec(str(error.value).partition("make it one by ")[2], {"torch": torch, "layer": model[0]})
    again = load(save(model, tmp_path / "new"), nn.Sequential(nn.Linear(8, 4))).eval()
    x = torch.ones(1, 8)
    assert torch.equal(again(x), model(x))


def test_a_module_whose_matrix_is_computed_is_not_saved(tmp_path: Path) -> None:
    model = at.convert(nn.Sequential(nn.LSTM(8, 4)), CHIP)
    prune.l1_unstructured(model[0], "weight_hh_l0", 0.5)
    back = r"make it one by torch.nn.utils.prune.remove\(layer, 'weight_hh_l0'\)"
    with pytest.raises(RuntimeError, match=f"its weight_hh_l0 is not a plain .*{back}"):
        save(model, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_saving_needs_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(
        ImportError, match="need the package safetensors; run: pip install safetensors"
    ):
        save(_analog(), tmp_path / "new")
    assert not list(tmp_path.iterdir())


# what was there before


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("place", ["save_file", "write_text", "link_and_weights", "description"])
def test_a_save_that_fails_leaves_the_old_checkpoint(
    place: str, tmp_path: Path, monkeypatch
) -> None:
    save(_analog(), tmp_path)
    before = _files(tmp_path)
    replace = os.replace
    with monkeypatch.context() as patch:
        if place == "save_file":
            patch.setattr(safetensors.torch, "save_file", _full)
        elif place == "write_text":
            patch.setattr(Path, "write_text", _full)
        else:
            name = WEIGHTS if place == "link_and_weights" else DESCRIPTION
            fails = lambda a, b: _full() if Path(b).name == name else replace(a, b)  # noqa: E731
            patch.setattr(os, "replace", fails)
        with pytest.raises(
            OSError, match=r"could not write a checkpoint to .*: No space left.* is untouched"
        ):
            save(at.convert(Net(1), CHIP), tmp_path)
    after = _files(tmp_path)
    after.pop(PREVIOUS, None)
    assert after == before
    assert _same(load(tmp_path, Net(2)), _analog())


@pytest.mark.parametrize("place", [WEIGHTS, DESCRIPTION])
def test_what_a_killed_save_leaves_is_removed_by_the_next(place: str, tmp_path: Path) -> None:
    net = _analog()
    save(net, tmp_path)
    before = set(os.listdir(tmp_path))
    replace = os.replace
    if not (killed := os.fork()):
        torch.set_num_threads(1)
        os.replace = lambda a, b: os._exit(9) if Path(b).name == place else replace(a, b)
        save(net, tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    assert set(os.listdir(tmp_path)) > before
    save(net, tmp_path)
    assert set(os.listdir(tmp_path)) == before


def test_a_first_save_that_fails_leaves_no_files(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _full)
        with pytest.raises(OSError, match="No space left"):
            save(_analog(), tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not write a checkpoint to"):
        save(_analog(), tmp_path / "file")


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("links", [True, False])
def test_a_process_killed_between_the_two_files_leaves_the_old_checkpoint(
    links, tmp_path: Path, monkeypatch
) -> None:
    save(_analog(), tmp_path)
    new, replace = at.convert(Net(1), CHIP), os.replace

    def killed(a, b) -> None:
        if Path(b).name == DESCRIPTION or Path(a).name == PREVIOUS:  # nor is anything put back
            raise _Killed
        replace(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        if not links:
            patch.setattr(os, "link", _full)
        with pytest.raises(_Killed):
            save(new, tmp_path)
    assert PREVIOUS in _files(tmp_path)
    assert _same(load(tmp_path, Net(2)), _analog())
    with monkeypatch.context() as patch:  # and again, over what the first left
        patch.setattr(safetensors.torch, "save_file", _full)
        with pytest.raises(OSError, match="No space"):
            save(new, tmp_path)
    assert _same(load(tmp_path, Net(2)), _analog())
    save(new, tmp_path)
    assert sorted(_files(tmp_path)) == [DESCRIPTION, WEIGHTS]
    assert _same(load(tmp_path, Net(2)), new)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0])


@pytest.mark.parametrize("root", [False, True])
def test_recurrent_layers_are_saved_with_the_ranges_of_their_matrices(
    tmp_path: Path, root: bool
) -> None:
    torch.manual_seed(0)
    make = (lambda: nn.LSTM(5, 6, batch_first=True)) if root else Recurrent
    model, x = at.convert(make(), crossbar()), torch.randn(4, 7, 5)
    at.calibrate(model, [x])
    at.save(model, tmp_path / "model")
    fresh = at.load(tmp_path / "model", make())
    ours, theirs = ((m.eval()(x)[0] if root else m.eval()(x)) for m in (model, fresh))
    assert torch.equal(ours, theirs)
    assert len(dict(at.analog_layers(fresh))) == (2 if root else 9)
    again = at.load(tmp_path / "model", model)
    assert again is model
    physical = at.program(model, seed=2)
    at.save(physical, tmp_path / "chip")
    held = at.load(tmp_path / "chip", make())
    y, z = (p.at("1 day")(x) for p in (physical, held))
    assert torch.equal(y[0] if root else y, z[0] if root else z)


def test_digital_layers_in_int8_round_after_loading(tmp_path: Path) -> None:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()

    x = torch.randn(5, 8)
    model = at.quantise_digital(at.convert(make(0), CHIP, exclude="0"))
    physical = at.program(model, seed=7)
    save(model, tmp_path / "model")
    save(physical, tmp_path / "chip")
    assert read(tmp_path / "model").int8 == ("0",)
    assert torch.equal(load(tmp_path / "model", make(1))(x), model(x))
    loaded = load(tmp_path / "chip", make(1))
    assert torch.equal(loaded.at("1 day")(x), physical.at("1 day")(x))
    # what the model was before does not matter
    save(at.convert(make(0), CHIP, exclude="0"), tmp_path / "float")
    plain = load(tmp_path / "float", at.quantise_digital(at.convert(make(2), CHIP, exclude="0")))
    assert torch.equal(plain(x), at.convert(make(0), CHIP, exclude="0")(x))
    file = tmp_path / "model" / DESCRIPTION
    description = json.loads(file.read_text())
    del description["checksum"]
    file.write_text(json.dumps(description | {"int8": ["1"]}))
    with pytest.raises(ValueError, match="'1', a digital layer in int8 in .*, is no layer"):
        load(tmp_path / "model", make(1))


def test_batch_norms_that_were_moved_start_from_where_they_were(tmp_path: Path) -> None:
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))

    def make() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        net(x)
        return net.eval()

    model, batches = at.convert(make(), CHIP), list(x.split(50))
    at.reestimate_batch_norm(model, batches)
    save(model, tmp_path)
    loaded = load(tmp_path, make())
    for net in (model, loaded):
        at.reestimate_batch_norm(net, batches)
    assert torch.equal(model[1].running_var, loaded[1].running_var)
    assert torch.equal(model[1].running_mean, loaded[1].running_mean)
    file = tmp_path / DESCRIPTION
    description = json.loads(file.read_text())
    del description["checksum"]
    file.write_text(json.dumps(description | {"batch_norm": {"3": [[1.0], [1.0]]}}))
    with pytest.raises(ValueError, match="'3', of which .* is no such batch norm"):
        load(tmp_path, make())


def test_layers_that_are_reached_by_their_weights_are_after_loading(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    model = at.convert(ByWeight(), CHIP, example=x).eval()
    save(model, tmp_path / "model")
    save(at.program(model, seed=1), tmp_path / "chip")
    assert torch.equal(load(tmp_path / "model", ByWeight().eval())(x), model(x))
    expected = at.program(model, seed=1).at("1 day")(x)
    assert torch.equal(load(tmp_path / "chip", ByWeight()).at("1 day")(x), expected)
    file = tmp_path / "model" / DESCRIPTION
    description = json.loads(file.read_text())
    del description["checksum"]
    assert description["routes"] == {"": ["block.0"]}
    older = {name: value for name, value in description.items() if name != "routes"}
    file.write_text(json.dumps(older))
    with pytest.warns(UserWarning, match="1 of 1 analog layers of this ByWeight did not run"):
        load(tmp_path / "model", ByWeight().eval())(x)
    file.write_text(json.dumps(description | {"routes": {"head": ["0"]}}))
    with pytest.raises(ValueError, match=r"'head', which reaches \['head.0'\] by their weights"):
        load(tmp_path / "model", ByWeight())


def test_a_layer_that_another_module_uses_by_its_weight_is_loaded(tmp_path: Path) -> None:
    class User(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.layer.weight, self.layer.bias)

    def net() -> nn.Module:
        torch.manual_seed(0)
        layer = nn.Linear(8, 8)
        return nn.Sequential(layer, User(layer), nn.Linear(8, 4)).eval()

    x = torch.randn(6, 8)
    analog = at.convert(net(), CHIP, example=x)
    int8 = at.quantise_digital(at.convert(net(), CHIP, include="2"), example=x)
    for model in (analog, int8):
        folder = save(model, tmp_path / ("analog" if model is analog else "int8"))
        assert torch.equal(load(folder, net())(x), model(x))


def test_folded_batch_norms_are_named_with_the_remedy(tmp_path: Path) -> None:
    class Normed(nn.Sequential):
        def __init__(self) -> None:
            torch.manual_seed(0)
            norms = [nn.BatchNorm1d(8), nn.BatchNorm1d(4, affine=False)]
            super().__init__(nn.Linear(8, 8, bias=False), norms[0], nn.Linear(8, 4), norms[1])

    x = torch.randn(6, 8)
    model = at.convert(Normed().eval(), CHIP, fold_batch_norm=True, example=x)
    save(model, tmp_path / "model")
    remedy = (
        "the file lacks '1.bias'.*; and more. The file has nothing of 2 batch norms, such as '1'; "
        r"if they were folded, call analogtorch.fold_batch_norm\(model, example\) on the digital "
        "model, before convert, and then load. The model"
    )
    for other in (Normed(), at.convert(Normed(), CHIP)):
        with pytest.raises(ValueError, match=remedy):
            load(tmp_path / "model", other)
    for fresh in (Normed().eval(), at.to_digital(other).eval()):
        at.fold_batch_norm(fresh, x)
        assert torch.equal(load(tmp_path / "model", fresh)(x), model(x))
    assert torch.equal(load(tmp_path / "model", at.convert(fresh, CHIP))(x), model(x))
    with pytest.raises(ValueError, match="another architecture") as error:
        load(tmp_path / "model", nn.Sequential(nn.Linear(8, 8)))
    assert "batch norm" not in str(error.value)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_text("mine")
    model = at.convert(nn.Sequential(nn.Linear(4, 2)), at.chips.hermes64())
    with pytest.raises(NotADirectoryError, match="model: it is a file, and a checkpoint"):
        at.save(model, file)
    assert file.read_text() == "mine"
