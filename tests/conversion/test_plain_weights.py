"""Weights that are no Parameters: which count, their reasons, and that the advice works."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import analogtorch as at

CHIP = at.chips.hermes64()


def _follow(text: str, layer: nn.Module) -> None:
    """Do what an error or a reason says, word by word."""
    advice = text.partition("; make it one by ")[2]
    assert advice
    exec(advice.replace(", then ", "\n"), {"torch": torch, "layer": layer})


def _net(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 4)).eval()


class First(nn.Module):
    """What a module with several results returns first."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.inner, nn.MultiheadAttention):
            return self.inner(x, x, x)[0]
        return self.inner(x)[0]


def _buffer(layer: nn.Module, name: str) -> None:
    weight = getattr(layer, name).detach()
    delattr(layer, name)
    layer.register_buffer(name, weight)


def _not_saved(layer: nn.Module, name: str) -> None:
    weight = getattr(layer, name).detach()
    delattr(layer, name)
    layer.register_buffer(name, weight, persistent=False)


def _attribute(layer: nn.Module, name: str) -> None:
    weight = getattr(layer, name).detach()
    delattr(layer, name)
    setattr(layer, name, weight)


PLAIN = [_buffer, _not_saved, _attribute]
COMPUTED: list[Callable] = [
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    nn.utils.weight_norm,
    nn.utils.spectral_norm,
    prune.identity,
]
_each = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")


@_each
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "learns"])
@pytest.mark.parametrize("change", [*COMPUTED, *PLAIN])
@pytest.mark.parametrize("kind", ["linear", "lstm", "attention"])
def test_the_advice_of_summary_puts_them_on_the_chip(
    kind: str, change: Callable, frozen: bool
) -> None:
    layer, name = {
        "linear": lambda: (nn.Linear(8, 8), "weight"),
        "lstm": lambda: (nn.LSTM(8, 8), "weight_hh_l0"),
        "attention": lambda: (nn.MultiheadAttention(8, 2), "in_proj_weight"),
    }[kind]()
    change(layer, name)
    model = _net(layer if kind == "linear" else First(layer)).requires_grad_(not frozen)
    x = torch.randn(3, 8)
    expected = model(x)
    at.convert(model, at.chips.ideal())
    row = next(row for row in at.summary(model).skipped if row[0] in ("0", "0.inner"))
    assert row[1].startswith(f"its {name} is not a plain Parameter; make it one by ")
    assert at.summary(model).share.analog == 32
    learn = {own: p.requires_grad for own, p in layer.named_parameters()}
    _follow(row[1], layer)
    assert all(p.requires_grad == learn[o] for o, p in layer.named_parameters() if o in learn)
    at.convert(model, at.chips.ideal())
    assert at.summary(model).share.digital == {}
    assert torch.allclose(model(x), expected, atol=1e-6)
    at.program(model, seed=1)


@_each
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "learns"])
@pytest.mark.parametrize("change", [*COMPUTED, *PLAIN])
def test_the_advice_of_program_and_of_a_mapping_works(change: Callable, frozen: bool) -> None:
    model, x = at.convert(_net(nn.Linear(8, 8)), at.chips.ideal()), torch.randn(3, 8)
    change(model[0], "weight")
    model.requires_grad_(not frozen).eval()
    expected = model(x)
    for refused in (lambda: at.map_to_chip(model, x), lambda: at.program(model, seed=1)):
        with pytest.raises(ValueError, match="layer '0': its weight is not a plain Par") as error:
            refused()
    _follow(str(error.value), model[0])
    assert at.summary(model).share.digital == {}
    at.program(model, seed=1)
    assert "0" in [m.name for m in at.map_to_chip(model, x).matrices]
    assert torch.allclose(model(x), expected, atol=1e-6)


@pytest.mark.parametrize("change", PLAIN)
def test_they_count_as_digital_everywhere(change: Callable) -> None:
    model, x = _net(nn.Linear(8, 8, bias=False)), torch.randn(3, 8)
    change(model[0], "weight")
    keys = list(model.state_dict())
    at.convert(model, CHIP)
    summary = at.summary(model)
    assert (summary.share.analog, summary.share.digital) == (32, {"0": 64})
    assert (
        "digital: 0 (64 weights, 66.7 % of those that multiply; its weight is not a plain "
        "Parameter; make it one by layer.weight = torch.nn.Parameter(layer.weight, "
        "requires_grad=False))" in str(summary)
    )
    assert [key for key in model.state_dict() if "input_range" not in key] == keys
    assert at.guard(model, x).share == summary.share  # none counts twice
    mapping = at.map_to_chip(model, x)
    assert dict(mapping.digital_weights) == {"2.bias": 4, "0.weight": 64}


def test_a_plain_weight_of_several_layers_counts_once() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)), torch.randn(3, 8)
    _buffer(model[0], "weight")
    del model[1].weight
    model[1].register_buffer("weight", model[0].weight)
    at.convert(model, CHIP)
    assert at.summary(model).share.digital == {"0": 64}
    assert sum(n for _, n in at.map_to_chip(model, x).digital_weights) == 64 + 20


@_each
@pytest.mark.parametrize("change", COMPUTED)
def test_what_torch_computes_counts_once(change: Callable) -> None:
    model = _net(nn.Linear(8, 8))
    change(model[0], "weight")
    at.convert(model, CHIP)
    assert sum(at.summary(model).share.digital.values()) == 64


class Recomputed(nn.Module):
    """Computes a weight of its layer from a Parameter of its own, as weight drop does."""

    def __init__(self, layer: nn.Module, weight: str) -> None:
        super().__init__()
        self.layer, self.weight = layer, weight
        self.raw = nn.Parameter(getattr(layer, weight).detach().clone())
        _attribute(layer, weight)

    def forward(self, x: Tensor) -> Tensor:
        setattr(self.layer, self.weight, self.raw * 0.5)
        y = self.layer(x)
        return y[0] if isinstance(y, tuple) else y


class Sliced(nn.Module):
    """Gives its layers views of one Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(16, 8))
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        for layer in (self.first, self.second):
            del layer.weight
        self.set()

    def set(self) -> None:
        with torch.no_grad():
            self.first.weight, self.second.weight = self.raw.chunk(2)

    def forward(self, x: Tensor) -> Tensor:
        self.set()
        return self.second(self.first(x))


def _equalised() -> nn.Module:
    layer = nn.Linear(8, 8, bias=False)
    layer.weight_raw = nn.Parameter(layer.weight.detach().clone())
    _attribute(layer, "weight")
    layer.register_forward_pre_hook(
        lambda module, _: setattr(module, "weight", module.weight_raw * 0.5)
    )
    return layer


OWN = {
    "forward": (
        lambda: Recomputed(nn.Linear(8, 8, bias=False), "weight"),
        {"0": 64},
        {"0.raw": 64},
    ),
    "hook": (_equalised, {"0": 64}, {"0.weight_raw": 64}),
    "views": (Sliced, {"0": 128}, {"0.raw": 128}),
    "recurrent": (
        lambda: Recomputed(nn.LSTM(8, 8, bias=False), "weight_hh_l0"),
        {"0": 256, "0.layer": 256},
        {"0.raw": 256, "0.layer.weight_ih_l0": 256},
    ),
}


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("name", OWN)
def test_weights_that_the_model_computes_count_once(name: str, learns: bool) -> None:
    make, digital, parameters = OWN[name]
    model, x = _net(make()), torch.randn(3, 8)
    at.convert(model, CHIP)
    for grad in (learns, False):
        assert at.summary(model).share.digital == digital
        mapping = at.map_to_chip(model, x)
        assert dict(mapping.digital_weights) == {"2.bias": 4, **parameters}
        with torch.set_grad_enabled(grad):
            model(x)
    assert at.guard(model, x).share == at.summary(model).share


@pytest.mark.parametrize("name", ["forward", "hook", "recurrent"])
def test_what_the_model_computes_is_not_advised_against_its_code(name: str) -> None:
    model = at.convert(_net(OWN[name][0]()), CHIP)
    for _ in range(2):  # before a run, with no gradient, and after one
        why = next(w for _, w, _ in at.summary(model).skipped if "not a plain Parameter" in w)
        assert "but computed by code of the model: remove that code, and then make it one" in why
        assert "requires_grad=False" not in why
        model(torch.randn(3, 8))


class Mirrored(nn.Module):
    """An autoencoder whose decoder has the transposed weight of its encoder."""

    def __init__(self, change: Callable | None, frozen: bool = False) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 6, bias=False), nn.Linear(6, 8, bias=False)
        self.requires_grad_(not frozen)
        if change is not None:
            change(self.encoder, "weight")
        del self.decoder.weight
        self.decoder.weight = self.encoder.weight.t()

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@pytest.mark.parametrize(
    ("change", "frozen", "digital"),
    [(None, False, {}), (None, True, {}), (_buffer, True, {"0.encoder": 48})],
)
def test_a_view_of_another_weight_is_not_counted(
    change: Callable | None, frozen: bool, digital: dict[str, int]
) -> None:
    model, x = at.convert(_net(Mirrored(change, frozen)), CHIP), torch.randn(3, 8)
    assert at.summary(model).share.digital == digital
    assert "0.decoder" in [name for name, _, _ in at.summary(model).skipped]
    counted = {"0.encoder.weight": 48} if digital else {}
    assert dict(at.map_to_chip(model, x).digital_weights) == {"2.bias": 4, **counted}


def test_a_weight_beside_a_parameter_of_its_size_in_a_module_counts_if_it_is_saved() -> None:
    outer = Recomputed(nn.Linear(8, 8, bias=False), "weight")
    del outer.layer.weight
    outer.layer.register_buffer("weight", torch.randn(8, 8))
    model = at.convert(_net(outer), CHIP)
    assert at.summary(model).share.digital == {"0": 64, "0.layer": 64}


def test_a_weight_without_numbers_for_a_tile_or_none_gets_no_advice() -> None:
    model = _net(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    for layer in model[0]:
        del layer.weight
    model[0][0].register_buffer("weight", torch.zeros(8, 8, dtype=torch.int8))
    at.convert(model, CHIP)
    reasons = {name: why for name, why, _ in at.summary(model).skipped}
    assert reasons["0.0"].endswith("torch.int8: nothing to place on a tile")
    assert reasons["0.1"] == "it has no weight"


def test_weights_of_one_byte_stay_digital_and_the_summary_says_what_helps() -> None:
    model = nn.Sequential(nn.Linear(8, 8).to(torch.float8_e4m3fn), nn.Linear(8, 4))
    reasons = {name: why for name, why, _ in at.summary(at.convert(model, CHIP)).skipped}
    assert "torch.float8_e4m3fn, in which torch stores numbers" in reasons["0"]
    assert "model.to(torch.bfloat16)" in reasons["0"]


def test_a_table_that_is_looked_up_does_not_count() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    _buffer(model[0], "weight")
    assert at.summary(at.convert(model, CHIP)).share.digital == {}


class Adds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Parameter(torch.randn(8, 8))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.more


def test_a_parametrized_buffer_becomes_a_parameter_in_two_steps() -> None:
    model, x = _net(nn.Linear(8, 8)), torch.randn(3, 8)
    _buffer(model[0], "weight")
    parametrize.register_parametrization(model[0], "weight", Adds())
    expected = model(x)
    at.convert(model, at.chips.ideal())
    _follow(next(why for name, why, _ in at.summary(model).skipped if name == "0"), model[0])
    at.convert(model, at.chips.ideal())
    assert at.summary(model).share.digital == {}
    assert model[0].weight.requires_grad
    assert torch.allclose(model(x), expected, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_whose_parameters_are_all_parametrized_has_its_row(bias: bool) -> None:
    model = _net(nn.Linear(8, 8, bias=bias))
    parametrizations.weight_norm(model[0])
    if bias:
        parametrizations.weight_norm(model[0], "bias")
    at.convert(model, CHIP)
    reasons = {name: why for name, why, _ in at.summary(model).skipped}
    assert "remove_parametrizations(layer, 'weight')" in reasons["0"]
    alone = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8, bias=False)))
    with pytest.raises(ValueError, match="found 0: its weight is not a plain Parameter"):
        at.convert(alone, CHIP)


def test_a_model_of_plain_weights_alone_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False))
    _buffer(model[0], "weight")
    with pytest.raises(ValueError, match="found 0: its weight is not a plain Parameter; make"):
        at.convert(model, CHIP)


class Tied(nn.Module):
    """Multiplies by the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) @ self.embedding.weight.T


def test_what_guard_has_seen_of_a_weight_ends_with_its_conversion() -> None:
    model = at.convert(Tied(), CHIP)
    at.guard(model, torch.randn(2, 8))
    assert at.summary(model).share.digital == {"embedding": 72}
    at.convert(model, CHIP, embeddings=True)
    assert (at.summary(model).share.analog, at.summary(model).share.digital) == (136, {})


def test_guard_counts_the_layers_that_stay_digital_beside_what_it_lists() -> None:
    model, x = at.convert(Tied(), CHIP), torch.randn(2, 8)
    assert "stay digital" not in str(at.guard(model, x))
    model.linear = nn.Sequential(nn.Linear(8, 8), at.to_digital(model.linear))
    at.convert(model, CHIP, include="linear.1")
    lines = str(at.guard(model, x)).splitlines()
    assert lines[-2].startswith("digital: embedding (72 weights; ")
    assert lines[-1] == (
        "digital: 64 more weights in layers that stay digital; analogtorch.summary(model) lists "
        "them with the reasons"
    )
    plain = at.convert(_net(nn.Linear(8, 8)), CHIP, exclude="0")
    assert str(at.guard(plain, x)).splitlines()[-1].startswith("digital: 64 weights in layers")
