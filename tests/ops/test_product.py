"""The analog product: gradients, saturation, operator contracts. test_native.py compares kernels with the reference."""

import pytest
import torch
from torch.nn import functional as F

from analogtorch.ops import Geometry, dac, fold, noisy_weight, normal, product, seed_tensor
from analogtorch.ops.product import part

# torch's own, from inside opcheck
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

KEY = fold(seed_tensor(3), 11)
ONE = torch.ones(1, dtype=torch.float64)


def _double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def _span(*pairs: tuple[int, int]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in pairs)


_CUT = tuple(_span((c, c + 1), (a, a + 2)) for c in (0, 1) for a in (0, 2))
GEOMETRIES = [
    ("linear", (3, 7), (4, 7), Geometry(), (_span((0, 3)), _span((3, 7)))),
    ("conv1d", (2, 4, 9), (6, 2, 3), Geometry((2,), (1,), (2,), 2), (_span((0, 1), (0, 3)), _span((1, 2), (0, 3)))),
    ("conv1d_cut", (2, 2, 9), (3, 2, 4), Geometry((1,), (0,), (2,)), _CUT),
    (
        "conv2d",
        (2, 3, 5, 6),
        (4, 3, 3, 2),
        Geometry((1, 2), (1, 0), (1, 1)),
        (_span((0, 2), (0, 3), (0, 2)), _span((2, 3), (0, 3), (0, 2))),
    ),
]


@pytest.mark.parametrize(("name", "x", "w", "geometry", "spans"), GEOMETRIES, ids=[g[0] for g in GEOMETRIES])
def test_blocks_add_up_and_gradients_are_exact_without_an_adc(name, x, w, geometry, spans) -> None:
    x, w = _double(*x), _double(*w, seed=1)
    scale = torch.ones(len(spans), w.shape[0], dtype=torch.float64)

    def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return product(x, w, ONE, scale, spans=spans, geometry=geometry, bits=None, bound=1.0)

    if geometry.stride:
        conv = {1: F.conv1d, 2: F.conv2d}[len(geometry.stride)]
        expected = conv(x, w, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    else:
        expected = F.linear(x, w)
    assert torch.allclose(run(x, w), expected)
    assert torch.allclose(sum(part(x, w, span, geometry) for span in spans), expected)
    assert torch.autograd.gradcheck(run, (x, w))


@pytest.mark.parametrize(("name", "x", "w", "geometry", "spans"), GEOMETRIES, ids=[g[0] for g in GEOMETRIES])
def test_saturated_readings_pass_no_gradient_block_by_block(name, x, w, geometry, spans) -> None:
    x, w = _double(*x), _double(*w, seed=1)
    scale = torch.ones(len(spans), w.shape[0], dtype=torch.float64)
    bound = 0.6
    y = product(x, w, ONE, scale, spans=spans, geometry=geometry, bits=8, bound=bound)
    g = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gx, gw = torch.autograd.grad(y, (x, w), g)
    parts = [part(x, w, span, geometry) for span in spans]
    inside = [(p.abs() <= bound).double() for p in parts]
    assert min(float(i.mean()) for i in inside) < 0.9  # the test would prove nothing otherwise
    expected = torch.autograd.grad(sum((p * i * g).sum() for p, i in zip(parts, inside, strict=True)), (x, w))
    assert torch.allclose(gx, expected[0])
    assert torch.allclose(gw, expected[1])


def test_dac_gradcheck_without_rounding() -> None:
    x = _double(4, 5)
    assert torch.autograd.gradcheck(lambda x: dac(x, ONE, None), (x,))


def test_noise_of_a_sample_does_not_depend_on_its_batch_mates_or_on_other_outputs() -> None:
    x, w = torch.zeros(6, 4), torch.zeros(5, 4)
    options = {"spans": ((slice(0, 4),),), "geometry": Geometry(), "bits": None, "bound": 1.0, "noise": 1.0}
    options["keys"] = KEY.view(1)
    one = torch.ones(1)
    whole = product(x, w, one, torch.ones(1, 5), **options)
    assert torch.equal(product(x[:2], w, one, torch.ones(1, 5), **options), whole[:2])
    tail = product(x, w[3:], one, torch.ones(1, 2), first_output=3, total_outputs=5, **options)
    assert torch.equal(tail, whole[:, 3:])
    assert len(whole.unique()) == 30


def test_convolution_noise_differs_by_sample_output_and_place() -> None:
    options = {"spans": ((slice(0, 2), slice(0, 1)),), "geometry": Geometry((1,), (0,), (1,)), "bits": None}
    y = product(
        torch.zeros(3, 2, 7), torch.zeros(4, 2, 1), torch.ones(1), torch.ones(1, 4),
        bound=1.0, noise=1.0, keys=KEY.view(1), **options,
    )  # fmt: skip
    assert len(y.unique()) == y.numel()


def _leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


_LISTS = ([0, 3, 3, 8], [], [], [], 1)
_ROWS = torch.arange(4)
_ONE = torch.ones(1)
OPERATORS = {
    "dac": (_leaf(3, 8), torch.ones(1, requires_grad=True), 8),
    "dac_backward": (torch.randn(3, 8), torch.randn(3, 8), _ONE),
    "normal": (KEY, _ROWS, _ROWS, 6),
    "block_absmax": (torch.randn(4, 8), [0, 3, 8]),
    "noisy_weight": (_leaf(4, 8), torch.ones(2, 4), 0.1, KEY, _ROWS, _ROWS, [0, 3, 8], None),
    "product": (
        *(_leaf(3, 8), _leaf(4, 8), _ONE, torch.ones(2, 4), None, torch.stack([KEY, KEY]), None),
        *(*_LISTS, 8, 2.0, 0.1, 0, 4, True),
    ),
    "product_backward": (
        *(torch.randn(3, 4), torch.randn(3, 8), torch.randn(4, 8), None),
        *(torch.zeros(2, 3, 4, dtype=torch.uint8), torch.tensor([True, False]), *_LISTS, [True, False]),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_well_formed(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.analogtorch, name).default, OPERATORS[name])


def test_the_convolution_is_a_well_formed_operator() -> None:
    tensors = (_leaf(2, 2, 9), _leaf(4, 2, 3), _ONE, torch.ones(1, 4), None, None, None)
    numbers = ([0, 2, 0, 3], [1], [1], [1], 1, 8, 0.5, 0.0, 0, 4, True)
    torch.library.opcheck(torch.ops.analogtorch.product.default, (*tensors, *numbers))


def test_a_block_that_cuts_the_kernel_refuses_padding() -> None:
    with pytest.raises(ValueError, match="padded already"):
        part(torch.zeros(1, 1, 5), torch.zeros(1, 1, 3), (slice(0, 1), slice(0, 2)), Geometry((1,), (1,), (1,)))


def test_noisy_weight_passes_the_gradient() -> None:
    w = torch.randn(3, 4, requires_grad=True)
    rows = torch.arange(3)
    noisy_weight(w, torch.ones(1, 3), 0.5, KEY, rows, rows, (0, 4)).sum().backward()
    assert torch.equal(w.grad, torch.ones(3, 4))
    assert normal(KEY, rows, rows, 0).shape == (3, 0)
