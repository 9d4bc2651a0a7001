"""Full scales behind the array, those of ADC and digital unit, found from the partial sums."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from analogtorch.calibration.histogram import ColumnHistogram, Histogram
from analogtorch.calibration.passes import Forward, check_finite, few_threads, run, shares
from analogtorch.calibration.read_taps import ReadTaps
from analogtorch.chips import Chip
from analogtorch.conversion.restored import evaluating
from analogtorch.devices.drift_aware import kernel_spread
from analogtorch.nn import AnalogEmbedding, AnalogLayer, tapped
from analogtorch.ops import Plan, block_scales, over_rows
from analogtorch.ops.converters import adc, dac
from analogtorch.ops.operands import Operands, per_block
from analogtorch.ops.partial_sums import by_vector, part
from analogtorch.ops.physics import phases, relative, weight_sigma, wide
from analogtorch.ops.slices import unfolded
from analogtorch.ops.variances import read_variances

Adc = Literal["mse", "percentile", "absmax"]
AdcPer = Literal["layer", "tile", "column"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The way in which the ADC ranges of a layer are to be found."""

    method: Adc
    per: AdcPer
    percentile: float


@dataclass(frozen=True)
class Limits:
    """The full scales of ADC and digital unit of one layer."""

    adc_ranges: Tensor | None = None
    """ADC ranges, as ``adc_ranges`` of the layer; None: that of the chip."""
    output_ranges: Tensor | None = None
    """Ranges of the digital unit, as ``output_ranges`` of the layer; None: it does not round."""
    adc_error: float = 0.0
    """Root of the squared error of the chip's own ADC in the partial sums, relative to them."""
    other_error: float = 0.0
    """Root of the squared error of all else, relative to them: DAC, programming, output noise and
    read noise of every MVM."""
    clips: bool = False
    """Whether most of the squared error of the chip's own ADC is that of sums beyond its range."""


def limits(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    batches: Iterable[Any],
    wanted: Wanted | None,
    forward: Forward | None,
    progress: bool,
) -> dict[str, Limits]:
    """Find the full scales behind the array of each layer.

    Args:
        model: the model to run; its analog layers have their DAC ranges, and compute without ADC.
        layers: the layers whose partial sums are collected.
        batches: as ``calibrate`` takes them.
        wanted: the way to find ADC ranges; None leaves those of the chip.
        forward: as ``calibrate`` takes it.
        progress: if True, show a progress bar.

    Returns:
        The full scales by name of the layer.

    Raises:
        ValueError: a partial sum is NaN or infinite, or a layer has none but zeros and is to have
            an ADC range.
    """
    sums = {name: _PartialSums(name, layer, wanted) for name, layer in layers.items()}
    read = ReadTaps(model)
    taps = {
        layers[name]: read.tap(layers[name], product=few_threads(s)) for name, s in sums.items()
    }
    with evaluating(model), tapped(taps):
        run("calibrate ADC", model, batches, forward, progress, begin=read.begin)
    return {name: seen.limits() for name, seen in sums.items()}


def ranges_of_table(name: str, layer: AnalogEmbedding) -> Tensor | None:
    """Return the ranges of the digital unit for an embedding, (row blocks, outputs).

    Each of its outputs is one row of its table, so that no run is needed. None: the unit of its
    chip does not round, or all rows are zero.

    Raises:
        ValueError: the table has NaN or infinite values.
    """
    if layer.chip.periphery.output_bits is None:
        return None
    check_finite("calibrate", f"the weight of layer {name!r}", layer.weight)
    execution = layer.executions.evaluation
    plan, dtype = execution.plans[0], wide(layer.weight.dtype)
    cells = execution.weights(layer, 0, None, None, dtype, None)["w"]
    scale = block_scales(cells, plan.bounds, plan.columns)
    unit = [_Columns(cells.shape[0]) for _ in range(plan.blocks)]
    for columns, full, span in zip(unit, scale, itertools.pairwise(plan.bounds), strict=True):
        columns.add(relative(cells[:, slice(*span)].T, full), 0)
    return _unit_ranges(unit, layer.chip)


class _PartialSums:
    """The partial sums of one layer without noise, grouped by what has a full scale of its own."""

    def __init__(self, name: str, layer: AnalogLayer, wanted: Wanted | None) -> None:
        self._name, self._layer, self._chip, self._wanted = name, layer, layer.chip, wanted
        self._parts = [] if wanted is None else self._divided(wanted.per)
        blocks, outputs = layer.adc_shape if layer.chip.periphery.output_bits else (0, 0)
        self._unit = [_Columns(outputs) for _ in range(blocks)]
        self._squares = dict.fromkeys(("sums", "adc", "clipped", "others"), 0.0)
        self._summed: dict[int, list[Tensor]] = {}
        """Variances of each part of the matrix by its first output; see ``_variances``."""

    def _divided(self, per: AdcPer) -> "list[tuple[range, slice, Histogram | ColumnHistogram]]":
        """Return row blocks, outputs, and the histogram of their partial sums."""
        layer, (blocks, outputs) = self._layer, self._layer.adc_shape
        columns = [slice(0, outputs)]
        if per == "tile":
            columns = [
                slice(section.adcs.start + c.start, section.adcs.start + c.stop)
                for section in layer.sections
                for c in section.col_blocks
            ]
        rows = [range(blocks)] if per == "layer" else [range(b, b + 1) for b in range(blocks)]
        return [(r, c, self._histogram(per)) for r in rows for c in columns]

    def _histogram(self, per: AdcPer) -> Histogram | ColumnHistogram:
        if per == "column":
            return ColumnHistogram(self._layer.adc_shape[1], weighted=not self._layer.calibrated)
        return Histogram()

    def __call__(self, inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        each = plan.slicing.columns
        outputs = slice(each * outputs.start, each * outputs.stop)
        inputs, plan = unfolded(inputs, plan)
        weight, ranges = inputs.w, inputs.input_range.abs()
        by_block = per_block(inputs.input_range)
        scale = inputs.scale
        if scale is None:
            scale = block_scales(weight, plan.bounds, plan.columns)
        given = inputs.x if by_block else dac(inputs.x, ranges, plan.input_bits, weight.dtype)
        parts = phases(given, weight, inputs.negatives, plan.phases)
        warns = self._wanted is None and self._chip.adc.levels > 0 and given.numel() > 0
        variances = self._variances(inputs, plan, outputs) if warns else []
        for block in range(plan.blocks):
            span = plan.span(block, weight.shape[1:])
            r = ranges[block : block + 1] if by_block else ranges
            sums = [part(phase.x, phase.w, span, plan, r if by_block else None) for phase in parts]
            vs = torch.stack([by_vector(p, plan).to(scale.dtype) for p in sums])
            # one range for the layer, or one for each vector or sample
            r = r.reshape(-1, 1).to(scale.dtype)
            if len(r) > 1:
                r = r.repeat_interleave(vs.shape[1] // len(r), 0)
            full = r * scale[block]
            vs = relative(vs, full)
            check_finite("calibrate", f"a partial sum of layer {self._name!r}", vs)
            signs = vs.new_tensor([phase.sign for phase in parts]).view(-1, 1, 1)
            if warns:
                self._count_errors(vs, signs, full, block, inputs, given, plan, variances)
            if self._unit:
                self._unit[block].add((signs * vs).sum(0), outputs.start)
            for v in vs:
                self._count(v, full, block, outputs)

    def _variances(self, inputs: Operands, plan: Plan, outputs: slice) -> list[Tensor]:
        """Return the variances of the weights, for all row blocks.

        Computing them takes several passes over all weights. Those of a linear layer are summed
        over its outputs, and so are small enough to keep.
        """
        found = self._summed.get(outputs.start)
        if found is None:
            each = _variances(inputs.w, inputs.scale, self._chip, plan)
            if plan.dims:
                return list(each)
            found = [variance.sum(0, keepdim=True) for variance in each]
            self._summed[outputs.start] = found
        return found

    def _count(self, v: Tensor, full: Tensor, block: int, outputs: slice) -> None:
        """Count the partial sums of a row block, in units of ``full``."""
        for rows, columns, histogram in self._parts:
            first, last = max(columns.start, outputs.start), min(columns.stop, outputs.stop)
            if block in rows and first < last:
                here = slice(first - outputs.start, last - outputs.start)
                weight = full[:, here].square().expand_as(v[:, here])
                histogram.add(v[:, here], weight, first - columns.start)

    def _count_errors(
        self,
        vs: Tensor,
        signs: Tensor,
        full: Tensor,
        block: int,
        inputs: Operands,
        given: Tensor,
        plan: Plan,
        variances: list[Tensor],
    ) -> None:
        """Add the errors of the chip's own ADC, and of all else, in the sums of a row block.

        ``vs`` are the sums by phase, ``variances`` those of the weights. Only a few vectors or
        samples of each call count, as it takes two more products.
        """
        w, span = inputs.w, plan.span(block, inputs.w.shape[1:])
        x, given = (
            t if plan.dims else t.reshape(-1, t.shape[-1])
            for t in (inputs.x.to(w.dtype), given.to(w.dtype))
        )
        count = len(x)
        some = slice(None, None, -(-count // _SOME))
        x, given = x[some], given[some]
        full = full.expand_as(vs[0]).contiguous().view(count, -1, full.shape[1])[some]
        full = full.flatten(0, 1)
        vs = vs.view(len(vs), count, -1, vs.shape[2])[:, some].flatten(1, 2)
        bound, steps = vs.new_tensor(self._chip.adc.range), self._chip.adc.levels
        off = adc(vs, bound, steps, self._chip.adc.rounding == "floor") - vs
        off = ((signs * off).sum(0) * full).square()
        clipped = (vs.abs() > bound).any(0)
        v = (signs * vs).sum(0)
        others = (by_vector(part(x, w, span, plan), plan) - v * full).square()
        noise = self._chip.adc.noise / math.sqrt(self._chip.adc.reads)
        others = others + plan.phases * (noise * full).square()
        of_weights = [part(given.square(), variance, span, plan) for variance in variances]
        for name, squares in (
            ("sums", (v * full).square()),
            ("adc", off),
            ("clipped", off * clipped),
            ("others", others),
            *(("others", squares) for squares in of_weights),
        ):
            self._squares[name] += squares.double().sum().item()

    def limits(self) -> Limits:
        """Return the full scales that suit the sums."""
        chip, wanted = self._chip, self._wanted
        bounds = None
        if wanted is not None and chip.adc.levels:
            # rounding toward zero errs as steps that are twice as large do: LSB^2 / 3
            steps = chip.adc.levels / (2 if chip.adc.rounding == "floor" else 1)
            bounds = self._found(wanted.method, steps, wanted.percentile)
        ranges = _unit_ranges(self._unit, chip) if self._unit else None
        squares = self._squares
        sums = squares["sums"] or math.inf
        return Limits(
            bounds,
            ranges,
            adc_error=math.sqrt(squares["adc"] / sums),
            other_error=math.sqrt(squares["others"] / sums),
            clips=2 * squares["clipped"] > squares["adc"],
        )

    def _found(self, method: Adc, steps: float, percentile: float) -> Tensor:
        """Return ADC ranges of shape (row blocks, outputs).

        A part whose sums are all zero gets the largest range of the others.
        """
        if not any(histogram.any_nonzero for *_, histogram in self._parts):
            raise ValueError(
                f"calibrate: all partial sums of layer {self._name!r} are zero, so no ADC range "
                "can be found; leave adc out"
            )
        found = torch.zeros(self._layer.adc_shape, dtype=torch.float64, device="cpu")
        for rows, columns, histogram in self._parts:
            if histogram.any_nonzero:
                # with the output noise, or the bound could lie inside it
                noisy = histogram.noisy(self._chip.adc.noise)
                bound = torch.as_tensor(
                    noisy.bound(method, steps, percentile), dtype=found.dtype, device="cpu"
                )
                there = torch.as_tensor(histogram.largest, device="cpu") > 0
                found[rows.start : rows.stop, columns] = torch.where(there, bound, 0.0)
        if not found.any():
            raise ValueError(
                f"calibrate: layer {self._name!r}: the {percentile=} of the partial sums is zero; "
                "use a larger percentile or another adc"
            )
        return torch.where(found > 0, found, found.max())


def _unit_ranges(unit: "list[_Columns]", chip: Chip) -> Tensor | None:
    """Return the ranges of the digital unit, (row blocks, outputs); None: all sums are zero."""
    noise = chip.adc.noise * math.sqrt(chip.phases / chip.adc.reads)
    ranges = torch.stack([columns.ranges(noise) for columns in unit])
    return torch.where(ranges > 0, ranges, ranges.max()) if ranges.any() else None


def _variances(weight: Tensor, scale: Tensor | None, chip: Chip, plan: Plan) -> Iterator[Tensor]:
    """Yield variances of each weight, in its shape: of programming, and of reads in each MVM."""
    own = block_scales(weight, plan.bounds, plan.columns) if scale is None else scale
    full = over_rows(own, plan.bounds)
    known, reads = kernel_spread(chip.cell), chip.mvm_read_noise.of(chip.cell)
    spread = known or chip.cell.programming_sigma
    tables = [] if reads is None else [reads.table]
    if scale is None:
        # a cell of one's own that cannot be hashed has no table to look up
        tables.insert(0, (_table if known else _table.__wrapped__)(spread))
    else:
        sigma = weight_sigma(relative(weight.flatten(1), full), full, 1.0, spread)
        yield sigma.square().to(weight.dtype).view(weight.shape)
    for table in tables:
        found = read_variances(weight, plan.bounds, plan.columns, table)
        yield (full.square() * found.flatten(2)[0]).to(weight.dtype).view(weight.shape)


@functools.lru_cache(maxsize=64)
def _table(spread: Callable[[Tensor], Tensor]) -> tuple[float, ...]:
    """Return the variances of programming at equally spaced weights from -1 to 1.

    Between them it is taken along straight lines, which one pass over the weights does; the formula
    takes a dozen.
    """
    return tuple(
        spread(torch.linspace(-1, 1, 1025, dtype=torch.float64, device="cpu")).square().tolist()
    )


_SOME = 16
"""Most vectors or samples of each call whose errors are counted."""
_SPREADS = (4.0, 6.0, 24.0)
"""Least, usual largest and largest range of a column with 8 bits, in units of its root mean square;
in between it is the largest sum. A Gaussian column needs 4 for the least error, a Laplacian one 7,
and a few hundred vectors do not reach that. With the largest sum alone, the head of SmolLM2 clipped
tokens that it had not been calibrated on. Its perplexity on 256 tokens behind the converters cannot
decide: the last bits of the ranges move it between 19.3 and 20.5 (``python -m benchmarks.convert
--table language --designs calibrated``).

Where most vectors are nearly silent, as pauses between words, the root mean square says little of
the others. The largest range is 6 times the one that weighs each sum by its square, over the square
root of 3, if that is more: of a Gaussian column both are the same, however many zeros are among its
sums. It ends where rounding would cost 5 % of the root mean square."""
_FEW = 8
"""Number of vectors by which a Gaussian column can seem to have half of its root mean square, with
a chance of 2 %; by a smaller number n it can seem to have 1 / (1 + (8 / n)^2) of it, with less."""


class _Columns:
    """Four numbers per column that give the ranges of the digital unit.

    A layer may have thousands of columns.
    """

    def __init__(self, columns: int) -> None:
        self.largest = torch.zeros(columns, dtype=torch.float64, device="cpu")
        self.squares = torch.zeros_like(self.largest)
        self.fourths = torch.zeros_like(self.largest)
        self.numbers = torch.zeros_like(self.largest)

    def add(self, v: Tensor, first: int) -> None:
        """Count the sums ``v`` (vectors, columns); ``first`` is the index of their first column.

        Vectors of zeros do not count: they leave the ranges to the others.
        """
        if v.numel():
            columns = slice(first, first + v.shape[1])
            largest = v.abs().amax(0).double().cpu()
            self.largest[columns] = torch.maximum(self.largest[columns], largest)
            share, squares, there = shares(v), v.square(), v.any(1)
            counted = squares if share is None else squares * share.unsqueeze(1)
            self.squares[columns] += counted.sum(0).double().cpu()
            self.fourths[columns] += (counted * squares).sum(0).double().cpu()
            self.numbers[columns] += (there if share is None else share[there]).sum().cpu()

    def ranges(self, noise: float) -> Tensor:
        """Return the range of each column, with output noise of a standard deviation.

        It is 0 for a column of zeros.
        """
        number = self.numbers.clamp_min(1)
        squares = self.squares / number
        # by few vectors a column can seem far smaller than it is, and than those beside it
        room = torch.where(number < 100, (1 + (_FEW / number) ** 2) ** 2, 1.0)
        squares = squares.maximum(torch.minimum(squares.mean(), room * squares))
        rms = (squares + noise**2).sqrt()
        weighted = (self.fourths / self.squares.clamp_min(torch.finfo(rms.dtype).tiny) / 3).sqrt()
        least, usual, most = (spread * rms for spread in _SPREADS)
        most = usual.maximum(_SPREADS[1] * weighted).minimum(most)
        found = torch.clamp(self.largest + 3 * noise, least, most)
        return torch.where(self.largest > 0, found, 0.0)
