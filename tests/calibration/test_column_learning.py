"""Gains and offsets of columns that learn on the chip, by the outputs of the model."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration import column_learning, exact_outputs
from tests.calibration.test_columns import _layers, _mean_error, _view, _x
from tests.calibration.test_outputs import detections

CHIP = at.chips.hermes64()
KINDS = ["linear", "conv", "block_diagonal", "transposed", "attention", "lstm"]


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    nn.init.normal_(layers[-1].weight, std=0.6)  # for decisions as clear as those of a trained net
    return nn.Sequential(*layers).eval()


def _loud(count: int, seed: int) -> Tensor:
    """Vectors with a large common part, as features of loud and quiet clips: most of the outputs
    is far from zero, where a ReLU makes nothing of it."""
    return _x(count, 32, seed=seed) + 4 * _x(count, 1, seed=seed + 1)


def _views(digital: nn.Module, x: Tensor, chips: int = 3, chip: at.Chip = CHIP) -> list[nn.Module]:
    model = at.calibrate(at.convert(copy.deepcopy(digital), chip), [x], method="percentile")
    return [at.program(model, seed=seed).at("1 year") for seed in range(chips)]


def _held(view: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    found = ((x.programmed.gains[0], x.programmed.offset) for x in _layers(view))
    return [(gains.clone(), None if o is None else o.clone()) for gains, o in found]


def _same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(_held(a), _held(b), strict=True)
    return all(torch.equal(g, h) and torch.equal(o, p) for (g, o), (h, p) in pairs)


def test_columns_learn_what_fits_of_each_layer_do_not_see() -> None:
    digital, x, fresh = _net(), _loud(256, 1), _loud(1000, 5)

    def divergence(**options: Any) -> float:
        exact, total = digital(fresh).log_softmax(-1), 0.0
        for view in _views(digital, x):
            at.correct_columns(view, x.split(64), **options)
            off = exact - view(fresh).log_softmax(-1)
            total += (exact.exp() * off).sum(-1).mean().item()
        return total

    assert divergence() < 0.85 * divergence(steps=0)
    assert divergence() < 0.85 * divergence(target="layer")


@pytest.mark.parametrize("name", KINDS)
def test_layers_of_all_kinds_learn(name: str) -> None:
    errors = {}
    for steps in (0, 20):
        view, digital, x = _view(name, compensation="none")
        before = [p.requires_grad for p in view.parameters()]
        fitted = x.chunk(2, dim=1 if name == "lstm" else 0)
        at.correct_columns(view, fitted, steps=steps)
        errors[steps] = _mean_error(view, digital, x.flip(0) * 0.9)
        assert [p.requires_grad for p in view.parameters()] == before
        assert all(p.grad is None for p in view.parameters())
        assert not any(layer.taps for layer in _layers(view))
        assert all(not t.requires_grad for held in _held(view) for t in held if t is not None)
    assert errors[20] < 1.02 * errors[0]


def test_it_repeats_and_learns_nothing_from_a_single_batch() -> None:
    digital, x = _net(), _x(64, 32)
    one, fitted, first, second = (_views(digital, x, chips=1)[0] for _ in range(4))
    at.correct_columns(one, [x])
    at.correct_columns(fitted, [x], steps=0)
    assert _same(one, fitted)
    for view in (first, second):
        at.correct_columns(view, x.split(32))
    assert _same(first, second)
    assert not _same(first, at.correct_columns(_views(digital, x, 1)[0], x.split(32), steps=0))


@pytest.mark.parametrize("fit", ["gain", "offset"])
def test_what_is_not_fitted_does_not_learn(fit: Any) -> None:
    digital, x = _net(), _x(64, 32)
    view = _views(digital, x, chips=1)[0]
    gains = [gain for gain, _ in _held(view)]
    at.correct_columns(view, x.split(32), fit=fit)
    for before, (gain, offset) in zip(gains, _held(view), strict=True):
        assert torch.equal(gain, before) == (fit == "offset")
        assert (offset == 0).all() == (fit == "gain")


def test_what_does_not_bring_the_outputs_nearer_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digital, x = _net(), _x(64, 32)
    wild, fitted = (_views(digital, x, chips=1)[0] for _ in range(2))
    at.correct_columns(fitted, x.split(32), steps=0)
    for rate in (30.0, float("inf")):
        monkeypatch.setattr(column_learning, "RATE", rate)
        at.correct_columns(wild := _views(digital, x, chips=1)[0], x.split(32), steps=3)
        assert _same(wild, fitted)


class _Returns(nn.Module):
    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.what = _net(), what

    def forward(self, x: Tensor) -> Any:
        return self.what(self.net(x))


RETURNS = {
    "a mapping": lambda y: {"logits": y, "labels": y.argmax(-1)},
    "one number of each sample": lambda y: y[:, 0],
    "two numbers": lambda y: (y[:, :2], [y[:, 2:3]]),
    "a mask": lambda y: y.masked_fill(torch.arange(10) < 4, -torch.inf),
    "NaN where there is no answer": lambda y: y.masked_fill(torch.arange(10) < 4, torch.nan),
    "a spectrum": lambda y: torch.view_as_complex(y.view(-1, 5, 2)),
    "images": lambda y: y.view(-1, 5, 2, 1),
    "bfloat16": lambda y: y.bfloat16(),
}


ALONE = "two numbers"
"""Outputs of one sample that each test run learns from; the others are slow tests."""


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((name, 32) for name in RETURNS),
        *(pytest.param(n, 1, marks=() if n == ALONE else pytest.mark.slow) for n in RETURNS),
    ],
)
def test_outputs_of_all_kinds_are_learnt_by(name: str, count: int) -> None:
    model, x = _Returns(RETURNS[name]), _loud(64, 1)
    view, fitted = (_views(model, x, chips=1)[0] for _ in range(2))
    at.correct_columns(view, x.split(count), steps=64)
    at.correct_columns(fitted, x.split(count), steps=0)
    assert not _same(view, fitted)
    assert all(t.isfinite().all() for held in _held(view) for t in held if t is not None)


class _Doubles(nn.Module):
    """Two layers, between which ``how`` changes the numbers."""

    def __init__(self, how: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.how = nn.Linear(32, 24), nn.Linear(24, 10), how
        self.register_buffer("state", torch.zeros(32, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.how(self, self.first(x).sigmoid()))


def _in_state(model: nn.Module, h: Tensor) -> Tensor:
    model.state[:, :12] = h[:, :12]
    return model.state + h


UNDIFFERENTIABLE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "in place": lambda model, h: h.mul_(2),
    "numpy": lambda model, h: torch.from_numpy(h.numpy() * 2),
    "out": lambda model, h: torch.add(h, 1, out=torch.empty_like(h.detach())),
}


@pytest.mark.parametrize("name", UNDIFFERENTIABLE)
@pytest.mark.filterwarnings("ignore:calibrate. inputs have a mean:UserWarning")
def test_models_that_cannot_be_differentiated_are_named_and_fitted(name: str) -> None:
    digital, x = _Doubles(UNDIFFERENTIABLE[name]), _x(64, 32)
    view, fitted = (_views(digital, x.split(32)[0], chips=1)[0] for _ in range(2))
    with pytest.warns(UserWarning, match=r"the model gives no gradients \(.*steps=0"):
        at.correct_columns(view, x.split(32))
    at.correct_columns(fitted, x.split(32), steps=0)
    assert _same(view, fitted)


def test_a_model_that_draws_random_numbers_is_named_and_fitted() -> None:
    digital, x = _Doubles(lambda model, h: h + torch.randn_like(h)), _x(64, 32)
    view, fitted = (_views(digital, x[:32], chips=1)[0] for _ in range(2))
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match=r"draws random numbers in evaluation mode.*steps=0"):
        at.correct_columns(view, x.split(32))
    torch.manual_seed(5)
    at.correct_columns(fitted, x.split(32), steps=0)
    assert _same(view, fitted)


@pytest.mark.filterwarnings("ignore:calibrate. inputs have a mean:UserWarning")
def test_a_buffer_that_the_model_writes_stays_outside_of_the_graph() -> None:
    digital, x = _Doubles(_in_state), _x(64, 32)
    view, fitted = (_views(digital, x[:32], chips=1)[0] for _ in range(2))
    at.correct_columns(view, x.split(32), steps=8)
    assert not view.state.requires_grad
    copy.deepcopy(view)
    assert not _same(view, at.correct_columns(fitted, x.split(32), steps=0))


def test_masked_classes_take_no_part_in_the_divergence() -> None:
    y, masked = -_x(50, 10).abs(), torch.arange(10) < 4
    other = y.flip(1).roll(4, 1)
    whole = exact_outputs._Output([y.masked_fill(masked, -torch.inf)])
    alone = exact_outputs._Output([y[:, 4:]])
    for output in (whole, alone):
        assert output._scores
        output._variance, output._temperature = torch.tensor(torch.inf), 0.5
    assert whole.error(y, 0) == 0
    found, wanted = whole.error(other, 0), alone.error(other[:, 4:], 0)
    assert wanted > 0.1
    torch.testing.assert_close(found, wanted)


def test_batches_that_reach_no_layer_are_named() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if len(x) > 8 else 2 * x

    x = _x(16, 8)
    view = _views(Skips(), x, chips=1)[0]
    with pytest.raises(ValueError, match="1 analog layer never ran|1 of 1 analog layers never ran"):
        at.correct_columns(view, [x[:4], x[4:8]])


def test_a_batch_on_another_path_teaches_nothing_and_does_no_harm() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if len(x) > 8 else torch.zeros(len(x), 10)

    x = _loud(136, 1)
    view, fitted = (_views(Parts(), x, chips=1)[0] for _ in range(2))
    batches = [x[:8], x[8:72], x[72:]]
    at.correct_columns(view, batches)
    assert not _same(view, at.correct_columns(fitted, batches, steps=0))


NO_GRADIENT = {
    "no gradient": lambda model, x: torch.no_grad()(model)(x),
    "inference": lambda model, x: torch.inference_mode()(model)(x).clone(),
    "tokens": lambda model, x: model(x).argmax(-1),
    "nothing": lambda model, x: [model(x)].clear(),
    "detections": detections,
}


@pytest.mark.parametrize("name", NO_GRADIENT)
def test_outputs_without_a_gradient_are_named_and_fitted(name: str) -> None:
    digital, x = _net(), _x(64, 32)
    view, fitted = (_views(digital, x, chips=1)[0] for _ in range(2))
    forward = NO_GRADIENT[name]
    with pytest.warns(UserWarning, match=r"do not learn from the outputs.*steps=0"):
        at.correct_columns(view, x.split(32), forward=forward)
    at.correct_columns(fitted, x.split(32), forward=forward, steps=0)
    assert _same(view, fitted)


def test_shapes_that_depend_on_values_are_named_as_such() -> None:
    def boxes(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        return y[y > 0]

    x = _x(64, 32)
    why = r"shapes .* such as \(\d+, 1\) for \(\d+, 1\), .* pass forward=.* or pass steps=0"
    with pytest.warns(UserWarning, match=why) as caught:
        at.correct_columns(_views(_net(), x, chips=1)[0], x.split(32), forward=boxes)
    assert not any("gradient" in str(warning.message) for warning in caught)


def test_in_inference_mode_it_is_fitted_and_named() -> None:
    digital, x = _net(), _x(64, 32)
    view = _views(digital, x, chips=1)[0]
    with (
        torch.inference_mode(),
        pytest.warns(UserWarning, match="inference_mode.*do not learn"),
    ):
        at.correct_columns(view, [t.clone() for t in x.split(32)])


BAD = {
    "negative": ({"steps": -1}, "steps must be an integer >= 0, or None, got -1"),
    "no integer": ({"steps": 2.0}, "steps must be an integer >= 0, or None, got 2.0"),
    "layer": ({"steps": 3, "target": "layer"}, "leave one of them out"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_steps_are_refused_and_change_nothing(name: str) -> None:
    options, message = BAD[name]
    digital, x = _net(), _x(64, 32)
    view = _views(digital, x, chips=1)[0]
    with pytest.raises(ValueError, match=message):
        at.correct_columns(view, x.split(32), **options)
    assert all(offset is None for _, offset in _held(view))


def test_a_recovery_learns_as_correct_columns_does() -> None:
    digital, x = _net(), _x(64, 32)
    by_hand, recovered = (_views(digital, x, chips=1)[0] for _ in range(2))
    at.correct_columns(by_hand, x.split(32), steps=5)
    at.Recovery(batches=x.split(32), steps=5).correct(recovered)
    assert _same(by_hand, recovered)
    assert at.Recovery(batches=x.split(32)).learning_steps == 30
    assert at.Recovery(batches=[x]).learning_steps == 0
    assert at.Recovery(batches=x.split(32), batch_norm=True).learning_steps == 0
    for options in ({"target": "layer"}, {"batch_norm": True}):
        with pytest.raises(ValueError, match="steps=5 learn to follow the model"):
            at.Recovery(batches=[x], steps=5, **options)
    with pytest.raises(ValueError, match="Recovery.steps must be an integer >= 0"):
        at.Recovery(batches=[x], steps=-1)


def test_steps_are_charged_by_the_batch() -> None:
    x = _x(64, 32)

    def runs(**options: Any) -> float:
        return at.Recovery(batches=x.split(16), **options).runs(noisy=True)

    assert runs(steps=0) == 2 * 2 + 1  # with the fits once more, beside the first run without
    assert runs(steps=0, rounds=1) == 2 + 2
    assert runs(target="layer") == 2 * 2
    # ten steps of one of the four batches, which all judge, before and after
    assert runs(steps=10) == 2 * 2 + 10 / 4 + 2
    assert runs(steps=10, columns=None, batch_norm=True) == 1


class _Units(nn.Module):
    """A regression of three quantities of which the last one has another unit."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.net, self.unit = _net(), unit

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)[:, :3]
        return torch.cat([y[:, :2], self.unit * y[:, 2:]], 1)


class _Head(_Units):
    """The same, whose last layer has the unit."""

    def __init__(self, unit: float) -> None:
        super().__init__(1.0)
        head = self.net[-1]
        with torch.no_grad():
            head.weight[2] *= unit
            head.bias[2] *= unit


@pytest.mark.parametrize("kind", [_Units, _Head])
@pytest.mark.parametrize("unit", [pytest.param(100.0, marks=pytest.mark.slow), 1e4, 1e-4])
def test_quantities_of_all_units_gain(unit: float, kind: type[_Units]) -> None:
    """One of another size must not hide what the others are off, nor be hidden by them."""
    digital, x, fresh = kind(unit), _x(256, 32, seed=1), _x(1000, 32, seed=5)
    exact = digital(fresh).detach()
    # one weight scale would leave the cells of the smallest row nothing but errors
    chip = CHIP if kind is _Units else at.chips.hermes64(weight_scale="column")

    def errors(**options: Any) -> Tensor:
        """Return the squared error of each quantity in units of its variance."""
        off = torch.zeros(3)
        for view in _views(digital, x, 4, chip):
            at.correct_columns(view, x.split(64), **options)
            off += (view(fresh) - exact).detach().square().mean(0) / exact.var(0)
        return off

    assert (errors() < 0.9 * errors(steps=0)).all()


class _Padded(nn.Module):
    """A net of sequences that gives nonsense where nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _net()

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        y = self.net(x)
        return torch.where(attention_mask.bool().unsqueeze(-1), y, (20 * y).sin())


def test_what_a_model_gives_for_padding_is_not_learnt() -> None:
    digital, x, fresh = _Padded(), _loud(256, 1).view(16, 16, 32), _loud(1000, 5)
    mask = (torch.arange(16) < 5).long().expand(16, 16)
    batches = [
        {"x": a, "attention_mask": b} for a, b in zip(x.split(4), mask.split(4), strict=True)
    ]
    exact = digital.net(fresh).detach()

    def error(**options: Any) -> float:
        total = 0.0
        model = at.convert(copy.deepcopy(digital), CHIP)
        at.calibrate(model, batches, effort="ranges", method="percentile")
        for seed in range(4):
            view = at.correct_columns(at.program(model, seed=seed).at("1 year"), batches, **options)
            total += (view.net(fresh) - exact).detach().square().mean().item()
        return total

    assert error() < 0.95 * error(steps=0)


@pytest.mark.parametrize("masked", [4, 6])
def test_masked_classes_do_not_make_others_quantities(masked: int) -> None:
    y = torch.randn(200, 10)
    whole = exact_outputs._Output([y.masked_fill(torch.arange(10) < masked, -torch.inf)])
    alone = exact_outputs._Output([y[:, masked:]])
    assert whole._scores
    assert alone._scores
    assert not exact_outputs._Output([y * torch.logspace(0, 3, 10)])._scores


def test_a_sequence_that_varies_at_some_positions_says_something() -> None:
    y = torch.zeros(64, 8, 4)
    y[:, 1::2] = torch.randn(64, 4, 4)  # every 2nd of its vectors alone
    assert exact_outputs._Output([y]).varies
    assert not exact_outputs._Output([torch.ones(64, 4)]).varies


def _alarm(bound: Tensor) -> Callable[[Tensor], Any]:
    """Return logits, and an alarm that is raised where one is above its bound."""
    return lambda y: (y, (y.amax(1, keepdim=True) - bound).relu())


def test_an_output_that_is_the_same_for_all_inputs_does_not_count() -> None:
    x = _loud(64, 1)
    with_alarm = _Returns(_alarm(_net()(x).max().detach() + 1))  # which a chip raises now and then
    alone = _Returns(lambda y: y)
    a, b = (_views(model, x, chips=1)[0] for model in (with_alarm, alone))
    assert a(x)[1].any()
    assert _same(at.correct_columns(a, x.split(16)), at.correct_columns(b, x.split(16)))


def test_outputs_that_are_all_the_same_are_named() -> None:
    x = _loud(64, 1)
    (view,) = _views(_Returns(lambda y: y.clamp(1, 1)), x, chips=1)
    with pytest.warns(UserWarning, match=r"the exact model returns the same for all inputs.*steps"):
        at.correct_columns(view, x.split(16))
