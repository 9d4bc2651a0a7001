"""torch.compile: one graph, the eager numbers, training and evaluation, batches of any size."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import analogtorch as at
from tests.crossbar import crossbar

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def _model(**parts: Any) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(1),
        nn.Linear(72, 10),
    )
    model = at.convert(layers, crossbar(**parts))
    at.calibrate(model, [_x(4)])
    return model


def _x(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))


def _step(model: nn.Module, n: int) -> tuple[Tensor, ...]:
    model.zero_grad()
    with at.noise(3, step=n):
        y = model(_x(n))
    if model.training:
        y.square().mean().backward()
    return y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("training", [True, False])
def test_one_graph_serves_every_batch_size(training: bool) -> None:
    model, counter = _model().train(training), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for n in (4, 7, 5, 12):
        eager, traced = _step(model, n), _step(compiled, n)
        assert len(eager) == len(traced) == (7 if training else 1)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(eager, traced, strict=True))
        graphs.append(counter.frame_count)
    assert len(set(graphs)) == 1  # what the first batch traced


class _Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


@pytest.mark.parametrize(
    ("wrap", "backend"),
    [
        pytest.param(nn.Sequential, "inductor", marks=pytest.mark.slow),
        (_Checkpointed, "aot_eager"),
        pytest.param(_Checkpointed, "inductor", marks=pytest.mark.slow),
    ],
)
def test_inductor_and_checkpointing_give_the_eager_numbers(
    wrap: Callable[[nn.Module], nn.Module], backend: str
) -> None:
    model = _model()
    wrapped = wrap(copy.deepcopy(model))
    compiled = torch.compile(wrapped, fullgraph=True, dynamic=False, backend=backend)
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(_step(model, 4), _step(compiled, 4), strict=True)
    )


def test_a_programmed_chip_compiles() -> None:
    chip = at.program(_model(), seed=1)
    eager, compiled = (
        chip.at("1 day"),
        torch.compile(chip.at("1 day"), fullgraph=True, dynamic=True, backend="aot_eager"),
    )
    for n in (4, 6):  # its count of vectors goes on
        assert torch.allclose(eager(_x(n)), compiled(_x(n)), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_in_a_graph_returns_its_type(dtype: torch.dtype) -> None:
    model = _model()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype):
        eager, traced = _step(model, 4), _step(compiled, 4)
    assert eager[0].dtype == traced[0].dtype == dtype
    # between the layers, eager and graph round half precision in other places
    assert all(
        torch.allclose(a, b, atol=0.02 * b.abs().max()) for a, b in zip(eager, traced, strict=True)
    )


@pytest.mark.parametrize("training", [True, False])
def test_slices_compile_into_one_graph(training: bool) -> None:
    slices = {"weight_bits": 6, "bits_per_slice": 2, "bits_per_pulse": 3}
    model = _model(slices=slices).train(training)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    eager, traced = _step(model, 4), _step(compiled, 4)
    assert len(eager) == len(traced)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(eager, traced, strict=True))
