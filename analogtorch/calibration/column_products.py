"""Products of an MVM on a chip: again, with exact weights, and where converters clip it."""

import dataclasses
import functools

import torch
from torch import Tensor

from analogtorch.nn import AnalogLayer
from analogtorch.ops import Noise, Plan, fold, mvm, product, stream
from analogtorch.ops.operands import Operands
from analogtorch.ops.partial_sums import by_vector
from analogtorch.ops.physics import wide

_FINE = 2**20
"""Steps of an ADC that clips and hardly rounds."""

_FINE_BITS = 16
"""Bits of a DAC or a digital unit that clips and hardly rounds."""

_CLIPPED = 1e-3
"""Share of the largest output of a column by which clipping must change one to count."""


@functools.lru_cache(maxsize=256)  # a recurrent layer asks at each step
def fine_plan(plan: Plan) -> Plan:
    """Return the plan with converters that hardly round; of slices, as it is: they are digits."""
    if plan.slicing.on:
        return plan
    return dataclasses.replace(
        plan,
        input_bits=_FINE_BITS if plan.input_bits else 0,
        output_steps=_FINE if plan.steps else 0,
        floors=0,
        unit_bits=_FINE_BITS if plan.unit_bits else 0,
    )


def again(inputs: Operands, plan: Plan, y: Tensor) -> Tensor:
    """Return the output ``y`` of an MVM with other noise; itself, if it has none."""
    if not plan.noisy_sums:
        return y
    assert inputs.output_keys is not None
    # the second MVM draws its noise with other keys
    keys = fold(inputs.output_keys, stream(Noise.COMPENSATION, "columns"))
    return product(inputs._replace(output_keys=keys), plan)


def exact_product(layer: AnalogLayer, inputs: Operands, plan: Plan, outputs: slice) -> Tensor:
    """Return the product of the exact weights without bias, for inputs after the DAC.

    Clipping by the DAC is no fault of a column: gains fitted to it would be those of the few
    largest inputs.
    """
    section = next(s for s in layer.sections if s.outputs.start <= outputs.start < s.outputs.stop)
    weight, first = section.weight(layer.placed_matrix(layer.weight)), section.outputs.start
    weight = weight[outputs.start - first : outputs.stop - first].to(inputs.w.dtype)
    return mvm(inputs.x, inputs.input_range, weight, plan.digital())


def saturated(inputs: Operands, plan: Plan) -> Tensor | None:
    """Return which outputs ADCs or the digital unit clip, (vectors, outputs); None: they cannot.

    By the chip's own sums, not the exact ones: a fit whose targets are cut off is drawn to 0.
    """
    if not plan.steps and not plan.unit_bits:
        return None
    exact, fine = _without_rounding(plan)
    inputs = inputs._replace(bias=None, adc_errors=None, adc_inl=None)
    kind = wide(inputs.w.dtype)
    whole = by_vector(product(inputs, exact), plan).to(kind)
    change = (by_vector(product(inputs, fine), plan).to(kind) - whole).abs()
    eps, sizes = 4 * torch.finfo(inputs.w.dtype).eps, whole.abs()
    return change > _CLIPPED * sizes.amax(0) + _rounding(inputs, fine).to(sizes) + eps * sizes


@functools.lru_cache(maxsize=256)
def _without_rounding(plan: Plan) -> tuple[Plan, Plan]:
    """Return the plan without converters, and with those that clip and hardly round."""
    exact = plan.unconverted()
    fine = dataclasses.replace(
        exact,
        output_steps=_FINE if plan.steps else 0,
        unit_bits=_FINE_BITS if plan.unit_bits else 0,
    )
    return exact, fine


def _rounding(inputs: Operands, fine: Plan) -> Tensor:
    """Return twice what fine converters round each output by at most; 0 for sliced weights."""
    if inputs.scale is None or fine.slicing.on:
        return inputs.w.new_zeros(())
    halves = torch.zeros_like(inputs.scale, dtype=torch.float64)
    if fine.steps:
        ranges = fine.adc_range if inputs.adc_ranges is None else inputs.adc_ranges
        halves += ranges / (2 * fine.steps)
    if fine.unit_bits and inputs.output_ranges is not None:
        halves += inputs.output_ranges / 2**fine.unit_bits
    if inputs.gain is not None:
        halves *= inputs.gain.abs()
    full = inputs.input_range.abs().max()
    return 2 * fine.phases * (full * inputs.scale * halves).sum(0)
