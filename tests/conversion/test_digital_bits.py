"""Digital layers in int8: what is rounded, and what is left."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch.conversion.digital_bits import LEVELS, quantised, rounded
from analogtorch.conversion.int8 import quantise_inputs
from tests.crossbar import crossbar

CHIP = crossbar()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(6, 4), (5, 6)),
        (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
        (lambda: nn.ConvTranspose1d(3, 5, 2), (2, 3, 4)),
        (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (2, 4, 3, 3)),
        (lambda: nn.LSTM(6, 4), (3, 2, 6)),
    ],
    ids=["Linear", "Conv2d", "ConvTranspose1d", "groups", "LSTM"],
)
def test_int8_rounds_weights_by_output_and_inputs_by_vector_or_sample(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer, x = make(), torch.randn(shape)
    exact = copy.deepcopy(layer)
    model = at.quantise_digital(nn.Sequential(layer))
    out, true = _first(model(x)), _first(exact(x))
    assert torch.equal(_first(at.quantise_digital(model)(x)), out)  # again changes nothing
    assert 0 < (out - true).abs().max() < 0.03 * true.abs().max()
    name = "weight_ih_l0" if isinstance(layer, nn.LSTM) else "weight"
    weight = getattr(layer, name).detach()
    by_output = weight
    if hasattr(layer, "transposed") and layer.transposed:
        by_output = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    for row in by_output:
        codes = row / row.abs().max() * LEVELS
        assert codes.abs().max() > LEVELS - 1e-3
        assert torch.allclose(codes, codes.round(), atol=1e-3)
    batch = 1 if isinstance(layer, nn.LSTM) else 0
    parts = torch.cat([_first(model(part)) for part in x.split(1, batch)], batch)
    assert torch.allclose(parts, out, atol=1e-6)  # no sample knows the others


def _first(value: Tensor | tuple[Tensor, object]) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


def test_gradients_pass_the_rounding_straight_through() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4), torch.randn(5, 6, requires_grad=True)
    y = at.quantise_digital(nn.Sequential(layer))(x)
    g = torch.randn_like(y)
    y.backward(g)
    assert torch.equal(x.grad, g @ layer.weight)
    assert torch.equal(layer.weight.grad, g.T @ rounded(x.detach(), (-1,)))


def test_int8_leaves_zeros_and_analog_weights() -> None:
    assert torch.equal(rounded(torch.zeros(2, 3), (-1,)), torch.zeros(2, 3))
    model = at.convert(
        nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), CHIP, exclude="2"
    )
    before = copy.deepcopy(model.state_dict())
    at.quantise_digital(model)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"2.weight"}


def test_int8_leaves_masks_and_states_and_rounds_activations_alone() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    at.quantise_digital(nn.Sequential(attention))
    x, y = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    mask = torch.full((5, 5), -torch.inf).triu(1)
    found = attention(x, y, y, attn_mask=mask)[0]
    assert torch.isfinite(found).all()
    assert torch.equal(found, attention(x, value=y, key=y, attn_mask=mask)[0])
    levels = rounded(x, (-1,)), rounded(y, (-1,))
    plain = copy.deepcopy(attention)
    plain._forward_pre_hooks.clear()
    expected = plain(levels[0], levels[1], levels[1], attn_mask=mask)[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("exclude", ["0*", "0.in_proj", "0.out_proj"])
def test_what_an_attention_computes_stays_float_before_its_output_projection(exclude: str) -> None:
    # torch reads that layer's weight without calling it; no mapping charges it for rounding
    class Whole(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](self[0](x, x, x)[0])

    torch.manual_seed(0)
    model = Whole(nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)).eval()
    model = at.convert(model, at.chips.ideal(), exclude=exclude)
    before, x = model[0].out_proj.weight.clone(), torch.randn(2, 5, 8)
    at.quantise_digital(model)
    is_rounded = exclude != "0.in_proj"
    assert torch.equal(model[0].out_proj.weight, before) != is_rounded
    assert quantised(model) == (["0"] if exclude == "0*" else [])
    plain = copy.deepcopy(model)
    quantise_inputs(plain, [])
    inner = rounded(x, (-1,)) if exclude == "0*" else x
    assert torch.equal(model(x), plain[1](plain[0](inner, inner, inner)[0]))
    mapping = at.map_to_chip(model, x)
    layers = {op.name.split(".rounding")[0] for op in mapping.digital if op.kind == "rounding"}
    assert layers == ({"0"} if exclude == "0*" else set())


def test_int8_rounds_a_tensor_that_attention_takes_thrice_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, key=x, value=x)[0]

    exact, int8 = (
        at.map_to_chip(m, torch.zeros(1, 5, 8), chip=CHIP)
        for m in (Net(), at.quantise_digital(Net()))
    )
    assert int8.matrices == exact.matrices
    added = sum(op.operations for op in int8.digital) - sum(op.operations for op in exact.digital)
    assert added == 5 * (5 * 8 + 2)


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
@pytest.mark.parametrize("named", [False, True])
def test_int8_leaves_the_state_of_a_recurrent_layer(kind: type[nn.Module], named: bool) -> None:
    torch.manual_seed(0)
    layer = kind(6, 4)
    at.quantise_digital(nn.Sequential(layer))
    plain = copy.deepcopy(layer)
    plain._forward_pre_hooks.clear()
    x, h = torch.randn(3, 2, 6), torch.randn(1, 2, 4)
    found = layer(hx=h, input=x) if named else layer(x, h)
    assert torch.equal(found[0], plain(rounded(x, (-1,)), h)[0])


def test_int8_rounds_packed_sequences() -> None:
    torch.manual_seed(0)
    layer, x = nn.LSTM(6, 4), torch.randn(3, 2, 6)
    at.quantise_digital(nn.Sequential(layer))
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 3]))
    found, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
    assert torch.allclose(found, layer(x)[0], atol=1e-6)


def test_each_output_of_a_grouped_transposed_convolution_has_a_scale_of_its_own() -> None:
    torch.manual_seed(0)
    layer, x = nn.ConvTranspose1d(4, 4, 3, groups=4, bias=False), torch.randn(2, 4, 9)
    with torch.no_grad():
        layer.weight[0] *= 500
    exact = layer(x)
    error = (at.quantise_digital(layer)(x) - exact).norm(dim=(0, 2)) / exact.norm(dim=(0, 2))
    assert error.max() < 0.02


def test_a_layer_that_becomes_analog_rounds_its_inputs_no_more(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 4), nn.MultiheadAttention(4, 1))

    def mixed() -> nn.Module:
        return at.quantise_digital(at.convert(net(), CHIP, exclude="1"))

    with pytest.warns(UserWarning, match=r"weights of 1 were rounded to int8 by quantise_digital"):
        model = at.convert(at.to_digital(mixed()), CHIP)
    assert quantised(model) == []
    at.to_digital(model)
    assert quantised(model) == []
    # the weights are those of a file that has them exactly
    recwarn.clear()
    loaded = at.load(at.save(at.convert(net(), CHIP), tmp_path), at.to_digital(mixed()))
    assert quantised(loaded) == []
    assert not recwarn.list


def test_the_layers_that_round_can_be_read_and_chosen() -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), CHIP, exclude="1")
    plain, x = copy.deepcopy(model.eval()), torch.randn(3, 8)
    at.quantise_digital(model)
    assert quantised(model) == quantised(copy.deepcopy(model)) == ["1"]
    rounding = model(x)
    quantise_inputs(model, [])
    assert quantised(model) == []
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x), plain(x))
    quantise_inputs(model, ["1"])
    assert torch.equal(model(x), rounding)
    assert not torch.equal(model(x), plain(x))


@pytest.mark.parametrize("exclude", [None, "*"], ids=["beside analog", "digital"])
def test_int8_takes_encoders_with_padding_masks_without_gradients(exclude: str | None) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    if exclude is None:
        model = at.convert(model, CHIP, exclude="*.linear2")
    x, mask = torch.randn(2, 5, 8), torch.arange(5) >= torch.tensor([[5], [3]])
    at.quantise_digital(model)
    with_gradients = model(x, src_key_padding_mask=mask)
    with torch.no_grad():
        y = model(x, src_key_padding_mask=mask)
    torch.testing.assert_close(y, with_gradients.detach())
    if exclude is not None:
        quantise_inputs(model, [])
        assert model.use_nested_tensor  # as it was
        assert all(each.activation_relu_or_gelu for each in model.layers)


def test_a_convolution_called_like_that_of_transformers_is_rounded_by_output() -> None:
    class Conv1D(nn.Conv1d):
        pass

    torch.manual_seed(0)
    conv = Conv1D(4, 3, 1)
    expected = rounded(conv.weight.detach(), (1, 2))
    at.quantise_digital(conv)
    assert torch.equal(conv.weight, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_int8_refuses_models_without_layers_to_round() -> None:
    with pytest.raises(ValueError, match="quantise_digital: layer '0' is lazy and has no weights"):
        at.quantise_digital(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ValueError, match="quantise_digital: 'the model' is a ScriptModule"):
        at.quantise_digital(torch.jit.script(nn.Linear(4, 3)))


class ByWeight(nn.Module):
    """Computes with the weights of its layers, in a method, and calls one of them too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj = nn.Linear(8, 8), nn.Linear(8, 4)
        self.conv = nn.Conv1d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.qkv(F.linear(x, bias=self.qkv.bias, weight=self.qkv.weight)))

    def product(self, x: Tensor) -> Tensor:
        x = F.conv1d(x.relu(), self.conv.weight, self.conv.bias, padding=1)
        return F.linear(x, self.proj.weight, self.proj.bias)


class Called(ByWeight):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.conv(self.qkv(self.qkv(x)).relu()))


class Whole(nn.Sequential):
    """Looks for a type in its code, and calls its layers."""

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x.to(self[0].qkv.weight.dtype)))


def _both() -> list[nn.Module]:
    """Return a net that calls layers by their weights, and one that calls them."""
    made = [Whole(kind(), nn.Linear(4, 2)).eval() for kind in (ByWeight, Called)]
    made[1].load_state_dict(made[0].state_dict())
    return made


T = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


def _int8(model: nn.Module) -> nn.Module:
    return at.quantise_digital(model, example=T)


def _is_routed(module: nn.Module) -> bool:
    return "forward" in vars(module)


def test_int8_rounds_the_inputs_of_layers_that_the_example_shows_called_by_their_weights() -> None:
    model, called = map(_int8, _both())
    # modules that only call layers, or look at the type of a weight, keep their forward
    assert [name for name, m in model.named_modules() if _is_routed(m)] == ["0"]
    assert not any(map(_is_routed, called.modules()))
    assert torch.equal(model(T), called(T))
    assert torch.equal(copy.deepcopy(model)(T), called(T))
    mapped = [at.map_to_chip(m, T, chip=CHIP).digital for m in (model, called)]
    found, expected = ([op.operations for op in ops if op.kind == "rounding"] for ops in mapped)
    assert found == expected != []
    for each in (model, called):
        quantise_inputs(each, ["1"])
    assert torch.equal(model(T), called(T))


def test_without_an_example_layers_called_by_their_weights_keep_float_inputs() -> None:
    model, other = (at.quantise_digital(m) for m in _both())
    assert not any(map(_is_routed, model.modules()))
    assert not torch.equal(model(T), other(T))


def test_int8_leaves_the_model_as_it_is_if_it_refuses_the_example() -> None:
    model, before = _both()[0], _both()[0]
    with pytest.raises(RuntimeError):
        at.quantise_digital(model, example=T[..., :3])
    with pytest.raises(TypeError, match="quantise_digital: example must be"):
        at.quantise_digital(model, example=3)  # type: ignore[arg-type]
    assert quantised(model) == []
    assert torch.equal(model(T), before(T))


def test_int8_rounds_calls_by_weights_beside_analog_layers_and_from_files(tmp_path: Path) -> None:
    model, called = (at.convert(m, CHIP, exclude=["0.proj", "0.conv"]) for m in _both())
    for each in (model, called):
        at.calibrate(_int8(each), [T])
    assert torch.allclose(model(T), called(T), atol=1e-6)
    loaded = at.load(at.save(model, tmp_path), _both()[0])
    assert torch.equal(loaded(T), model(T))
    views = (at.program(m, seed=1).at("1 day") for m in (model, loaded))
    assert torch.equal(*(view(T) for view in views))
    assert at.summary(model).routed == ("0.qkv",)
    assert torch.equal(at.to_digital(model)(T), at.to_digital(called)(T))


def test_int8_runs_on_where_modules_are_replaced() -> None:
    torch.manual_seed(0)
    model, called = map(_int8, _both())
    proj, head = nn.Linear(8, 4), nn.Linear(4, 3)
    for each in (model, called):
        each[0].proj, each[1] = proj, head
    assert torch.equal(model(T), called(T))


def test_int8_names_no_layers_of_a_model_that_is_compiled_in_part(
    recwarn: pytest.WarningsRecorder,
) -> None:
    torch._dynamo.reset()
    model = _both()[1]
    model[1].compile(backend="eager")
    _int8(model)(T)
    assert not [w for w in recwarn if "int8" in str(w.message)]


@pytest.mark.filterwarnings("ignore:While compiling")
def test_int8_nets_that_call_layers_by_their_weights_compile() -> None:
    torch._dynamo.reset()
    model = _int8(_both()[0])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(T), model(T), atol=1e-6)
    assert torch.allclose(torch.export.export(model, (T,)).module()(T), model(T), atol=1e-6)
