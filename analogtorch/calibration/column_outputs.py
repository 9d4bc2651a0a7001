"""Outputs of columns on a programmed chip, beside those that they are fitted to."""

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from analogtorch.calibration.column_fit import ColumnSums, Fit
from analogtorch.calibration.outputs import without_padding
from analogtorch.calibration.passes import Forward, check_finite, few_threads, one_pass, run
from analogtorch.conversion import analog_layers
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import evaluating
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.ops import Noise, Plan, fold, mvm, product, stream
from analogtorch.ops.operands import Operands
from analogtorch.ops.partial_sums import by_vector
from analogtorch.ops.physics import wide
from analogtorch.values.progress import Progress
from analogtorch.values.warned import warn

_FINE = 2**20
"""Steps of an ADC that clips and hardly rounds."""

_FINE_BITS = 16
"""Bits of a DAC or a digital unit that clips and hardly rounds."""

_CLIPPED = 1e-3
"""Share of the largest output of a column by which clipping must change one to count."""

_KEPT = 2**21
"""Numbers of an MVM of the exact model that are kept at most: 8 MiB in single precision."""

_LEAST_KEPT = 512
"""Vectors of it that are kept in any case."""

_SHARE = 16
"""Vectors of which one is kept where a layer has kept as many numbers before, in other steps."""

_ALIKE = 0.3
"""Correlation with its target below which a vector is not that of the same input."""

_ALIKE_AT_ALL = 0.5
"""Correlation of all vectors with their targets below which those are of other inputs."""

_JUDGED = 16
"""Vectors it takes to tell."""

SINGLE = 32
"""Outputs it takes to tell of a single vector: by chance, 32 have a correlation of 0.18."""

_REPEATS = 1e-3
"""Share of the largest output by which two runs of the same batch may differ, as on a GPU."""


def beside_layers(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    batches: Sequence[Any],
    forward: Forward | None,
    progress: bool,
) -> dict[str, ColumnSums]:
    """Return the sums of each layer's outputs beside its own exact products of the same inputs."""
    sums = _none_yet(layers)

    def products_of(name: str, layer: AnalogLayer) -> Callable[..., None]:
        def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
            _check(name, inputs, y)
            if not y.numel():
                return
            sums[name].add(
                outputs,
                first=by_vector(y, plan),
                second=by_vector(_again(inputs, plan, y), plan),
                target=by_vector(_exact(layer, inputs, plan, outputs), plan),
                clipped=_saturated(inputs, plan),
                bias=_bias(layer, outputs),
            )

        return look

    taps = {
        layer: Tap(product=few_threads(products_of(name, layer))) for name, layer in layers.items()
    }
    with evaluating(model), tapped(taps), quiet():
        run("correct_columns", model, batches, forward, progress)
    return sums


def beside_model(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    batches: Sequence[Any],
    forward: Forward | None,
    progress: bool,
    fit: Fit,
    exact: list[list[Tensor]] | None = None,
) -> dict[str, ColumnSums]:
    """Return the sums of each layer's outputs beside those of the model with exact weights.

    Each layer is corrected while the batch runs, by what is known of it so far, so that the next
    one is fitted with inputs that are corrected.

    Args:
        model: the programmed model.
        layers: the layers to correct.
        batches: inputs.
        forward: as ``calibrate`` takes it.
        progress: if True, show a progress bar.
        fit: which of gain and offset correct a layer.
        exact: gets what the model with exact weights returns for each batch, as ``without_padding``
            has it; nothing, if it does not repeat itself or draws random numbers.
    """
    sums = _none_yet(layers)
    for number, batch in enumerate(
        Progress(batches, desc="correct_columns", unit="batch", disable=not progress)
    ):
        kept, output, drew = _exact_run(model, layers, batch, forward, number)
        if number == 0 and not _repeats(kept, _exact_run(model, layers, batch, forward, number)[0]):
            warn(
                "correct_columns: two runs of the model with exact weights on the same batch "
                "differ, as it draws numbers that torch's generators do not, keeps a state or "
                "changes its inputs, so that outputs are fitted to each layer's own products; pass "
                'target="layer" if that is meant, or forward= that repeats itself'
            )
            return beside_layers(model, layers, batches, forward, progress)
        taps = {
            layer: Tap(product=few_threads(_follow(name, layer, sums[name], kept[name], fit)))
            for name, layer in layers.items()
        }
        with evaluating(model), tapped(taps), quiet():
            one_pass("correct_columns", model, batch, forward, number)
        if exact is not None and drew:
            warn(
                "correct_columns: the model draws random numbers in evaluation mode, by which its "
                "outputs differ from run to run, so that columns do not learn from them; pass "
                "steps=0 if that is meant, or forward= that returns outputs without them"
            )
            exact.clear()
            exact = None
        if exact is not None:
            exact.append([y.detach() for y in without_padding(output, batch)])
    return sums


def _exact_run(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    batch: Any,
    forward: Forward | None,
    number: int,
) -> tuple[dict[str, "deque[_Kept]"], Any, bool]:
    """Return what layers give for a batch if the weights of all are exact, and what the model does.

    And whether it drew random numbers.
    """
    kept = {name: deque[_Kept]() for name in layers}
    taps = {
        layer: Tap(
            execution=layer.executions.evaluation,
            product=_keep(kept[name]) if name in kept else None,
        )
        for name, layer in analog_layers(model)
    }
    devices = {layer.weight.device for layer in taps}
    gpus = sorted(device.index for device in devices if device.type == "cuda")
    # a model that draws numbers draws the same ones in the next run
    with evaluating(model), torch.random.fork_rng(devices=gpus), tapped(taps), quiet():
        states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]
        output = one_pass("correct_columns", model, batch, forward, number)
        after = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]
    return kept, output, not all(map(torch.equal, states, after))


def _repeats(first: "dict[str, deque[_Kept]]", second: "dict[str, deque[_Kept]]") -> bool:
    """Return whether two runs gave the same outputs."""
    for name, once in first.items():
        if len(once) != len(again := second[name]):
            return False
        for a, b in zip(once, again, strict=True):
            if a[:2] != b[:2]:
                return False
            if a.vectors.numel():
                off = (a.vectors - b.vectors).abs().amax()
                if off > _REPEATS * a.vectors.abs().amax():
                    return False
    return True


class _Kept(NamedTuple):
    """Outputs of one MVM of the model with exact weights."""

    outputs: slice
    shape: torch.Size
    rows: Tensor
    """The numbers of those that are kept."""
    vectors: Tensor
    """They themselves, (vectors, outputs)."""


def _keep(kept: deque[_Kept]) -> Callable[..., None]:
    """Return what keeps the outputs of a layer whose weights are exact, without rounding.

    Its converters clip, as those of the chip do.
    """
    numbers = 0

    def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        nonlocal numbers
        if (fine := _fine(plan)) != plan:
            y.copy_(product(inputs._replace(adc_inl=None, dac_inl=None), fine))
        vectors = by_vector(y, plan)
        rows = _rows(vectors, 1 if numbers < _KEPT else _SHARE)
        numbers += len(rows) * vectors.shape[1]
        kept.append(_Kept(outputs, y.shape, rows, vectors[rows]))

    return look


def _fine(plan: Plan) -> Plan:
    """Return the plan with converters that hardly round; of slices, as it is: they are digits."""
    if plan.slicing.on:
        return plan
    return dataclasses.replace(
        plan,
        input_bits=_FINE_BITS if plan.input_bits else 0,
        output_bits=0,
        output_steps=_FINE if plan.steps else 0,
        floors=0,
        unit_bits=_FINE_BITS if plan.unit_bits else 0,
    )


def _follow(
    name: str, layer: AnalogLayer, sums: ColumnSums, kept: deque[_Kept], fit: Fit
) -> Callable[..., None]:
    """Return what counts the outputs of a layer beside those that are ``kept``, and corrects them.

    A chip may take another way than the exact model, such as another expert: an MVM without a
    counterpart is compared with its own exact product.
    """

    def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        _check(name, inputs, y)
        bias, vectors = _bias(layer, outputs), by_vector(y, plan)
        there = kept.popleft() if kept else None
        if not y.numel():  # an expert that gets no vectors
            return
        paired = there is not None and there[:2] == (outputs, y.shape)
        rows = there.rows if there is not None and paired else _rows(vectors)
        first = vectors[rows]
        clipped = _saturated(inputs, plan)
        clipped = None if clipped is None else clipped[rows]
        other: Tensor | None = None
        if there is not None and paired:
            target = there.vectors if bias is None else there.vectors - bias
            other = unlike(first if bias is None else first - bias, target, sums.of(outputs))
        if not paired or (other is not None and other.all()):
            target = by_vector(_exact(layer, inputs, plan, outputs), plan)[rows]
        elif other is not None:
            clipped = other.expand_as(first) if clipped is None else clipped | other
        second = by_vector(_again(inputs, plan, y), plan)[rows]
        sums.add(outputs, first=first, second=second, target=target, clipped=clipped, bias=bias)
        gain, offset = (value[outputs] for value in sums.solve(fit))
        columns = y.movedim(1, -1) if plan.dims else y
        corrected = columns.to(gain.dtype) if bias is None else columns.to(gain.dtype) - bias
        corrected = gain * corrected + offset
        columns.copy_(corrected if bias is None else corrected + bias)

    return look


def unlike(first: Tensor, target: Tensor, counted: tuple[Tensor, Tensor, Tensor]) -> Tensor | None:
    """Return which vectors are not those of their targets, (vectors, 1); None: it is not known.

    The chip has routed other vectors there, or gone on with another word.

    Args:
        first: outputs of the chip, (vectors, outputs).
        target: those of the exact model.
        counted: number, means and variances of those before, as ``ColumnSums.of`` has them.
    """
    vectors, outputs = first.shape
    number, mean, variance = counted
    if max(vectors, int(number.min())) < _JUDGED:
        return None
    z = torch.stack([first, target]).double()
    if vectors >= _JUDGED:
        mean, variance = z.mean(1), z.var(1)
    z = (z - mean.unsqueeze(1)) / variance.sqrt().clamp_min(1e-30).unsqueeze(1)
    if outputs < SINGLE:  # too few to judge single vectors by
        alike = cosine_similarity(z[0].flatten(), z[1].flatten(), dim=0)
        return (alike < _ALIKE_AT_ALL).expand(vectors, 1)
    return (cosine_similarity(z[0], z[1], dim=1) < _ALIKE).unsqueeze(1)


def _rows(vectors: Tensor, share: int = 1) -> Tensor:
    """Return the numbers of those to keep of some vectors, (vectors, outputs).

    They lie all over them. No more are kept than one of ``share``.
    """
    number, outputs = vectors.shape
    count = min(-(-number // share), max(_LEAST_KEPT, _KEPT // max(1, outputs)))
    return torch.arange(count, device=vectors.device) * number // max(1, count)


def _none_yet(layers: Mapping[str, AnalogLayer]) -> dict[str, ColumnSums]:
    return {
        name: ColumnSums(layer.sections[-1].outputs.stop, layer.weight.device)
        for name, layer in layers.items()
    }


def _check(name: str, inputs: Operands, y: Tensor) -> None:
    check_finite("correct_columns", f"the input of layer {name!r}", inputs.x)
    check_finite("correct_columns", f"the output of layer {name!r}", y)


def _bias(layer: AnalogLayer, outputs: slice) -> Tensor | None:
    bias = layer._analog_bias()  # without the offset of an earlier correction
    return None if bias is None else bias[outputs]


def _again(inputs: Operands, plan: Plan, y: Tensor) -> Tensor:
    """Return the output ``y`` of an MVM with other noise; itself, if it has none."""
    if not plan.noisy_sums:
        return y
    assert inputs.output_keys is not None
    # the second MVM draws its noise with other keys
    keys = fold(inputs.output_keys, stream(Noise.COMPENSATION, "columns"))
    return product(inputs._replace(output_keys=keys), plan)


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
        unit_bits=_FINE_BITS if plan.unit_bits else 0,
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
