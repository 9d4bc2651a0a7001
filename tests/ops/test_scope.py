import contextlib
import copy
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import analogtorch as at
from analogtorch.ops import native, recomputed
from tests.crossbar import crossbar

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def _model() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(
        nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.Linear(16, 4)), crossbar()
    )


def test_the_same_line_gives_the_same_noise_and_another_step_another() -> None:
    model = _model()
    with at.noise(5, step=3):
        first, second = model(X), model(X)
    with at.noise(5, step=3):
        assert torch.equal(model(X), first)
        assert torch.equal(model(X), second)
    assert not torch.equal(first, second)
    for other in (
        {"seed": 6, "step": 3},
        {"seed": 5, "step": 4},
        {"seed": 5, "step": 3, "rank": 1},
    ):
        with at.noise(**other):
            assert not torch.equal(model(X), first)


def test_outside_nothing_is_changed() -> None:
    model = _model()
    torch.manual_seed(1)
    expected = [model(X), model(X)]
    torch.manual_seed(1)
    seen = [model(X)]
    with at.noise(5):
        model(X)
    seen.append(model(X))
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    with pytest.raises(RuntimeError, match="on purpose"), at.noise(5):
        raise RuntimeError("on purpose")


def test_a_default_device_changes_nothing() -> None:
    with at.noise(5, step=3):
        expected = torch.rand(3)
    with torch.device("meta"), at.noise(5, step=3):
        assert torch.equal(torch.rand(3, device="cpu"), expected)


def _in_thread(call: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1, thread_name_prefix="second") as pool:
        return pool.submit(call).result()


def test_one_thread_at_a_time_is_in_a_scope() -> None:
    model = _model()

    def scoped() -> torch.Tensor:
        with at.noise(7):
            return model(X)

    before = torch.get_rng_state()
    expected = scoped()
    with at.noise(8):
        with pytest.raises(RuntimeError, match=r"noise: thread 'MainThread' is .*second.*Lock"):
            _in_thread(scoped)
        _in_thread(lambda: model(X))  # what opens no scope is no error, and draws from it
        with at.noise(7):
            assert torch.equal(model(X), expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(_in_thread(scoped), expected)


def test_a_thread_that_ended_inside_a_scope_does_not_keep_others_out() -> None:
    state, left = torch.get_rng_state(), at.noise(7)
    _in_thread(left.__enter__)
    with at.noise(8):
        pass
    left.__exit__(None, None, None)
    assert torch.equal(torch.get_rng_state(), state)


def test_two_models_are_compared_under_the_same_noise() -> None:
    a = _model()
    b = copy.deepcopy(a)
    with torch.no_grad():
        b[2].bias.add_(1.0)
    with at.noise(5):
        ya = a(X)
    with at.noise(5):
        yb = b(X)
    assert torch.allclose(yb - ya, torch.ones_like(ya), atol=1e-6)


def test_checkpointing_with_backward_outside_the_scope() -> None:
    gradients = []
    for checkpointed in (True, False):
        model = _model()
        with at.noise(5, step=70):  # that no other test numbers otherwise
            y = checkpoint(model, X, use_reentrant=False) if checkpointed else model(X)
        torch.rand(3)  # whatever happens between
        y.square().sum().backward()
        gradients.append(model[0].weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_checkpointing_that_restores_no_random_state_is_refused(
    reentrant: bool, inside: bool
) -> None:
    model, x = _model(), X.clone().requires_grad_()
    with contextlib.ExitStack() as scope:
        scope.enter_context(at.noise(5, step=72))
        y = checkpoint(model, x, use_reentrant=reentrant, preserve_rng_state=False)
        if not inside:
            scope.close()
        with pytest.raises(RuntimeError, match="leave preserve_rng_state .* at True"):
            y.square().sum().backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_scope_inside_the_checkpointed_function_needs_no_random_state(reentrant: bool) -> None:
    model, x, gradients = _model(), X.clone().requires_grad_(), []

    def run(x: torch.Tensor) -> torch.Tensor:
        with at.noise(5, step=72):
            return model(x)

    for y in (checkpoint(run, x, use_reentrant=reentrant, preserve_rng_state=False), run(x)):
        gradients += torch.autograd.backward(y.square().sum()) or [model[0].weight.grad]
        model.zero_grad()
    assert torch.equal(*gradients)


def test_layers_that_run_in_a_backward_draw_as_elsewhere() -> None:
    model, x, seen = _model(), X.clone().requires_grad_(), []
    x.register_hook(lambda g: seen.append(model(X)))  # no recomputation of anything
    model(x).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backward_of_a_checkpoint_may_run_other_layers(reentrant: bool) -> None:
    model, other, seen = _model(), _model(), []

    class Implicit(torch.autograd.Function):
        """A function whose backward runs a checkpointed model for the first time."""

        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            with torch.enable_grad():
                seen.append(checkpoint(other, X.clone().requires_grad_(), use_reentrant=reentrant))
            return gradient

    model[0].register_full_backward_hook(lambda *_: seen.append(other(X)))
    y = checkpoint(model, Implicit.apply(X.clone().requires_grad_()), use_reentrant=reentrant)
    y.sum().backward()
    assert len(seen) == 2


def test_a_checkpoint_of_more_layers_than_are_remembered_is_recomputed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = recomputed._Drawn()
    few.MOST = 3  # type: ignore[misc]
    monkeypatch.setattr("analogtorch.ops.seed.drawn", few)
    model, gradients = _model(), []

    def run(x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = model[0](x)
        return x

    for again in (True, False):
        torch.manual_seed(0)
        y = checkpoint(run, X, use_reentrant=False) if again else run(X)
        y.square().sum().backward()
        gradients.append(model[0].weight.grad.clone())
        model.zero_grad()
    assert few.forgotten
    assert torch.equal(*gradients)
    checkpoint(model, X, use_reentrant=False).sum().backward()  # of few layers
    again = checkpoint(model, X, use_reentrant=False, preserve_rng_state=False)
    with pytest.raises(RuntimeError, match="leave preserve_rng_state .* at True"):
        again.sum().backward()


def _noisy() -> nn.Module:
    """Return a model with training noise in the weights and in the ADC outputs."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1), nn.Tanh(), nn.Flatten(1), nn.Linear(6 * 10, 4)
    )
    return at.convert(layers, crossbar())


LINES = torch.randn(9, 4, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("parts", [[9], [1, 3, 5], [1] * 9])
def test_parts_of_a_batch_see_the_noise_of_the_whole(parts: list[int]) -> None:
    model = _noisy()
    with at.noise(5, step=3):
        expected = model(LINES)
    expected.square().sum().backward()
    gradient, seen, first = model[0].weight.grad.clone(), [], 0
    model.zero_grad()
    for part in LINES.split(parts):
        with at.noise(5, step=3, first_sample=first):
            y = model(part)
        y.square().sum().backward()
        seen.append(y)
        first += len(part)
    if native.available():  # torch's own products add up in another order for another batch
        assert torch.equal(torch.cat(seen), expected)
    assert torch.allclose(torch.cat(seen), expected, atol=1e-4)
    assert torch.allclose(model[0].weight.grad, gradient, atol=1e-4)
    with at.noise(5, step=3):
        without_first_sample = model(LINES[1:])
    assert not torch.allclose(without_first_sample, expected[1:], atol=1e-4)


def test_numbers_count_samples_not_vectors() -> None:
    torch.manual_seed(0)
    model, x = at.convert(nn.Sequential(nn.Linear(8, 4)), crossbar()), torch.randn(6, 5, 8)
    with at.noise(2):
        expected = model(x)
    with at.noise(2, first_sample=4):
        assert torch.allclose(model(x[4:]), expected[4:], atol=1e-5)


def test_checkpointed_parts_find_their_samples_or_say_why_not() -> None:
    model, gradients = _noisy(), []
    for checkpointed in (True, False):
        model.zero_grad()
        with at.noise(5, step=8, first_sample=3):
            y = (
                checkpoint(model, LINES[3:], use_reentrant=False)
                if checkpointed
                else model(LINES[3:])
            )
        # outside: recomputes with the number of the scope that is closed
        y.square().sum().backward()
        gradients.append(model[0].weight.grad.clone())
    assert torch.equal(*gradients)
    with at.noise(5, step=9, first_sample=0):
        first = checkpoint(model, LINES[:3], use_reentrant=False)
    with at.noise(5, step=9, first_sample=3):
        second = checkpoint(model, LINES[3:], use_reentrant=False)
    with at.noise(5, step=9, first_sample=6):
        model(LINES[6:])
    with pytest.raises(
        RuntimeError, match=r"several first_sample: \[0, 3, 6\]; call backward\(\) inside"
    ):
        second.sum().backward()
    del first


@pytest.mark.parametrize("argument", ["step", "rank", "first_sample"])
def test_negative_numbers_are_refused(argument: str) -> None:
    with (
        pytest.raises(ValueError, match=f"{argument} must be an integer >= 0, got -1"),
        at.noise(1, **{argument: -1}),
    ):
        pass


_SCRIPT = """
import torch, analogtorch as at
from tests.crossbar import crossbar
torch.set_num_threads(1)
torch.manual_seed(0)
model = at.convert(torch.nn.Linear(16, 4), crossbar())
x = torch.linspace(-1, 1, 32).view(2, 16)
with at.noise(5, step=120):
    print(model(x).flatten().tolist())
"""


def test_a_step_is_replayed_in_a_fresh_process() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Linear(16, 4), crossbar())
    with at.noise(5, step=120):
        y = model(torch.linspace(-1, 1, 32).view(2, 16))
    out = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
    ).stdout
    assert eval(out) == pytest.approx(y.flatten().tolist(), abs=1e-6)


@pytest.mark.parametrize(
    "kwargs", [{"seed": 2**63}, {"seed": 1, "step": -1}, {"seed": 1, "rank": True}]
)
def test_bad_arguments_are_refused(kwargs: dict) -> None:
    with pytest.raises(ValueError, match="must"), at.noise(**kwargs):
        pass
