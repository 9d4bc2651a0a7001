import copy
import functools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch import guard
from analogtorch.conversion.restored import evaluating
from tests import score

CHIP = at.chips.hermes64()
X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers, one of them called or used as ``how`` says."""

    def __init__(self, how: str = "call") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.how = how
        self.log: list[float] = []

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.norm(getattr(self, self.how)(self.first(x) * scale))

    def call(self, x):
        return self.second(x)

    def direct(self, x):
        return self.second.forward(x)

    def functional(self, x):
        return F.linear(x, self.second.weight, self.second.bias)  # the call site

    def detached(self, x):
        return self.second(x) + x @ self.second.weight.data.t()  # the call site

    def copied(self, x):
        weight = torch.cat([self.first.weight, self.second.weight]).clone()
        return F.linear(x, weight)[:, :8] + self.second(x)  # the call site

    def half(self, x):
        weight = self.second.weight.double()
        return self.second(x) + F.linear(x.double(), weight).float()  # the call site

    def added(self, x):
        return self.second(x).add_(self.second.weight[0])  # the call site

    def skipped(self, x):
        return x

    def looked_at(self, x):
        self.log.append(self.second.weight.norm().item())
        self.second.weight.data.clamp_(-9, 9)
        kept = torch.empty_like(self.second.weight).copy_(self.second.weight)
        return self.second(x) + torch.zeros_like(self.second.weight)[0] * (kept.shape[0] > 3)


def _net(how: str) -> nn.Module:
    return at.convert(Net(how), CHIP)


def _line(how: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if f"def {how}(" in line)
    return next(i for i in range(start, len(lines)) if "the call site" in lines[i]) + 1


@pytest.mark.parametrize("how", ["call", "direct", "looked_at"])
def test_layers_that_run_are_counted(how: str) -> None:
    report = guard(_net(how), X)
    assert [(row.name, row.kind, row.weights, row.runs) for row in report.layers] == [
        ("first", "Linear", 64, 1),
        ("second", "Linear", 64, 1),
    ]
    assert report.unused == ()
    assert str(report).splitlines() == [
        "layer   kind           weights   runs",
        "first   Linear              64      1",
        "second  Linear              64      1",
        "2 of 2 analog layers ran their analog forward; none was bypassed.",
        "128 of 128 weights that multiply are on the chip (100 %).",
    ]


@pytest.mark.parametrize("how", ["detached", "half", "added"])
def test_a_bypass_is_an_error_with_its_call_site(how: str) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 analog layers are bypassed") as error:
        guard(_net(how), X)
    text = str(error.value)
    assert "'second': aten." in text
    assert f" in (root) (Net), {__file__}:{_line(how)}" in text
    assert "'first'" not in text
    assert "convert(..., exclude=...)" in text


def test_a_copy_made_of_two_weights_names_both() -> None:
    with pytest.raises(ValueError, match=r"2 of 2 analog layers are bypassed") as error:
        guard(_net("copied"), X)
    assert str(error.value).count(f"{__file__}:{_line('copied')}") == 2


def test_an_unused_layer_is_an_error_unless_allowed() -> None:
    model = _net("skipped")
    with pytest.raises(
        ValueError, match=r"1 of 2 analog layers did not run: 'second'\. .*allow_unused=True"
    ):
        guard(model, X)
    report = guard(model, X, allow_unused=True)
    assert report.unused == ("second",)
    assert "NOT REACHED by this example" in str(report)
    assert "1 of 2 analog layers ran" in str(report)


class InTraining(nn.Module):
    """Has a head that runs in training only, as GoogLeNet of torchvision does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4)
        self.aux = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.first(x))
        return (x, self.aux(x)) if self.training else x


@pytest.mark.parametrize("fold", [False, True])
def test_convert_takes_what_its_error_offers_for_unused_layers(fold: bool) -> None:
    options = {"fold_batch_norm": fold, "example": X}
    model = InTraining()
    with pytest.raises(ValueError, match=r"'aux'\. .*allow_unused=True"):
        at.convert(model, CHIP, **options)
    at.convert(model, CHIP, allow_unused=True, **options)
    assert [name for name, _ in at.analog_layers(model)] == ["first", "aux"]
    assert isinstance(model.norm, nn.Identity) == fold


def test_allowing_unused_layers_allows_no_bypass() -> None:
    with pytest.raises(ValueError, match="bypassed"):
        guard(_net("half"), X, allow_unused=True)


def test_nothing_is_changed() -> None:
    model = _net("call")
    model.train()
    model.first.eval()
    model.first.register_forward_pre_hook(
        lambda m, args: (args[0] + 0 * torch.rand(1) + 0 * random.random(),)
    )
    model.norm.register_forward_pre_hook(
        lambda m, args: setattr(m, "count", m.running_mean.add_(np.random.rand()))
    )
    model.norm.count = model.norm.running_mean
    attributes = {name: dict(vars(m)) for name, m in model.named_modules()}
    modes = [m.training for m in model.modules()]
    state = {name: t.clone() for name, t in model.state_dict().items()}
    generators = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    guard(model, X)
    assert {name: dict(vars(m)) for name, m in model.named_modules()} == attributes
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == generators[1:]
    assert all(p.grad is None for p in model.parameters())


def test_nothing_is_changed_when_the_model_fails() -> None:
    model = _net("call").train()
    with pytest.raises(ValueError, match="takes"):
        guard(model, X[:, :5])
    assert model.training
    assert not model.first.taps


def test_a_programmed_chip_keeps_its_counters() -> None:
    view = at.program(_net("call"), seed=1).at("1 day")
    view(X)
    before = view.first.vectors_read.clone()
    guard(view, X)
    assert torch.equal(view.first.vectors_read, before)
    with pytest.raises(ValueError, match="bypassed"):
        guard(at.program(_net("half"), seed=1).at("1 day"), X)


class Tied(nn.Module):
    def __init__(self, lookup: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embed.weight
        self.lookup = lookup

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x) if self.lookup else F.linear(x, self.embed.weight)


def test_a_tied_embedding_may_use_the_weight() -> None:
    report = guard(at.convert(Tied(True), CHIP), torch.arange(5))
    assert report.layers[0].digital_uses == ("embed (Embedding)",)
    assert "also used digitally by embed (Embedding)" in str(report)
    # the embedding's name, one weight
    assert guard(at.convert(Tied(False), CHIP), torch.arange(5)).layers[0].routed


def test_shared_layers_count_every_run_and_convolutions_too() -> None:
    layer = nn.Conv1d(4, 4, 3, padding=1)
    report = guard(at.convert(nn.Sequential(layer, nn.ReLU(), layer), CHIP), torch.randn(2, 4, 9))
    assert [(row.name, row.kind, row.runs) for row in report.layers] == [("0", "Conv1d", 2)]


def test_two_analog_layers_may_hold_one_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    assert [row.runs for row in guard(at.convert(model, CHIP), X).layers] == [1, 1]


def _analog(layer: nn.Linear, name: str) -> nn.Module:
    return at.nn.AnalogLinear.from_digital(layer, CHIP, name)


def _attention() -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    attention.out_proj = _analog(attention.out_proj, "out_proj")
    return attention


def test_the_fused_kernel_of_an_encoder_layer_is_found() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder.linear1, encoder.linear2 = (
        _analog(encoder.linear1, "linear1"),
        _analog(encoder.linear2, "linear2"),
    )
    model = nn.Sequential(
        nn.Linear(8, 8), nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
    )
    model[0] = _analog(model[0], "0")
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert [row.runs for row in guard(model, torch.randn(2, 5, 8)).layers] == [1] * 5
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_a_converted_encoder_runs_every_weight_on_the_chip() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    model = at.convert(nn.Sequential(nn.Linear(8, 8), encoder), CHIP)
    report = guard(model, torch.randn(2, 5, 8))
    assert [row.runs for row in report.layers] == [1] * 9
    assert sum(row.weights for row in report.layers) == sum(
        p.numel() for p in model.parameters() if p.dim() > 1
    )


@pytest.mark.parametrize("fast", [True, False])
def test_the_output_projection_of_attention_is_found_on_both_paths(fast: bool) -> None:
    x, model = torch.randn(2, 5, 8), _attention()
    example = (x, x, x if fast else x + 1)

    def forward(model, example):
        return model(*example, need_weights=False)

    assert [row.routed for row in guard(model, example, forward=forward).layers] == [True]
    model = _attention()
    model.forward = functools.partial(type(model).forward, model)  # which leaves no place for it
    with pytest.raises(
        ValueError, match=r"'out_proj': aten\.\w+ in \(root\) \(MultiheadAttention\)"
    ):
        guard(model, example, forward=forward)


def test_compiled_models_are_watched_too() -> None:
    report = guard(torch.compile(_net("call"), backend="eager"), X)
    assert [(row.name, row.runs) for row in report.layers] == [
        ("_orig_mod.first", 1),
        ("_orig_mod.second", 1),
    ]
    with pytest.raises(ValueError, match="bypassed"):
        guard(torch.compile(_net("half"), backend="eager"), X)


def test_examples_of_every_form() -> None:
    model = _net("call")
    for example in (X, (X, 2.0), {"x": X, "scale": 2.0}):
        assert guard(model, example).unused == ()
    assert guard(model, [X], forward=lambda m, example: m(example[0])).unused == ()
    with pytest.raises(TypeError, match=r"a dictionary.*got list; .*give \(example,\).*forward="):
        guard(model, [X])  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"forward must be a function, forward\(model, example\), got 3"
    ):
        guard(model, X, forward=3)  # type: ignore[arg-type]


def test_a_root_layer_and_its_name() -> None:
    assert guard(at.convert(nn.Linear(8, 2), CHIP), X).layers[0].name == "(root)"


def test_wrong_models_are_refused() -> None:
    with pytest.raises(ValueError, match="no analog layer; call analogtorch.convert"):
        guard(Net(), X)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got Tensor"):
        guard(X, X)  # type: ignore[arg-type]


def test_weights_of_two_layers_that_are_added_in_place_are_both_named() -> None:
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = self.a.weight.clone()
            w += self.b.weight
            return F.linear(self.b(self.a(x)), w)

    with pytest.raises(ValueError, match=r"(?s)'a': aten\.mm .*'b': aten\.mm "):
        guard(at.convert(Merged(), CHIP), X)


def test_a_gradient_is_named_by_the_line_of_the_model() -> None:
    lines = Path(score.__file__).read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(lines, 1) if text.endswith("# the gradient"))
    with pytest.raises(ValueError, match="If forward computes gradients") as error:
        guard(at.convert(score.Score(nn.Linear(8, 1)), CHIP), X)
    assert f" in (root) (Score), {score.__file__}:{line}" in str(error.value)


class Batch:
    """A batch that is an object of a user's class."""

    x = X


class OfBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.linear(batch.x)


@pytest.mark.parametrize(
    ("given", "call"),
    [
        (r"\(example,\)", lambda model, batch: guard(model, batch)),
        (r"\(example,\)", lambda model, batch: at.map_to_chip(model, batch)),
        (r"\(batch,\)", lambda model, batch: at.calibrate(model, [batch], effort="ranges")),
        (
            r"\(batch,\)",
            lambda model, batch: at.hwa.adapt(
                at.to_digital(model), [batch] * 4, chip=CHIP, steps=1, num_chips=1
            ),
        ),
    ],
    ids=["guard", "map_to_chip", "calibrate", "adapt"],
)
def test_an_object_of_a_class_is_given_as_the_only_argument(given: str, call: Callable) -> None:
    with pytest.raises(TypeError, match=f"got Batch; .*give {given}"):
        call(at.convert(OfBatch().eval(), CHIP), Batch())
    call(at.convert(OfBatch().eval(), CHIP), (Batch(),))


@pytest.mark.parametrize("given", [X.numpy(), None, "x", 3])
@pytest.mark.parametrize("name", ["example", "batch"])
def test_what_no_model_takes_gets_no_advice_to_give_it_as_one_argument(
    given: object, name: str
) -> None:
    model: Any = at.convert(OfBatch().eval(), CHIP)
    call: Callable = (
        guard if name == "example" else functools.partial(at.calibrate, effort="ranges")
    )
    with pytest.raises(TypeError, match=f"got {type(given).__name__}; ") as error:
        call(model, given if name == "example" else [given])
    assert f"({name},)" not in str(error.value)
    advised = f"give torch.as_tensor({name})" in str(error.value)
    assert advised is (type(given).__name__ == "ndarray")


class _Rotary(nn.Module):
    """A table in a buffer, filled as far as a number says."""

    def __init__(self) -> None:
        super().__init__()
        self.filled = 0
        self.register_buffer("table", torch.zeros(64, 8), persistent=False)

    def forward(self, length: int) -> Tensor:
        if length > self.filled:
            self.table[:length] = torch.outer(torch.arange(length).float(), 0.1 * torch.ones(8))
            self.filled = length
            self.last = length
        return self.table[:length]


class _Rotated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.rotary = nn.Linear(16, 16), _Rotary()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.q(x).chunk(2, -1)
        table = self.rotary(x.shape[1])
        return torch.cat([a * table.cos() - b * table.sin(), a * table.sin() + b * table.cos()], -1)


def test_a_table_that_is_filled_in_the_run_is_filled_again() -> None:
    torch.manual_seed(0)
    net, x = _Rotated().eval(), torch.randn(2, 10, 16)
    wanted = copy.deepcopy(net)(x)
    given = at.convert(copy.deepcopy(net), at.chips.ideal(), example=x)
    assert given.rotary.filled == 0
    assert not hasattr(given.rotary, "last")
    assert torch.allclose(given(x), wanted, atol=1e-6)
    at.guard(given, torch.randn(2, 20, 16))
    assert given.rotary.filled == 10
    assert torch.allclose(given(x), wanted, atol=1e-6)
    digital = at.quantise_digital(copy.deepcopy(net), example=x)
    assert (digital(x) - wanted).abs().max() < 0.1
    options = {"chip": at.chips.ideal(), "steps": 2, "num_chips": 2, "progress": False}
    adapted = at.hwa.adapt(net, [x] * 4, **options).model
    assert torch.allclose(adapted.eval()(x), wanted, atol=0.5)


class Merging(nn.Linear):
    """Adds an update to its weight in evaluation mode, and takes it out again in training."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -1.0 if mode else 1.0
            self.merged = not mode
        return self


def test_modules_that_act_as_their_mode_changes_are_switched_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Merging()), Merging())
    model[2].eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    modes = [m.training for m in model.modules()]
    with evaluating(model):
        assert model[1][0].merged
        assert model[2].merged
    assert [m.training for m in model.modules()] == modes
    assert not model[1][0].merged
    assert model[2].merged
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name])


class _Batch(nn.Module):
    """Takes a mapping as one argument, and further ones by name."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, batch: dict[str, Tensor], **options: Any) -> Tensor:
        return self.fc(batch["x"])


def test_a_mapping_that_is_no_keyword_arguments_is_explained() -> None:
    model, example = at.convert(_Batch(), at.chips.hermes64()), {"x": torch.zeros(2, 4)}
    words = "where the model takes the mapping as one argument, give \\(example,\\)"
    with pytest.raises(TypeError) as error:
        guard(model, example)
    assert re.search(words, error.value.__notes__[0])
    with pytest.raises(ValueError, match=words):
        at.map_to_chip(model, example)
    assert guard(model, (example,)).unused == ()
    assert len(at.map_to_chip(model, (example,)).placements) == 1
