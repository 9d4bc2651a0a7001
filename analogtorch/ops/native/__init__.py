"""The CPU kernels, called on tensors: one pass over memory where torch takes several.

They are optional. ``available()`` is False where they were not built (no C compiler at
installation, not Linux) or were built from other sources than those beside them, and
``analogtorch.ops`` then computes the same with torch, more slowly, and warns of it once.
``status()`` names the library or the reason.
"""

import ctypes
import functools
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.ops.mask import MASK, mask_shape
from analogtorch.ops.native import structures
from analogtorch.ops.native.structures import PARTS, Convolution, Linear, pointers
from analogtorch.ops.operands import Gradients, Kind, Operands, Outputs, of_kind, per_block
from analogtorch.ops.physics import levels
from analogtorch.ops.plan import Plan

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_INT32 = 2**31
_BY_VECTOR, _BY_BLOCK = 1, 2  # of converters.h


def _library() -> ctypes.CDLL | None:
    return _found()[0]


@functools.cache
def _found() -> tuple[ctypes.CDLL | None, str]:
    """The library that runs here, and what ``status`` says of it."""
    from analogtorch.ops.native import build  # not at import: it is also run as a program

    capability = torch.backends.cpu.get_cpu_capability()
    path = next(
        (p for p in (build.library(capability), build.library("DEFAULT")) if p.exists()), None
    )
    remedy = "install gcc 12 or newer and run: python -m analogtorch.ops.native.build"
    if path is None:
        return None, f"not built for {capability} ({build.FOLDER}); {remedy}"
    if not build.current(path):
        return (
            None,
            f"{path} was built from other sources than those beside it and is not loaded; {remedy}",
        )
    try:
        return _loaded(path), f"{path.name} ({capability})"
    except OSError as error:
        return None, f"cannot be loaded: {error}; {remedy}"


def _loaded(path: Path) -> ctypes.CDLL:
    for runtime in sorted(Path(torch.__file__).parent.glob("lib/libgomp*")) or [
        Path("libgomp.so.1")
    ]:
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    library.at_linear_panels.restype = ctypes.c_int64
    return library


@functools.cache
def _warn() -> None:
    warnings.warn(
        "analogtorch: the CPU kernels do not run, so analog layers run on plain torch, several "
        "times slower. " + status(),
        RuntimeWarning,
        stacklevel=3,
    )


def available() -> bool:
    """Whether the kernels are there; warns once in a process if not."""
    if _library() is None:
        _warn()
        return False
    return True


def status() -> str:
    """One line: the library that runs on this CPU, or why none does and what to do about it."""
    library, words = _found()
    return f"CPU kernels: {words}" if library is not None else f"CPU kernels: none, {words}"


def takes(inputs: Operands, plan: Plan) -> bool:
    """Whether the kernels compute this product: on the CPU, not in double precision, not empty.

    Not theirs are input ranges of row blocks that cut a kernel: the channel of that kernel has
    several; and plans of several phases. Half precision is computed in float32 throughout and
    rounded at the end.
    """
    floats = [t for i, t in enumerate(inputs) if t is not None and i in _FLOATS]
    ours = all(t.dtype in _TYPES and t.device.type == "cpu" for t in floats)
    taps = inputs.w.shape[2:].numel()
    whole = not per_block(inputs.input_range) or all(bound % taps == 0 for bound in plan.bounds)
    return (
        ours
        and whole
        and plan.phases == 1
        and (inputs.adc_errors is None or _KNOWS_ERRORS)
        and inputs.x.numel() > 0
        and inputs.w.numel() > 0
        and available()
    )


_FLOATS = frozenset(map(Operands._fields.index, of_kind(Kind.VALUE, Kind.ADC, Kind.ADC_ERROR)))
"""Indices of the operands that are floating point."""
_KNOWS_ERRORS = tuple(error.kind for error in ADC_ERRORS) == structures.ADC_ERRORS
"""Whether the kernels compute all errors of ADCs that chips have."""


def _single(inputs: Operands) -> Operands:
    """The same in float32."""
    return Operands._make(
        [t.float() if t is not None and i in _FLOATS else t for i, t in enumerate(inputs)]
    )


def _call(name: str, *arguments: Any) -> Any:
    found = _library()
    assert found is not None
    return getattr(found, name)(*arguments)


def normal(key: int, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """Normals at ``rows`` (int64, (R,)) and the ``count`` columns from ``first`` (int64, (R,)):
    float32 (R, count).
    """
    # whatever the default device is
    out = torch.empty(len(rows), count, dtype=torch.float32, device="cpu")
    numbers = (
        ctypes.c_int64(key),
        _pointer(rows),
        _pointer(first),
        ctypes.c_int64(len(rows)),
        ctypes.c_int64(count),
    )
    _call("at_normal", _pointer(out), *numbers)
    return out


def keys(seed: int, streams: Sequence[int]) -> Tensor:
    """``fold`` of the seed with each stream: int64."""
    out = torch.empty(len(streams), dtype=torch.int64, device="cpu")
    _call(
        "at_keys",
        _pointer(out),
        ctypes.c_int64(seed),
        _array(tuple(streams)),
        ctypes.c_int64(len(streams)),
    )
    return out


def forward(inputs: Operands, plan: Plan, learns: bool) -> Outputs:
    """As ``reference.forward``."""
    dtype, inputs = inputs.w.dtype, _single(inputs)
    call = _Call(inputs, plan)
    x, w, output = inputs.x, inputs.w, call.form.output
    y = x.new_empty(output)
    scale = (
        w.new_empty(plan.blocks, w.shape[0]) if inputs.scale is None else inputs.scale.contiguous()
    )
    kept = learns and plan.saturates
    mask = x.new_empty(mask_shape(output, plan.blocks, plan.dims) if kept else (0,), dtype=MASK)
    saturated = x.new_empty(plan.blocks, dtype=torch.uint8)
    call.point(scale=scale, y=y, saturated=saturated, mask=mask if mask.numel() else None)
    call.matrix.find_scale = inputs.scale is None
    call.run("at_convolution" if plan.dims else "at_linear")
    return Outputs(y.to(dtype), scale, mask, saturated)


def backward(
    g: Tensor, inputs: Operands, outputs: Outputs, plan: Plan, needs: Sequence[bool]
) -> Gradients:
    """As ``reference.backward``."""
    needs_x, needs_range, needs_w, needs_bias = needs
    given, inputs = inputs, _single(inputs)
    x, w, call = inputs.x, inputs.w, _Call(inputs, plan)
    gx = x.new_empty(x.shape) if needs_x or needs_range else None
    gw = w.new_empty(w.shape) if needs_w else None
    g_bias = w.new_empty(w.shape[0]) if needs_bias else None
    mask = outputs.mask if outputs.mask.numel() else None
    saturated = outputs.saturated if mask is not None else torch.zeros_like(outputs.saturated)
    call.point(
        scale=outputs.scale.float(),
        saturated=saturated,
        g=g.float(),
        gx=gx,
        gw=gw,
        g_bias=g_bias,
        mask=mask,
    )
    split = 1
    if plan.dims:  # enough items for every thread, where there are few samples
        split = max(
            1, min(w.shape[1], -(-2 * torch.get_num_threads() // (x.shape[0] * plan.groups)))
        )
    blocks = plan.blocks if per_block(inputs.input_range) else 1
    each = blocks if plan.dims else 1  # of a linear layer, a panel of rows lies in one block
    sums = torch.zeros(call.form.sums * split * each, dtype=torch.float64, device="cpu")
    call.point(g_range=sums)
    if plan.dims:
        call.run("at_convolution_backward", ctypes.c_int64(split))
    else:
        call.run("at_linear_backward")
    g_range = None
    if needs_range:
        if blocks == 1:
            taught = sums.sum()
        elif plan.dims:
            taught = sums.view(-1, blocks).sum(0)
        else:
            taught = torch.stack([part.sum() for part in sums.split(call.form.panels)])
        g_range = given.input_range.sign() * taught.to(given.input_range.dtype)
    gx = gx.to(given.x.dtype) if gx is not None and needs_x else None
    gw = None if gw is None else gw.to(given.w.dtype)
    return gx, g_range, gw, None if g_bias is None else g_bias.to(g.dtype)


class _Form(NamedTuple):
    """What calls of the same plan and shapes share."""

    matrix: Any
    """The structure, but for the tensors."""
    output: tuple[int, ...]
    """Shape of the output."""
    sums: int
    """Parts that the gradient of the range is summed from; of a convolution, for each split of its
    channels."""
    panels: list[int]
    """How many of them belong to each row block of a linear layer."""
    arrays: tuple[Any, ...]
    """What the structure points to."""


@functools.lru_cache(maxsize=4096)
def _form(plan: Plan, x: torch.Size, w: torch.Size) -> _Form:
    bounds, columns = _array(plan.bounds), _array(plan.columns)
    if plan.dims:
        geometry = zip(x[2:], w[2:], plan.stride, plan.padding, plan.dilation, strict=True)
        places = [
            (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
            for size, taps, step, pad, gap in geometry
        ]
        if min(places) < 1:
            raise ValueError(
                f"the kernel {tuple(w[2:])} is larger than the padded input {tuple(x[2:])}"
            )
        padded = math.prod(size + 2 * pad for size, pad in zip(x[2:], plan.padding, strict=True))
        if padded * w[1] >= _INT32:
            raise ValueError(
                f"a padded sample of {padded * w[1]:,} numbers is too large, below 2^31 are allowed"
            )
        m = Convolution(n=x[0], groups=plan.groups, channels=w[1], outputs=w[0] // plan.groups)
        sizes = {
            "in": x[2:],
            "out": places,
            "kernel": w[2:],
            "stride": plan.stride,
            "dilation": plan.dilation,
        }
        for name, numbers in sizes.items():
            setattr(m, name, _three(numbers, 1))
        m.padding = _three(plan.padding, 0)
        output, sums, panels = (x[0], w[0], *places), x[0] * plan.groups, []
    else:
        m = Linear(vectors=x[:-1].numel(), rows=w[1], outputs=w[0])
        output = (*x[:-1], w[0])
        rows = [b - a for a, b in zip(plan.bounds, plan.bounds[1:], strict=False)]
        panels = [_call("at_linear_panels", ctypes.c_int64(count)) for count in rows]
        sums = sum(panels)
    m.blocks, m.n_columns = plan.blocks, max(len(plan.columns) - 1, 0)
    m.bounds, m.columns = ctypes.addressof(bounds), ctypes.addressof(columns)
    m.input_levels = levels(plan.input_bits) if plan.input_bits else 0
    spread, noise, read = plan.spread, m.noise, m.read
    noise.std, noise.shaped, noise.base, noise.step = (
        plan.weight_noise,
        plan.shaped,
        spread.base,
        spread.step,
    )
    noise.c, noise.pieces, noise.dip, noise.rate = (
        spread.coefficients,
        spread.pieces,
        spread.dip,
        spread.rate,
    )
    noise.first_output, noise.first_row = plan.first_output, plan.first_row
    read.levels, read.bound = plan.steps, plan.output_bound
    read.std, read.first_output = plan.output_noise, plan.first_output
    read.total_outputs, read.each_error = plan.total_outputs or w[0], plan.blocks * w[0]
    return _Form(m, output, sums, panels, (bounds, columns))


_POINTED = {
    part: tuple(n for n in pointers(kind) if n in Operands._fields) for part, kind in PARTS.items()
}
"""The operands that the structures point to, by the name of the part."""


class _Call:
    """The structure that a kernel reads, and the tensors that must live until it returns."""

    def __init__(self, inputs: Operands, plan: Plan) -> None:
        self.form = _form(plan, inputs.x.shape, inputs.w.shape)
        self.matrix = type(self.form.matrix).from_buffer_copy(self.form.matrix)
        self._alive: list[Tensor] = []
        own = inputs.input_range
        self.matrix.range_by = _BY_BLOCK if per_block(own) else _BY_VECTOR * (own.numel() > 1)
        for part, names in _POINTED.items():
            structure = getattr(self.matrix, part) if part else self.matrix
            for name in names:
                if (tensor := getattr(inputs, name)) is not None:
                    setattr(structure, name, self._address(tensor))
        if inputs.output_ranges is not None and plan.unit_bits:
            self.matrix.read.unit_levels = levels(plan.unit_bits)

    def point(self, **tensors: Tensor | None) -> None:
        """Let the structure point to these tensors; to copies of those that are not contiguous."""
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(self.matrix, name, self._address(tensor))

    def _address(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._alive.append(tensor)
        return tensor.data_ptr()

    def run(self, name: str, *more: Any) -> None:
        """Call the kernel; it releases the interpreter's lock, and writes nothing where memory is
        short.
        """
        if _call(name, ctypes.byref(self.matrix), *more):
            raise MemoryError(
                f"no memory for what an analog product of shape {self.form.output} needs while it "
                "runs"
            )


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _array(numbers: tuple[int, ...]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _three(numbers: Sequence[int], default: int) -> Any:
    return (ctypes.c_int64 * 3)(*[default] * (3 - len(numbers)), *numbers)
