"""Subclasses of layers that have other methods and another forward."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at

IDEAL, HERMES = at.chips.ideal(), at.chips.hermes64()


class Same(nn.Conv2d):
    """Pads as TensorFlow does, and names its weight."""

    def pads(self, size: int, dim: int) -> list[int]:
        s, k = self.stride[dim], self.kernel_size[dim]
        missing = max((-(-size // s) - 1) * s + k - size, 0)
        return [missing // 2, missing - missing // 2]

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.pads(x.shape[-1], 1) + self.pads(x.shape[-2], 0))
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Normed(nn.Conv2d):
    """A layer with a norm and an activation, as detectors' wrappers have them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x)).relu()


class Padded(nn.Conv1d):
    """Changes what is convolved one step deeper."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(F.pad(x, (2, 0)), weight, bias)


class Scaled(nn.Linear):
    """Adds the bias and a scale by itself."""

    scale = 3.0

    def forward(self, x: Tensor, again: bool = False) -> Tensor:
        y = F.linear(x, self.weight) * self.scale + self.bias
        return self.forward(y) if again else y


class Up(nn.ConvTranspose1d):
    """Cuts the end off."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[..., :-1]


class Told(nn.Linear):
    """Only has a method more."""

    def width(self) -> int:
        return self.out_features


CASES: list[tuple[nn.Module, tuple[int, ...]]] = [
    (Same(3, 4, 3, stride=2), (2, 3, 7, 8)),
    (Normed(3, 4, 3, padding=1), (2, 3, 5, 5)),
    (Normed(4, 4, 3, padding=1, padding_mode="circular", groups=2), (2, 4, 5, 5)),
    (Padded(2, 3, 3), (2, 2, 9)),
    (Scaled(5, 4), (3, 5)),
    (Up(3, 2, 3), (2, 3, 4)),
    (Told(5, 4), (3, 5)),
]
of_all = pytest.mark.parametrize(("layer", "shape"), CASES, ids=lambda v: type(v).__name__)


def model_of(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(copy.deepcopy(layer).eval())


@of_all
def test_what_it_computes_is_the_same_on_an_ideal_chip(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    digital, model = model_of(layer), at.convert(model_of(layer), IDEAL, example=x)
    torch.testing.assert_close(model(x), digital(x))
    model.train()(x).square().sum().backward()
    digital.train()(x).square().sum().backward()
    found = dict(model.named_parameters())
    for name, p in digital.named_parameters():
        torch.testing.assert_close(found[name].grad, p.grad)


@of_all
def test_its_product_is_quantised_and_noisy(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    digital, model = model_of(layer), at.convert(model_of(layer), HERMES, example=x)
    exact = digital(x)
    assert 0 < (model(x) - exact).norm() < 0.2 * exact.norm()
    at.calibrate(model, [x])
    assert 0 < (model(x) - exact).norm() < 0.2 * exact.norm()
    aged = at.program(model, seed=1).at("1 day")
    assert torch.equal(aged(x), at.program(model, seed=1).at("1 day")(x))
    assert not torch.equal(aged(x), model(x))


@of_all
def test_it_stays_what_it_is(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    model = at.convert(model_of(layer), HERMES)
    at.calibrate(model, [x])
    assert isinstance(model[0], type(layer))
    assert isinstance(model[0], at.nn.AnalogLayer)
    assert type(model[0]).__name__ == f"Analog{type(layer).__name__}"
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied[0]) is type(model[0])
        assert torch.equal(copied(x), model(x))
    assert list(model.state_dict()) == list(layer_keys(layer))
    model[0].load_state_dict(layer.state_dict())
    assert type(at.to_digital(model)[0]) is type(layer)
    assert torch.equal(model(x), model_of(layer)(x))


def layer_keys(layer: nn.Module) -> list[str]:
    return [f"0.{key}" for key in layer.state_dict()]


def test_its_calibration_sees_what_the_chip_multiplies() -> None:
    class Louder(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(100 * x)

    model = nn.Sequential(Louder(8, 4))
    at.convert(model, HERMES)
    x = torch.rand(64, 8)
    at.calibrate(model, [x], method="absmax")
    assert model[0].input_range.item() == pytest.approx(100 * x.max().item())


def test_a_forward_with_more_arguments_and_calls_works() -> None:
    layer = Scaled(4, 4)
    x = torch.randn(3, 4)
    exact = layer(x, again=True)
    model = nn.ModuleList([layer])
    at.convert(model, IDEAL)
    torch.testing.assert_close(model[0](x, again=True), exact)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.std(), self.bias)


class Penalised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.weight.norm()


class Idle(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x


class InTraining(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.tanh()) if self.training else super().forward(x)


class Decides(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class TwoInputs(nn.Linear):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + y)


class Other(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, stride=3)


class Draws(nn.Linear):
    def draw(self) -> None:
        """Means something else in analog layers."""


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Standardised(2, 2, 1), "uses the weight in (std|div)"),
        (Penalised(2, 2), "uses the weight in norm"),
        (Idle(2, 2), "does not multiply by the weight"),
        (InTraining(2, 2), "uses the weight in tanh"),
        (Decides(2, 2), "fails for an input alone on the meta device: "),
        (TwoInputs(2, 2), "fails for an input alone on the meta device: .*missing 1 required"),
        (Other(2, 2, 1), "uses the weight in conv2d"),
        (Draws(2, 2), "has its own 'draw', a name that analog layers use"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_does_more_with_its_weight_stays_digital(layer: nn.Module, why: str) -> None:
    model = nn.Sequential(layer, nn.Linear(2, 2))
    state = torch.get_rng_state()
    at.convert(model, HERMES)
    assert torch.equal(state, torch.get_rng_state())
    assert [name for name, _ in at.analog_layers(model)] == ["1"]
    ((_, told, _),) = at.summary(model).skipped
    with pytest.raises(ValueError, match=f"cannot be analog: .*{why}"):
        at.convert(model, HERMES, include="0")
    assert told.startswith(type(layer).__name__)


def test_the_trial_leaves_the_layer_alone() -> None:
    class Counts(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    called = []
    layer = Counts(3, 3)
    layer.compile(backend="eager")
    layer.register_forward_hook(lambda *_: called.append(1))
    layer.register_load_state_dict_pre_hook(lambda module, *_: called.append(type(module).__name__))
    with pytest.warns(UserWarning, match="was compiled by itself") as told:
        model = at.convert(nn.Sequential(layer), HERMES)
    assert len(told) == 1
    assert layer._compiled_call_impl is not None
    assert model[0].calls == 0
    assert not called
    model.load_state_dict(model.state_dict())
    assert called == ["AnalogCounts"]


def test_a_call_by_its_weight_from_outside_means_the_product_alone() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Scaled(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.inner.weight)

    model, x = Outer(), torch.randn(2, 4)
    exact = model(x)
    at.convert(model, IDEAL, example=x)
    torch.testing.assert_close(model(x), exact)


@of_all
def test_it_compiles(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    model = at.convert(model_of(layer), HERMES)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


def test_a_norm_behind_it_is_not_folded() -> None:
    class Rectified(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    model = nn.Sequential(Rectified(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    x = torch.randn(8, 4)
    model(x)
    assert at.fold_batch_norm(model.eval(), x) == ["3"]


def test_parameters_of_its_own_are_listed_as_digital() -> None:
    class LowRank(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.down, self.up = nn.Parameter(torch.zeros(2, 8)), nn.Parameter(torch.zeros(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight, self.bias) + x @ self.down.T @ self.up.T

    model = at.convert(nn.Sequential(LowRank()), HERMES)
    why = "the forward of LowRank computes with it"
    assert at.summary(model).skipped == (("0.down", why, 16), ("0.up", why, 16))


def test_saving_and_loading_knows_its_class(tmp_path: Path) -> None:
    model, x = at.convert(nn.Sequential(Same(3, 4, 3)).eval(), HERMES), torch.randn(2, 3, 6, 6)
    at.save(at.calibrate(model, [x]), tmp_path / "model")
    loaded = at.load(tmp_path / "model", nn.Sequential(Same(3, 4, 3)).eval())
    assert torch.equal(loaded(x), model(x))
    with pytest.raises(ValueError, match="AnalogSame"):
        at.load(tmp_path / "model", nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_recurrent_layers_and_attention_keep_their_methods() -> None:
    class Sequence(nn.LSTM):
        def width(self) -> int:
            return self.hidden_size

    class Attention(nn.MultiheadAttention):
        def width(self) -> int:
            return self.embed_dim

    x = torch.randn(3, 2, 4)
    for digital, inputs in ((Sequence(4, 4), (x,)), (Attention(4, 2), (x, x, x))):
        model = at.convert(nn.ModuleList([copy.deepcopy(digital)]), IDEAL)
        assert model[0].width() == 4
        torch.testing.assert_close(copy.deepcopy(model)[0](*inputs)[0], digital(*inputs)[0])
        assert type(at.to_digital(model)[0]) is type(digital)


class _Renamed(nn.Linear):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y if scale is None else y * scale


class _Passed(nn.Linear):
    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return super().forward(*args, **kwargs)


def test_int8_finds_the_activations_of_subclasses_by_name() -> None:
    x, scale = torch.randn(3, 6), torch.randn(3, 4)
    for layer, name in ((_Renamed(6, 4), "x"), (_Passed(6, 4), "input")):
        at.quantise_digital(nn.Sequential(layer))
        assert torch.equal(layer(**{name: x}), layer(x))
        assert not torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    renamed = _Renamed(6, 4)
    at.quantise_digital(nn.Sequential(renamed))
    assert torch.equal(renamed(x, scale), renamed(x) * scale)


def test_a_trial_of_a_subclass_leaves_its_lists_as_they_were() -> None:
    class Logged(nn.Linear):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.largest: list[Tensor] = []
            self.calls = {"forward": 0}

        def forward(self, x: Tensor) -> Tensor:
            self.largest.append(x.detach().abs().max())
            self.calls["forward"] += 1
            return super().forward(x)

    net = nn.Sequential(Logged(4, 4))
    at.convert(net, at.chips.hermes64())
    assert (net[0].largest, net[0].calls) == ([], {"forward": 0})
    net(torch.ones(1, 4))
    assert net[0].largest == [torch.tensor(1.0)]
