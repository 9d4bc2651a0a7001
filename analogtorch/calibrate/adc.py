"""ADC bounds from the partial sums that layers meet: a deviation from a chip whose bound is fixed."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from analogtorch.calibrate.histogram import ColumnHistogram, Histogram
from analogtorch.calibrate.passes import Forward, check_finite, evaluating, observing, run
from analogtorch.chips import Chip
from analogtorch.nn import AnalogLayer
from analogtorch.ops import Plan, block_scales
from analogtorch.ops.reference import Inputs, part, per_block, quantised

Adc = Literal["mse", "percentile", "absmax"]
AdcPer = Literal["layer", "tile", "column"]


def bounds(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    chips: Mapping[str, Chip],
    batches: Iterable[Any],
    method: Adc,
    per: AdcPer,
    percentile: float,
    forward: Forward | None,
    progress: bool,
) -> dict[str, Tensor]:
    """The ADC bounds of each layer, as ``AnalogLayer.output_bounds``.

    Args:
        model: what runs; its analog layers have their input ranges.
        layers: those whose ADC is asked for.
        chips: of every layer, with the ADC and the output noise that it is to have.
        batches: as ``calibrate`` takes them.
        method: ``mse`` minimises the squared error of the readings, in units of the output; or ``percentile`` or
            ``absmax`` of the partial sums.
        per: what has a bound of its own: all readings of the layer, those of a tile, or each.
        percentile: for ``percentile``, in (0, 100].
        forward: as ``calibrate`` takes it.
        progress: show a progress bar.

    Raises:
        ValueError: a partial sum is NaN or infinite, or a layer has none but zeros.
    """
    sums = {name: _PartialSums(name, layer, per) for name, layer in layers.items()}
    with evaluating(model), observing({layers[name]: seen for name, seen in sums.items()}):
        run("calibrate ADC", model, batches, forward, progress)
    return {name: seen.bounds(chips[name], method, percentile) for name, seen in sums.items()}


class _PartialSums:
    """The partial sums of one layer without noise, by what has a bound of its own."""

    def __init__(self, name: str, layer: AnalogLayer, per: AdcPer) -> None:
        self._name, self._readings = name, layer.readings
        blocks, outputs = layer.readings
        columns = [slice(0, outputs)]
        if per == "tile":
            columns = [
                slice(section.outputs.start + c.start, section.outputs.start + c.stop)
                for section in layer.sections
                for c in section.col_blocks
            ]
        self._parts: list[tuple[range, slice, Histogram | ColumnHistogram]] = [
            (rows, c, ColumnHistogram(outputs, weighted=not layer.calibrated) if per == "column" else Histogram())
            for rows in ([range(blocks)] if per == "layer" else [range(b, b + 1) for b in range(blocks)])
            for c in columns
        ]
        """Row blocks, outputs, and what their readings were."""

    def __call__(self, inputs: Inputs, plan: Plan, outputs: slice, y: Tensor) -> None:
        x, weight, r, own = inputs.x, inputs.w, inputs.input_range.abs(), per_block(inputs.input_range)
        scale = block_scales(weight, plan.bounds, plan.columns) if inputs.scale is None else inputs.scale
        given = x if own else quantised(x, r, plan, weight.dtype)
        for block in range(plan.blocks):
            mine = r[block : block + 1] if own else r
            p = part(given, weight, plan.span(block, weight.shape[1:]), plan, mine if own else None)
            v = (p.movedim(1, -1) if plan.dims else p).reshape(-1, weight.shape[0]).to(scale.dtype)
            each = mine.reshape(-1, 1).to(scale.dtype)  # of the layer, or of each vector or sample
            full = (
                each.repeat_interleave(len(v) // len(each), 0) * scale[block] if len(each) > 1 else each * scale[block]
            )
            v = v / full.clamp_min(torch.finfo(scale.dtype).tiny)
            check_finite("calibrate", f"a partial sum of layer {self._name!r}", v)
            for rows, columns, met in self._parts:
                first, last = max(columns.start, outputs.start), min(columns.stop, outputs.stop)
                if block in rows and first < last:
                    here = slice(first - outputs.start, last - outputs.start)
                    met.add(v[:, here], full[:, here].square().expand_as(v[:, here]), first - columns.start)

    def bounds(self, chip: Chip, method: Adc, percentile: float) -> Tensor:
        """(row blocks, outputs); what met nothing but zeros gets the largest of the others."""
        if not any(met.met for *_, met in self._parts):
            raise ValueError(
                f"calibrate: all partial sums of layer {self._name!r} are zero, so its ADC has no bound; leave adc out"
            )
        found = torch.zeros(self._readings, dtype=torch.float64)
        for rows, columns, met in self._parts:
            if met.met:
                # with the noise of the readings, or the bound could lie inside it
                read = met.noisy(chip.output_noise)
                bound = torch.as_tensor(read.bound(method, chip.output_bits, percentile), dtype=found.dtype)
                found[rows.start : rows.stop, columns] = torch.where(torch.as_tensor(met.largest) > 0, bound, 0.0)
        if not found.any():
            raise ValueError(
                f"calibrate: layer {self._name!r}: the {percentile=} of the partial sums is zero; use a larger "
                "percentile or another adc"
            )
        return torch.where(found > 0, found, found.max())
