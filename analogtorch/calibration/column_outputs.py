"""Outputs of columns on a programmed chip, beside those that they are fitted to."""

import functools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from analogtorch.calibration.column_fit import ColumnSums, Fit
from analogtorch.calibration.column_products import again, exact_product, fine_plan, saturated
from analogtorch.calibration.padding import of_layer, read_positions, read_vectors, without_padding
from analogtorch.calibration.passes import Forward, check_finite, few_threads, one_pass
from analogtorch.conversion import analog_layers
from analogtorch.conversion.restored import evaluated, evaluating
from analogtorch.conversion.unread import quiet
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.nn.execution import Execution
from analogtorch.ops import Plan, product
from analogtorch.ops.operands import Operands
from analogtorch.ops.partial_sums import by_vector
from analogtorch.ops.physics import wide
from analogtorch.ops.scope import TURN, random_kept
from analogtorch.values.progress import Progress
from analogtorch.values.warned import warn

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
    outputs: list[list[Tensor]] | None = None,
) -> dict[str, ColumnSums]:
    """Return the sums of each layer's outputs beside its own exact products of the same inputs.

    ``outputs`` gets those of the model for each batch, as ``without_padding`` has them.
    """
    sums = _none_yet(layers)

    def tap_of(name: str, layer: AnalogLayer, rows: "_Rows") -> Tap:
        def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
            _check(name, inputs, y)
            if not y.numel():
                return
            first, clipped = by_vector(y, plan), saturated(inputs, plan)
            some = rows.read(first, plan)
            sums[name].add(
                outputs,
                first=_those(first, some),
                second=_those(by_vector(again(inputs, plan, y), plan), some),
                target=_those(by_vector(exact_product(layer, inputs, plan, outputs), plan), some),
                clipped=None if clipped is None else _those(clipped, some),
                bias=_bias(layer, outputs),
            )

        return Tap(input=rows.note, product=few_threads(look))

    for number, batch in _numbered(batches, progress):
        masks = read_positions(model, batch).layers
        taps = {layer: tap_of(name, layer, _Rows(layer, masks)) for name, layer in layers.items()}
        with evaluating(model), tapped(taps), quiet():
            output = one_pass("correct_columns", model, batch, forward, number)
        if outputs is not None:
            outputs.append(_kept_of(model, output, batch))
    return sums


def beside_model(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    batches: Sequence[Any],
    forward: Forward | None,
    progress: bool,
    fit: Fit,
    exact: "Exact",
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
        exact: gets what the model with exact weights returns for each batch.
    """
    sums = _none_yet(layers)
    for number, batch in _numbered(batches, progress):
        masks = read_positions(model, batch).layers
        run = functools.partial(_exact_run, model, layers, batch, forward, number, masks)
        kept, output, drew = run()
        if number == 0 and not _repeats(kept, run()[0]):
            warn(
                "correct_columns: two runs of the model with exact weights on the same batch "
                "differ, as it draws numbers that torch's generators do not, keeps a state or "
                "changes its inputs, so that outputs are fitted to each layer's own products; pass "
                'target="layer" if that is meant, or forward= that repeats itself'
            )
            return beside_layers(model, layers, batches, forward, progress)
        taps = {
            layer: _follow(name, layer, sums[name], kept[name], fit, _Rows(layer, masks))
            for name, layer in layers.items()
        }
        with evaluating(model), tapped(taps), quiet():
            one_pass("correct_columns", model, batch, forward, number)
        exact.draws |= drew
        exact.outputs.append(_kept_of(model, output, batch))
    return sums


@dataclass
class Exact:
    """What the model with exact weights returns."""

    outputs: list[list[Tensor]] = field(default_factory=list)
    """For each batch, as ``without_padding`` has it; empty, if it does not repeat itself."""
    draws: bool = False
    """Whether it draws random numbers, by which outputs differ from run to run."""


def _kept_of(model: nn.Module, output: Any, batch: Any) -> list[Tensor]:
    return [y.detach() for y in without_padding(model, output, batch)]


def _numbered(batches: Sequence[Any], progress: bool) -> Iterable[tuple[int, Any]]:
    return enumerate(Progress(batches, desc="correct_columns", unit="batch", disable=not progress))


def _exact_run(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    batch: Any,
    forward: Forward | None,
    number: int,
    masks: tuple[Tensor, ...],
) -> tuple[dict[str, "deque[_Kept]"], Any, bool]:
    """Return what layers give for a batch if the weights of all are exact, and what the model does.

    And whether it drew random numbers.
    """
    kept = {name: deque[_Kept]() for name in layers}
    taps = {}
    for name, layer in analog_layers(model):
        exact = layer.executions.evaluation
        taps[layer] = (
            _keep(kept[name], exact, _Rows(layer, masks)) if name in kept else Tap(execution=exact)
        )
    devices = {layer.weight.device for layer in taps}
    gpus = sorted(device.index for device in devices if device.type == "cuda")
    # a model that draws numbers draws the same ones in the next run
    with TURN, evaluated(model), random_kept(gpus), tapped(taps), quiet():
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


def _keep(kept: deque[_Kept], exact: Execution, rows: "_Rows") -> Tap:
    """Return what keeps the outputs of a layer whose weights are exact, without rounding.

    Its converters clip, as those of the chip do.
    """
    numbers = 0

    def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        nonlocal numbers
        if (fine := fine_plan(plan)) != plan:
            y.copy_(product(inputs._replace(adc_inl=None, dac_inl=None), fine))
        vectors = by_vector(y, plan)
        some = rows.of(vectors, plan, 1 if numbers < _KEPT else _SHARE)
        numbers += len(some) * vectors.shape[1]
        kept.append(_Kept(outputs, y.shape, some, vectors[some].detach()))

    return Tap(input=rows.note, product=look, execution=exact)


def _follow(
    name: str,
    layer: AnalogLayer,
    sums: ColumnSums,
    kept: deque[_Kept],
    fit: Fit,
    rows: "_Rows",
) -> Tap:
    """Return what counts the outputs of a layer beside those that are ``kept``, and corrects them.

    A chip may take another way than the exact model, such as another expert: an MVM without a
    counterpart is compared with its own exact product.
    """

    @few_threads
    def found(
        inputs: Operands, plan: Plan, outputs: slice, y: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return the gain and the offset of each output, as far as they are known."""
        _check(name, inputs, y)
        bias, vectors = _bias(layer, outputs), by_vector(y, plan)
        there = kept.popleft() if kept else None
        if not y.numel():  # an expert that gets no vectors
            return None
        paired = there is not None and there[:2] == (outputs, y.shape)
        some = there.rows if there is not None and paired else rows.of(vectors, plan)
        first = vectors[some]
        clipped = saturated(inputs, plan)
        clipped = None if clipped is None else clipped[some]
        other: Tensor | None = None
        if there is not None and paired:
            target = there.vectors if bias is None else there.vectors - bias
            other = unlike(first if bias is None else first - bias, target, sums.of(outputs))
        if not paired or (other is not None and other.all()):
            target = by_vector(exact_product(layer, inputs, plan, outputs), plan)[some]
        elif other is not None:
            clipped = other.expand_as(first) if clipped is None else clipped | other
        second = by_vector(again(inputs, plan, y), plan)[some]
        sums.add(outputs, first=first, second=second, target=target, clipped=clipped, bias=bias)
        gain, offset = (value[outputs] for value in sums.solve(fit))
        if bias is not None:
            offset = offset + (1 - gain) * bias
        kind = wide(y.dtype)
        return gain.to(kind), offset.to(kind)

    def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        # with gradients where forward computes some: they are those of corrected columns
        if (correction := found(inputs, plan, outputs, y)) is not None:
            gain, offset = correction
            columns = y.movedim(1, -1) if plan.dims else y
            columns.copy_(gain * columns.to(gain.dtype) + offset)

    return Tap(input=rows.note, product=look)


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
    kind = wide(first.dtype)
    z = [values.to(kind) for values in (first, target)]
    if vectors >= _JUDGED:
        variance, mean = map(torch.stack, zip(*(torch.var_mean(v, 0) for v in z), strict=True))
    # what does not vary beyond its rounding has no deviations
    varies = variance > (8 * torch.finfo(kind).eps * mean).square()
    sizes = torch.where(varies, 1 / variance.sqrt(), 0.0).to(kind)
    z = [(v - m) * size for v, m, size in zip(z, mean.to(kind), sizes, strict=True)]
    if outputs < SINGLE:  # too few to judge single vectors by
        alike = cosine_similarity(z[0].flatten(), z[1].flatten(), dim=0)
        return (alike < _ALIKE_AT_ALL).expand(vectors, 1)
    return (cosine_similarity(z[0], z[1], dim=1) < _ALIKE).unsqueeze(1)


class _Rows:
    """Which vectors of the MVMs of a layer count, in one run of a batch.

    Args:
        layer: the layer.
        masks: which positions are read, as ``Read.layers`` has them.
    """

    def __init__(self, layer: AnalogLayer, masks: tuple[Tensor, ...]) -> None:
        self._masks, self._given = of_layer(layer, masks), torch.Size()

    def note(self, x: Tensor) -> None:
        """Note the input of the layer."""
        self._given = x.shape

    def read(self, vectors: Tensor, plan: Plan) -> Tensor | None:
        """Return the numbers of those of positions that are read; None: all."""
        found = None if plan.dims else read_vectors(self._given, self._masks)
        if found is None or len(found) != len(vectors):  # a part of a batch
            return None
        return found.nonzero().squeeze(1)

    def of(self, vectors: Tensor, plan: Plan, share: int = 1) -> Tensor:
        """Return the numbers of those to keep of some vectors, (vectors, outputs).

        They lie all over them. No more are kept than one of ``share``.
        """
        read, outputs = self.read(vectors, plan), vectors.shape[1]
        number = len(vectors if read is None else read)
        count = min(-(-number // share), max(_LEAST_KEPT, _KEPT // max(1, outputs)))
        found = torch.arange(count, device=vectors.device) * number // max(1, count)
        return found if read is None else read.to(found.device)[found]


def _those(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows.to(values.device)]


def _none_yet(layers: Mapping[str, AnalogLayer]) -> dict[str, ColumnSums]:
    return {
        name: ColumnSums(layer.sections[-1].outputs.stop, layer.weight.device)
        for name, layer in layers.items()
    }


def _check(name: str, inputs: Operands, y: Tensor) -> None:
    check_finite("correct_columns", f"the input of layer {name!r}", inputs.x)
    check_finite("correct_columns", f"the output of layer {name!r}", y)


def _bias(layer: AnalogLayer, outputs: slice) -> Tensor | None:
    bias = layer.analog_bias()  # without the offset of an earlier correction
    return None if bias is None else bias[outputs]
