"""A formula of numbers and of normals at their positions, on the CPU."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.formula import Formula
from analogtorch.ops.native import loading
from analogtorch.ops.native.structures import Elementwise


def takes(numbers: Sequence[Tensor]) -> bool:
    """Return whether the kernel computes formulas of these numbers."""
    ours = all(
        x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 for x in numbers
    )
    return ours and loading.available()


def elementwise(
    formula: Formula,
    numbers: Sequence[Tensor],
    draws: Sequence[tuple[Tensor, Tensor, Tensor]],
    out: Sequence[Tensor],
) -> None:
    """Compute ``ops.elementwise.elementwise`` by a formula."""
    p = Elementwise.from_buffer_copy(_structure(formula)[0])
    given = [x.contiguous() for x in numbers]
    outputs, firsts = ([draw[i].contiguous() for draw in draws] for i in (1, 2))
    addresses = {"numbers": given, "outputs": outputs, "firsts": firsts, "out": out}
    held = {name: [x.data_ptr() for x in tensors] for name, tensors in addresses.items()}
    held["keys"] = [int(key) for key, _, _ in draws]
    arrays = {name: loading.array(tuple(each)) for name, each in held.items()}
    for name, array in arrays.items():
        setattr(p, name, ctypes.addressof(array))
    p.n_numbers, p.n_normals, p.n_results = len(given), len(draws), len(out)
    p.rows, p.columns = len(out[0]), out[0][0].numel()
    if loading.call("at_elementwise", ctypes.byref(p)):
        raise MemoryError(f"no memory for a formula of numbers of shape {tuple(out[0].shape)}")


@lru_cache(maxsize=256)
def _structure(formula: Formula) -> tuple[Any, list[Any]]:
    """Return the structure of a formula, and the arrays to which it points."""
    p, listed = Elementwise(), formula.instructions
    p.of.count, p.of.registers = len(listed), formula.registers
    code = [(int(i.op), i.to, *i.read, *[0] * (3 - len(i.read))) for i in listed]
    arrays = {
        "code": loading.array(tuple(number for each in code for number in each)),
        "numbers": (ctypes.c_float * (4 * len(listed)))(*(k for i in listed for k in i.k)),
        "uses": loading.array(tuple(map(int, formula.uses))),
        "results": loading.array(formula.results),
    }
    for name, array in arrays.items():
        setattr(p.of if name in ("code", "numbers") else p, name, ctypes.addressof(array))
    return p, list(arrays.values())
