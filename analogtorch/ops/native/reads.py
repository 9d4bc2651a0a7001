"""Sums over the reads of known MVMs that a gain is fitted on, on the CPU."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.ops.native import loading
from analogtorch.ops.native.product import KNOWS_ERRORS
from analogtorch.ops.native.structures import KnownReads


def takes(sums: Tensor) -> bool:
    """Return whether the kernel computes reads of these partial sums."""
    ours = sums.device.type == "cpu" and sums.dtype == torch.float32 and sums.numel() > 0
    return ours and KNOWS_ERRORS and loading.available()


def known_reads(
    sums: Tensor,
    exact: Tensor,
    errors: Tensor,
    working: Tensor,
    keys: Sequence[int],
    *,
    noise: float,
    adc_range: float,
    levels: int,
    lost: float,
    floors: bool,
    balanced: bool,
    first_output: int,
) -> tuple[Tensor, Tensor]:
    """Return numerator and denominator of a gain, (outputs,): see ``simulate.readout.Block.fit``.

    Args:
        sums: partial sums, (inputs, outputs).
        exact: the MVMs of the exact weights, of the same shape.
        errors: of the ADC of each output, (kinds, outputs).
        working: 1, or 0 where a column has no output.
        keys: of the noise of the first read, and of the second if that has its own; of each as it
            is and with exchanged polarities.
        noise: standard deviation of the noise of a read.
        adc_range: ADC range.
        levels: steps on each side of zero; 0: no ADC.
        lost: what a code may lack of a step, where ``floors``.
        floors: whether codes are rounded toward zero.
        balanced: whether each read is half the difference of two.
        first_output: number of the first output in the noise.
    """
    found = sums.new_empty(2, sums.shape[1])
    held = [x.contiguous() for x in (sums, exact, errors, working, *found)]
    names = ("sums", "exact", "errors", "working", "numerator", "denominator")
    array = loading.array(tuple(keys))
    p = KnownReads(keys=ctypes.addressof(array))
    for name, tensor in zip(names, held, strict=True):
        setattr(p, name, tensor.data_ptr())
    p.noise, p.range, p.levels, p.lost = noise, adc_range, levels, lost
    p.inputs, p.outputs, p.first_output = *sums.shape, first_output
    p.twice, p.balanced, p.floors = len(keys) // 2, balanced, floors
    if loading.call("at_known_reads", ctypes.byref(p)):
        raise MemoryError(f"no memory for reads of partial sums of shape {tuple(sums.shape)}")
    return found[0], found[1]
