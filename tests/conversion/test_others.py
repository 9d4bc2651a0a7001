"""What other libraries do to a model before or after it is converted."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from torch import nn
from torch.nn.utils import prune, weight_norm

import analogtorch as at

CHIP = at.chips.hermes64()
X = torch.randn(4, 8)


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


class Int8(torch.Tensor):
    """A quantised weight as torchao has it: a tensor of float32 to look at, and integers inside."""

    integers: torch.Tensor

    @staticmethod
    def __new__(cls, integers: torch.Tensor) -> "Int8":
        new = torch.Tensor._make_wrapper_subclass(cls, integers.shape, dtype=torch.float32)
        new.integers = integers
        return new

    def __tensor_flatten__(self) -> tuple[list[str], dict[str, float]]:
        return ["integers"], {"scale": 0.01}

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return cls(args[0].integers)
        if func is torch.ops.aten.addmm.default:
            bias, x, weight = args
            return bias + x @ (weight.integers / 100)
        if func is torch.ops.aten.t.default:
            return cls(args[0].integers.t())
        raise NotImplementedError(f"Int8 has no {func}")


def test_a_quantised_weight_stays_digital_and_says_why() -> None:
    model = _net()
    model[0].weight = nn.Parameter(Int8((model[0].weight * 100).char()), requires_grad=False)
    at.calibrate(at.convert(model, CHIP), [X])
    assert type(model[0]) is nn.Linear
    ((name, why, count),) = at.summary(model).skipped
    assert (name, count) == ("0", 72)
    assert (
        why
        == "its weight is a Int8, a tensor that multiplies by rules of its own (quantised, sparse)"
    )
    assert [row.name for row in at.guard(model, X).layers] == ["2"]
    assert at.program(model, seed=0).at("1 day")(X).isfinite().all()


@pytest.mark.parametrize("call", [at.guard, lambda model, x: at.calibrate(model, [x]),
                                  lambda model, _: at.program(model, seed=0)])  # fmt: skip
def test_a_weight_that_a_tool_quantised_is_named(call: Any) -> None:
    model = at.convert(_net(), CHIP)
    model[0].weight = nn.Parameter(Int8((model[0].weight * 100).char()), requires_grad=False)
    with pytest.raises(ValueError, match="'0' is analog, but its weight is a Int8.*filter"):
        call(model, X)


def test_a_folder_of_measurements_knows_quantised_weights(tmp_path: Path) -> None:
    model = _net()

    def measure(factor: int) -> at.Sweep:
        integers = (model[2].weight.detach().clone() * factor).char()
        quantised = nn.Sequential(model[0], model[1], nn.Linear(8, 4, bias=False))
        quantised[2].weight = nn.Parameter(Int8(integers), requires_grad=False)
        return at.sweep(quantised, lambda view: 0.5, num_chips=1, times=["0 s"], folder=tmp_path)

    at.convert(model, CHIP, include="0")
    assert measure(100).mean == measure(100).mean == 0.5
    with pytest.raises(ValueError, match="holds another experiment"):
        measure(90)


class FakeQuantizedLinear(nn.Linear):
    """A layer like that of torchao, which takes the Parameters over."""

    @classmethod
    def from_linear(cls, layer: nn.Linear) -> "FakeQuantizedLinear":
        new = cls(layer.in_features, layer.out_features)
        new.weight, new.bias = layer.weight, layer.bias
        return new

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, (self.weight * 100).round() / 100, self.bias)


def _swapped() -> nn.Sequential:
    model = at.convert(_net(), CHIP)
    model[0] = FakeQuantizedLinear.from_linear(model[0])
    return model


@pytest.mark.parametrize(
    "call",
    [
        lambda model: at.guard(model, X),
        lambda model: at.calibrate(model, [X]),
        lambda model: at.program(model, seed=0),
        lambda model: at.sweep(model, lambda view: 0.0, num_chips=1),
    ],
)
def test_a_layer_that_a_tool_swapped_out_is_missed(call: Any) -> None:
    with pytest.raises(
        ValueError,
        match="'0' was an analog layer until a FakeQuantizedLinear took its place.*filter",
    ):
        call(_swapped())


@pytest.mark.parametrize("before", [False, True])
def test_a_digital_layer_may_share_its_weight_with_an_analog_one_of_another_model(
    before: bool,
) -> None:
    model, other = _net(), _net()
    other[0].weight = model[0].weight
    for net, exclude in ((other, "0"), (model, None))[:: 1 if before else -1]:
        at.convert(net, CHIP, exclude=exclude)
    at.calibrate(other, [X])
    assert ("0", "not converted", 72) in at.summary(other).skipped
    model[0] = FakeQuantizedLinear.from_linear(model[0])
    at.convert(model, CHIP, include="2")  # which is analog already
    with pytest.raises(ValueError, match="'0' was an analog layer until"):
        at.guard(model, X)


def test_a_layer_that_was_swapped_out_is_in_the_summary() -> None:
    (row,) = at.summary(_swapped()).skipped
    assert row == ("0", "was an analog layer until a FakeQuantizedLinear took its place", 72)


def test_a_layer_may_be_swapped_on_purpose() -> None:
    model = at.to_digital(_swapped())
    at.convert(model, CHIP, include="2")
    assert at.guard(model, X).layers[0].name == "2"
    fresh = at.convert(_net(), CHIP)
    fresh[0] = nn.Linear(8, 8)  # with a weight of its own
    assert [row.name for row in at.guard(fresh, X).layers] == ["2"]


def test_a_head_that_goes_may_leave_its_weight_to_the_embedding() -> None:
    model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    at.convert(model, CHIP)
    model[2] = nn.Identity()
    assert [row.name for row in at.guard(model, torch.arange(8)).layers] == ["1"]


def test_accelerate_is_named_where_its_hook_is_in_the_way() -> None:
    model = cpu_offload(_net())
    with pytest.raises(
        ValueError,
        match="the accelerate hook AlignDevicesHook replaces its forward.*remove_hook_from",
    ):
        at.convert(model, CHIP)
    remove_hook_from_module(model, recurse=True)
    at.calibrate(at.convert(model, CHIP), [X])
    y = model.eval()(X)
    cpu_offload(model, state_dict=dict(model.named_parameters()))
    assert torch.equal(model(X), y)
    with pytest.raises(
        ValueError, match="meta device; the accelerate hook AlignDevicesHook offloads its weights"
    ):
        at.program(model, seed=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::DeprecationWarning")
def test_scripted_parts_with_weights_are_refused_and_others_run() -> None:
    for make in (torch.jit.script, lambda net: torch.jit.trace(net, X)):
        model = nn.Sequential(make(_net()), nn.Linear(4, 4))
        with pytest.raises(ValueError, match="'0' is a ScriptModule"):
            at.convert(model, CHIP)
        assert type(model[1]) is nn.Linear
    scripted = torch.jit.script(_net())
    for call in (
        lambda: at.convert(scripted, CHIP),
        lambda: at.map_to_chip(scripted, X, chip=CHIP),
        lambda: at.mapping.map_by_chip(scripted, X),
    ):
        with pytest.raises(ValueError, match="'the model' is a ScriptModule"):
            call()
    scaled = nn.Sequential(torch.jit.script(nn.Softplus()), *_net())
    at.convert(scaled, CHIP, example=X)
    assert at.program(at.calibrate(scaled, [X] * 4), seed=1).at("1 day")(X).shape == (4, 4)


def test_exported_models_have_no_layers_and_those_that_fx_traces_have() -> None:
    remedy = "graph of operators, without layers: give the model that it was exported from"
    digital = torch.export.export(_net(), (X,)).module()
    with pytest.raises(ValueError, match=f"nothing to convert in GraphModule. It is a {remedy}"):
        at.convert(digital, CHIP)
    analog = at.calibrate(at.convert(_net(), CHIP), [X] * 4).eval()
    graph = torch.export.export(analog, (X,)).module()
    for call in (
        lambda: at.program(graph, seed=0),
        lambda: at.guard(graph, X),
        lambda: at.summary(graph),
    ):
        with pytest.raises(ValueError, match=f"has no analog layer; it is a {remedy}"):
            call()
    traced = at.convert(torch.fx.symbolic_trace(_net()), CHIP)
    assert len(list(at.analog_layers(traced))) == len(list(at.analog_layers(analog)))
    with pytest.raises(ValueError, match=r"no analog layer; call analogtorch.convert\(model"):
        at.summary(nn.Sequential(nn.ReLU()))


def _pruned() -> nn.Sequential:
    model = _net()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def _normed() -> nn.Sequential:
    model = _net()
    weight_norm(model[0])
    return model


class _Keeps(nn.Module):
    """Keeps outputs of its last runs, as nets do whose attention is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.seen = _net(), list[torch.Tensor]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[:] = [self.layers(x)]
        return self.seen[0]


@pytest.mark.parametrize("make", [_pruned, _normed, _Keeps])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
def test_a_model_that_keeps_results_is_copied_wherever_it_is(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make()
    model(X)  # as in training: what it keeps has gradients
    adapted = at.hwa.adapt(model, [X] * 4, chip=CHIP, steps=2, num_chips=1, folder=tmp_path / "a")
    assert adapted.stages
    at.calibrate(at.convert(model, CHIP), [X])
    model.train()(X).sum().backward()
    physical = at.program(model.eval(), seed=1)
    y = physical.at("1 day")(X)
    assert (y - model(X)).norm() < 0.3 * y.norm()
    assert at.sweep(model, lambda view: view(X).mean().item(), num_chips=1).values.isfinite().all()
    other = make()
    other(X)
    loaded = at.load(at.save(physical, tmp_path / "b"), other)
    assert torch.equal(loaded.at("1 day")(X), y)
    kept = [t for m in other.modules() for t in vars(m).values() if isinstance(t, torch.Tensor)]
    assert all(t.grad_fn is not None for t in kept)  # the given model is as it was


@pytest.mark.parametrize("make", [_pruned, _normed, _Keeps])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
def test_a_model_that_keeps_results_is_studied_and_compared(make: Any) -> None:
    torch.manual_seed(0)
    model = at.calibrate(at.convert(make(), CHIP), [X])
    model(X)  # as in training: what it keeps has gradients

    def metric(view: nn.Module) -> float:
        return view(X).abs().mean().item()

    assert at.sensitivity(model, metric, num_chips=1, higher_is_better=True).rows
    few: dict[str, Any] = {"num_chips": 1, "higher_is_better": True}
    assert at.budget(model, metric, names=["drift"], growth=None, **few).rows
    few["prepare"] = lambda m: at.calibrate(m, [X])
    assert at.compare(model, [CHIP], metric, example=X, times=["1 day"], **few).chips
    assert at.plan(model, metric, floor=0.1, example=X, max_plans=12, **few).points


class Frozen(nn.Sequential):
    """Keeps its batch norm in evaluation, by a ``train`` that returns nothing."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self[1].eval()


class Adapter(nn.Linear):
    """Has a ``train`` that returns nothing, as a layer of loralib."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(2 * x)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


def test_a_train_may_return_nothing() -> None:
    model = Frozen(Adapter(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    nn.Module.train(model)
    model(X)  # its batch norm has statistics
    exact, labels = copy.deepcopy(model), torch.arange(4) % 3
    exact.train(False)
    at.convert(model, CHIP)
    assert [name for name, _ in at.analog_layers(model)] == ["0", "3"]
    model.train(False)
    metric = at.metrics.accuracy([(X, labels)])
    at.calibrate(model, [X])
    at.program(model, seed=0)
    at.map_to_chip(model, X)
    found = [
        at.sweep(model, metric, num_chips=1, times=["0 s"]).values,
        at.sensitivity(model, metric, num_chips=1, time="0 s").rows,
        at.compare(exact, ["hermes64"], metric, example=X, num_chips=1, times=["0 s"]).chips,
        at.plan(
            model, metric, floor=0.1, example=X, prepare=lambda m: at.calibrate(m, [X]), num_chips=1
        ).points,
        at.hwa.adapt(exact, [X], chip=CHIP, steps=1, num_chips=1, times=["0 s"]).stages,
    ]
    assert all(len(each) for each in found)
    at.quantise_digital(exact, example=X)
