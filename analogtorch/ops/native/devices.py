"""Weights as the devices of their cells hold them, on the CPU."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.generator import Noise, stream
from analogtorch.ops.native import loading
from analogtorch.ops.native.structures import DeviceNoise

_STREAMS = loading.array(tuple(stream(k) for k in (Noise.PROGRAMMING, Noise.DRIFT, Noise.READ)))
_OF_FORMULA, _OF_INSTRUCTION = 8, (5, 4)
"""Integers before the instructions of a formula; integers and numbers of an instruction."""


def takes(weight: Tensor) -> bool:
    """Return whether the kernels compute the devices of these weights."""
    ours = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() > 0
    return ours and loading.available()


def device_noise(
    weight: Tensor,
    key: Tensor,
    bounds: Sequence[int],
    columns: Sequence[int],
    together: Sequence[int],
    where: Sequence[int],
    strength: float,
    integers: Sequence[int],
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``ops.device_noise.device_noise``."""
    weight, key = weight.detach().contiguous(), key.contiguous()
    out, scale = torch.empty_like(weight), weight.new_empty(len(bounds) - 1, weight.shape[0])
    gain = torch.empty_like(scale)
    p = DeviceNoise.from_buffer_copy(_structure(tuple(integers), tuple(numbers))[0])
    for name, tensor in {"w": weight, "key": key, "out": out, "scale": scale, "gain": gain}.items():
        setattr(p, name, tensor.data_ptr())
    arrays = {"bounds": bounds, "columns": columns, "together": together}
    held = {name: loading.array(tuple(array)) for name, array in arrays.items()}
    for name, array in held.items():
        setattr(p, name, ctypes.addressof(array))
    p.outputs, p.rows = weight.shape[0], weight[0].numel()
    p.blocks, p.n_columns, p.n_together = (
        len(bounds) - 1,
        max(len(columns) - 1, 0),
        len(together) - 1,
    )
    p.first_output, p.first_row, p.groups = where
    p.strength = strength
    if loading.call("at_device_noise", ctypes.byref(p)):
        raise MemoryError(f"no memory for the devices of weights of shape {tuple(weight.shape)}")
    return out, scale, gain


@lru_cache(maxsize=256)
def _structure(integers: tuple[int, ...], numbers: tuple[float, ...]) -> tuple[Any, list[Any]]:
    """Return the structure of a cell's devices, and the arrays to which it points."""
    p, alive = DeviceNoise(streams=ctypes.addressof(_STREAMS)), []
    p.pairs, p.sequential, p.drifts, p.calibrated = integers[:4]
    p.g_min, p.span, p.g_total = numbers[:3]
    at, of_numbers = 4, 3
    for formula in (p.full, p.empty):
        count = integers[at]
        formula.count, formula.registers = integers[at : at + 2]
        formula.uses = tuple(integers[at + 2 : at + 6])
        formula.results = tuple(integers[at + 6 : at + 8])
        at += _OF_FORMULA
        ints, floats = (count * each for each in _OF_INSTRUCTION)
        code = loading.array(integers[at : at + ints])
        listed = (ctypes.c_float * floats)(*numbers[of_numbers : of_numbers + floats])
        formula.code, formula.numbers = ctypes.addressof(code), ctypes.addressof(listed)
        alive += [code, listed]
        at, of_numbers = at + ints, of_numbers + floats
    return p, alive
