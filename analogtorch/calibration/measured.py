"""DAC ranges chosen by their cost: the error of a layer's outputs, measured for each candidate.

The error is that of an MVM as papers state it: the mean over the input vectors of ``||error|| /
||output||``. Squared errors would be dominated by the few vectors with the largest inputs, which
the range clips.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.histogram import Histogram
from analogtorch.calibration.inputs import Ranges, Seen
from analogtorch.calibration.passes import Forward, few_threads, run, shares
from analogtorch.calibration.read_taps import ReadTaps
from analogtorch.chips import Chip
from analogtorch.conversion.restored import evaluating
from analogtorch.devices.drift_aware import kernel_spread
from analogtorch.nn import AnalogLayer, tapped
from analogtorch.nn.polarities import negatives
from analogtorch.ops import Plan, block_scales, fold, mvm, seed_tensor, stream
from analogtorch.ops.noisy_weight import noisy_weight
from analogtorch.ops.operands import Operands, per_block
from analogtorch.ops.physics import wide

CANDIDATES = 16
"""Most ranges to try, from the largest input down by equal factors."""
HEADROOM = 18
"""Most ranges to try beyond the largest input, by ``STEP`` each: up to 64 times as large. They make
the sums smaller where the ADC would clip them, and take levels of the DAC. Trials end where the
error rises, so that most layers try one."""
STEP = 2 ** (1 / 3)
"""Factor from one candidate to the next, if that reaches far enough."""
LEAST = 90.0
"""Percentile of the inputs that is the smallest candidate."""
VECTORS = 2048
"""Number of input vectors of a layer to try, evenly taken from all; positions of a convolution are
vectors too."""
SAMPLES = 64
"""Smallest number of samples of a convolution to try."""
TOGETHER = 256
"""Number of vectors to try at once: the steps of a recurrent layer have few each, and noise is
drawn each time."""
WIDER = 0.99
"""Share of the error of the best range up to the largest input that a wider one must stay below:
where the ADC does not clip, errors differ by chance."""
WORTH = 0.7
"""Share of the error of the best fixed range that a range per vector must stay below: it costs
digital operations."""


def choose(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    chips: Mapping[str, Chip],
    inputs: Mapping[str, Seen],
    batches: Iterable[Any],
    forward: Forward | None,
    progress: bool,
) -> dict[str, Ranges]:
    """Return the range of each layer with the least error of its outputs.

    The outputs are those of a programmed chip, with programming noise, DAC, ADC and output noise,
    against the exact product of the same inputs. A range that clips a rare large input loses part
    of it, and has less noise and finer steps for all others: which of the two counts more is
    measured, not assumed.

    Args:
        model: the model to run; its layers compute without converters.
        layers: the layers by name.
        chips: the chip of each layer.
        inputs: the inputs of each layer, as ``inputs.observe`` returns them.
        batches: as ``calibrate`` takes them.
        forward: as ``calibrate`` takes it.
        progress: if True, show a progress bar.
    """
    trials = {name: Trial(layers[name], chips[name], seen) for name, seen in inputs.items()}
    read = ReadTaps(model)
    taps = {
        layers[name]: read.tap(layers[name], product=few_threads(trial))
        for name, trial in trials.items()
    }
    with evaluating(model), tapped(taps):
        run("calibrate ranges", model, batches, forward, progress, begin=read.begin)
    return {name: trial.best() for name, trial in trials.items()}


class Trial:
    """The error of one layer with each candidate range."""

    def __init__(self, layer: AnalogLayer, chip: Chip, inputs: Seen) -> None:
        self.layer, self.chip = layer, chip
        self.candidates = candidates(inputs.magnitudes)
        self.wider = wider(self.candidates[0]) if chip.adc.levels else []
        self.errors = torch.zeros(
            len(self.candidates) + len(self.wider) + 1, dtype=torch.float64, device="cpu"
        )
        """Sum of the relative errors, of each candidate, each wider range and, last, of a range per
        vector."""
        self._seen: dict[int, int] = {}
        """Number of vectors or samples so far, of each part of the matrix by its first output."""
        self._waiting: dict[int, tuple[list[Tensor], Operands, Plan]] = {}
        """Vectors that each part is still to try."""
        self._key = fold(seed_tensor(0), stream("calibrate", layer.layer_name))
        self._vectors = inputs.vectors
        self._spread = kernel_spread(chip.cell)

    def __call__(self, inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        positions = math.prod(y.shape[2:]) if plan.dims else 1
        x = self._some(inputs.x, plan, outputs, max(SAMPLES, VECTORS // max(1, positions)))
        if x.numel() == 0:
            return
        if plan.dims:  # samples may differ in size
            self._try(x, inputs, plan)
            return
        waiting, *_ = self._waiting.setdefault(outputs.start, ([], inputs, plan))
        waiting.append(x.clone())  # what it is a view of may be overwritten
        if sum(map(len, waiting)) >= TOGETHER:
            self._flush(outputs.start)

    def _some(self, x: Tensor, plan: Plan, outputs: slice, wanted: int) -> Tensor:
        """Return some of the given vectors (V, inputs) or samples (N, ...).

        Of all calls together, about ``wanted`` are taken.
        """
        x = x if plan.dims else x.reshape(-1, x.shape[-1])
        stride = max(1, self._vectors // wanted)
        first = self._seen.get(outputs.start, 0)
        self._seen[outputs.start] = first + len(x)
        return x[-first % stride :: stride]

    def _flush(self, part: int) -> None:
        waiting, inputs, plan = self._waiting.pop(part)
        self._try(torch.cat(waiting), inputs, plan)

    def _try(self, x: Tensor, inputs: Operands, plan: Plan) -> None:
        """Add the errors of these vectors or samples."""
        w, scale = inputs.w, inputs.scale
        scale = block_scales(w, plan.bounds, plan.columns) if scale is None else scale
        exact = mvm(x, inputs.input_range.new_ones(1), w, plan, scale=scale)
        power = exact.double().flatten(1).square().sum(1)
        share = shares(exact.flatten(1))
        on_chip = self._on_chip(plan)
        # once, not for every candidate
        curve = None if self._spread else self.chip.cell.programming_sigma
        written = noisy_weight(w, scale, self._key.to(x.device), on_chip, curve)
        on_chip = dataclasses.replace(on_chip, weight_noise=0.0)
        given = {"scale": scale}
        if inputs.negatives is not None:
            given["negatives"] = negatives(written, scale, plan.bounds, self.chip.cell)

        def error(ranges: Ranges) -> float:
            r = _absmax(x, plan) if ranges is None else x.new_tensor(ranges)
            noisy = mvm(x, r, written, on_chip, **given)
            squares = squared_distances(noisy, exact)
            if self.chip.adc.noise > 0:
                squares += self._noise(r, scale, exact, plan)
            errors = relative(squares, power)
            return (errors if share is None else share * errors).sum().item()

        found = [error(ranges) for ranges in self.candidates]
        beyond, rises = found[:1], False
        # where it rises once, it does not fall again; while all sums are clipped it stays as it is
        for ranges in self.wider:
            beyond.append(beyond[-1] if rises else error(ranges))
            rises = beyond[-1] > beyond[-2]
        found += [*beyond[1:], error(None)]
        self.errors += torch.tensor(found, dtype=torch.float64, device="cpu")

    def _on_chip(self, plan: Plan) -> Plan:
        chip = self.chip
        return dataclasses.replace(
            plan,
            slicing=chip.slices.slicing,
            input_bits=chip.dac.bits or 0,
            output_steps=chip.adc.levels,
            floors=int(chip.adc.rounding == "floor"),
            adc_range=chip.adc.range,
            weight_noise=WEIGHT_NOISE,
            spread=self._spread or plan.spread,
        )

    def _noise(self, r: Tensor, scale: Tensor, exact: Tensor, plan: Plan) -> Tensor:
        """Return the mean squared error that output noise adds to each vector."""
        power = scale.double().square().sum(1)  # of the row blocks
        slicing, bits = self.chip.slices.slicing, self.chip.dac.bits or 0
        slices, pulses = slicing.slice_factors, slicing.pulse_factors(bits)
        # ADC outputs of each output, as they count where they are shifted and added
        each = plan.phases * exact[0].numel() / scale.shape[1]
        each *= sum(f * f for f in slices) * sum(f * f for f in pulses)
        if per_block(r):
            total = (r.double().square() * power).sum()
        else:
            total = r.double().flatten().square() * power.sum()
        return self.chip.adc.noise**2 / self.chip.adc.reads * each * total

    def best(self) -> Ranges:
        """Return the candidate with the least error, or None if a range per vector is worth it."""
        for part in list(self._waiting):
            self._flush(part)
        *fixed, by_vector = self.errors.tolist()
        count = len(self.candidates)
        least = min(range(count), key=fixed.__getitem__)
        widest = min(range(len(fixed)), key=fixed.__getitem__)
        if fixed[widest] < WIDER * fixed[least]:
            least = widest
        if by_vector < WORTH * fixed[least]:
            return None
        return [*self.candidates, *self.wider][least]


WEIGHT_NOISE = 1.0
"""Multiple of the programming noise."""


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance of each vector or sample of ``a`` from that of ``b``, float64.

    It is summed in single precision at least. A few are taken at a time, so that they stay in
    cache: a vocabulary has tens of thousands of outputs.
    """
    few = max(2, _IN_CACHE * len(a) // max(1, a.numel()))
    pieces = max(1, len(a) // few)  # none has one vector, whose sum threads would share
    pairs = zip(a.tensor_split(pieces), b.tensor_split(pieces), strict=True)
    found = [(x - y).to(wide(x.dtype)).flatten(1).square().sum(1) for x, y in pairs]
    return torch.cat(found).double()


_IN_CACHE = 1 << 16
"""Numbers that are squared together."""


def relative(error: Tensor, power: Tensor) -> Tensor:
    """Return ``||error|| / ||output||`` of vectors with these squares.

    A vanishing output counts as a small one.
    """
    return (error / power.clamp_min(1e-3 * power.mean()).clamp_min(1e-30)).sqrt()


def candidates(inputs: list[Histogram]) -> list[list[float]]:
    """Return the ranges to try, largest first, with one number for each row block."""
    largest = max(h.largest for h in inputs)
    used = [h for h in inputs if h.largest]
    low = min((h.bound("percentile", 1, LEAST) or h.largest) / h.largest for h in used)
    count = min(CANDIDATES, 1 + math.ceil(max(0.0, math.log(1 / low) / math.log(STEP))))
    factor = low ** (1 / (count - 1)) if count > 1 else 1.0
    return [[(h.largest or largest) * factor**i for h in inputs] for i in range(count)]


def wider(largest: list[float]) -> list[list[float]]:
    """Return ranges beyond the largest inputs of the row blocks, smallest first."""
    return [[r * STEP**i for r in largest] for i in range(1, HEADROOM + 1)]


def _absmax(x: Tensor, plan: Plan) -> Tensor:
    dims = tuple(range(1, x.dim())) if plan.dims else (-1,)
    return x.abs().amax(dims, keepdim=True)
