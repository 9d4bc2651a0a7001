import copy
import inspect
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch.conversion.route import routed_layers

CHIP = at.chips.hermes64()
X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Functional(nn.Module):
    """Computes with the weights of its layers and never calls them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(8, 6)
        self.bare = nn.Linear(6, 6, bias=False)
        self.conv = nn.Conv1d(2, 4, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.fc.weight, self.fc.bias)
        x = F.linear(x, self.bare.weight, bias=self.fc.bias)
        conv = self.conv
        return F.conv1d(x.unflatten(1, (2, 3)), conv.weight, conv.bias, conv.stride, padding=1)


class Called(Functional):
    def forward(self, x: Tensor) -> Tensor:
        x = self.bare(self.fc(x)) + self.fc.bias
        return self.conv(x.unflatten(1, (2, 3)))


def test_calls_by_weights_run_no_hooks_of_their_layers() -> None:
    model = at.convert(Functional(), CHIP, example=X)
    seen: list[nn.Module] = []
    model.fc.register_forward_hook(lambda module, *_: seen.append(module))
    model(X)
    assert not seen
    model.fc(X)
    assert seen == [model.fc]


class Hidden(Functional):
    """The same, in code of another class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_calls_that_name_weights_are_routed_where_the_guard_sees_them() -> None:
    model, expected = at.convert(Functional(), CHIP), at.convert(Called(), CHIP)
    assert routed_layers(model) == []
    assert "routed" in str(at.guard(model, X))
    assert routed_layers(model) == ["fc", "bare", "conv"]
    assert "routed: 3 layers that the model calls by their weights, as fc" in str(at.summary(model))
    assert inspect.signature(model.forward) == inspect.signature(Functional().forward)
    assert torch.allclose(model.eval()(X), expected.eval()(X), atol=1e-6)
    assert not torch.allclose(model(X), Functional()(X), atol=1e-4)
    assert model.state_dict().keys() == Functional().state_dict().keys()
    for m in (model, expected):
        at.calibrate(m, [X])
    with at.noise(seed=1, step=0):
        noisy = model.train()(X)
    with at.noise(seed=1, step=0):
        assert torch.allclose(noisy, expected.train()(X), atol=1e-6)


class Attention(nn.Module):
    """Gives the weights of its layers to torch's attention, as WavLM of transformers does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, out = self.q, self.k, self.v, self.out
        return F.multi_head_attention_forward(
            *(x, x, x, 8, 2, None, torch.cat([q.bias, k.bias, v.bias]), None, None, False, 0.0),
            *(out.weight, out.bias),
            use_separate_proj_weight=True,
            q_proj_weight=q.weight,
            k_proj_weight=k.weight,
            v_proj_weight=v.weight,
            need_weights=False,
        )[0]


@pytest.mark.filterwarnings("ignore:While compiling")
def test_weights_that_are_given_to_torchs_attention_are_routed() -> None:
    x, digital = X.view(3, 1, 8), Attention().eval()
    ideal = at.convert(Attention().eval(), at.chips.ideal(), example=x)
    assert torch.allclose(ideal(x), digital(x), atol=1e-6)
    model = at.convert(Attention().eval(), CHIP)
    at.map_to_chip(model, x)  # without a warning, as the guard finds no bypass
    assert [row.routed for row in at.guard(model, x).layers] == [True] * 4
    expected = at.calibrate(model, [x])(x)
    heads = (
        layer(x[:, 0]).unflatten(1, (2, 4)).transpose(0, 1) for layer in (model.q, model.k, model.v)
    )
    y = F.scaled_dot_product_attention(*heads).transpose(0, 1).flatten(1)
    assert torch.allclose(model.out(y), expected[:, 0], atol=1e-6)
    assert not torch.allclose(expected, digital(x), atol=1e-4)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), expected, atol=1e-6)
    assert torch.allclose(torch.export.export(model, (x,)).module()(x), expected, atol=1e-6)


class Packed(nn.Module):
    """Multiplies by the packed weight of an attention itself, as WavLM of torchaudio does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.MultiheadAttention(8, 2, batch_first=True)
        self.rnn = nn.GRUCell(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.a.in_proj_weight, self.a.in_proj_bias).chunk(3, -1)
        y = self.a.out_proj(F.scaled_dot_product_attention(q, k, v))
        return F.linear(y, self.rnn.weight_ih), self.rnn(y)


def test_matrices_of_larger_modules_are_routed_and_charged_to_the_chip() -> None:
    model = at.convert(Packed().eval(), CHIP)
    mapping = at.map_to_chip(model, X)  # without a warning, as the guard finds no bypass
    routed = [row.name for row in at.guard(model, X).layers if row.routed]
    assert routed == ["a.in_proj", "rnn.ih"]
    assert mapping.vectors == {
        "a.in_proj_weight": 3, "a.out_proj": 3, "rnn.weight_ih": 6, "rnn.weight_hh": 3,
    }  # fmt: skip


def test_a_model_that_nobody_watched_warns_of_calls_that_name_weights() -> None:
    model = at.convert(Functional(), CHIP)
    with pytest.warns(UserWarning, match="3 of 3 analog layers of this Functional did not run"):
        model(X)
    at.guard(model, X)
    model(X)
    assert not model._forward_hooks


def test_routes_are_undone_with_the_conversion() -> None:
    model = at.convert(Hidden(), CHIP)
    report = at.guard(model, X)
    assert [row.routed for row in report.layers] == [True] * 3
    assert [row.runs for row in report.layers] == [1] * 3
    at.to_digital(model)
    assert "forward" not in vars(model)
    assert torch.equal(model(X), Functional()(X))


def test_calibration_routes_as_well_and_meets_each_batch_once() -> None:
    batches = [X, X + 1]
    model, expected = at.convert(Hidden(), CHIP), at.convert(Called(), CHIP)
    at.calibrate(model, batches)
    at.calibrate(expected, batches)
    assert len(routed_layers(model)) == 3
    ranges = [layer.input_range.item() for _, layer in at.analog_layers(model)]
    assert ranges == pytest.approx(
        [layer.input_range.item() for _, layer in at.analog_layers(expected)]
    )
    model = at.convert(Hidden(), CHIP)
    with pytest.raises(ValueError, match="NaN"):
        at.calibrate(model, [X, X * float("nan")])
    assert routed_layers(model) == []


def test_convert_with_an_example_proves_and_undoes() -> None:
    assert len(routed_layers(at.convert(Hidden(), CHIP, example=X))) == 3

    class Copied(Hidden):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.fc.weight.clone()) + super().forward(x).mean()

    model = Copied()
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=r"'fc': aten\."):
        at.convert(model, CHIP, example=X)
    assert dict(model.named_modules()) == before
    assert "forward" not in vars(model)
    with pytest.raises(TypeError, match="convert: example must be"):
        at.convert(model, CHIP, example=3)  # type: ignore[arg-type]
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "program"])
def test_copies_route_to_their_own_layers(how: str) -> None:
    model = at.convert(Functional(), CHIP, example=X).eval()
    expected = model(X)
    if how == "program":
        twin = at.program(model, seed=1).at("1 day")
        assert not torch.allclose(twin(X), expected, atol=1e-3)
    else:
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
        assert torch.equal(twin(X), expected)
    with torch.no_grad():
        twin.fc.bias.add_(1)
    assert torch.equal(model(X), expected)


@pytest.mark.filterwarnings("ignore:While compiling")
def test_compiled_and_exported() -> None:
    model = at.calibrate(at.convert(Functional(), CHIP, example=X), [X]).eval()
    expected = model(X)
    torch._dynamo.reset()
    assert torch.allclose(
        torch.compile(model, fullgraph=True, backend="aot_eager")(X), expected, atol=1e-6
    )
    assert torch.allclose(torch.export.export(model, (X,)).module()(X), expected, atol=1e-6)
    mapping = at.map_to_chip(model, X, chip=CHIP)
    assert {m.name for m in mapping.matrices} == {"fc", "bare", "conv"}


def test_a_call_that_is_not_the_layers_own_is_left_and_reported() -> None:
    class Strided(Hidden):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv1d(x.unflatten(1, (2, 4)), self.conv.weight, stride=1)

    model = Strided()
    del model.fc, model.bare
    with pytest.raises(ValueError, match=r"1 of 1 analog layers are bypassed"):
        at.guard(at.convert(model, CHIP), X)
    assert routed_layers(model) == []


class _Padded(Hidden):
    """A causal convolution: it pads by hand, and not as the layer does."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.bare(self.fc(x)).unflatten(1, (2, 3)), (2, 0))
        return F.conv1d(x, self.conv.weight, self.conv.bias, self.conv.stride)


class _Given(nn.Module):
    """Gets a layer or its weight, and does not hold the layer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return layer.forward(x) if self.how == "layer" else F.linear(x, layer.weight, layer.bias)


class _Gives(Functional):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.given = _Given(how)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bare(self.given(x, self.fc)).unflatten(1, (2, 3)))


class _Recurrent(nn.Module):
    """Calls the forward of layers of many kinds, or the digital LSTM that was swapped."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.lstm, self.attention = nn.LSTM(8, 8), nn.MultiheadAttention(8, 2)
        self.around = nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular")
        self.up = nn.ConvTranspose1d(8, 8, 2)
        self.run = self.lstm.forward if how == "digital" else None  # bound to the digital layer

    def forward(self, x: Tensor) -> Tensor:
        x = (self.run or self.lstm.forward)(x.expand(2, 3, 8))[0]
        x = self.attention.forward(x, x, x)[0].transpose(1, 2)
        return self.up.forward(self.around.forward(x))


@pytest.mark.parametrize(
    ("make", "bypassed"),
    [
        (Hidden, []),
        (_Padded, ["conv"]),
        (lambda: _Gives("layer"), []),
        (lambda: _Gives("weight"), ["fc"]),
        (lambda: _Recurrent("layer"), []),
        (lambda: _Recurrent("digital"), ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
    ],
)
def test_the_mapping_warns_of_what_the_guard_refuses(make: Any, bypassed: list[str]) -> None:
    model = at.convert(make(), CHIP)
    if not bypassed:
        assert len(at.map_to_chip(model, X).matrices) == len(at.guard(model, X).layers)
        return
    names = ", ".join(map(repr, bypassed))
    with pytest.warns(UserWarning, match=f"map_to_chip: {names} on the chip: the model computes"):
        at.map_to_chip(model, X)
    with pytest.raises(ValueError, match=f"{len(bypassed)} of . analog layers are bypassed"):
        at.guard(model, X)


def test_a_route_without_effect_is_none() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.encoder.weight).relu(), self.encoder.weight.t())

    model, called = at.convert(Tied(), CHIP), at.convert(_Called(), CHIP)
    for net, routed in ((model, ["encoder"]), (called, [])):
        with pytest.warns(UserWarning, match="bypassed in part"):
            at.calibrate(net, [X], effort="ranges")
        assert routed_layers(net) == routed


class _Decoder(nn.Module):
    """Multiplies by the weight of another module's layer."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = lambda: weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight()


class _InOrder(nn.Module):
    """Calls a layer, and bypasses it by its call and by others, in an order."""

    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        self.layer, self.order = nn.Linear(8, 8), order
        self.decoder = _Decoder(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        for way in self.order:
            if way == "layer":
                x = F.linear(x, layer.weight, layer.bias)
            elif way == "transposed":
                x = F.linear(x, layer.weight.t())
            else:
                x = self.decoder(x)
        return layer(x)


@pytest.mark.parametrize("order", list(itertools.permutations(["layer", "transposed", "decoder"])))
def test_a_route_does_not_depend_on_the_order_of_the_calls(order: tuple[str, ...]) -> None:
    model = at.convert(_InOrder(order), CHIP)
    with pytest.warns(UserWarning, match="bypassed in part"):
        at.calibrate(model, [X], effort="ranges")
    assert at.summary(model).routed == ("layer",)


class _Called(nn.Module):
    """A tied autoencoder that calls its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encoder(x).relu(), self.encoder.weight.t())


def test_a_forward_of_the_modules_own_is_not_replaced() -> None:
    model = at.convert(Hidden(), CHIP)
    own = model.forward
    model.forward = own  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="3 of 3 analog layers are bypassed"):
        at.guard(model, X)
    assert vars(model)["forward"] == own


def test_reading_shapes_and_types_is_no_bypass() -> None:
    class Looks(Called):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to(self.fc.weight.dtype))

    class Asks(Called):
        def forward(self, x: Tensor) -> Tensor:  # as T5 does
            if isinstance(self.fc.weight, Tensor) and x.dtype != self.fc.weight.dtype:
                x = x.to(self.fc.weight.dtype)
            return super().forward(x)

    assert routed_layers(at.convert(Asks(), CHIP, example=X)) == []
    assert routed_layers(at.convert(Looks(), CHIP, example=X)) == []


def test_swin_runs_on_the_chip() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model, image = models.swin_t(weights=None).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        at.convert(model, at.chips.ideal())
        report = at.guard(model, image)
        assert sum(row.routed for row in report.layers) == 24
        assert all(row.runs == 1 for row in report.layers)
        assert len(report.layers) == 53
        assert torch.allclose(model(image), expected, atol=1e-5)


def test_folding_is_an_option_of_convert() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    image = torch.randn(2, 3, 6, 6)
    model[1].running_mean.normal_()
    expected = model(image)
    at.convert(model, at.chips.ideal(), fold_batch_norm=True, example=image)
    assert isinstance(model[1], nn.Identity)
    assert torch.allclose(model(image), expected, atol=1e-5)
    with pytest.raises(ValueError, match="no batch norm follows"):
        at.convert(
            nn.Sequential(nn.Linear(3, 4)), CHIP, fold_batch_norm=True, example=torch.randn(2, 3)
        )
