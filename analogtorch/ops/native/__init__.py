"""The CPU kernels, called on tensors: one pass over memory where torch takes several.

They are optional. ``available()`` is False where they were not built (no C compiler at installation, not Linux), and
``analogtorch.ops`` then computes the same with torch, more slowly, and says so once.
"""

import ctypes
import functools
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.native.structures import Convolution, Linear, Matrix
from analogtorch.ops.plan import Plan
from analogtorch.ops.quantize import levels
from analogtorch.ops.reference import Gradients, Inputs, Outputs

logger = logging.getLogger("analogtorch")

MASK = torch.int32
"""Type of ``Outputs.mask``."""
_INT32 = 2**31


@functools.cache
def _library() -> ctypes.CDLL | None:
    from analogtorch.ops.native.build import library  # not at import: it is also run as a program

    path = library(torch.backends.cpu.get_cpu_capability())
    path = path if path.exists() else library("DEFAULT")
    if not path.exists():
        logger.warning(
            "analogtorch: the CPU kernels are not built, so analog layers run on plain torch, several times slower. "
            "To build them, install gcc and run: python -m analogtorch.ops.native.build"
        )
        return None
    try:
        for runtime in sorted(Path(torch.__file__).parent.glob("lib/libgomp*")) or [Path("libgomp.so.1")]:
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        loaded = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError as error:
        logger.warning("analogtorch: the CPU kernels cannot be loaded, so analog layers run on plain torch: %s", error)
        return None
    loaded.at_linear_panels.restype = ctypes.c_int64
    return loaded


def available() -> bool:
    """Whether the kernels are there."""
    return _library() is not None


def takes(inputs: Inputs) -> bool:
    """Whether the kernels compute this product: float32 on the CPU, and not empty."""
    floats = (inputs.x, inputs.input_range, inputs.w, inputs.bias, inputs.scale, inputs.gain)
    ours = all(t is None or (t.dtype == torch.float32 and t.device.type == "cpu") for t in floats)
    return ours and inputs.x.numel() > 0 and inputs.x.numel() // inputs.x.shape[0] < _INT32 // 4 and available()


def _call(name: str, *arguments: Any) -> Any:
    found = _library()
    assert found is not None
    return getattr(found, name)(*arguments)


def normal(key: int, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """Normals at ``rows`` (int64, (R,)) and the ``count`` columns from ``first`` (int64, (R,)): float32 (R, count)."""
    out = torch.empty(len(rows), count)
    numbers = (ctypes.c_int64(key), _pointer(rows), _pointer(first), ctypes.c_int64(len(rows)), ctypes.c_int64(count))
    _call("at_normal", _pointer(out), *numbers)
    return out


def keys(seed: int, streams: Sequence[int]) -> Tensor:
    """``fold`` of the seed with each stream: int64."""
    out = torch.empty(len(streams), dtype=torch.int64)
    _call("at_keys", _pointer(out), ctypes.c_int64(seed), _array(tuple(streams)), ctypes.c_int64(len(streams)))
    return out


def mask_shape(y: Sequence[int], plan: Plan) -> tuple[int, ...]:
    """Of ``Outputs.mask`` for an output of shape ``y``: a bit for each partial sum, in rows of 32-bit words."""
    last = math.prod(y[2:]) if plan.dims else y[-1]
    rows = y[0] * y[1] if plan.dims else math.prod(y[:-1])
    return plan.blocks, rows, (last + 31) // 32


def forward(inputs: Inputs, plan: Plan, learns: bool) -> Outputs:
    """As ``reference.forward``."""
    task = _Task(inputs, plan)
    x, w = task.x, task.w
    y = x.new_empty(task.output)
    scale = w.new_empty(plan.blocks, w.shape[0]) if inputs.scale is None else inputs.scale.contiguous()
    mask = x.new_empty(mask_shape(task.output, plan) if learns and plan.output_bits else (0,), dtype=MASK)
    saturated = x.new_empty(plan.blocks, dtype=torch.uint8)
    task.hold(scale=scale, y=y, saturated=saturated, **({"mask": mask} if mask.numel() else {}))
    task.matrix.find_scale = inputs.scale is None
    task.run("at_linear" if not plan.dims else "at_convolution")
    return Outputs(y, scale, mask, saturated)


def backward(g: Tensor, inputs: Inputs, outputs: Outputs, plan: Plan, needs: Sequence[bool]) -> Gradients:
    """As ``reference.backward``."""
    needs_x, needs_range, needs_w, needs_bias = needs
    task = _Task(inputs, plan)
    x, w = task.x, task.w
    gx = torch.empty_like(x) if needs_x or needs_range else None
    gw = torch.empty_like(w) if needs_w else None
    g_bias = w.new_empty(w.shape[0]) if needs_bias else None
    saturated = outputs.saturated if outputs.mask.numel() else torch.zeros_like(outputs.saturated)
    given = {"gx": gx, "gw": gw, "g_bias": g_bias, "mask": outputs.mask if outputs.mask.numel() else None}
    task.hold(
        scale=outputs.scale.contiguous(), saturated=saturated, g=g, **{k: t for k, t in given.items() if t is not None}
    )
    parts: tuple[Any, ...] = ()
    if plan.dims:
        # enough items for every thread, where there are few samples
        split = max(1, min(w.shape[1], -(-2 * torch.get_num_threads() // (x.shape[0] * plan.groups))))
        sums = torch.zeros(x.shape[0] * plan.groups * split, dtype=torch.float64)
        parts = (ctypes.c_int64(split),)
    else:
        panels = _call("at_linear_panels", _array(plan.bounds), ctypes.c_int64(plan.blocks))
        sums = torch.zeros(panels, dtype=torch.float64)
    task.hold(g_range=sums)
    task.run("at_convolution_backward" if plan.dims else "at_linear_backward", *parts)
    g_range = None
    if needs_range:
        g_range = inputs.input_range.sign() * sums.sum().to(inputs.input_range.dtype)
    return gx if needs_x else None, g_range, gw, g_bias


class _Task:
    """One call: the structure that the kernel reads, and the tensors that must live until it returns."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        self.x, self.w = inputs.x.contiguous(), inputs.w.contiguous()
        self.matrix: Matrix
        self._alive: list[Any] = []
        x, w = self.x, self.w
        if plan.dims:
            sizes = zip(x.shape[2:], w.shape[2:], plan.stride, plan.padding, plan.dilation, strict=True)
            places = [(size + 2 * pad - gap * (taps - 1) - 1) // step + 1 for size, taps, step, pad, gap in sizes]
            if min(places) < 1:
                raise ValueError(
                    f"the kernel {tuple(w.shape[2:])} is larger than the padded input {tuple(x.shape[2:])}"
                )
            self.output = (x.shape[0], w.shape[0], *places)
            self.matrix = Convolution(n=x.shape[0], groups=plan.groups, channels=w.shape[1])
            self.matrix.outputs = w.shape[0] // plan.groups
            sizes_of = {"in_": x.shape[2:], "out": places, "kernel": w.shape[2:], "stride": plan.stride}
            for name, numbers in {**sizes_of, "dilation": plan.dilation}.items():
                setattr(self.matrix, name, _three(numbers, 1))
            self.matrix.padding = _three(plan.padding, 0)
        else:
            self.output = (*x.shape[:-1], w.shape[0])
            self.matrix = Linear(vectors=x.shape[:-1].numel(), rows=w.shape[1], outputs=w.shape[0])
        self._describe(plan, inputs)

    def _describe(self, plan: Plan, inputs: Inputs) -> None:
        m = self.matrix
        m.blocks, m.n_columns = plan.blocks, max(len(plan.columns) - 1, 0)
        bounds, columns = _array(plan.bounds), _array(plan.columns)
        m.bounds, m.columns = ctypes.addressof(bounds), ctypes.addressof(columns)
        self._alive += [bounds, columns]
        m.own_range = inputs.input_range.numel() > 1
        m.input_levels = levels(plan.input_bits) if plan.input_bits else 0
        spread, noise, read = plan.spread, m.noise, m.read
        noise.std, noise.shaped, noise.base, noise.step = plan.weight_noise, plan.shaped, spread.base, spread.step
        noise.c, noise.pieces = spread.coefficients, spread.pieces
        noise.first_output, noise.first_row = plan.first_output, plan.first_row
        read.levels, read.bound = levels(plan.output_bits) if plan.output_bits else 0, plan.output_bound
        read.std, read.first_output = plan.output_noise, plan.first_output
        read.total_outputs = plan.total_outputs or self.w.shape[0]
        self.hold(x=self.x, w=self.w, range=inputs.input_range.contiguous())
        optional = {"bias": inputs.bias, "gain": inputs.gain, "samples": inputs.samples}
        self.hold(**{name: t.contiguous() for name, t in optional.items() if t is not None})
        if inputs.key is not None:
            noise.key = inputs.key.data_ptr()
        if inputs.output_keys is not None:
            read.keys = self._keep(inputs.output_keys.contiguous()).data_ptr()

    def hold(self, **tensors: Tensor) -> None:
        """Let the structure point to contiguous tensors."""
        for name, tensor in tensors.items():
            setattr(self.matrix, name, self._keep(tensor).data_ptr())

    def _keep(self, tensor: Tensor) -> Tensor:
        self._alive.append(tensor)
        return tensor

    def run(self, name: str, *more: Any) -> None:
        """Call the kernel; it releases the interpreter's lock."""
        _call(name, ctypes.byref(self.matrix), *more)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@functools.lru_cache(maxsize=4096)
def _array(numbers: tuple[int, ...]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _three(numbers: Sequence[int], default: int) -> Any:
    return (ctypes.c_int64 * 3)(*[default] * (3 - len(numbers)), *numbers)
