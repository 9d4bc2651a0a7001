"""Gains and offsets of columns that learn, on the chip, to give the outputs of the exact model."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.calibration.batches import every_tensor
from analogtorch.calibration.column_fit import Fit
from analogtorch.calibration.column_outputs import SINGLE, unlike
from analogtorch.calibration.outputs import FIXED_SHAPE, TEMPERATURE, by_class, masks, spread
from analogtorch.calibration.padding import without_padding
from analogtorch.calibration.passes import Forward, one_pass
from analogtorch.calibration.units import are_alike, are_shares, variances
from analogtorch.conversion.restored import evaluated
from analogtorch.conversion.unread import quiet
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.ops import Plan
from analogtorch.ops.operands import Operands
from analogtorch.values.progress import Progress
from analogtorch.values.warned import warn

STEPS = 30
"""Steps by default. Chosen on DNN_L and DS-CNN: twice as many gained the one more after a year, the
other nothing."""

RATE = 0.003
"""Step of Adam: of a gain, and of an offset in standard deviations of the layer's outputs. It falls
to 0. Chosen on the same nets, of which three times as much made both worse from few clips."""

_TINY = torch.finfo(torch.float32).tiny
"""Smallest divisor."""

_SOME = 256
"""Vectors of each batch at most, about, by which outputs are scaled."""


def learn(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    scales: Mapping[str, Tensor],
    batches: Sequence[Any],
    exact: Sequence[Sequence[Tensor]],
    forward: Forward | None,
    progress: bool,
    fit: Fit,
    steps: int,
    correct: Callable[[AnalogLayer, Tensor, Tensor], None],
) -> None:
    """Correct columns further by what they learn from the outputs of the model, in place.

    Each step runs the chip on one batch, in turn, and moves gains and offsets of all layers by the
    gradient of what the outputs are off. All stay as they are where that does not bring the outputs
    of all batches nearer, or where outputs have no gradient, of which a warning tells.

    Args:
        model: the programmed model, whose columns have been fitted.
        layers: the layers to correct, at least one.
        scales: units of their offsets: the standard deviation of each output, (outputs,).
        batches: inputs.
        exact: the outputs of the exact model for each batch, as ``without_padding`` has them.
        forward: as ``calibrate`` takes it.
        progress: if True, show a progress bar.
        fit: which of gain and offset learn.
        steps: number of steps, >= 1.
        correct: corrects a layer by gain and offset of each output, (outputs,).
    """
    given = itertools.chain(model.parameters(), model.buffers(), every_tensor(batches))
    if any(t.is_inference() for t in given):
        return _without("weights or batches were made in torch.inference_mode()")
    if not any(y.numel() for outputs in exact for y in outputs):
        return _without(
            "the model returns no floating-point tensor, or nothing but detections (boxes, scores "
            "and labels)",
            f"{FIXED_SHAPE}, or ",
        )
    changes = [_Change(layer, scales[name], fit) for name, layer in layers.items()]
    learning = [value for change in changes for value in change.learning]
    outputs = [_Output(each) for each in zip(*exact, strict=False)]
    if not any(output.varies for output in outputs):
        return _without("the exact model returns the same for all inputs")
    optimizer = torch.optim.Adam(learning, lr=RATE)

    def off(number: int) -> Tensor | None:
        run = one_pass("correct_columns", model, batches[number], forward, number)
        found = without_padding(model, run, batches[number])
        pairs = zip(outputs, found, strict=False)
        errors = [error for out, y in pairs if (error := out.error(y, number)) is not None]
        return torch.stack(errors).mean() if errors else None

    def all_errors() -> list[float]:
        found = map(off, range(len(batches)))
        return [error.item() for error in found if error is not None]

    with evaluated(model), quiet():
        before, moved, compared = all_errors(), False, False
        with tapped({change.layer: Tap(product=change.apply) for change in changes}):
            for step in Progress(
                range(steps), desc="correct_columns", unit="step", disable=not progress
            ):
                try:
                    gradients = _gradients(functools.partial(off, step % len(batches)), learning)
                except torch.OutOfMemoryError as error:
                    error.add_note("correct_columns: steps=0 takes no memory for gradients")
                    raise
                except RuntimeError as error:  # of autograd: without gradients it has run
                    return _without(f"the model gives no gradients ({_first_line(error)})")
                finally:
                    _leave_graph(model)
                compared |= gradients is not None
                if not gradients:
                    continue
                for value, gradient in zip(learning, gradients, strict=True):
                    value.grad = gradient
                optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
                optimizer.step()
                moved = True
        if not compared:
            return _without(*_incomparable(outputs))
        if not moved:
            return _without(
                "the outputs have no gradient, as where the model or forward= runs under "
                "torch.no_grad() or gives tokens",
                "return logits from forward=, or ",
            )
        held = [(change.layer, change.layer.programmed) for change in changes]
        for change in changes:
            correct(change.layer, *change.found)
        after = all_errors()
    if len(after) < len(before) or not sum(after) < sum(before):
        for layer, programmed in held:
            layer.programmed = programmed
    return None


def _gradients(
    off: Callable[[], Tensor | None], learning: Sequence[Tensor]
) -> tuple[Tensor | None, ...] | None:
    """Return the gradients of an error; empty: it has none; None: there is no error."""
    with torch.enable_grad():
        error = off()
    if error is None:
        return None
    if not error.requires_grad:
        return ()
    return torch.autograd.grad(error, learning, allow_unused=True)


def _leave_graph(model: nn.Module) -> None:
    """Take buffers that a forward has written in place out of its graph."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.requires_grad:
                module._buffers[name] = buffer.detach()


def _incomparable(outputs: Iterable["_Output"]) -> tuple[str, str]:
    """Return why no output could be compared, and what helps."""
    shapes = [output.unlike for output in outputs if output.unlike is not None]
    if not shapes:
        return "the chip gives no outputs that can be compared with the exact ones", ""
    found, exact = shapes[0]
    return (
        "the outputs have other shapes on the chip than in the exact model, such as "
        f"{found} for {exact}",
        f"where shapes depend on values, as those of a detector's boxes do, {FIXED_SHAPE}, or ",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _without(why: str, remedy: str = "") -> None:
    warn(
        f"correct_columns: {why}, so that gains and offsets are fitted layer by layer, and do not "
        f"learn from the outputs of the model; {remedy}pass steps=0 if that is meant"
    )


class _Change:
    """How far gains and offsets of a layer have moved."""

    def __init__(self, layer: AnalogLayer, scale: Tensor, fit: Fit) -> None:
        outputs, device = layer.sections[-1].outputs.stop, layer.weight.device
        self.layer, self._scale = layer, scale.float()
        self._gain, self._offset = (
            torch.zeros(outputs, dtype=torch.float32, device=device) for _ in range(2)
        )
        both = (("gain", self._gain), ("offset", self._offset))
        self.learning = [x.requires_grad_() for which, x in both if fit in ("affine", which)]
        """Those that learn."""

    def apply(self, inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
        """Change the result of an MVM, with gradients."""
        bias = self.layer.analog_bias()  # without the offset of an earlier correction
        columns = y.movedim(1, -1) if plan.dims else y
        columns = columns.clone() if bias is None else columns - bias[outputs]
        change = self._gain[outputs] * columns + (self._scale * self._offset)[outputs]
        y.add_((change.movedim(-1, 1) if plan.dims else change).to(y.dtype))

    @property
    def found(self) -> tuple[Tensor, Tensor]:
        """Gain and offset of each output, (outputs,)."""
        return 1 + self._gain.detach().double(), self._scale * self._offset.detach().double()


class _Output:
    """One of the outputs of the exact model, for all batches, and how far others are from it."""

    def __init__(self, exact: Sequence[Tensor]) -> None:
        self._shapes = [tuple(y.shape) for y in exact]
        self.unlike: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        """The last shape that was not the exact one, and that; None: all were."""
        self._exact = [_rows(y) for y in exact]
        self._masks = [masks(y) for y in self._exact]
        pairs = [pair for pair in zip(self._exact, self._masks, strict=True) if len(pair[0])]
        whole = [_without_masks(*pair) for pair in pairs]
        some = [y[:: -(-len(y) // _SOME)] for y in whole]
        numbers = torch.cat(
            [y.flatten() for y in some] or [torch.zeros(1, dtype=torch.float32, device="cpu")]
        )
        self._variance = numbers.var(correction=0).clamp_min(_TINY)
        """That of all numbers, or that of each where they are quantities of several units."""
        own = variances(whole)
        self.varies = not bool(own.isinf().all())
        """Whether it says anything: not if it is the same for all inputs."""
        self._scores = are_shares(whole) or are_alike(own, sum(map(len, whole)))
        if not self._scores:
            self._variance = own
        spreads = [spread(*pair) for pair in pairs]
        self._temperature = max(TEMPERATURE * sum(spreads) / max(1, len(spreads)), _TINY)
        self._counted: tuple[Tensor, Tensor, Tensor] | None = None
        if len({y.shape[1] for y in some}) == 1 and some[0].shape[1] >= SINGLE:
            y = torch.cat(some).double()
            mean, variance = (x.expand(2, -1) for x in (y.mean(0), y.var(0)))
            self._counted = torch.full_like(y[0], len(y)), mean, variance

    def error(self, y: Tensor, number: int) -> Tensor | None:
        """Return how far an output for a batch is off, as numbers and as scores: a scalar >= 0.

        Both are 0 where it is exact: squared error over the variance, which numbers need, and the
        divergence of the softmax, which keeps decisions between classes. Quantities of several
        units have the first alone, each over its own variance. None: there is nothing to compare,
        as where the chip went on with other words.
        """
        given, exact, masked = tuple(y.shape), self._exact[number], self._masks[number]
        y = _rows(y)
        if y.shape != exact.shape:
            self.unlike = given, self._shapes[number]
        if y.shape != exact.shape or not y.numel():
            return None
        if self._counted is not None:
            first, target = (_without_masks(t, masked) for t in (y.detach(), exact))
            other = unlike(first, target, self._counted)
            if other is not None and other.any():
                kept = ~other[:, 0]
                y, exact = y[kept], exact[kept]
                masked = None if masked is None else masked[kept]
        if not (self.varies and y.numel()):
            return None
        change = _without_masks(y, masked) - _without_masks(exact, masked)
        if not self._scores:
            return (change.square() / self._variance).mean()
        error = change.square().mean() / self._variance
        if y.shape[1] < 3:
            return error
        lowest, scaled = torch.finfo(y.dtype).min, (t / self._temperature for t in (y, exact))
        y, exact = (F.log_softmax(_without_masks(t, masked, lowest), -1) for t in scaled)
        return error + F.kl_div(y, exact, log_target=True, reduction="batchmean")


def _rows(y: Tensor) -> Tensor:
    """Return an output as (positions, classes), in single precision at least."""
    return by_class(y.to(torch.promote_types(y.dtype, torch.float32)))


def _without_masks(rows: Tensor, masked: Tensor | None, value: float = 0.0) -> Tensor:
    return rows if masked is None else rows.masked_fill(masked, value)
