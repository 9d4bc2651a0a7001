"""One call of a kernel: the structure that it reads, filled from a plan and tensors."""

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.chips.converters import levels
from analogtorch.ops.native import loading
from analogtorch.ops.native.structures import PARTS, Convolution, Linear, pointers
from analogtorch.ops.operands import NAMES, Operands, per_block
from analogtorch.ops.plan import Plan

_INT32 = 2**31
_BY_VECTOR, _BY_BLOCK = 1, 2  # of converters.h


class Form(NamedTuple):
    """The data that calls with the same plan and shapes share."""

    matrix: Any
    """The structure, without the tensors."""
    output: tuple[int, ...]
    """Shape of the output."""
    sums: int
    """Parts from which the gradient of the range is summed; in a convolution, for each part of its
    channels."""
    panels: list[int]
    """Number of them in each row block of a linear layer."""
    arrays: tuple[Any, ...] = ()
    """Arrays to which the structure points."""


@functools.lru_cache(maxsize=4096)
def _form(plan: Plan, x: torch.Size, w: torch.Size) -> Form:
    bounds, columns = loading.array(plan.bounds), loading.array(plan.columns)
    form = _convolution(plan, x, w) if plan.dims else _linear(plan, x, w)
    m = form.matrix
    m.blocks, m.n_columns = plan.blocks, max(len(plan.columns) - 1, 0)
    m.bounds, m.columns = ctypes.addressof(bounds), ctypes.addressof(columns)
    m.input_levels = levels(plan.input_bits)
    set_noise(m.noise, plan)
    _set_converters(m.adc, plan, w[0])
    return form._replace(arrays=(bounds, columns))


def _linear(plan: Plan, x: torch.Size, w: torch.Size) -> Form:
    rows = [b - a for a, b in zip(plan.bounds[:-1], plan.bounds[1:], strict=True)]
    panels = [loading.call("at_linear_panels", ctypes.c_int64(count)) for count in rows]
    matrix = Linear(vectors=x[:-1].numel(), rows=w[1], outputs=w[0])
    return Form(matrix, (*x[:-1], w[0]), sum(panels), panels)


def _convolution(plan: Plan, x: torch.Size, w: torch.Size) -> Form:
    geometry = zip(x[2:], w[2:], plan.stride, plan.padding, plan.dilation, strict=True)
    output = [
        (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for size, taps, step, pad, gap in geometry
    ]
    if min(output) < 1:
        raise ValueError(
            f"the kernel {tuple(w[2:])} is larger than the padded input {tuple(x[2:])}"
        )
    padded = math.prod(size + 2 * pad for size, pad in zip(x[2:], plan.padding, strict=True))
    if padded * w[1] >= _INT32:
        raise ValueError(
            f"a padded sample of {padded * w[1]:,} numbers is too large, below 2^31 are allowed"
        )
    m = Convolution(n=x[0], groups=plan.groups, channels=w[1], outputs=w[0] // plan.groups)
    sizes = {"in": x[2:], "out": output, "kernel": w[2:]}
    sizes |= {"stride": plan.stride, "dilation": plan.dilation}
    for name, numbers in sizes.items():
        setattr(m, name, _three(numbers, 1))
    m.padding = _three(plan.padding, 0)
    return Form(m, (x[0], w[0], *output), x[0] * plan.groups, [])


def set_noise(noise: Any, plan: Plan) -> None:
    """Set the weight noise of the kernels: see ``weights.h``."""
    spread = plan.spread
    noise.std, noise.shaped = plan.weight_noise, plan.shaped
    noise.base, noise.step, noise.c = spread.base, spread.step, spread.coefficients
    noise.pieces, noise.dip, noise.rate = spread.pieces, spread.dip, spread.rate
    noise.first_output, noise.first_row = plan.first_output, plan.first_row


def _set_converters(adc: Any, plan: Plan, outputs: int) -> None:
    """Set the output noise and the ADCs of the kernels: see ``converters.h``."""
    adc.levels, adc.range = plan.steps, plan.adc_range
    adc.std, adc.read_noise = plan.output_noise, plan.read_noise
    adc.first_output = plan.first_output
    adc.total_outputs, adc.each_error = plan.total_outputs or outputs, plan.blocks * outputs


_POINTED = {
    part: tuple((n, NAMES.index(n)) for n in pointers(kind) if n in NAMES)
    for part, kind in PARTS.items()
}
"""The operands to which the structures point, with their indices, by the name of the part."""


class Call:
    """The structure that a kernel reads, and the tensors that must live until it returns."""

    def __init__(self, inputs: Operands, plan: Plan) -> None:
        self.form = _form(plan, inputs.x.shape, inputs.w.shape)
        self.matrix = type(self.form.matrix).from_buffer_copy(self.form.matrix)
        self._alive: list[Tensor] = []
        limits = inputs.input_range
        by_vector = _BY_VECTOR * (limits.numel() > 1)
        self.matrix.range_by = _BY_BLOCK if per_block(limits) else by_vector
        for part, named in _POINTED.items():
            structure = getattr(self.matrix, part) if part else self.matrix
            for name, at in named:
                if (tensor := inputs[at]) is not None:
                    setattr(structure, name, self._address(tensor))
        self.matrix.first_only = inputs.samples is not None and inputs.samples.numel() == 1
        if inputs.output_ranges is not None and plan.unit_bits:
            self.matrix.adc.unit_levels = levels(plan.unit_bits)

    def point(self, **tensors: Tensor | None) -> None:
        """Set the structure's pointers to these tensors, or to contiguous copies."""
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(self.matrix, name, self._address(tensor))

    def _address(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._alive.append(tensor)
        return tensor.data_ptr()

    def run(self, name: str, *more: Any) -> None:
        """Call the kernel, without the interpreter's lock; short of memory it writes nothing."""
        if loading.call(name, ctypes.byref(self.matrix), *more):
            raise MemoryError(
                f"no memory for what an analog product of shape {self.form.output} needs while it "
                "runs"
            )


def _three(numbers: Sequence[int], default: int) -> Any:
    return (ctypes.c_int64 * 3)(*[default] * (3 - len(numbers)), *numbers)
