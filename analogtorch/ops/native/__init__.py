"""The CPU kernels, called on tensors: one pass over memory where torch takes several.

They are optional. ``available()`` is False where they were not built (no C compiler at installation, not Linux), and
``analogtorch.ops`` then computes the same with torch, more slowly, and says so once.
"""

import ctypes
import functools
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("analogtorch")

LIBRARY = Path(__file__).with_name("libkernels.so")
"""What ``build.py`` makes."""

_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES = {
    "at_normal": (None, [_P, _I, _P, _P, _I, _I]),
    "at_noisy_weight": (None, [_P, _P, _P, _F, _I, _P, _P, _P, _I, _I, _I]),
    "at_absmax": (None, [_P, _P, _P, _I, _I, _I]),
    "at_dac": (None, [_P, _P, _P, _I, _F, _I, _I]),
    "at_dac_backward": (None, [_P, _P, _P, _P, _P, _I, _I, _I]),
    "at_adc": (ctypes.c_int, [_P, _P, _P, _P, _P, _I, _P, _P, _F, _F, _F, ctypes.c_int, _P, _I, _I, _I]),
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    if not LIBRARY.exists():
        logger.warning(
            "analogtorch: the CPU kernels are not built, so analog layers run on plain torch, several times slower. "
            "To build them, install gcc and run: python -m analogtorch.ops.native.build"
        )
        return None
    try:
        for runtime in sorted(Path(torch.__file__).parent.glob("lib/libgomp*")) or [Path("libgomp.so.1")]:
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(LIBRARY), mode=os.RTLD_NOW)
    except OSError as error:
        logger.warning("analogtorch: the CPU kernels cannot be loaded, so analog layers run on plain torch: %s", error)
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def available(*tensors: Tensor) -> bool:
    """Whether the kernels are there and take these tensors: float32 on the CPU."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors) and _library() is not None


def _call(name: str, *arguments: Any) -> int:
    library = _library()
    assert library is not None
    return getattr(library, name)(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


def _array(numbers: list[int]) -> Any:
    return (_I * len(numbers))(*numbers)


def normal(key: int, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """Normals at ``rows`` (int64, (R,)) and the ``count`` columns from ``first`` (int64, (R,)): float32 (R, count)."""
    out = torch.empty(len(rows), count)
    _call("at_normal", out, key, rows, first, len(rows), count)
    return out


def noisy_weight(
    w: Tensor, scale: Tensor, std: float, key: int, rows: Tensor, first: Tensor, bounds: list[int]
) -> Tensor:
    """``w + std * scale * normal``: ``w`` (R, C) contiguous, ``scale`` (blocks, R), ``bounds`` of the blocks."""
    out = torch.empty_like(w)
    _call(
        "at_noisy_weight", out, w, scale.contiguous(), std, key, rows, first, _array(bounds), *w.shape, len(bounds) - 1
    )
    return out


def absmax(w: Tensor, bounds: list[int]) -> Tensor:
    """Largest magnitude of each row of ``w`` (R, C) in each block of columns: (blocks, R)."""
    out = w.new_empty(len(bounds) - 1, w.shape[0])
    _call("at_absmax", out, w, _array(bounds), *w.shape, len(bounds) - 1)
    return out


def dac(x: Tensor, bound: Tensor, steps: int) -> Tensor:
    """``x`` (R, C) contiguous, clipped at ``bound`` (1,) or (R,) and rounded."""
    out = torch.empty_like(x)
    _call("at_dac", out, x, bound, int(bound.numel() > 1), steps, *x.shape)
    return out


def dac_backward(g: Tensor, x: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``dac``: of ``x``, and per row of the bound (R,), from ``g``; all contiguous."""
    gx, rows = torch.empty_like(x), torch.empty(x.shape[0], dtype=torch.float64)
    _call("at_dac_backward", gx, rows, g, x, bound, int(bound.numel() > 1), *x.shape)
    return gx, rows


def adc(
    acc: Tensor | None,
    part: Tensor,
    z: Tensor | None,
    unit: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    limit: float,
    std: float,
    steps: int,
    mask: Tensor | None,
) -> tuple[Tensor, bool]:
    """Read ``part`` (N, channels, places) through the ADC and add it to ``acc`` (None: a new sum).

    Returns:
        The sum, and whether a reading saturated; ``mask`` (uint8, of ``part``'s shape) then says which.
    """
    out = torch.empty_like(part) if acc is None else acc
    if not part.numel():
        return out, False
    unit, scale = unit.contiguous(), scale.contiguous()
    per_sample, scratch = int(unit.numel() > 1), torch.empty(torch.get_num_threads() * 4 * part.shape[1])
    saturated = _call(
        "at_adc",
        out,
        mask,
        part,
        z,
        unit,
        per_sample,
        scale,
        gain,
        limit,
        std,
        steps,
        acc is None,
        scratch,
        *part.shape,
    )
    return out, bool(saturated)
