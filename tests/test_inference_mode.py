"""What is made or changed inside ``torch.inference_mode()`` gives gradients outside."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at

X = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
CHIP = at.chips.hermes64()


def _net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    net(X)
    return net.eval()


def _norm() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    net[3].weight = net[1].weight
    return net


def _analog() -> nn.Module:
    return at.calibrate(at.convert(_net(), CHIP), [X], effort="ranges")


def _smoothed(net: nn.Module) -> nn.Module:
    assert at.smooth_channels(net, [X * torch.linspace(0.01, 30, 16)], untie=True).moved
    return net


def _moved(view: nn.Module) -> nn.Module:
    assert at.reestimate_batch_norm(view, [X])
    return view


def _folded(net: nn.Module) -> nn.Module:
    return at.convert(net, CHIP, fold_batch_norm=True, example=X)


def _view() -> nn.Module:
    return at.program(_analog(), seed=1).at("1 day")


WORK: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module]]] = {
    "convert": (_net, lambda net: at.convert(net, CHIP)),
    "fold": (_net, _folded),
    "smooth": (_norm, _smoothed),
    "calibrate": (_analog, lambda model: at.calibrate(model, [X], effort="ranges")),
    "program": (_analog, lambda model: at.program(model, seed=1).at("1 day")),
    "columns": (_view, lambda view: at.correct_columns(view, [X])),
    "columns of double": (lambda: _view().double(), lambda v: at.correct_columns(v, [X.double()])),
    "norms": (_view, _moved),
}


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield all tensors of a model, those of a chip too."""
    for module in model.modules():
        yield from (t for t in module._parameters.values() if t is not None)
        yield from (t for t in module._buffers.values() if t is not None)
        if isinstance(module, at.nn.AnalogLayer) and module.programmed is not None:
            held: list[Tensor] = []
            module.programmed.map(lambda t, held=held: (held.append(t), t)[1])
            yield from held


@pytest.mark.parametrize("name", WORK)
def test_work_inside_inference_mode_leaves_tensors_that_serve_outside(name: str) -> None:
    make, work = WORK[name]
    given = make()
    with torch.inference_mode():
        model = work(given)
    assert not [t.shape for t in _tensors(model) if t.is_inference()]
    x = X.to(next(model.parameters()).dtype, copy=True).requires_grad_()
    y, expected = model(x), work(make())
    assert torch.equal(y, expected(x.detach()))
    y.square().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("first", ["0 s", "1 day"])
def test_a_chip_gives_views_inside_and_outside(first: str) -> None:
    physical = at.program(_analog(), seed=1)
    with torch.inference_mode():
        physical.at(first)
        physical.yield_map()
        physical.writes()
    view = physical.at("1 day")
    assert not [t.shape for t in _tensors(view) if t.is_inference()]
    assert torch.equal(view(X), at.program(_analog(), seed=1).at("1 day")(X))


def test_a_chip_of_weights_made_inside_gives_gradients() -> None:
    with torch.inference_mode():
        model = _analog()
    x = X.clone().requires_grad_()
    at.program(model, seed=1).at("1 day")(x).sum().backward()
    assert x.grad is not None
