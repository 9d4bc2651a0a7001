"""The CPU kernels against the torch reference, operator by operator, and what happens without them."""

import logging

import pytest
import torch
from torch import Tensor

from analogtorch.ops import Geometry, block_absmax, dac, fold, native, noisy_weight, normal, product, seed_tensor

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built: no C compiler")

KEY = fold(seed_tensor(3), 11)
SIZES = [(1, 1), (3, 5), (7, 255), (2, 257), (64, 1000), (300, 64)]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _both(monkeypatch: pytest.MonkeyPatch, call):  # type: ignore[no-untyped-def]
    """The result with the kernels and with plain torch."""
    fast = call()
    with monkeypatch.context() as patch:
        patch.setattr(native, "available", lambda *tensors: False)
        return fast, call()


@pytest.mark.parametrize("size", SIZES)
def test_normal(size, monkeypatch) -> None:
    rows, count = size
    where = torch.arange(rows) * 7919, torch.arange(rows) * 3
    fast, slow = _both(monkeypatch, lambda: normal(KEY, *where, count))
    assert torch.allclose(fast, slow, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("per_row", [True, False])
def test_dac_and_its_gradients(size, bits: int, per_row: bool, monkeypatch) -> None:
    x, g = _random(*size), _random(*size, seed=1)
    bound = x.abs().amax(1, keepdim=True) * 0.7 if per_row else torch.tensor([0.9])

    def run() -> tuple[Tensor, ...]:
        xx, bb = x.clone().requires_grad_(), bound.clone().requires_grad_()
        y = dac(xx, bb, bits)
        y.backward(g)
        return y.detach(), xx.grad, bb.grad

    fast, slow = _both(monkeypatch, run)
    assert torch.equal(fast[0], slow[0])
    assert torch.equal(fast[1], slow[1])
    assert torch.allclose(fast[2], slow[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_block_absmax(size, monkeypatch) -> None:
    w = _random(*size)
    w[0, 0] = float("nan")
    bounds = (0, *sorted({size[1] // 3, size[1] // 2} - {0}), size[1])
    fast, slow = _both(monkeypatch, lambda: block_absmax(w, bounds))
    assert torch.equal(fast.nan_to_num(-1), slow.nan_to_num(-1))
    assert fast[0, 0].isnan()


@pytest.mark.parametrize("size", SIZES)
def test_noisy_weight(size, monkeypatch) -> None:
    w, rows = _random(*size), torch.arange(size[0])
    bounds = (0, size[1]) if size[1] < 4 else (0, 3, size[1])
    scale = _random(len(bounds) - 1, size[0]).abs()
    fast, slow = _both(monkeypatch, lambda: noisy_weight(w, scale, 0.1, KEY, rows, rows * 5, bounds))
    assert torch.allclose(fast, slow, atol=1e-6)


@pytest.mark.parametrize("convolution", [True, False])
@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("bound", [8.0, 0.5])
def test_product_and_its_gradients(convolution, per_sample, noise, corrected, bound, monkeypatch) -> None:
    n, channels, outputs = 5, 12, 9
    x = _random(n, channels, 300) if convolution else _random(n, channels)
    w = _random(outputs, channels, 3, seed=1) if convolution else _random(outputs, channels, seed=1)
    taps = (slice(0, 3),) if convolution else ()
    spans = ((slice(0, 5), *taps), (slice(5, 12), *taps))
    unit = x.abs().flatten(1).amax(1) if per_sample else torch.tensor([2.0])
    scale = _random(2, outputs, seed=2).abs() + 0.1
    options = {
        "spans": spans,
        "geometry": Geometry((1,), (1,), (1,)) if convolution else Geometry(),
        "bits": 8,
        "bound": bound,
        "noise": noise,
        "keys": torch.stack([KEY, KEY + 1]),
        "gain": _random(2, outputs, seed=3) if corrected else None,
    }
    g = _random(*((n, outputs, 300) if convolution else (n, outputs)), seed=4)

    def run() -> tuple[Tensor, ...]:
        xx, ww = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = product(xx, ww, unit, scale, **options)
        y.backward(g)
        return y.detach(), xx.grad, ww.grad

    fast, slow = _both(monkeypatch, run)
    # a sum that lies on a rounding boundary to the last bit may be read one step apart: rarely
    different = ((fast[0] - slow[0]).abs() > 1e-4).float().mean()
    assert different < 1e-3
    for a, b in zip(fast[1:], slow[1:], strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_half_precision_and_double_run_on_torch() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert not native.available(torch.zeros(1, dtype=dtype))
    assert not native.available(torch.zeros(1, device="meta"))


def test_threads_do_not_change_the_numbers() -> None:
    rows = torch.arange(512)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(normal(KEY, rows, rows * 0, 300))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_missing_library_is_said_once(monkeypatch, caplog, tmp_path) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "absent.so")
    native._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "analogtorch"):
            assert not native.available()
            assert not native.available()
        messages = [r.getMessage() for r in caplog.records]
        assert len(messages) == 1
        assert "python -m analogtorch.ops.native.build" in messages[0]
    finally:
        native._library.cache_clear()


def test_a_broken_library_is_said(monkeypatch, caplog, tmp_path) -> None:
    broken = tmp_path / "libkernels.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(native, "LIBRARY", broken)
    native._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "analogtorch"):
            assert not native.available()
        assert "cannot be loaded" in caplog.text
    finally:
        native._library.cache_clear()


def test_build_without_a_compiler_says_what_to_install(monkeypatch) -> None:
    from analogtorch.ops.native import build

    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="install gcc"):
        build.build()
