"""What torch does to a model: checkpointing, autocast, compilation, other parameters."""

import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import analogtorch as at
from tests.ecosystem.models import CHIP, COMPILED, ENTRIES, TORCHS_OWN, Entry

pytestmark = TORCHS_OWN


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch._dynamo.reset()


def _gradients(
    model: nn.Module, entry: Entry, run: Callable[..., Tensor] | None = None
) -> list[Tensor]:
    """Return the gradients of one training step's loss, and its output."""
    model.train().zero_grad()
    with at.noise(515, step=3):
        y = (model if run is None else run)(*entry.inputs())
    y.square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def _equal(a: list[Tensor], b: list[Tensor], tolerance: float = 0.0) -> None:
    for x, y in zip(a, b, strict=True):
        assert torch.allclose(x, y, rtol=0, atol=tolerance * y.detach().abs().max().item())


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_gradients_of_the_same_noise(entry: Entry, reentrant: bool) -> None:
    model, one = entry.analog(), torch.ones((), requires_grad=True)

    def run(*x: Tensor) -> Tensor:  # the backward comes outside the scope of the noise
        y = checkpoint(lambda one, *x: model(*x) * one, one, *x, use_reentrant=reentrant)
        assert isinstance(y, Tensor)
        return y

    _equal(_gradients(model, entry, run), _gradients(model, entry))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_a_programmed_chip_is_refused_where_its_noise_has_passed(
    reentrant: bool,
) -> None:
    model = ENTRIES[0].analog().eval()
    (x,) = ENTRIES[0].inputs()

    def gradient(chip: at.Chip, run: Callable[..., Tensor]) -> Tensor:
        model.layer.chip = chip
        view, given = at.program(model, seed=1).at("1 day"), x.clone().requires_grad_()
        run(view, given).square().sum().backward()
        assert given.grad is not None
        return given.grad

    def checkpointed(view: nn.Module, x: Tensor) -> Tensor:
        y = checkpoint(view, x, use_reentrant=reentrant)
        assert isinstance(y, Tensor)
        return y

    assert CHIP.output_noise > 0
    with pytest.raises(RuntimeError, match="Do without checkpointing"):
        gradient(CHIP, checkpointed)
    quiet = CHIP.without("output_noise")
    assert torch.equal(gradient(quiet, checkpointed), gradient(quiet, lambda view, x: view(x)))


def test_autocast_is_the_digital_layers(entry: Entry) -> None:
    model, digital = entry.analog(), entry.digital()
    exact = [t.float() for t in _gradients(model, entry)]
    with torch.autocast("cpu", torch.bfloat16):
        lower = _gradients(model, entry)
        assert lower[0].dtype == digital(*entry.inputs()).dtype
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    # bfloat16 moves some sums over the edge of a converter's step, which a recurrence carries on;
    # what a range learns depends on the few inputs that it clips
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(lower, exact, strict=True)]
    assert errors[0] < 0.05
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(
        e < 0.25
        for name, e in zip(names, errors[1:], strict=True)
        if not name.endswith("input_range")
    )
    assert all(t.isfinite().all() for t in lower)


@pytest.mark.parametrize("entry", COMPILED)
def test_compiled_without_a_break_it_gives_the_eager_numbers(entry: Entry) -> None:
    model = entry.analog()
    twin = copy.deepcopy(model)
    # without it, torch refuses its own recurrent layers too
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
        _equal(_gradients(twin, entry, compiled), _gradients(model, entry), 1e-5)


@pytest.mark.skipif(not shutil.which("c++"), reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_inductor_gives_the_eager_numbers() -> None:
    entry = next(e for e in ENTRIES if e.name == "linear")
    model = entry.analog()
    twin = copy.deepcopy(model)
    _equal(
        _gradients(twin, entry, torch.compile(twin, fullgraph=True)), _gradients(model, entry), 1e-5
    )


def test_functional_call_is_what_assigning_would_give(entry: Entry) -> None:
    model = entry.analog()
    other = {
        name: (p.detach() * 0.7 + 0.01).requires_grad_() for name, p in model.named_parameters()
    }
    assigned = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in assigned.named_parameters():
            parameter.copy_(other[name])
    expected = _gradients(assigned, entry)
    with at.noise(515, step=3):
        y = torch.func.functional_call(model, other, entry.inputs())
    taken = torch.autograd.grad(
        y.square().sum(), [other[n] for n, p in model.named_parameters() if p.requires_grad]
    )
    _equal([y, *taken], expected)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(NotImplementedError, match=r"torch\.func\.grad/jvp are not supported"):
        torch.func.grad(lambda w: torch.func.functional_call(model, w, entry.inputs()).sum())(other)


def test_gradients_around_vmap_are_refused_by_name() -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 4)), at.chips.hermes64()).eval()
    x = torch.randn(6, 8)
    with pytest.raises(NotImplementedError, match=r"layer '0': .*torch\.func\.grad/jvp are not su"):
        torch.func.grad(lambda z: torch.func.vmap(model)(z).sum())(x)
    twice = torch.func.vmap(torch.func.vmap(model))(x.view(2, 3, 8))
    assert torch.equal(twice.view(6, 4), model(x))
