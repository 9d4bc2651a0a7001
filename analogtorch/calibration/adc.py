"""Full scales behind the array, from the partial sums that layers meet: of the ADC, and of the
digital unit.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from analogtorch.calibration.histogram import ColumnHistogram, Histogram
from analogtorch.calibration.passes import Forward, check_finite, evaluating, few_threads, run
from analogtorch.devices import Spread
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.ops import Plan, block_scales, over_rows
from analogtorch.ops.operands import Operands, per_block
from analogtorch.ops.physics import adc, dac, phases, relative, weight_sigma
from analogtorch.ops.reference import part

Adc = Literal["mse", "percentile", "absmax"]
AdcPer = Literal["layer", "tile", "column"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How the ADC ranges of a layer are to be found."""

    method: Adc
    per: AdcPer
    percentile: float


@dataclass(frozen=True)
class Limits:
    """What was found for a layer."""

    output_bounds: Tensor | None
    """As of the layer; None: the chip's own."""
    output_ranges: Tensor | None
    """As of the layer; None: the chip has no digital unit that rounds."""
    adc_error: float = 0.0
    """Root of the squared error that the chip's own ADC leaves in the partial sums, relative to
    them."""
    other_error: float = 0.0
    """The same of everything else: DAC, programming noise and output noise."""


def limits(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    batches: Iterable[Any],
    wanted: Wanted | None,
    forward: Forward | None,
    progress: bool,
) -> dict[str, Limits]:
    """The full scales of each layer.

    Args:
        model: what runs; its analog layers have their DAC ranges, and compute without ADC.
        layers: whose ADC is looked at.
        batches: as ``calibrate`` takes them.
        wanted: of ADC ranges; None: they are the chip's.
        forward: as ``calibrate`` takes it.
        progress: show a progress bar.

    Raises:
        ValueError: a partial sum is NaN or infinite, or a layer has none but zeros and is to have
            an ADC range.
    """
    sums = {name: _PartialSums(name, layer, wanted) for name, layer in layers.items()}
    taps = {layers[name]: Tap(product=few_threads(seen)) for name, seen in sums.items()}
    with evaluating(model), tapped(taps):
        run("calibrate ADC", model, batches, forward, progress)
    return {name: seen.limits() for name, seen in sums.items()}


class _PartialSums:
    """The partial sums of one layer without noise, by what has a full scale of its own."""

    def __init__(self, name: str, layer: AnalogLayer, wanted: Wanted | None) -> None:
        self._name, self._layer, self._chip, self._wanted = name, layer, layer.chip, wanted
        self._parts = [] if wanted is None else self._divided(wanted.per)
        self._unit = (
            [_Columns(layer.adc_shape[1]) for _ in range(layer.adc_shape[0])]
            if layer.chip.unit_bits
            else []
        )
        self._squares = dict.fromkeys(("sums", "adc", "others"), 0.0)

    def _divided(self, per: AdcPer) -> "list[tuple[range, slice, Histogram | ColumnHistogram]]":
        """Row blocks, outputs, and what their partial sums were."""
        layer, (blocks, outputs) = self._layer, self._layer.adc_shape
        columns = [slice(0, outputs)]
        if per == "tile":
            columns = [
                slice(section.outputs.start + c.start, section.outputs.start + c.stop)
                for section in layer.sections
                for c in section.col_blocks
            ]
        return [
            (
                rows,
                c,
                ColumnHistogram(outputs, weighted=not layer.calibrated)
                if per == "column"
                else Histogram(),
            )
            for rows in (
                [range(blocks)] if per == "layer" else [range(b, b + 1) for b in range(blocks)]
            )
            for c in columns
        ]

    def __call__(self, inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        x, weight, r, own = (
            inputs.x,
            inputs.w,
            inputs.input_range.abs(),
            per_block(inputs.input_range),
        )
        scale = (
            block_scales(weight, plan.bounds, plan.columns)
            if inputs.scale is None
            else inputs.scale
        )
        given = x if own else dac(x, r, plan.input_bits, weight.dtype)
        read = phases(given, weight, inputs.negatives, plan.phases)
        for block in range(plan.blocks):
            mine = r[block : block + 1] if own else r
            span, each = plan.span(block, weight.shape[1:]), mine.reshape(-1, 1).to(scale.dtype)
            sums = [part(phase.x, phase.w, span, plan, mine if own else None) for phase in read]
            vs = torch.stack([_flat(p, plan).to(scale.dtype) for p in sums])
            # of the layer, or of each vector or sample
            each = each.repeat_interleave(vs.shape[1] // len(each), 0) if len(each) > 1 else each
            full = each * scale[block]
            vs = relative(vs, full)
            check_finite("calibrate", f"a partial sum of layer {self._name!r}", vs)
            signs = vs.new_tensor([phase.sign for phase in read]).view(-1, 1, 1)
            if self._wanted is None and self._chip.output_steps and vs.numel():
                self._count_errors(vs, signs, full, block, inputs, given, plan)
            if self._unit:
                self._unit[block].add((signs * vs).sum(0), outputs.start)
            for v in vs:
                self._count(v, full, block, outputs)

    def _count(self, v: Tensor, full: Tensor, block: int, outputs: slice) -> None:
        """What the ADC meets of a row block, in units of ``full``."""
        for rows, columns, met in self._parts:
            first, last = max(columns.start, outputs.start), min(columns.stop, outputs.stop)
            if block in rows and first < last:
                here = slice(first - outputs.start, last - outputs.start)
                met.add(
                    v[:, here], full[:, here].square().expand_as(v[:, here]), first - columns.start
                )

    def _count_errors(
        self,
        vs: Tensor,
        signs: Tensor,
        full: Tensor,
        block: int,
        inputs: Operands,
        given: Tensor,
        plan: Plan,
    ) -> None:
        """What the chip's own ADC makes of the sums of a row block, by phases ``vs``, and what
        everything else does.

        Of a few vectors or samples of each call: it takes two more products.
        """
        w, span = inputs.w, plan.span(block, inputs.w.shape[1:])
        x, given = (
            t if plan.dims else t.reshape(-1, t.shape[-1])
            for t in (inputs.x.to(w.dtype), given.to(w.dtype))
        )
        count = len(x)
        some = slice(None, None, -(-count // _SOME))
        x, given = x[some], given[some]
        off = adc(vs, vs.new_tensor(self._chip.output_bound), self._chip.output_steps) - vs
        off, v = (signs * off).sum(0), (signs * vs).sum(0)
        off, v, full = (
            t.view(count, -1, t.shape[1])[some].flatten(0, 1)
            for t in (off, v, full.expand_as(v).contiguous())
        )
        others = (_flat(part(x, w, span, plan), plan) - v * full).square()
        others = others + plan.phases * (self._chip.output_noise * full).square()
        if self._chip.cell.spread is not None:
            variance = _variance(w, inputs.scale, self._chip.cell.spread, plan)
            others = others + _flat(part(given.square(), variance, span, plan), plan)
        for name, squares in (
            ("sums", (v * full).square()),
            ("adc", (off * full).square()),
            ("others", others),
        ):
            self._squares[name] += squares.double().sum().item()

    def limits(self) -> Limits:
        """What suits the sums."""
        chip, wanted = self._chip, self._wanted
        bounds = ranges = None
        if wanted is not None and chip.output_steps:
            bounds = self._found(wanted.method, chip.output_steps, wanted.percentile)
        if self._unit:
            noise = chip.output_noise * math.sqrt(chip.phases)
            ranges = torch.stack([columns.ranges(noise) for columns in self._unit])
            ranges = torch.where(ranges > 0, ranges, ranges.max()) if ranges.any() else None
        sums = self._squares["sums"] or math.inf
        return Limits(
            bounds, ranges, *(math.sqrt(self._squares[name] / sums) for name in ("adc", "others"))
        )

    def _found(self, method: Adc, steps: int, percentile: float) -> Tensor:
        """(row blocks, outputs); what met nothing but zeros gets the largest of the others."""
        if not any(met.met for *_, met in self._parts):
            raise ValueError(
                f"calibrate: all partial sums of layer {self._name!r} are zero, so its ADC has no "
                "bound; leave adc out"
            )
        found = torch.zeros(self._layer.adc_shape, dtype=torch.float64)
        for rows, columns, met in self._parts:
            if met.met:
                # with the noise of the readings, or the bound could lie inside it
                read = met.noisy(self._chip.output_noise)
                bound = torch.as_tensor(read.bound(method, steps, percentile), dtype=found.dtype)
                found[rows.start : rows.stop, columns] = torch.where(
                    torch.as_tensor(met.largest) > 0, bound, 0.0
                )
        if not found.any():
            raise ValueError(
                f"calibrate: layer {self._name!r}: the {percentile=} of the partial sums is zero; "
                "use a larger percentile or another adc"
            )
        return torch.where(found > 0, found, found.max())


def _flat(sums: Tensor, plan: Plan) -> Tensor:
    """Partial sums of a row block as (vectors, outputs)."""
    return (sums.movedim(1, -1) if plan.dims else sums).reshape(
        -1, sums.shape[1 if plan.dims else -1]
    )


def _variance(weight: Tensor, scale: Tensor | None, spread: Spread, plan: Plan) -> Tensor:
    """Of each weight as it is programmed, in the shape of ``weight``."""
    scale = block_scales(weight, plan.bounds, plan.columns) if scale is None else scale
    full = over_rows(scale, plan.bounds)
    sigma = weight_sigma(relative(weight.flatten(1), full), full, 1.0, spread)
    return sigma.square().to(weight.dtype).view(weight.shape)


_SOME = 16
"""Vectors or samples of each call whose errors are counted, at most."""
_SPREADS = 6.0
"""Root mean squares of a column that 8 bits are spread over, where it reaches so far: a Gaussian
one needs 4 for the least error, a Laplacian one 7."""


class _Columns:
    """What the digital unit needs to know of each column: three numbers, as a layer may have
    thousands of columns.
    """

    def __init__(self, columns: int) -> None:
        self.largest = torch.zeros(columns, dtype=torch.float64)
        self.squares = torch.zeros_like(self.largest)
        self.numbers = torch.zeros_like(self.largest)

    def add(self, v: Tensor, first: int) -> None:
        """Count the sums ``v`` (vectors, columns), of which the first column has that number."""
        if v.numel():
            mine = slice(first, first + v.shape[1])
            self.largest[mine] = torch.maximum(self.largest[mine], v.abs().amax(0).double().cpu())
            self.squares[mine] += v.square().sum(0).double().cpu()
            self.numbers[mine] += len(v)

    def ranges(self, noise: float) -> Tensor:
        """The range of each column, with output noise of this standard deviation; 0 where it met
        zeros only.
        """
        rms = (self.squares / self.numbers.clamp_min(1) + noise**2).sqrt()
        found = torch.minimum(self.largest + 3 * noise, _SPREADS * rms)
        return torch.where(self.largest > 0, found, 0.0)
