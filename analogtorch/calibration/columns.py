"""Digital gain and offset of every output of a programmed chip, fitted to the exact weights."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from analogtorch.calibration.passes import (
    Forward,
    as_before_on_error,
    check_finite,
    check_given,
    few_threads,
    name_silent,
    run,
    shares,
)
from analogtorch.conversion import analog_layers
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import evaluating
from analogtorch.nn import AnalogEmbedding, AnalogLayer, Tap, tapped
from analogtorch.ops import Noise, Plan, fold, mvm, product, stream
from analogtorch.ops.operands import Operands
from analogtorch.ops.partial_sums import by_vector
from analogtorch.ops.physics import wide
from analogtorch.values import checks

Fit = Literal["affine", "gain", "offset"]

_FINE = 2**20
"""Steps of an ADC that clips and hardly rounds."""

_CLIPPED = 1e-3
"""Share of the largest output of a column by which clipping must change one to count."""

_FEW = 10
"""Outputs of a column that clipping must leave, below which its correction is a guess."""

_CACHED = 2**15
"""Numbers of a part of the vectors, few enough for caches."""

_LEAST = 4
"""Outputs below which a gain makes chips worse."""

_TRUSTED = 4.0
"""Standard errors by which the agreement of two MVMs must exceed that of pure noise to be a
divisor."""


@torch.no_grad()
def correct_columns(
    physical_view: nn.Module,
    batches: Iterable[Any],
    *,
    fit: Fit = "affine",
    rounds: int = 2,
    forward: Forward | None = None,
    progress: bool = False,
) -> nn.Module:
    """Correct gain and offset of every output of a programmed chip digitally, in place.

    Every output then fits that of the exact weights. The chip of Le Gallo et al. (2023) scales and
    shifts each column digitally, so an inference costs nothing more. Gain and offset of each output
    of each layer (channel of a convolution) are the least-squares fit, over the batches, to the
    layer's digital product of the same input, after the DAC. Clipping is no fault of a column, and
    a network that was trained with it may need it: outputs that ADCs or the digital unit of this
    chip clip do not count. ``fit="offset"`` alone is the bias correction of Nagel et al.,
    "Data-free quantization through weight equalization and bias correction" (2019).

    One run over the batches serves all layers, each with the inputs that it gets on the chip; a
    second run (``rounds``) repeats that with the inputs of the corrected layers. A laboratory would
    correct layer by layer, which takes a run for each. As a layer is compared with its own digital
    product, errors before it matter little, and two runs come as close.

    The output noise of the chip would make gains too small: a fit to a noisy output takes the noise
    for signal. So every MVM is computed twice, and the product of the two outputs stands for the
    square of one. Few inputs are trusted less: the gains of a layer are drawn to their mean, its
    offsets to 0, by the share of their spread that their standard errors explain. Below ten inputs
    or so these are guesses too. Inputs that repeat most of a batch count once, and of a single one
    nothing is corrected.

    Embeddings are left as they are: each of their outputs comes from a single cell. So are layers
    that the batches do not reach.

    Adapters that were trained on this chip have learnt the errors of its columns, and may make
    outputs worse once these are corrected: correct columns first, and train adapters after, or on.

    Args:
        physical_view: the model that ``ProgrammedChip.at`` returned. It counts these inputs like
            any others.
        batches: inputs, as ``calibrate`` takes them; kept in memory for the rounds.
        fit: ``affine``: gain and offset; or one of them. An output that does not vary beyond its
            noise keeps its gain.
        rounds: number of runs over the batches, >= 1.
        forward: as ``calibrate`` takes it.
        progress: if True, show a progress bar.

    Returns:
        The view.

    Raises:
        TypeError: the view is no module, such as a programmed chip without its time, or ``batches``
            is one batch.
        ValueError: the model is not programmed; there are no batches; no layer ran; inputs or
            outputs of a layer are NaN or infinite; or an option is not allowed. The view is
            unchanged.

    Warns:
        UserWarning: some layers did not run; once for all chips of a model.

    Example:
        >>> aged = at.correct_columns(at.program(model, seed=7).at("1 day"), [x])
    """
    check_given("correct_columns", physical_view, batches)
    checks.function("correct_columns: forward", forward, "forward(model, batch)")
    layers = {
        n: layer
        for n, layer in analog_layers(physical_view)
        if layer.programmed is not None and not isinstance(layer, AnalogEmbedding)
    }
    if not layers:
        raise ValueError(
            "correct_columns: the model is not programmed; pass what "
            "analogtorch.program(...).at(time) gives"
        )
    if fit not in get_args(Fit):
        raise ValueError(f"correct_columns: fit must be one of {get_args(Fit)}, got {fit!r}")
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"correct_columns: rounds must be an integer >= 1, got {rounds!r}")
    batches, ran = list(batches), set[str]()
    with as_before_on_error(physical_view):
        for _ in range(rounds):
            for name, sums in _read(physical_view, layers, batches, forward, progress).items():
                if sums.seen.any():
                    _correct(layers[name], *sums.solve(fit))
                    ran.add(name)
        name_silent("correct_columns", physical_view, layers, ran, "the columns that they have")
    return physical_view


def _read(
    model: nn.Module,
    layers: dict[str, AnalogLayer],
    batches: list[Any],
    forward: Forward | None,
    progress: bool,
) -> dict[str, "_Sums"]:
    sums = {
        name: _Sums(layer.sections[-1].outputs.stop, layer.weight.device)
        for name, layer in layers.items()
    }

    def products_of(name: str, layer: AnalogLayer) -> Callable[..., None]:
        def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
            check_finite("correct_columns", f"the input of layer {name!r}", inputs.x)
            check_finite("correct_columns", f"the output of layer {name!r}", y)
            bias = layer._analog_bias()  # with the offset of an earlier correction
            bias = None if bias is None else bias[outputs]
            again = y
            if plan.noisy_sums:
                assert inputs.output_keys is not None
                # the second MVM draws its noise with other keys
                keys = fold(inputs.output_keys, stream(Noise.COMPENSATION, "columns"))
                again = product(inputs._replace(output_keys=keys), plan)
            sums[name].add(
                outputs,
                first=by_vector(y, plan),
                second=by_vector(again, plan),
                target=by_vector(_exact(layer, inputs, plan, outputs), plan),
                clipped=_saturated(inputs, plan),
                bias=bias,
            )

        return look

    taps = {
        layer: Tap(product=few_threads(products_of(name, layer))) for name, layer in layers.items()
    }
    with evaluating(model), tapped(taps), quiet():
        run("correct_columns", model, batches, forward, progress)
    return sums


def _exact(layer: AnalogLayer, inputs: Operands, plan: Plan, outputs: slice) -> Tensor:
    """Return the product of the exact weights without bias, for inputs after the DAC.

    Clipping by the DAC is no fault of a column: gains fitted to it would be those of the few
    largest inputs.
    """
    section = next(s for s in layer.sections if s.outputs.start <= outputs.start < s.outputs.stop)
    weight, first = section.weight(layer.placed_matrix(layer.weight)), section.outputs.start
    weight = weight[outputs.start - first : outputs.stop - first].to(inputs.w.dtype)
    return mvm(inputs.x, inputs.input_range, weight, plan.digital())


def _saturated(inputs: Operands, plan: Plan) -> Tensor | None:
    """Return which outputs ADCs or the digital unit clip, (vectors, outputs); None: they cannot.

    By the chip's own sums, not the exact ones: a fit whose targets are cut off is drawn to 0.
    """
    if not plan.steps and not plan.unit_bits:
        return None
    exact = plan.unconverted()
    fine = dataclasses.replace(
        exact,
        output_steps=_FINE if plan.steps else 0,
        unit_bits=16 if plan.unit_bits else 0,
    )
    inputs = inputs._replace(bias=None, adc_errors=None, adc_inl=None)
    kind = wide(inputs.w.dtype)
    whole = by_vector(product(inputs, exact), plan).to(kind)
    change = (by_vector(product(inputs, fine), plan).to(kind) - whole).abs()
    eps, sizes = 4 * torch.finfo(inputs.w.dtype).eps, whole.abs()
    return change > _CLIPPED * sizes.amax(0) + _rounding(inputs, fine).to(sizes) + eps * sizes


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


@torch.inference_mode(False)  # the view serves outside too
@torch.no_grad()
def _correct(layer: AnalogLayer, gain: Tensor, offset: Tensor) -> None:
    """Apply gain and offset to the layer, on top of those that it has."""
    held = layer.programmed
    assert held is not None
    gains = tuple(
        (g * gain[s.outputs].repeat_interleave(s.slicing.columns)).to(g.dtype)
        for g, s in zip(held.gains, layer.sections, strict=True)
    )
    if held.offset is not None:
        offset = offset + gain * held.offset
    offset = offset.to(held.gains[0].dtype, copy=True)
    layer.programmed = dataclasses.replace(held, gains=gains, offset=offset)


class _Sums:
    """Means and co-moments, per output, of two MVMs with the same inputs and of their target.

    Vectors that converters clip are left out.
    """

    def __init__(self, outputs: int, device: torch.device) -> None:
        self.n = torch.zeros(outputs, dtype=torch.float64, device=device)
        """Number of vectors of each output, as parts of a matrix may run alone."""
        self.seen = self.n.clone()
        """Number with those that converters clip."""
        self.mean = self.n.new_zeros(3, outputs)
        """Means of the first MVM, the second MVM and the target."""
        self.moments = self.n.new_zeros(3, 3, outputs)
        """Sums of the products of their deviations from the means."""

    def add(
        self,
        outputs: slice,
        *,
        first: Tensor,
        second: Tensor,
        target: Tensor,
        clipped: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        """Count outputs of both MVMs and the target, each (vectors, outputs), by Chan's update.

        The outputs contain a ``bias``, unless it is None.

        Those that are ``clipped``, of the same shape, are left out; None: none is. Targets that
        repeat most of the others count once together: a line through few is exact by chance.
        """
        if len(target) == 0:
            return
        counts = shares(target)
        weights = None if counts is None else counts.unsqueeze(1)
        self.seen[outputs] += len(target) if counts is None else counts.sum()
        if clipped is not None and clipped.any():
            weights = (~clipped).double() if weights is None else weights * ~clipped
        rows = max(1, _CACHED // target.shape[1])
        parts = [None] * -(-len(target) // rows) if weights is None else weights.split(rows)
        bias = None if bias is None else bias.double()
        of_parts = zip(
            first.split(rows), second.split(rows), target.split(rows), parts, strict=True
        )
        for *outs, exact, part in of_parts:  # in double precision part by part: memory is slow
            y = [out.double() if bias is None else out.double() - bias for out in outs]
            self._add(outputs, (*y, exact.double()), part)

    def _add(self, outputs: slice, z: Sequence[Tensor], weights: Tensor | None) -> None:
        """Count some vectors; ``weights``, (vectors, outputs or 1), None: each counts once."""
        like = z[0]
        m = like.new_full(like.shape[1:], len(like))
        if weights is not None:
            m = weights.expand_as(like).sum(0)
        deviations, weighed, mean = [], [], []
        for values in z:
            total = (values if weights is None else weights * values).sum(0)
            mean.append(total / torch.where(m > 0, m, 1.0))
            deviations.append(values - mean[-1])
            weighed.append(deviations[-1] if weights is None else weights * deviations[-1])
        within = self.moments.new_empty(3, 3, like.shape[1])
        for i, j in itertools.combinations_with_replacement(range(3), 2):
            within[i, j] = within[j, i] = (weighed[i] * deviations[j]).sum(0)
        n, step = self.n[outputs], torch.stack(mean) - self.mean[:, outputs]
        share = m / torch.where(m > 0, n + m, 1.0)
        between = step.unsqueeze(0) * step.unsqueeze(1) * (n * share)
        self.moments[..., outputs] += within + between
        self.mean[:, outputs] += step * share
        self.n[outputs] += m

    def solve(self, fit: Fit) -> tuple[Tensor, Tensor]:
        """Return gain and offset of each output; 1 and 0 where nothing was counted.

        An output of which converters clip more than half, or leave too few, gets the mean gain: the
        slope of what is left would be that of its errors.
        """
        mean, c = self.mean, self.moments
        enough = (self.n >= self.seen.clamp_max(_FEW)) & (2 * self.n >= self.seen)
        measured = (mean[0] + mean[1]) / 2
        gain = torch.ones_like(measured)
        if fit != "offset":
            if fit == "gain":  # through the origin
                c = c + self.n * mean.unsqueeze(0) * mean.unsqueeze(1)
            agreement = c[0, 1] / (c[0, 0] * c[1, 1]).sqrt().clamp_min(torch.finfo(c.dtype).tiny)
            trusted = agreement > (_TRUSTED / self.n.clamp_min(1).sqrt()).clamp_max(0.5)
            # a line through so few points hides its error, and one of zero weights has none
            trusted &= enough & (self.n > _LEAST - 0.5) & (c[2, 2] > 0)
            signal = torch.where(trusted, c[0, 1], 1.0)
            gain = torch.where(trusted, (c[0, 2] + c[1, 2]) / 2 / signal, gain)
            variance = self._left(c, gain) * (c[0, 0] + 2 * c[0, 1] + c[1, 1]) / 4 / signal.square()
            gain = _shrunk(gain, variance, trusted)
            if trusted.any():
                gain = torch.where(enough, gain, gain[trusted].mean())
        if fit == "gain":
            return gain, torch.zeros_like(measured)
        variance = self._left(c, gain) / self.n.clamp_min(1)
        several = enough & (self.n > 1.5)  # the noise of a single one would pass for an offset
        offset = torch.where(several, mean[2] - gain * measured, 0.0)
        return gain, _shrunk(offset, variance, several, around=0.0)

    def _left(self, c: Tensor, gain: Tensor) -> Tensor:
        """Return the variance that is left of the targets after scaling by ``gain``.

        The mean of the two MVMs is scaled.
        """
        mean_square = (c[0, 0] + 2 * c[0, 1] + c[1, 1]) / 4
        left = c[2, 2] - gain * (c[0, 2] + c[1, 2]) + gain.square() * mean_square
        return left.clamp_min(0) / (self.n - 2).clamp_min(1)


def _shrunk(values: Tensor, variance: Tensor, used: Tensor, around: float | None = None) -> Tensor:
    """Return estimates drawn to their mean, or to ``around``, by their share of error.

    That is the share of their spread that is error.

    This is empirical Bayes: the spread of the true values is that of DerSimonian and Laird,
    Control. Clin. Trials 7, 177 (1986). Values that are not ``used`` stay as they are.
    """
    if used.any():  # one that seems exact does not decide for all others
        variance = variance.clamp_min(max(0.01 * variance[used].median().item(), 1e-30))
    weight = torch.where(used, 1 / variance, 0.0)
    total = weight.sum().clamp_min(1e-30)
    if around is None:
        centre, lost = (weight * values).sum() / total, weight.square().sum() / total
    else:
        centre, lost = total.new_tensor(around), total.new_tensor(0.0)
    excess = (weight * (values - centre).square()).sum() - (used.sum() - int(around is None))
    spread = (excess / (total - lost).clamp_min(1e-30)).clamp_min(0)
    kept = spread / (spread + variance).clamp_min(1e-30)
    return torch.where(used, centre + (values - centre) * kept, values)
