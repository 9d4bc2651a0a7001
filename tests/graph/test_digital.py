from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn import quantized
from torch.ao.nn.quantized import dynamic
from torch.nn import functional as F

from analogtorch.chips.cost import DigitalKind
from analogtorch.graph import digital, digital_matrices
from analogtorch.graph.trace import trace

_zeros = torch.zeros


class _Net(nn.Module):
    """A layer, and what ``after`` computes of its output (2, 5, 8)."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.after = nn.Linear(8, 8), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layer(x))


def _einsum(equation: str, *shapes: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda h: torch.einsum(equation, h, *map(_zeros, shapes))


@pytest.mark.parametrize(
    ("after", "operations"),
    [
        (_einsum("bqd,kd->bqk", (3, 8)), 480),
        (_einsum("...d,kd->...k", (3, 8)), 480),
        (_einsum("...d, kd", (3, 8)), 480),
        (_einsum("...qd,...kd->...qk", (5, 8)), 800),
        (_einsum("...qd,...kd->...qk", (3, 1, 5, 8)), 3 * 800),
        (_einsum("bqd,bkd,bkv->bqv", (2, 5, 8), (2, 5, 4)), 2 * 50 * (8 + 4)),
        (_einsum("bqd,v->bqv", (3,)), 80 + 30),  # d is summed first; v has nothing to add up
        (_einsum("bqd->bq"), 80),
        (_einsum("bqd->dbq"), 0),
        (lambda h: torch.tensordot(h, _zeros(8, 3), 1), 480),
        (lambda h: torch.inner(h, _zeros(3, 8)), 480),
        (lambda h: torch.linalg.multi_dot([h[0], _zeros(8, 3), _zeros(3, 4)]), 360),
        (lambda h: torch.linalg.multi_dot([h[0, 0], _zeros(8, 3), _zeros(3)]), 2 * (24 + 3)),
        (lambda h: torch.chain_matmul(h[0], _zeros(8, 3), _zeros(3, 4)), 360),
        (lambda h: torch.cdist(h, h), 50 * (3 * 8 + 1)),
        (lambda h: F.conv_transpose1d(h, _zeros(5, 4, 3), stride=2), 1920),
        (lambda h: F.conv_transpose1d(h[:, :4], _zeros(4, 4, 3), groups=2), 2 * 64 * 12),
        (lambda h: F.conv1d(h, _zeros(4, 5, 3), padding="same"), 2 * 64 * 15),
        (lambda h: F.conv1d(h.reshape(1, 10, 8), _zeros(4, 5, 3), groups=2), 2 * 24 * 15),
        (lambda h: F.bilinear(h, h, _zeros(6, 8, 8)), 2 * 10 * 6 * 64),
        (lambda h: torch.baddbmm(_zeros(2, 5, 5), h, h.mT), 800),
        (lambda h: torch.addbmm(_zeros(5, 5), h, h.mT), 800),
        (lambda h: torch.linalg.vecdot(h, h), 160),
        (lambda h: torch.vdot(h[0, 0], h[0, 1]), 16),
        (lambda h: torch.outer(h[0, 0], h[0, 1]), 64),
        (lambda h: torch.ger(h[0, 0], h[0, 1]), 64),
        (lambda h: torch.kron(h[0], h[1]), 1600),
        (lambda h: torch.cov(h[0]), 2 * 25 * 8),
        (lambda h: torch.linalg.vecdot(h, h[0, 0], dim=2), 160),
        (lambda h: F.cosine_similarity(h[:, :, None], h[:, None], dim=-1), 2 * (400 + 160)),
        (lambda h: F.cosine_similarity(h[0], h[0, 0], dim=1), 2 * (40 + 40 + 8)),
        (lambda h: F.cosine_similarity(h[0, 0, 0], h[0, 0, 1], dim=0), 2 * 3),
    ],
)
def test_products_of_activations_count_two_operations_per_mac(
    after: Callable[[Tensor], Tensor], operations: int
) -> None:
    found = [op for op in trace(_Net(after), _zeros(2, 5, 8)).operations if op.kind != "mvm"]
    assert sum(op.operations for op in found) == operations


@pytest.mark.parametrize(("groups", "masked"), [(1, False), (4, True)])
def test_deformable_convolutions_count_products_and_samples(groups: int, masked: bool) -> None:
    deform_conv2d = pytest.importorskip("torchvision").ops.deform_conv2d

    def after(h: Tensor) -> Tensor:
        weight = torch.zeros(12, 16 // groups, 3, 3)
        mask = torch.ones(2, 9, 5, 1) if masked else None
        x = h.reshape(2, 1, 5, 8).expand(2, 16, 5, 8)[..., :3]
        return deform_conv2d(x, torch.zeros(2, 18, 5, 1), weight, padding=(1, 0), mask=mask)

    found = [op for op in trace(_Net(after), _zeros(2, 5, 8)).operations if op.kind == "matmul"]
    assert [op.name for op in found] == ["deform_conv2d"]
    products, samples = 2 * 5 * 12 * 9 * 16 // groups, 2 * 5 * 16 * 9
    assert found[0].operations == 2 * products + samples * (9 if masked else 8)


def _complex(h: Tensor, size: int) -> Tensor:
    """Return rows of ``size`` complex numbers."""
    return torch.view_as_complex(h.reshape(-1, size, 2))


@pytest.mark.parametrize(
    ("after", "operations"),
    [
        *(
            (of, 80)
            for of in (
                lambda h: h.prod(-1),
                lambda h: h.logsumexp(-1),
                lambda h: torch.var_mean(h, -1)[0],
                lambda h: h.median(-1)[0],
                lambda h: h.quantile(0.5, -1),
                lambda h: h.argmin(-1),
                lambda h: h.aminmax(dim=-1)[0],
                lambda h: h.topk(2)[0],
            )
        ),
        (lambda h: F.glu(h, -1), 40 * 2),
        (lambda h: torch.addcmul(h, h, h), 80 * 2),
        (lambda h: torch.addcdiv(h, h, h), 80 * 2),
        (lambda h: h.lerp(h, 0.5), 80 * 3),
        (lambda h: h.sort(-1)[0], 80 * 3),
        (lambda h: h[:, :4].argsort(1), 64 * 2),
        (lambda h: F.interpolate(h, scale_factor=2, mode="linear"), 160 * 4),
        (lambda h: F.interpolate(h[None], scale_factor=2, mode="bilinear"), 320 * 8),
        (lambda h: F.interpolate(h[None], scale_factor=2, mode="bicubic"), 320 * 32),
        (
            lambda h: F.interpolate(h[None, :, :4], size=(2, 2), mode="bilinear", antialias=True),
            64 * 8,
        ),
        (lambda h: F.grid_sample(h[:, None], _zeros(2, 4, 4, 2)), 32 * 8),
        (lambda h: F.grid_sample(h[:, None], _zeros(2, 4, 4, 2), mode="bicubic"), 32 * 32),
        (lambda h: F.grid_sample(h[:, None], _zeros(2, 4, 4, 2), mode="nearest"), 32 * 2),
    ],
)
def test_what_takes_several_operations_for_each_result_counts_them(
    after: Callable[[Tensor], Tensor], operations: int
) -> None:
    traced = trace(_Net(after), _zeros(2, 5, 8)).operations
    assert sum(op.operations for op in traced) == operations


@pytest.mark.parametrize(
    ("after", "operations"),
    [
        (torch.linalg.inv, 2 * 64),
        (torch.linalg.cholesky, 64 / 3),
        *((of, 2 / 3 * 64) for of in (torch.linalg.det, torch.det, torch.logdet)),
        *((lambda a, of=of: of(a)[1], 2 / 3 * 64) for of in (torch.slogdet, torch.linalg.slogdet)),
        (lambda a: torch.linalg.solve(a, a[..., :2]), 2 / 3 * 64 + 2 * 2 * 16),
        (lambda a: torch.linalg.solve(a, a[..., 0]), 2 / 3 * 64 + 2 * 16),
        (lambda a: torch.linalg.solve_triangular(a, a[..., :2], upper=True), 2 * 16),
        (lambda a: torch.cholesky_solve(a[..., :2], a), 2 * 2 * 16),
        (lambda a: torch.linalg.eigh(a)[0], 9 * 64),
        (torch.linalg.eigvalsh, 4 / 3 * 64),
        (torch.linalg.svdvals, 8 / 3 * 64),
        (lambda a: torch.linalg.svd(a[..., :2], full_matrices=False)[1], 14 * 4 * 4 + 8 * 8),
        (lambda a: torch.linalg.svd(a[..., :2])[1], 14 * 4 * 4 + 8 * 8 + 2 * 2 * 2 * 6),
        (lambda a: torch.linalg.svd(a[..., :2, :])[1], 14 * 4 * 4 + 8 * 8 + 2 * 2 * 2 * 6),
        (lambda a: torch.svd(a, compute_uv=False)[1], 8 / 3 * 64),
        (torch.linalg.pinv, (14 + 8 + 2) * 64),
        (torch.pinverse, (14 + 8 + 2) * 64),
        (lambda a: torch.linalg.pinv(a, hermitian=True), (9 + 2) * 64),
        (lambda a: torch.linalg.qr(a)[0], 8 / 3 * 64),
        (lambda a: torch.linalg.qr(a, mode="r")[1], 4 / 3 * 64),
        (lambda a: torch.linalg.qr(a[..., :2], mode="complete")[0], 16 * (4 - 2 / 3) + 48),
        (lambda a: torch.linalg.qr(a[..., :2, :])[0], 8 * (4 - 2 / 3) + 4 / 3 * 8),
        (lambda a: torch.linalg.lstsq(a[..., :2], a[..., :1])[0], 8 * (4 - 2 / 3) + 4 * 8),
        (lambda a: torch.linalg.lstsq(a[..., :2, :], a[..., :2, :1])[0], 8 * (4 - 2 / 3) + 4 * 8),
        (lambda a: torch.linalg.lu_solve(*torch.linalg.lu_factor(a), a), 2 / 3 * 64 + 4 * 2 * 16),
        (lambda a: torch.lu(a)[0], 2 / 3 * 64),
        (lambda a: torch.linalg.inv(torch.complex(a, a)), 4 * 2 * 64),
    ],
)
def test_decompositions_of_matrices_count_as_their_algorithms_do(
    after: Callable[[Tensor], Tensor], operations: float
) -> None:
    """Each on five matrices of 4 x 4."""
    traced = trace(_Net(lambda h: after(h.reshape(5, 4, 4))), _zeros(2, 5, 8)).operations
    assert sum(op.operations for op in traced) == round(5 * operations)


_EDGES = torch.arange(80) % 3
_PLACES = torch.arange(5) % 2
_put = torch.ops.aten.index_put.default


@pytest.mark.parametrize(
    ("after", "operations"),
    [
        # h is (2, 5, 8): 80 numbers
        (lambda h: _zeros(3).index_add(0, _EDGES, h.flatten()), 80),
        (lambda h: _zeros(3).index_add(0, _EDGES, h.flatten(), alpha=2), 160),
        (lambda h: _zeros(3).scatter_add_(0, _EDGES[:70], h.flatten()), 70),
        (lambda h: _zeros(3).scatter_reduce(0, _EDGES, h.flatten(), "amax"), 80),
        (lambda h: _zeros(3).scatter_reduce(0, _EDGES, h.flatten(), "mean"), 83),
        (lambda h: _zeros(3).scatter(0, _EDGES, h.flatten(), reduce="add"), 80),
        (lambda h: _zeros(3).index_reduce(0, _EDGES, h.flatten(), "prod"), 80),
        (lambda h: _zeros(3).put(_EDGES, h.flatten(), accumulate=True), 80),
        (lambda h: _zeros(3).index_put((_EDGES,), h.flatten(), accumulate=True), 80),
        (lambda h: _zeros(2, 4).index_put((_PLACES,), h[0, 0, :4], accumulate=True), 20),
        (
            lambda h: _put(_zeros(2, 4, 8), [_PLACES, None, _PLACES[:, None]], h[0, 0, :4], True),
            100,
        ),
        (lambda h: F.fold(h.reshape(1, 8, 10), (6, 3), 2), 80),
        (lambda h: torch.segment_reduce(h.flatten(), "sum", lengths=torch.tensor([50, 30])), 80),
    ],
)
def test_numbers_that_are_added_where_they_are_put_count_each(
    after: Callable[[Tensor], Tensor], operations: int
) -> None:
    found = [op for op in trace(_Net(after), _zeros(2, 5, 8)).operations if op.kind != "mvm"]
    assert sum(op.operations for op in found) == operations


@pytest.mark.parametrize(
    "after",
    [
        lambda h: F.interpolate(h, scale_factor=2),
        lambda h: F.interpolate(h[:, :, None], scale_factor=2),
        lambda h: F.interpolate(h, scale_factor=2, mode="nearest-exact"),
        lambda h: h.masked_fill(torch.ones(8, dtype=torch.bool), 0.0),
        lambda h: h.take(torch.arange(3)),
        lambda h: h.take_along_dim(torch.zeros(2, 5, 1, dtype=torch.long), 2),
        lambda h: _zeros(8).index_copy(0, torch.arange(5), h[0, :, 0]),
        lambda h: _zeros(8).index_put((torch.arange(5),), h[0, :, 0]),
        lambda h: _zeros(8).put(torch.arange(5), h[0, :, 0]),
        lambda h: _zeros(8).scatter(0, torch.arange(5), h[0, :, 0]),
        lambda h: h.rot90(1, (1, 2)),
        lambda h: h.diag_embed(),
        lambda h: torch.block_diag(h[0], h[1]),
        lambda h: h.fliplr(),
        lambda h: torch.einsum("bqd->dbq", h),
        lambda h: F.max_unpool2d(h, torch.arange(80).view(2, 5, 8), 2),
    ],
)
def test_numbers_that_only_move_take_no_operation(after: Callable[[Tensor], Tensor]) -> None:
    found = trace(_Net(after), _zeros(2, 5, 8)).operations
    assert {op.kind for op in found} == {"input", "mvm", "output"}


def test_the_arguments_of_operators_on_matrices_are_those_of_torch() -> None:
    for name, work in digital_matrices._WORK.items():
        operator = getattr(torch.ops.aten, name)
        for overload in operator.overloads():
            arguments = getattr(operator, overload)._schema.arguments
            assert work.argument in {a.name for a in arguments}, name


_WINDOW = torch.hann_window(16)


def _stft(h: Tensor, window: Tensor | None = _WINDOW) -> Tensor:
    """Return 2 x 11 spectra of 16 numbers each."""
    return torch.stft(h.reshape(2, 40), 16, 4, window=window, return_complex=True)


@pytest.mark.parametrize(
    ("after", "operations"),
    [
        (torch.fft.rfft, 10 * 2.5 * 8 * 3),
        (torch.fft.fft, 10 * 2.5 * 8 * 3),  # its input is real
        (torch.fft.ihfft, 10 * 2.5 * 8 * 3),
        (lambda h: torch.fft.rfft(h.expand(3, 2, 5, 8)), 3 * 10 * 2.5 * 8 * 3),
        (lambda h: torch.fft.rfft(h, n=16, norm="ortho"), 10 * 2.5 * 16 * 4),
        (lambda h: torch.fft.rfft(h, n=4), 10 * 2.5 * 4 * 2),
        (lambda h: torch.fft.rfft(h[:, :4], dim=1), 16 * 2.5 * 4 * 2),
        (lambda h: torch.fft.rfft2(h[:, :4]), 2 * 2.5 * 32 * 5),
        (lambda h: torch.fft.rfftn(h, s=(4, -1)), 2 * 2.5 * 32 * 5),
        (lambda h: torch.fft.rfftn(h[:, :4]), 2.5 * 64 * 6),
        (lambda h: torch.fft.ifft(_complex(h, 4)), 10 * 5 * 4 * 2),
        (lambda h: torch.fft.irfft(_complex(h, 5)), 8 * 2.5 * 8 * 3),
        (lambda h: torch.fft.irfft(_complex(h, 4), n=8), 10 * 2.5 * 8 * 3),
        (lambda h: torch.fft.hfft(_complex(h, 5)), 8 * 2.5 * 8 * 3),
        (lambda h: torch.ops.aten._fft_c2r(_complex(h, 5), [1], 0, 8), 8 * 2.5 * 8 * 3),
        (lambda h: torch.ops.aten._fft_c2c(_complex(h, 4), [1], 0, True), 10 * 5 * 4 * 2),
        (lambda h: torch.ops.aten._fft_r2c(h, [2], 0, True), 10 * 2.5 * 8 * 3),
        (lambda h: torch.ops.aten._fft_r2c(h, [2], 0, False), 10 * 2.5 * 8 * 3),
        (_stft, 22 * (2.5 * 16 * 4 + 16)),
        (lambda h: _stft(h, None), 22 * 2.5 * 16 * 4),
        (lambda h: _stft(torch.complex(h, h)), 22 * (5 * 16 * 4 + 2 * 16)),
        # beside the transforms: two windows, overlapping sums and quotients
        (
            lambda h: torch.istft(_stft(h), 16, 4, window=_WINDOW),
            22 * (2 * 2.5 * 16 * 4 + 3 * 16) + 80,
        ),
    ],
)
def test_fourier_transforms_count_as_fast_ones(
    after: Callable[[Tensor], Tensor], operations: float
) -> None:
    traced = trace(_Net(after), _zeros(2, 5, 8)).operations
    assert sum(op.operations for op in traced if op.kind == "fft") == operations


@pytest.mark.parametrize(
    ("after", "elements", "operations"),
    [
        (torch.abs, 40, 4 * 40),
        (lambda z: z + z, 80, 80),
        (lambda z: z * 2.0, 80, 80),
        (lambda z: z * z.abs(), 80, 80 + 4 * 40),
        (lambda z: z * z, 80, 6 * 40),
        (lambda z: z * z[0], 80, 6 * 40),
        (lambda z: z * 1j, 80, 6 * 40),
        (lambda z: z / z, 80, 11 * 40),
        (torch.exp, 80, 5 * 40),
        (lambda z: z.sum(-1), 20, 80),
        (lambda z: z @ z.mT, 200, 8 * 10 * 10 * 4),
        (lambda z: torch.outer(z[0], z[1]), 32, 6 * 16),
        (lambda z: torch.conj(z) @ z[0], 20, 8 * 40),
        (lambda z: z.real.square(), 40, 40),
        (torch.absolute, 40, 4 * 40),
        (lambda z: torch.multiply(z, z), 80, 6 * 40),
        (lambda z: torch.multiply(z, z.abs()), 80, 80 + 4 * 40),
        (lambda z: z**2, 80, 6 * 40),
        (lambda z: torch.divide(z, z), 80, 11 * 40),
        (lambda z: torch.true_divide(z, z), 80, 11 * 40),
        (torch.reciprocal, 80, 6 * 40),
        (lambda z: 1 / z, 80, 6 * 40 + 80),
        (lambda z: torch.addcmul(z, z, z), 80, 8 * 40),
        (lambda z: torch.addcdiv(z, z, z), 80, 13 * 40),
        (lambda z: z.prod(-1), 20, 6 * 40),
        (torch.tanh, 80, 5 * 40),
        (lambda z: torch.subtract(z, z), 80, 80),
        (lambda z: z[:4].H.real.square(), 16, 16),
        (lambda z: z @ z.mH, 200, 8 * 10 * 10 * 4),
    ],
)
def test_complex_numbers_count_as_two(
    after: Callable[[Tensor], Tensor], elements: int, operations: int
) -> None:
    net = _Net(lambda h: after(_complex(h, 4)))
    found = [op for op in trace(net, _zeros(2, 5, 8)).operations if op.kind != "mvm"]
    *found, returned = found[1:]  # what the model is given and returns
    assert sum(op.operations for op in found) == operations
    assert found[-1].elements == returned.elements == elements


@pytest.mark.parametrize(
    ("alias", "kind"),
    [
        (torch.absolute, "activation"),
        (lambda h: h.clip(0, 1), "relu"),
        (torch.negative, "add"),
        (lambda h: torch.multiply(h, h), "add"),
        (lambda h: torch.divide(h, h), "add"),
        (lambda h: torch.true_divide(h, h), "add"),
        (lambda h: torch.subtract(h, h), "add"),
    ],
)
def test_aliases_of_operators_have_their_kind(alias: Callable[[Tensor], Tensor], kind: str) -> None:
    operation = trace(_Net(alias), _zeros(2, 5, 8)).operations[-2]
    assert (operation.kind, operation.operations) == (kind, 80)


@pytest.mark.parametrize(
    ("kind", "functions"),
    [
        ("relu", [F.relu, F.relu6, F.hardtanh, F.hardsigmoid, lambda h: h.clamp(min=0)]),
        ("sigmoid", [torch.sigmoid, torch.tanh]),
        ("activation", [F.gelu, F.silu, F.hardswish, F.leaky_relu, lambda h: h.softmax(-1)]),
        ("batch_norm", [nn.BatchNorm1d(5).eval()]),
        ("norm", [nn.BatchNorm1d(5, track_running_stats=False).eval()]),
        ("norm", [nn.LayerNorm(8), nn.GroupNorm(1, 5)]),
        ("gates", [nn.LSTM(8, 8), nn.GRU(8, 8)]),
    ],
)
def test_functions_have_the_kinds_by_which_chips_differ(
    kind: str, functions: list[Callable[[Tensor], Tensor]]
) -> None:
    for function in functions:
        net = nn.Sequential(nn.Linear(8, 8), _Net(function)).eval()
        *_, last, _ = trace(net, _zeros(2, 5, 8)).operations
        assert last.kind == kind
        assert kind in get_args(DigitalKind)


def test_operators_of_interpolations_are_those_of_torch() -> None:
    assert all(hasattr(torch.ops.aten, name) for name in digital._INTERPOLATIONS)


def test_overlaps_of_complex_numbers_are_added_as_two() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose1d(5, 4, 3, bias=False, dtype=torch.complex64)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(torch.fft.fft(x))

    found = {op.name: op for op in trace(Net(), _zeros(2, 5, 8)).operations}
    taps, results = 2 * 2 * 8 * 4 * 3, 2 * 2 * 4 * 10
    assert found["up"].elements == taps
    assert found["up.overlap"].operations == taps - results


def test_parts_of_complex_numbers_are_taken_and_not_the_others() -> None:
    traced = trace(_Net(lambda h: torch.fft.fft(h).real.square()), _zeros(2, 5, 8)).operations
    found = {op.name: op for op in traced}
    assert found["fft_fft"].elements == 160
    assert found["square"].takes({"fft_fft": 160}) == {"fft_fft": 80}


def _levels(x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    ("module", "prepared", "operations"),
    [
        (lambda: dynamic.Linear(8, 4), lambda h: h, 2 * 10 * 32),
        (lambda: dynamic.LSTM(8, 4), lambda h: h, 2 * 10 * 16 * 12),
        (lambda: dynamic.LSTMCell(8, 4), lambda h: h[0], 2 * 5 * 16 * 12),
        (
            lambda: dynamic.GRU(8, 4, 2, bidirectional=True),
            lambda h: h,
            2 * 10 * (24 * 12 + 24 * 12),
        ),
        (lambda: quantized.Linear(8, 4), _levels, 2 * 10 * 32),
        (lambda: quantized.Conv1d(5, 6, 3, padding=1), _levels, 2 * 2 * 8 * 6 * 15),
        (lambda: quantized.ConvTranspose1d(5, 6, 3), _levels, 2 * 2 * 8 * 5 * 18),
    ],
)
def test_quantised_layers_count_two_operations_per_mac(
    module: Callable[[], nn.Module], prepared: Callable[[Tensor], Tensor], operations: int
) -> None:
    layer = module()
    net = _Net(lambda h: layer(prepared(h)))
    found = [op for op in trace(net, _zeros(2, 5, 8)).operations if op.kind == "matmul"]
    assert sum(op.operations for op in found) == operations


@pytest.mark.parametrize(
    ("mode", "weighted"), [("sum", False), ("mean", False), ("max", False), ("sum", True)]
)
def test_a_bag_of_embeddings_counts_what_it_adds_and_multiplies(mode: str, weighted: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.last = nn.EmbeddingBag(10, 8, mode=mode), nn.Linear(8, 3)

        def forward(self, tokens: Tensor, factors: Tensor | None = None) -> Tensor:
            return self.last(self.bag(tokens, per_sample_weights=factors))

    tokens = _zeros(2, 500, dtype=torch.long)
    traced = trace(Net(), (tokens, _zeros(2, 500)) if weighted else (tokens,))
    (bag,) = (op for op in traced.operations if op.name == "bag")
    assert (bag.kind, bag.elements) == ("embedding", 2 * 8)
    assert bag.operations == 1000 * 8 * (2 if weighted else 1)
