"""Digital gain and offset of every output of a programmed chip, fitted to the exact weights."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from analogtorch.calibration.batches import check_given, some_batches
from analogtorch.calibration.column_fit import ColumnSums, Fit
from analogtorch.calibration.column_learning import STEPS, learn
from analogtorch.calibration.column_outputs import Exact, beside_layers, beside_model
from analogtorch.calibration.exact_outputs import ExactOutputs
from analogtorch.calibration.norm_statistics import statistics_on_error, tracking, undo_on_chip
from analogtorch.calibration.passes import Forward, as_before_on_error, name_silent
from analogtorch.conversion import analog_layers
from analogtorch.conversion.restored import evaluated, same_buffers
from analogtorch.conversion.unread import named as named_in_chips
from analogtorch.conversion.unread import quiet
from analogtorch.nn import AnalogEmbedding, AnalogLayer
from analogtorch.nn.programmed import Programmed
from analogtorch.values import checks
from analogtorch.values.listed import listed
from analogtorch.values.warned import warn

Target = Literal["model", "layer"]

_FARTHER = 2.0
"""Error in units of the one without corrections above which these are not kept. Less may be chance:
each run has its own read noise, and a few vectors may go another way."""

_ROUNDING = 1e-6
"""Mean error of outputs that differ by rounding alone, at most."""


@torch.no_grad()
def correct_columns(
    physical_view: nn.Module,
    batches: Iterable[Any],
    *,
    fit: Fit = "affine",
    target: Target = "model",
    rounds: int = 2,
    steps: int | None = None,
    forward: Forward | None = None,
    progress: bool = False,
) -> nn.Module:
    """Correct gain and offset of every output of a programmed chip digitally, in place.

    Every output then fits that of the exact weights. The chip of Le Gallo et al. (2023) scales and
    shifts each column digitally, so an inference costs nothing more. Gain and offset of each output
    of each layer (channel of a convolution) are a least-squares fit over the batches. Clipping is
    no fault of a column, and a network that was trained with it may need it: outputs that ADCs or
    the digital unit of this chip clip do not count. ``fit="offset"`` alone is the bias correction
    of Nagel et al., "Data-free quantization through weight equalization and bias correction"
    (2019).

    At first outputs are fitted to the layer's own digital product of the same input, after the DAC:
    what its own columns have in common is gone then. What the layers before have left is not: noise
    before a ReLU shifts its mean, and weakens what comes after. So the last run fits the outputs to
    those that the digital model has for the same batch, one layer after the other as a laboratory
    would, which takes one run all the same: each layer is corrected while it computes, and the next
    one gets corrected inputs. Vectors that go another way on the chip than in the digital model,
    such as to another expert, do not count there.

    Batch norms that ``reestimate_batch_norm`` has moved on this chip correct the same errors, those
    of the columns as they were. They get back the statistics that they had before, with a warning.
    Where both are to be used, fit columns with ``target="layer"`` first, and re-estimate then.

    Fits see errors alike where the model needs the output and where it does not, such as far below
    a ReLU. So gains and offsets of all columns then learn together in ``steps`` of Adam, on the
    chip, by what the outputs of the model are off from the digital ones: squared error and
    divergence of the softmax; of quantities of several units each squared error over its variance.
    Outputs that never vary do not count. What they have learnt is kept if it brings the outputs of
    all batches nearer. Few samples would be learnt by heart: by default nothing is learnt from a
    single batch.

    Corrections that put the outputs of the model twice as far off as without them, by the same
    error, are not kept, with a warning: normalisations make much of the small offset that zero
    inputs get, as of padding. Nothing is compared with ``target="layer"``, nor where the columns
    cannot learn.

    Positions that the ``attention_mask`` of a batch leaves out count neither there nor in fits of
    layers that are given (samples, positions, numbers); of a decoder, those that its
    ``decoder_attention_mask`` or labels of -100 leave out. Where that leaves open which they are,
    as of a decoder beside an encoder with as many positions, all of a layer's count. So do all
    states of a recurrent layer: give it packed sequences, which have no padding.

    In a fit to the layer's own product the output noise of the chip would make gains too small: it
    takes the noise for signal. So every MVM is computed twice, and the product of the two outputs
    stands for the square of one. A gain that follows the digital model is smaller on purpose, by
    all noise until there. Few inputs are trusted less: the gains of a layer are drawn to their
    mean, its offsets to 0, by the share of their spread that their standard errors explain, in
    standard deviations of each target where these differ in units. Below ten inputs or so these are
    guesses too. Inputs that repeat most of a batch count once, and of a single one nothing is
    corrected.

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
        target: what the outputs are fitted to in the last run: ``model``: those of the digital
            model, which runs beside; ``layer``: the layer's own products, as in the runs before.
        rounds: number of runs over the batches on the chip, >= 1.
        steps: number of steps, >= 0, of one batch each, in turn. The simulator takes gradients
            through the weights as they were read, and memory as training does. None: 30 with more
            than one batch if outputs follow the model, else 0.
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
        UserWarning: corrections were not kept; once for all chips of a model. Batch norms have the
            statistics of before they were re-estimated on the chip. Some layers did not run; once
            for all chips of a model. Or two runs of the model with exact weights differ, so that
            there is none to follow: the layers' own products are the target. Or the outputs of the
            model have no gradient to learn by, are random, or are detections as ``calibrate`` has
            it.

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
    checks.choice("correct_columns: fit", fit, get_args(Fit))
    checks.choice("correct_columns: target", target, get_args(Target))
    rounds = checks.count("correct_columns: rounds", rounds)
    if steps is not None and not (checks.is_integer(steps) and steps >= 0):
        raise ValueError(f"correct_columns: steps must be an integer >= 0, or None, got {steps!r}")
    if steps and target == "layer":
        raise ValueError(
            f"correct_columns: steps={steps} learn to follow the model, and target='layer' does "
            "not; leave one of them out"
        )
    batches, ran = some_batches("correct_columns", batches), set[str]()
    steps = learning_steps(steps, target, len(batches))
    given = {layer: layer.programmed for layer in layers.values()}
    before, exact = list[list[Tensor]](), Exact()
    common = physical_view, layers, batches, forward, progress
    with as_before_on_error(physical_view), statistics_on_error(tracking(physical_view)):
        moved = undo_on_chip(physical_view)
        for number in range(rounds):
            with same_buffers(physical_view, analog=False):
                if target == "layer" or number < rounds - 1:
                    kept = before if number == 0 and target == "model" else None
                    found = beside_layers(*common, kept)
                else:
                    found = beside_model(*common, fit, exact)
            for name, sums in found.items():
                if sums.seen.any():
                    _correct(layers[name], *sums.solve(fit))
                    ran.add(name)
        if exact.draws and steps:
            warn(
                "correct_columns: the model draws random numbers in evaluation mode, by which its "
                "outputs differ from run to run, so that columns do not learn from them; pass "
                "steps=0 if that is meant, or forward= that returns outputs without them"
            )
        if exact.outputs and not exact.draws and ran:
            outputs, after = ExactOutputs(physical_view, batches, exact.outputs, forward), None
            if steps:
                reached = {name: layers[name] for name in layers if name in ran}
                scales = {name: _scale(found[name]) for name in reached}
                rest = batches, outputs, progress, fit, steps
                after = learn(physical_view, reached, scales, *rest, _correct)
            _undo_if_farther(physical_view, given, outputs, before, after)
        name_silent("correct_columns", physical_view, layers, ran, "the columns that they have")
    if moved:
        warn(
            f"correct_columns: {len(moved)} batch norms were re-estimated on this chip, for "
            "columns that give other outputs now, and have the statistics of before that again: "
            f"{listed(map(repr, moved))}. Columns make up for the same errors: leave "
            "reestimate_batch_norm out, or call it after correct_columns(..., target='layer')"
        )
    return physical_view


def learning_steps(steps: int | None, target: Target, batches: int) -> int:
    """Return the number of steps in which columns learn from so many batches."""
    if steps is not None:
        return steps
    return STEPS if target == "model" and batches > 1 else 0


def _undo_if_farther(
    model: nn.Module,
    given: Mapping[AnalogLayer, Programmed | None],
    outputs: ExactOutputs,
    before: Sequence[Sequence[Tensor]],
    after: list[float] | None,
) -> None:
    """Give layers back what they had where corrections put the outputs twice as far off.

    Args:
        model: the programmed model, whose columns are corrected.
        given: what its layers had.
        outputs: the outputs of the exact model.
        before: those that the model gave without the corrections; empty: it runs again.
        after: errors with the corrections; None: it runs again.
    """
    if not outputs.vary:
        return
    corrected = {layer: layer.programmed for layer in given}

    def have(programmed: Mapping[AnalogLayer, Programmed | None]) -> None:
        for layer, held in programmed.items():
            layer.programmed = held

    with evaluated(model), quiet():
        now = outputs.errors() if after is None else after
        if before:
            were = outputs.errors(before)
        else:
            have(given)
            were = outputs.errors()
            have(corrected)
    noticed = _FARTHER * max(sum(were), _ROUNDING * len(were))
    if len(now) < len(were) or not sum(now) > noticed:
        return
    have(given)
    known, name = named_in_chips(model), "correct_columns: farther"
    if name not in known:
        known.add(name)
        warn(
            "correct_columns: with corrected columns the outputs of the model are farther from the "
            f"exact ones, by a mean error of {sum(now) / len(now):.3g} in place of "
            f"{sum(were) / len(were):.3g}, so that this chip keeps what it had, and so do others "
            "of this model where that is so. Normalisations make much of small offsets where their "
            "inputs are zero, as of padding: fit='gain' leaves offsets out; or give more batches"
        )


def _scale(sums: ColumnSums) -> Tensor:
    """Return the standard deviation of what each output of a layer should be, (outputs,)."""
    _, _, variances = sums.of(slice(None))
    return variances[1].sqrt()


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
