"""Digital layers in int8: what is rounded, and what is left."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.conversion.digital_bits import LEVELS, quantise_inputs, quantised, rounded
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
