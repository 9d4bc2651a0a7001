"""The gates of recurrent layers: the CPU kernels against torch in double precision."""

import pytest
import torch
from torch import Tensor

from analogtorch.ops import gates, native
from analogtorch.ops.native.gates import MODES
from analogtorch.ops.native.gates import gates as number_of_gates

pytestmark = pytest.mark.skipif(
    not native.available(), reason="the CPU kernels are not built: no C compiler"
)


def _given(mode: str, samples: tuple[int, ...], size: int, scale: float) -> list[Tensor]:
    torch.manual_seed(0)
    products = [torch.randn(*samples, number_of_gates(mode) * size) * scale for _ in range(2)]
    return [*products, torch.randn(*samples, size)]


def _results(mode: str, given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    x, products, before = (t.to(dtype).requires_grad_() for t in given)
    found = gates.next_state(mode, x, products, (before,))
    weights = [torch.linspace(-1, 2, h.numel(), dtype=dtype).view_as(h) for h in found]
    taken = (x, products, before) if mode in ("GRU", "LSTM") else (x, products)
    return [*found, *torch.autograd.grad(found, taken, weights)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("samples", "size", "scale"), [((5,), 37, 1.0), ((2, 3), 16, 0.01), ((), 3, 1.0), ((4,), 1, 9)]
)
def test_kernels_give_torchs_states_and_gradients(
    mode: str, samples: tuple[int, ...], size: int, scale: float, capability: str
) -> None:
    given = _given(mode, samples, size, scale)
    found, exact = (_results(mode, given, dtype) for dtype in (torch.float32, torch.float64))
    for y, t in zip(found, exact, strict=True):
        # roundings of numbers of order 1, and of small ones next to zero
        torch.testing.assert_close(y.double(), t, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("mode", MODES)
def test_the_operator_computes_without_kernels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = _given(mode, (2, 3), 16, 1.0)
    exact = _results(mode, given, torch.float64)
    monkeypatch.setattr(gates.native, "takes", lambda *_: False)
    for y, t in zip(_results(mode, given, torch.float32), exact, strict=True):
        torch.testing.assert_close(y.double(), t, rtol=2e-6, atol=2e-7)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("learns", [False, True])
def test_the_operator_is_one(mode: str, learns: bool) -> None:
    x, products, before = (t.requires_grad_(learns) for t in _given(mode, (2,), 3, 1.0))
    torch.library.opcheck(torch.ops.analogtorch.gates, (x, products, before, mode, learns))


@pytest.mark.parametrize("mode", MODES)
def test_limits_and_numbers_that_are_none(mode: str, capability: str) -> None:
    for value in (float("nan"), float("inf"), -float("inf"), 1e30, -1e30):
        x, products, before = _given(mode, (2,), 3, 1.0)
        x[0].fill_(value)
        found, exact = (
            gates.next_state(mode, x.to(kind), products.to(kind), (before.to(kind),))
            for kind in (torch.float32, torch.float64)
        )
        for y, t in zip(found, exact, strict=True):
            torch.testing.assert_close(y.double(), t, rtol=2e-6, atol=2e-7, equal_nan=True)


def test_the_last_cell_alone_may_have_a_gradient() -> None:
    x, products, before = (t.requires_grad_() for t in _given("LSTM", (2,), 3, 1.0))
    _, c = gates.next_state("LSTM", x, products, (before,))
    (found,) = torch.autograd.grad(c.sum(), before)
    torch.testing.assert_close(found, (x + products)[:, 3:6].sigmoid())


def test_a_gradient_of_the_gradient_is_refused() -> None:
    x, products, before = (t.requires_grad_() for t in _given("GRU", (2,), 3, 1.0))
    (h,) = gates.next_state("GRU", x, products, (before,))
    (g,) = torch.autograd.grad(h.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="gates is differentiable once"):
        g.sum().backward()
