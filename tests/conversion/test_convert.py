import copy
import dataclasses
import gc
import io

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.utils import parametrizations, prune

import analogtorch as at


class Net(nn.Module):
    """Shared module, tied weight, buffers, and things that stay digital."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.body = nn.ModuleDict(
            {"conv": nn.Conv1d(8, 8, 3, padding=1), "norm": nn.BatchNorm1d(8)}
        )
        self.shared = nn.Linear(8, 8)
        self.again = self.shared
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).transpose(1, 2)
        x = self.body["norm"](self.body["conv"](x)).transpose(1, 2)
        return self.head(self.again(self.shared(x).relu()))


def _net() -> Net:
    torch.manual_seed(0)
    return Net()


TOKENS = torch.arange(22).view(2, 11) % 11
CHIP = at.chips.hermes64()


def test_parameters_keys_ties_and_hooks_survive() -> None:
    model = _net()
    parameters = dict(model.named_parameters())
    keys = list(model.state_dict())
    called = []
    model.head.register_forward_hook(lambda *_: called.append(1))
    assert at.convert(model, CHIP) is model
    assert list(model.state_dict()) == keys
    after = dict(model.named_parameters())
    assert all(after[name] is p for name, p in parameters.items())
    assert model.shared is model.again
    assert model.head.weight is model.embed.weight
    model(TOKENS)
    assert called == [1]
    assert [name for name, _ in at.analog_layers(model)] == ["body.conv", "shared", "head"]


def test_converting_twice_changes_nothing() -> None:
    model = at.convert(_net(), CHIP)
    layers = [layer for _, layer in at.analog_layers(model)]
    at.convert(model, CHIP)
    assert [layer for _, layer in at.analog_layers(model)] == layers


def test_folding_twice_changes_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    digital = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)
    ).eval()
    with pytest.raises(ValueError, match="converted already; fold first"):
        at.convert(at.convert(copy.deepcopy(digital), CHIP), CHIP, fold_batch_norm=True, example=x)
    for _ in range(2):
        model = at.convert(digital, CHIP, fold_batch_norm=True, example=x)
        y = model(x)
        assert torch.equal(at.convert(model, CHIP, fold_batch_norm=True, example=x)(x), y)
        digital = at.to_digital(copy.deepcopy(model))
        assert at.fold_batch_norm(digital, x) == []
    parts = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)
    ).eval()
    at.convert(parts, CHIP, include="0", fold_batch_norm=True, example=x)
    # the norm that is left was looked at before
    at.convert(parts, CHIP, fold_batch_norm=True, example=x)
    assert [type(m).__name__ for m in parts] == [
        "AnalogConv2d",
        "Identity",
        "ReLU",
        "BatchNorm2d",
        "AnalogConv2d",
    ]
    parts.append(nn.BatchNorm2d(5).eval())
    with pytest.raises(ValueError, match="converted already; fold first"):
        at.convert(parts, CHIP, fold_batch_norm=True, example=x)


def test_a_root_layer_comes_back() -> None:
    layer = nn.Linear(3, 2)
    analog = at.convert(layer, CHIP)
    assert isinstance(analog, at.nn.AnalogLinear)
    assert analog.weight is layer.weight
    assert type(at.to_digital(analog)) is nn.Linear


def test_to_digital_restores_the_model() -> None:
    model = _net().eval()
    expected = model(TOKENS)
    assert torch.equal(at.to_digital(at.convert(model, CHIP))(TOKENS), expected)
    assert {type(m) for m in model.modules()} == {type(m) for m in _net().modules()}
    assert model.head.weight is model.embed.weight


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("head", None, ["head"]),
        (["s*"], None, ["shared"]),
        ("re:(head|shared)", None, ["shared", "head"]),
        (None, "body.*", ["shared", "head"]),
        (["*"], ["re:.*conv", "head"], ["shared"]),
    ],
)
def test_selection(include, exclude, expected) -> None:
    model = at.convert(_net(), CHIP, include=include, exclude=exclude)
    assert [name for name, _ in at.analog_layers(model)] == expected
    assert all(name in str(at.summary(model)) for name in ("embed", "body.norm"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"include": "haed"}, "'haed' matches none.*Closest names:.*'head'"),
        ({"exclude": "hed"}, "'hed' matches none.*Closest names: 'head'"),
        ({"exclude": "nope"}, "'nope' matches none of the 3 layers"),
        ({"include": ["head", "unused*"]}, r"'unused\*' matches none"),
        ({"exclude": "*"}, "exclude, or where, leaves none of its 3 layers"),
        ({"include": "re:("}, "no regular expression"),
        (
            {"include": "body.norm"},
            r"'body\.norm', matched by 'body\.norm', cannot be analog: "
            "no analog layer for BatchNorm",
        ),
        (
            {"include": ["head", "shared"], "exclude": "h*"},
            r"include 'head' and exclude 'h\*' contradict each other",
        ),
        (
            {"exclude": "head", "per_layer": {"head": {}}},
            "per_layer 'head' and exclude 'head' contradict each other",
        ),
        (
            {"include": "head", "per_layer": {"shared": {"periphery": {"output_bits": 6}}}},
            "per_layer 'shared' would change nothing: include, exclude or where leaves out all "
            "that it matches",
        ),
        (
            {"where": lambda name, _: name == "head", "per_layer": {"shared": {}}},
            "per_layer 'shared' would change no",
        ),
        ({"fold_batch_norm": True}, "fold_batch_norm=True needs example"),
        ({"allow_unused": True}, "allow_unused=True has no effect without example"),
    ],
)
def test_bad_patterns_are_refused_and_change_nothing(kwargs: dict, message: str) -> None:
    model = _net()
    with pytest.raises(ValueError, match=message):
        at.convert(model, CHIP, **kwargs)
    assert not list(at.analog_layers(model))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got Tensor"):
        at.convert(torch.zeros(2), CHIP)  # type: ignore[arg-type]
    for function in (at.to_digital, at.summary, lambda model: at.fold_batch_norm(model, TOKENS)):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got Tensor"):
            function(torch.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a Chip"):
        at.convert(_net(), "hermes64")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a pattern must be text"):
        at.convert(_net(), CHIP, include=[nn.Linear])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="include must be a pattern or a list of them, got 3"):
        at.convert(_net(), CHIP, include=3)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"where must be a function, where\(name, layer\), got 'head'"
    ):
        at.convert(_net(), CHIP, where="head")  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"per_layer must map patterns to chips or to parts of one, got \['head'\]"
    ):
        at.convert(_net(), CHIP, per_layer=["head"])  # type: ignore[arg-type]
    long = ["head"] * 1000
    for wrong in ({"chip": long}, {"chip": CHIP, "where": long}, {"chip": CHIP, "per_layer": long}):
        with pytest.raises(TypeError, match=r"got \['head', .*\.\.\.") as error:
            at.convert(_net(), **wrong)  # type: ignore[arg-type]
        assert len(str(error.value)) < 200
    with pytest.raises(TypeError, match="a pattern must be text, .* got 0"):
        at.convert(_net(), CHIP, per_layer={0: {}})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"nothing to convert.*Bilinear"):
        at.convert(nn.Bilinear(3, 4, 2), CHIP)


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, 2 * self.weight)


class Halved(nn.MultiheadAttention):
    def forward(self, *args: object, **kwargs: object) -> tuple[torch.Tensor, None]:
        return super().forward(*args, **kwargs)[0] / 2, None


class Named(nn.Linear):
    """A subclass that computes what nn.Linear computes."""


def test_what_would_be_bypassed_or_changed_stays_digital_with_its_reason() -> None:
    model = nn.ModuleDict(
        {
            "attention": Halved(8, 2),
            "doubled": Doubled(3, 3),
            "normed": parametrizations.weight_norm(nn.Linear(3, 3)),
            "lazy": nn.LazyLinear(3),
            "bilinear": nn.Bilinear(3, 3, 3),
            "named": Named(3, 3),
        }
    )
    at.convert(model, CHIP)
    assert [name for name, _ in at.analog_layers(model)] == ["named"]
    assert "lazy: run the model once first" in str(at.summary(model))
    reasons = {name: why for name, why, _ in at.summary(model).skipped}
    assert reasons["attention"] == "Halved overrides forward"
    assert reasons["attention.out_proj"] == (
        "'attention' reads its weight without calling it, and stays digital: "
        "Halved overrides forward"
    )
    assert reasons["doubled"] == "Doubled overrides forward, which uses the weight in mul"
    assert (
        reasons["bilinear"] == "multiplies two inputs; a tile multiplies an input by stored weights"
    )
    assert type(at.to_digital(model)["named"]) is Named
    with pytest.raises(
        ValueError, match="'doubled', matched by 'doubled', cannot be analog: Doubled overrides"
    ):
        at.convert(model, CHIP, include="doubled")


@pytest.mark.parametrize("pattern", ["", "re:(conv1)?", "drop"])
def test_what_has_no_weights_of_its_own_to_exclude_is_refused(pattern: str) -> None:
    model = nn.ModuleDict({"drop": nn.Dropout(), "linear": nn.Linear(3, 3)})
    with pytest.raises(ValueError, match="matched by .* cannot be analog: no analog layer for"):
        at.convert(model, CHIP, exclude=pattern)
    assert type(model["linear"]) is nn.Linear


@pytest.mark.parametrize("name", ["lstm.hh_l0", "lstm.weight_hh_l0", "lstm.ih_l0", "cell.hh"])
def test_one_matrix_of_what_is_digital_anyway_may_be_excluded(name: str) -> None:
    lstm = prune.identity(nn.LSTM(3, 3), "weight_hh_l0")
    cell = prune.identity(nn.GRUCell(3, 3), "bias_hh")
    model = nn.ModuleDict({"lstm": lstm, "cell": cell, "linear": nn.Linear(3, 3)})
    at.convert(model, CHIP, exclude=name)
    assert [layer for layer, _ in at.analog_layers(model)] == ["linear"]


@pytest.mark.parametrize("name", ["normed", "pruned", "norm", "bilinear", "lstm", "inner"])
def test_what_is_digital_anyway_may_be_excluded(name: str) -> None:
    model = nn.ModuleDict(
        {
            "normed": parametrizations.weight_norm(nn.Linear(3, 3, bias=False)),
            "pruned": prune.identity(nn.Linear(3, 3), "weight"),
            "norm": nn.LayerNorm(3),
            "bilinear": nn.Bilinear(3, 3, 3),
            "lstm": prune.identity(nn.LSTM(3, 3), "weight_hh_l0"),
            "inner": nn.Sequential(nn.LayerNorm(3)),
            "outer": nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3)),
        }
    )
    for argument in ("include", "per_layer"):
        with pytest.raises(ValueError, match=f"'{name}', matched by '{name}', cannot be analog"):
            at.convert(model, CHIP, **{argument: {name: {}}})
    # the one holds a layer that would be analog, the other is none
    for other in ("outer", "nothing"):
        with pytest.raises(ValueError, match=f"'{other}'"):
            at.convert(model, CHIP, exclude=[name, other])
    at.convert(model, CHIP, exclude=name)
    assert [layer for layer, _ in at.analog_layers(model)] == ["outer.1"]


def test_ranges_travel_with_the_state_dict_and_a_plain_checkpoint_still_loads() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [TOKENS])
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert list(state) == list(_net().state_dict())
    other = at.convert(_net(), CHIP)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other.eval()(TOKENS), model.eval()(TOKENS))
    _net().load_state_dict(state, strict=True)
    fresh = at.convert(_net(), CHIP)
    fresh.load_state_dict(_net().state_dict(), strict=True)
    assert not fresh.head.calibrated


def test_safetensors_and_deepcopy_and_pickle() -> None:
    import pickle

    model = at.convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), CHIP).eval()
    x = torch.randn(5, 4)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
    digital = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    digital.load_state_dict(load(save(model.state_dict())), strict=True)
    assert torch.equal(digital[0].weight, model[0].weight)


def test_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4096, 4096), nn.Conv2d(8, 8, 3))
    at.convert(model, CHIP)
    assert model[0].input_range.is_meta
    assert "range=absmax" in repr(model)
    assert at.summary(model).layers[0].blocks == 256


def test_a_plain_optimizer_trains_weights_and_ranges() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [TOKENS], effort="ranges")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(TOKENS).square().sum().backward()
        optimizer.step()
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_hooks_can_be_removed_after_the_conversion_and_state_dict_hooks_find_their_module() -> None:
    called = []
    layer = nn.Linear(3, 3)
    handle = layer.register_forward_hook(lambda *_: called.append("forward"))
    layer.register_load_state_dict_pre_hook(lambda module, *_: called.append(type(module).__name__))
    state = layer.state_dict()
    model = at.convert(nn.Sequential(layer), CHIP)
    del layer
    handle.remove()
    model(torch.randn(2, 3))
    model[0].load_state_dict(state)
    assert called == ["AnalogLinear"]
    at.map_to_chip(model, torch.zeros(1, 3))  # which makes digital twins of layers
    gc.collect()
    model[0].load_state_dict(state)
    assert called == ["AnalogLinear"] * 2


def test_a_conversion_that_fails_leaves_state_dict_hooks_their_module() -> None:
    net, called = nn.Sequential(nn.Linear(3, 3)), []
    net[0].register_load_state_dict_pre_hook(lambda module, *_: called.append(module))
    with pytest.raises(ValueError, match="takes"):
        at.convert(net, CHIP, example=torch.zeros(1, 7))
    gc.collect()
    net.load_state_dict(net.state_dict())
    assert called == [net[0]]


def test_a_model_keeps_its_sparse_buffers() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("adjacency", torch.eye(5).to_sparse())
            self.register_buffer("mean", torch.ones(4))
            self.lin = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lin(torch.sparse.mm(self.adjacency, x - self.mean))

    net, x = Graph().eval(), torch.randn(5, 4)
    expected, names = net(x), list(net.state_dict())
    at.convert(net, at.chips.ideal(), example=x)
    at.guard(net, x)
    assert set(names) <= set(net.state_dict())
    torch.testing.assert_close(net(x), expected)


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.std(), bias)


def test_layers_whose_computation_is_changed_in_other_ways_stay_digital() -> None:
    patched = nn.Linear(3, 3)
    patched.forward = lambda x: 2 * x  # type: ignore[method-assign]
    taken = nn.Linear(3, 3)
    taken.chip = "mine"
    logged = nn.Linear(3, 3)
    logged.adc_shape = []
    with pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Linear(3, 0)
    conv, ok = Standardised(2, 2, 1), nn.Linear(3, 3)
    model = nn.ModuleDict(
        {
            "patched": patched,
            "conv": conv,
            "empty": empty,
            "taken": taken,
            "logged": logged,
            "ok": ok,
        }
    )
    at.convert(model, CHIP)
    assert [name for name, _ in at.analog_layers(model)] == ["ok"]
    reasons = {name: why for name, why, _ in at.summary(model).skipped}
    assert reasons["patched"] == "Linear overrides forward"
    assert reasons["conv"] == "Standardised overrides _conv_forward, which uses the weight in std"
    assert "nothing to place" in reasons["empty"]
    assert "'chip', a name that analog layers use" in reasons["taken"]
    assert "'adc_shape', a name that analog layers use" in reasons["logged"]


def test_another_chip_and_an_empty_include_are_refused() -> None:
    model = at.convert(_net(), CHIP, include="head")
    with pytest.raises(
        ValueError, match="'head' is on another chip already; call analogtorch.to_digital"
    ):
        at.convert(model, at.chips.ideal())
    with pytest.raises(ValueError, match="include is empty; leave it out"):
        at.convert(model, CHIP, include=[])
    at.convert(model, CHIP)
    assert len(list(at.analog_layers(model))) == 3


def test_a_programmed_chip_is_refused() -> None:
    model = at.convert(nn.Sequential(nn.LSTM(8, 8), nn.Linear(8, 8)), CHIP, exclude="1")
    with pytest.raises(ValueError, match=r"convert: layer '0\.ih_l0' belongs to a programmed chip"):
        at.convert(at.program(model, seed=1).at("1 day"), CHIP)


class _Matrices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, proj_size=2, batch_first=True)
        self.cell = nn.GRUCell(2, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lstm(x)[0]
        x = self.cell(x[:, -1], x.new_ones(2, 4))[:, None]
        return self.attention(x, x + 1, x)[0]


_ALL = {
    "lstm.ih_l0",
    "lstm.hh_l0",
    "lstm.hr_l0",
    "cell.ih",
    "cell.hh",
    "attention.in_proj",
    "attention.out_proj",
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("exclude", "digital"),
    [
        ("lstm.hh_l0", {"lstm.hh_l0"}),
        ("lstm.weight_hh_l0", {"lstm.hh_l0"}),
        (["lstm.h*", "cell.weight_ih"], {"lstm.hh_l0", "lstm.hr_l0", "cell.ih"}),
        ("lstm.*", {"lstm.ih_l0", "lstm.hh_l0", "lstm.hr_l0"}),
        ("lstm", {"lstm.ih_l0", "lstm.hh_l0", "lstm.hr_l0"}),
        ("attention.in_proj", {"attention.in_proj"}),
        ("attention.out_proj", {"attention.out_proj"}),
        ("attention.*", {"attention.in_proj", "attention.out_proj"}),
    ],
)
def test_one_matrix_of_a_module_stays_digital(exclude, digital: set[str]) -> None:
    torch.manual_seed(0)
    model, x = _Matrices().eval(), torch.randn(2, 3, 4)
    expected, plain = model(x), copy.deepcopy(model)
    at.convert(model, at.chips.ideal(), exclude=exclude)
    assert {name for name, _ in at.analog_layers(model)} == _ALL - digital
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert model.state_dict().keys() == plain.state_dict().keys()
    at.guard(model, x)
    mapping = at.map_to_chip(model, x, chip=CHIP)
    assert mapping.weights == sum(layer.weight.numel() for _, layer in at.analog_layers(model))
    assert at.map_to_chip(plain, x, chip=CHIP, exclude=exclude).matrices == mapping.matrices
    at.convert(model, at.chips.ideal(), exclude=exclude)  # as before
    assert torch.allclose(at.to_digital(model)(x), expected, atol=1e-6)
    assert {name for name, _ in at.analog_layers(at.convert(model, CHIP))} == _ALL


def test_one_matrix_of_a_module_has_a_chip_of_its_own() -> None:
    changes = {
        "lstm": {"periphery": {"output_bits": 10}},
        "lstm.hh_l0": {"periphery": {"output_bits": 12}},
        "cell.weight_hh": {"periphery": {"output_bits": 6}},
    }
    model = at.convert(_Matrices(), CHIP, per_layer=changes)
    bits = {name: layer.chip.periphery.output_bits for name, layer in at.analog_layers(model)}
    others = dict.fromkeys(_ALL, CHIP.periphery.output_bits) | {"lstm.ih_l0": 10, "lstm.hr_l0": 10}
    assert bits == others | {"lstm.hh_l0": 12, "cell.hh": 6}
    only = at.convert(_Matrices(), CHIP, include=["lstm.ih_l0", "cell"])
    assert {name for name, _ in at.analog_layers(only)} == {"lstm.ih_l0", "cell.ih", "cell.hh"}


def test_names_of_matrices_that_are_none_suggest_the_nearest() -> None:
    for argument in (
        {"exclude": "lstm.hh_l1"},
        {"per_layer": {"lstm.hh_l1": {"periphery": {"output_bits": 6}}}},
    ):
        with pytest.raises(ValueError, match=r"'lstm.hh_l1' matches none.*'lstm.hh_l0'"):
            at.convert(_Matrices(), CHIP, **argument)
    with pytest.raises(ValueError, match=r"'lstm.hh_l1' matches none.*'lstm.hh_l0'"):
        at.map_to_chip(_Matrices(), torch.zeros(2, 3, 4), chip=CHIP, exclude="lstm.hh_l1")
    model = at.convert(_Matrices(), CHIP, exclude="lstm.hh_l0")
    with pytest.raises(
        ValueError, match=r"'lstm.hh_l0' was left digital when 'lstm' was converted"
    ):
        at.convert(model, CHIP)
    with pytest.raises(
        ValueError, match=r"exclude asks for 'lstm.ih_l0' to stay digital, but it is analog"
    ):
        at.convert(model, CHIP, exclude=["lstm.ih_l0", "lstm.hh_l0"])


@pytest.mark.parametrize("exclude", ["lstm.hh_l0", "attention.in_proj"])
def test_a_model_with_a_digital_matrix_is_programmed_saved_and_shown(
    exclude: str, tmp_path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    model = at.convert(_Matrices(), CHIP, exclude=exclude)
    at.calibrate(model, [x])
    assert at.program(model, seed=1).at("1 day")(x).isfinite().all()
    assert f"digital: {exclude} (" in str(at.summary(model))
    at.save(model, tmp_path / "saved")
    again = at.load(tmp_path / "saved", _Matrices())
    assert [name for name, _ in at.analog_layers(again)] == [
        name for name, _ in at.analog_layers(model)
    ]
    assert torch.equal(again.eval()(x), model.eval()(x))
    found = at.sensitivity(model, lambda m: m(x).sum().item(), effects="bits")
    assert {row.name for row in found.rows} == _ALL - {exclude}


def test_layers_that_are_not_asked_for_may_be_on_another_chip() -> None:
    model = at.convert(_net(), CHIP, include="head")
    with pytest.raises(
        ValueError, match="exclude asks for 'head' to stay digital, but it is analog already; call"
    ):
        at.convert(model, at.chips.ibm_speech34(), exclude="head")
    at.convert(model, at.chips.ibm_speech34(), include=["body.*", "shared"])
    chips = {name: layer.chip.name for name, layer in at.analog_layers(model)}
    assert chips == {"body.conv": "ibm_speech34", "shared": "ibm_speech34", "head": "hermes64"}


def test_a_shared_layer_goes_by_each_of_its_names() -> None:
    assert [n for n, _ in at.analog_layers(at.convert(_net(), CHIP, include="again"))] == ["shared"]
    assert [n for n, _ in at.analog_layers(at.convert(_net(), CHIP, exclude="again"))] == [
        "body.conv",
        "head",
    ]
    model = at.convert(_net(), CHIP, per_layer={"again": {"periphery": {"output_bits": 6}}})
    assert model.shared.chip.periphery.output_bits == 6
    with pytest.raises(
        ValueError, match="include 'shared' and exclude 'again' contradict each other"
    ):
        at.convert(_net(), CHIP, include="shared", exclude="again")


def test_weights_assigned_to_a_layer_made_on_meta_work() -> None:
    trained = at.calibrate(
        at.convert(nn.Sequential(nn.Linear(4, 3)), CHIP), [torch.randn(64, 4)]
    ).eval()
    x = torch.randn(5, 4)
    for state, expected in (
        (trained.state_dict(), trained(x)),
        (at.to_digital(trained).state_dict(), None),
    ):
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(4, 3))
        at.convert(model, CHIP).load_state_dict(state, assign=True)
        assert not model[0].input_range.is_meta
        y = model.eval()(x)
        assert y.isfinite().all()
        if expected is not None:
            assert torch.equal(y, expected)


def test_ranges_that_cannot_be_kept_are_said() -> None:
    trained = at.calibrate(at.convert(nn.Sequential(nn.Linear(4, 3)), CHIP), [torch.randn(64, 4)])
    fresh = at.convert(nn.Sequential(nn.Linear(4, 3)), CHIP)
    with pytest.warns(UserWarning, match="carries no DAC ranges"):
        fresh.load_state_dict({k: v.clone() for k, v in trained.state_dict().items()})
    fresh.load_state_dict({k: p.detach() for k, p in trained.named_parameters()})
    assert fresh[0].calibrated
    assert torch.equal(fresh[0].input_range, trained[0].input_range)
    with torch.no_grad():
        # an optimizer may carry it across 0; the forward uses the magnitude
        trained[0].input_range.neg_()
    fresh.load_state_dict(trained.state_dict())
    assert fresh[0].input_range.item() > 0


def test_ranges_take_part_in_training_only_when_calibrated() -> None:
    model = at.convert(nn.Sequential(nn.Linear(4, 3)), CHIP)
    assert not model[0].input_range.requires_grad
    at.calibrate(model, [torch.randn(64, 4)])
    assert model[0].input_range.requires_grad
    ideal = at.calibrate(
        at.convert(nn.Sequential(nn.Linear(4, 3)), at.chips.ideal()), [torch.randn(64, 4)]
    )
    assert not ideal[0].input_range.requires_grad
    frozen = at.convert(nn.Sequential(nn.Linear(4, 3).requires_grad_(False)), CHIP)
    assert not at.calibrate(frozen, [torch.randn(64, 4)])[0].input_range.requires_grad


def test_layers_may_have_chips_of_their_own() -> None:
    other = at.chips.ibm_speech34()
    model = at.convert(
        _net(),
        CHIP,
        per_layer={
            "*": {"periphery": {"output_bits": 6}},
            "body.*": other,
            "head": {"dac": {"bits": None}},
        },
    )
    chips = {name: layer.chip for name, layer in at.analog_layers(model)}
    assert chips["shared"].periphery.output_bits == 6
    assert chips["body.conv"] == other
    assert chips["head"].dac.bits is None
    # fields differ from the chip given, not from one another
    assert chips["head"].periphery.output_bits == CHIP.periphery.output_bits
    before = [layer for _, layer in at.analog_layers(model)]
    at.convert(
        model,
        CHIP,
        per_layer={
            "*": {"periphery": {"output_bits": 6}},
            "body.*": other,
            "head": {"dac": {"bits": None}},
        },
    )
    assert [layer for _, layer in at.analog_layers(model)] == before
    with pytest.raises(ValueError, match="'body.conv' is on another chip already"):
        at.convert(model, CHIP)


def test_a_name_that_reads_as_a_glob_means_itself() -> None:
    def net() -> nn.ModuleDict:
        return nn.ModuleDict({name: nn.Linear(4, 4) for name in ("w[0]", "w0", "w?")})

    def analog(model: nn.Module) -> list[str]:
        return [name for name, _ in at.analog_layers(model)]

    chip = at.chips.hermes64()
    assert analog(at.convert(net(), chip, include="w[0]")) == ["w[0]"]
    assert analog(at.convert(net(), chip, exclude="w?")) == ["w[0]", "w0"]
    assert analog(at.convert(net(), chip, include="w[01]")) == ["w0"]
    larger = at.convert(net(), chip, per_layer={"w?": {"periphery": {"output_bits": 10}}})
    assert [layer.chip.periphery.output_bits for _, layer in at.analog_layers(larger)] == [8, 8, 10]


def test_a_predicate_chooses_among_what_the_patterns_leave() -> None:
    model = at.convert(
        _net(), CHIP, exclude="head", where=lambda name, layer: layer.weight.numel() > 64
    )
    assert [name for name, _ in at.analog_layers(model)] == ["body.conv"]
    with pytest.raises(ValueError, match="exclude, or where, leaves none of its 3 layers"):
        at.convert(_net(), CHIP, where=lambda name, layer: False)


@pytest.mark.parametrize(
    ("per_layer", "error", "message"),
    [
        ({"heads": {}}, ValueError, "'heads' matches none.*'head'"),
        (
            {"head": {"periphery": {"output_bit": 6}}},
            ValueError,
            "no field 'output_bit', did you mean 'output_bits'",
        ),
        ({"head": {"dacs": {"bits": 6}}}, ValueError, "no field 'dacs', did you mean 'dac'"),
        ({"head": {"periphery": {"output_bits": 1}}}, ValueError, "Periphery.output_bits must be"),
        ({"head": 6}, TypeError, "must be a Chip or a dict"),
    ],
)
def test_bad_overrides_are_refused_and_change_nothing(
    per_layer: dict, error: type, message: str
) -> None:
    model = _net()
    with pytest.raises(error, match=message):
        at.convert(model, CHIP, per_layer=per_layer)
    assert not list(at.analog_layers(model))


def test_a_layer_that_was_compiled_by_itself_computes_as_what_it_has_become() -> None:
    digital = nn.Sequential(nn.Linear(8, 8), nn.RNN(8, 8)).eval().requires_grad_(False)
    x = torch.randn(3, 8)
    expected, _ = digital(x)
    reading, _ = at.convert(copy.deepcopy(digital), CHIP)(x)
    for layer in digital:
        layer.compile(backend="eager")
    digital(x)
    with pytest.raises(ValueError, match="takes"):  # nothing is converted, and nothing said
        at.convert(digital, CHIP, example=torch.randn(3, 7))
    with pytest.warns(
        UserWarning,
        match=r"'[01]' was compiled by itself and is not any more: call its .compile\(\)",
    ):
        at.convert(digital, CHIP)
    assert torch.equal(digital(x)[0], reading)
    digital[0].compile(backend="eager")
    digital(x)
    at.map_to_chip(digital, x)
    with pytest.warns(UserWarning, match="'0' was compiled by itself"):
        at.to_digital(digital)
    assert torch.equal(digital(x)[0], expected)


def test_a_weight_of_another_shape_is_refused_until_it_is_placed_anew() -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 4, bias=False)), CHIP).eval()
    # as a vocabulary is enlarged
    model[0].weight, model[0].out_features = nn.Parameter(torch.randn(6, 8)), 6
    x = torch.randn(2, 8)
    with pytest.raises(
        RuntimeError,
        match=r"'0' was converted with a weight of \(4, 8\), .*\(6, 8\) since; call .*dig",
    ):
        model(x)
    assert at.convert(at.to_digital(model), CHIP)(x).shape == (2, 6)


class Listed(nn.Module):
    """Refers to its layers by other attributes, as detectron2's feature pyramid does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for i in range(4):
            self.add_module(f"fc{i}", nn.Linear(8, 8))
        self.listed, self.fixed, self.named = [self.fc0], (self.fc1,), {"x": self.fc2}
        self.around: list = [0, {"fixed": (1, [self.fc0, {"x": (self.fc1,)}])}]
        self.around.append(self.around)
        object.__setattr__(self, "hidden", self.fc3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, inner = self.around[1]["fixed"][1]
        x = inner["x"][0](first(x))
        return self.hidden(self.named["x"](self.fixed[0](self.listed[0](x))))


def test_references_that_are_no_children_are_replaced_too() -> None:
    model, x = Listed().eval(), torch.randn(3, 8)
    expected, before = model(x), (model.listed[0], model.fixed[0], model.named["x"], model.hidden)
    at.convert(model, CHIP)
    assert (model.listed[0], model.fixed[0], model.named["x"], model.hidden) == tuple(
        model.get_submodule(f"fc{i}") for i in range(4)
    )
    report = at.guard(model, x)
    runs = [2, 2, 1, 1]  # without a route: these are the layers themselves
    assert [(row.runs, row.routed) for row in report.layers] == [(n, False) for n in runs]
    assert model.around[2] is model.around
    view = at.program(model, seed=1).at("1 day")
    assert view.around[2] is view.around
    assert view.around[1]["fixed"][1][0] is view.fc0
    at.to_digital(model)
    assert torch.equal(model(x), expected)
    with pytest.raises(ValueError, match="takes"):
        at.convert(model, CHIP, example=x[:, :5])
    held = model.listed[0], model.fixed[0], model.named["x"], model.hidden
    assert [type(layer) for layer in held] == [type(layer) for layer in before]
    assert torch.equal(model(x), expected)


def test_deep_lists_and_tuples_that_share_are_walked_once() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    deep: list = [model[0]]
    shared: tuple = (model[0],)
    for _ in range(2000):
        deep = [deep]
    for _ in range(60):
        shared = (shared, shared)
    model.deep, model.shared = deep, shared
    at.convert(model, CHIP)
    deep, shared = model.deep, model.shared
    for _ in range(2000):
        deep = deep[0]
    for _ in range(60):
        assert shared[0] is shared[1]
        shared = shared[1]
    assert deep[0] is shared[0] is model[0]


def test_a_parametrized_layer_without_bias_warns_of_lost_ranges_too() -> None:
    def normalised(model: nn.Module) -> nn.Module:
        nn.utils.parametrizations.weight_norm(model[0])
        return model

    model = at.convert(nn.Sequential(nn.Linear(8, 4, bias=False)).eval(), at.chips.hermes64())
    at.calibrate(model, [torch.rand(4, 8)])
    state = dict(normalised(nn.Sequential(nn.Linear(8, 4, bias=False))).state_dict())
    with pytest.warns(UserWarning, match="carries no DAC ranges"):
        normalised(model).load_state_dict(state, strict=False)


def test_a_chip_with_a_curve_without_a_hash_is_named() -> None:
    @dataclasses.dataclass
    class Straight:
        start: float

        def __call__(self, r: torch.Tensor) -> torch.Tensor:
            return self.start + 0 * r

    device = dataclasses.replace(at.devices.pcm_like(), programming_std=Straight(0.3))
    chip = at.chips.hermes64().replace(cell={"device": device})
    net = nn.Sequential(nn.Linear(8, 4))
    with pytest.raises(TypeError, match=r"'hermes64'.* without a hash .*frozen=True"):
        at.convert(net, chip)
    assert type(net[0]) is nn.Linear
