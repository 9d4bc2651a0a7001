"""DAC ranges by what they cost: the error of a layer's outputs on its own inputs, measured for each
candidate.

The error is that of an MVM as papers state it: the mean over the input vectors of ``||error|| /
||output||``. Squared errors would go to the few vectors with the largest inputs, which the range
clips, and forget all others.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.histogram import Histogram
from analogtorch.calibration.inputs import Seen
from analogtorch.calibration.passes import Forward, evaluating, few_threads, run
from analogtorch.chips import Chip
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.ops import Plan, block_scales, fold, mvm, seed_tensor, stream
from analogtorch.ops.operands import Operands, per_block
from analogtorch.ops.reference import noisy_weight

Ranges = list[float] | None
"""The DAC range of a layer, or those of its row blocks; None: each input vector or sample sets its
own."""

CANDIDATES = 16
"""Ranges that are tried, at most, from the largest input down by equal factors."""
STEP = 2 ** (1 / 3)
"""Factor from one candidate to the next, where that reaches far enough."""
LEAST = 90.0
"""Percentile of the inputs that no candidate lies below."""
VECTORS = 2048
"""Input vectors of a layer that are tried, evenly taken from all; the positions of a convolution
are vectors too."""
SAMPLES = 64
"""Samples of a convolution that are tried at least."""
TOGETHER = 256
"""Vectors that are tried at once: the steps of a recurrent layer have few each, and noise is drawn
every time."""
WORTH = 0.7
"""A range per vector must leave this share of the error of the best fixed range: it costs digital
operations."""


def choose(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    chips: Mapping[str, Chip],
    inputs: Mapping[str, Seen],
    batches: Iterable[Any],
    forward: Forward | None,
    progress: bool,
) -> dict[str, Ranges]:
    """The range of each layer with the least error of its outputs.

    The outputs are those of the chip as it is written: with the programming noise of its cells,
    DAC, ADC and output noise, against the exact product of the same inputs. A range that clips a
    rare large input loses that, and meets less noise and finer steps in all others: which of the
    two counts is measured, not assumed.

    Args:
        model: what runs; its layers compute without converters.
        layers: by name.
        chips: what each layer is to run on.
        inputs: as ``inputs.observe`` found them.
        batches: as ``calibrate`` takes them.
        forward: as ``calibrate`` takes it.
        progress: show a progress bar.
    """
    trials = {name: Trial(layers[name], chips[name], seen) for name, seen in inputs.items()}
    taps = {layers[name]: Tap(product=few_threads(trial)) for name, trial in trials.items()}
    with evaluating(model), tapped(taps):
        run("calibrate ranges", model, batches, forward, progress)
    return {name: trial.best() for name, trial in trials.items()}


class Trial:
    """What each candidate costs one layer."""

    def __init__(self, layer: AnalogLayer, chip: Chip, inputs: Seen) -> None:
        self.layer, self.chip = layer, chip
        self.candidates = candidates(inputs.magnitudes)
        self.errors = torch.zeros(len(self.candidates) + 1, dtype=torch.float64)
        """Sum of the vectors' relative errors, of each candidate and, last, of a range per
        vector."""
        self._met: dict[int, int] = {}
        """Vectors or samples that each part of the matrix, by its first output, has met."""
        self._waiting: dict[int, tuple[list[Tensor], Operands, Plan]] = {}
        """Those that each part is still to try."""
        self._key = fold(seed_tensor(0), stream("calibrate", layer.layer_name))
        self._vectors = inputs.vectors

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
        """Vectors (V, inputs) or samples (N, ...) among those given, so that about ``wanted`` of
        all are tried.
        """
        x, stride = x if plan.dims else x.reshape(-1, x.shape[-1]), max(1, self._vectors // wanted)
        first = self._met.get(outputs.start, 0)
        self._met[outputs.start] = first + len(x)
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
        on_chip = self._on_chip(plan)
        # once, not for every candidate
        written = noisy_weight(w, scale, self._key.to(x.device), on_chip)
        on_chip = dataclasses.replace(on_chip, weight_noise=0.0)
        for i, ranges in enumerate([*self.candidates, None]):
            r = (
                _absmax(x, plan)
                if ranges is None
                else torch.tensor(ranges, dtype=x.dtype, device=x.device)
            )
            read = mvm(x, r, written, on_chip, scale=scale)
            error = (read - exact).double().flatten(1).square().sum(1)
            if self.chip.output_noise > 0:
                error += self._noise(r, scale, exact, plan)
            self.errors[i] += relative(error, power).sum().item()

    def _on_chip(self, plan: Plan) -> Plan:
        spread, chip = self.chip.cell.spread, self.chip
        return dataclasses.replace(
            plan,
            input_bits=chip.input_bits or 0,
            output_steps=chip.output_steps,
            output_bound=chip.output_bound,
            weight_noise=0.0 if spread is None else WEIGHT_NOISE,
            spread=plan.spread if spread is None else spread,
        )

    def _noise(self, r: Tensor, scale: Tensor, exact: Tensor, plan: Plan) -> Tensor:
        """What the output noise adds to the squared error of each vector, on average."""
        power = scale.double().square().sum(1)  # of the row blocks
        each = plan.phases * exact[0].numel() / scale.shape[1]  # ADC outputs of each output
        total = (
            (r.double().square() * power).sum()
            if per_block(r)
            else r.double().flatten().square() * power.sum()
        )
        return self.chip.output_noise**2 * each * total

    def best(self) -> Ranges:
        """The candidate with the least error; a range per vector where that is worth it."""
        for part in list(self._waiting):
            self._flush(part)
        *fixed, by_vector = self.errors.tolist()
        least = min(range(len(fixed)), key=fixed.__getitem__)
        return None if by_vector < WORTH * fixed[least] else self.candidates[least]


WEIGHT_NOISE = 1.0
"""Multiple of the programming noise."""


def relative(error: Tensor, power: Tensor) -> Tensor:
    """``||error|| / ||output||`` of vectors with these squares; an output of next to nothing counts
    as a small one.
    """
    return (error / power.clamp_min(1e-3 * power.mean()).clamp_min(1e-30)).sqrt()


def candidates(inputs: list[Histogram]) -> list[list[float]]:
    """Ranges to try, largest first: one for each of the row blocks whose inputs these are."""
    largest = max(h.largest for h in inputs)
    low = min(
        (h.bound("percentile", 1, LEAST) or h.largest) / h.largest for h in inputs if h.largest
    )
    count = min(CANDIDATES, 1 + math.ceil(max(0.0, math.log(1 / low) / math.log(STEP))))
    factor = low ** (1 / (count - 1)) if count > 1 else 1.0
    return [[(h.largest or largest) * factor**i for h in inputs] for i in range(count)]


def _absmax(x: Tensor, plan: Plan) -> Tensor:
    dims = tuple(range(1, x.dim())) if plan.dims else (-1,)
    return x.abs().amax(dims, keepdim=True)
