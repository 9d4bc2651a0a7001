"""An ADC bound for each layer, from the partial sums it meets: a deviation from a chip whose bound is fixed."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from analogtorch.calibrate.histogram import Histogram
from analogtorch.calibrate.passes import Forward, check_finite, evaluating, observing, run
from analogtorch.chips import Chip
from analogtorch.nn import AnalogLayer
from analogtorch.ops import Plan, block_scales
from analogtorch.ops.reference import Inputs, part, per_block, quantised

Adc = Literal["mse", "percentile", "absmax"]


def bounds(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    chips: Mapping[str, Chip],
    batches: Iterable[Any],
    method: Adc,
    percentile: float,
    forward: Forward | None,
    progress: bool,
) -> dict[str, float]:
    """The bound of each layer's ADC, in units of (full-scale input x weight scale).

    Args:
        model: what runs; its analog layers have their input ranges.
        layers: those whose ADC is asked for.
        chips: of every layer, with the ADC and the output noise that it is to have.
        batches: as ``calibrate`` takes them.
        method: ``mse`` minimises the squared error of the readings, in units of the output; or ``percentile`` or
            ``absmax`` of the partial sums.
        percentile: for ``percentile``, in (0, 100].
        forward: as ``calibrate`` takes it.
        progress: show a progress bar.

    Raises:
        ValueError: a partial sum is NaN or infinite, or a layer has none but zeros.
    """
    sums = {name: _PartialSums(name) for name in layers}
    with evaluating(model), observing({layers[name]: seen for name, seen in sums.items()}):
        run("calibrate ADC", model, batches, forward, progress)
    found = {}
    for name, seen in sums.items():
        if not seen.histogram.largest:
            raise ValueError(
                f"calibrate: all partial sums of layer {name!r} are zero, so its ADC has no bound; leave adc out"
            )
        # with the noise of the readings, or the bound could lie inside it
        read = seen.histogram.noisy(chips[name].output_noise)
        found[name] = read.bound(method, chips[name].output_bits, percentile)
        if not found[name]:
            raise ValueError(
                f"calibrate: layer {name!r}: the {percentile=} of the partial sums is zero; use a larger percentile or "
                "another adc"
            )
    return found


class _PartialSums:
    """The partial sums of one layer, without noise."""

    def __init__(self, name: str) -> None:
        self.histogram = Histogram()
        self._name = name

    def __call__(self, inputs: Inputs, plan: Plan, outputs: slice, y: Tensor) -> None:
        x, weight, r, own = inputs.x, inputs.w, inputs.input_range.abs(), per_block(inputs.input_range)
        scale = block_scales(weight, plan.bounds, plan.columns) if inputs.scale is None else inputs.scale
        given = x if own else quantised(x, r, plan, weight.dtype)
        for block in range(plan.blocks):
            mine = r[block : block + 1] if own else r
            p = part(given, weight, plan.span(block, weight.shape[1:]), plan, mine if own else None)
            v = (p.movedim(1, -1) if plan.dims else p).reshape(-1, weight.shape[0]).to(scale.dtype)
            full = mine.to(scale.dtype) * scale[block]
            v = v / full.clamp_min(torch.finfo(scale.dtype).tiny)
            check_finite("calibrate", f"a partial sum of layer {self._name!r}", v)
            self.histogram.add(v, full.square().expand_as(v))
