"""Gains and offsets of columns that learn, on the chip, to give the outputs of the exact model."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.batches import every_tensor
from analogtorch.calibration.column_fit import Fit
from analogtorch.calibration.exact_outputs import ExactOutputs
from analogtorch.calibration.outputs import FIXED_SHAPE
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


def learn(
    model: nn.Module,
    layers: Mapping[str, AnalogLayer],
    scales: Mapping[str, Tensor],
    batches: Sequence[Any],
    exact: ExactOutputs,
    progress: bool,
    fit: Fit,
    steps: int,
    correct: Callable[[AnalogLayer, Tensor, Tensor], None],
) -> list[float] | None:
    """Correct columns further by what they learn from the outputs of the model, in place.

    Each step runs the chip on one batch, in turn, and moves gains and offsets of all layers by the
    gradient of what the outputs are off. All stay as they are where that does not bring the outputs
    of all batches nearer, or where outputs have no gradient, of which a warning tells.

    Args:
        model: the programmed model, whose columns have been fitted.
        layers: the layers to correct, at least one.
        scales: units of their offsets: the standard deviation of each output, (outputs,).
        batches: inputs.
        exact: the outputs of the exact model for the batches.
        progress: if True, show a progress bar.
        fit: which of gain and offset learn.
        steps: number of steps, >= 1.
        correct: corrects a layer by gain and offset of each output, (outputs,).

    Returns:
        The errors of the outputs that are left, as ``exact`` has them; None: none were measured.
    """
    given = itertools.chain(model.parameters(), model.buffers(), every_tensor(batches))
    if any(t.is_inference() for t in given):
        _without("weights or batches were made in torch.inference_mode()")
        return None
    if exact.empty:
        _without(
            "the model returns no floating-point tensor, or nothing but detections (boxes, scores "
            "and labels)",
            f"{FIXED_SHAPE}, or ",
        )
        return None
    if not exact.vary:
        _without("the exact model returns the same for all inputs")
        return None
    changes = [_Change(layer, scales[name], fit) for name, layer in layers.items()]
    learning = [value for change in changes for value in change.learning]
    optimizer = torch.optim.Adam(learning, lr=RATE)
    with evaluated(model), quiet():
        before, moved, compared = exact.errors(), False, False
        with tapped({change.layer: Tap(product=change.apply) for change in changes}):
            for step in Progress(
                range(steps), desc="correct_columns", unit="step", disable=not progress
            ):
                off = functools.partial(exact.error, step % len(batches))
                try:
                    gradients = _gradients(off, learning)
                except torch.OutOfMemoryError as error:
                    error.add_note("correct_columns: steps=0 takes no memory for gradients")
                    raise
                except RuntimeError as error:  # of autograd: without gradients it has run
                    _without(f"the model gives no gradients ({_first_line(error)})")
                    return before
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
            _without(*_incomparable(exact))
            return before
        if not moved:
            _without(
                "the outputs have no gradient, as where the model or forward= runs under "
                "torch.no_grad() or gives tokens",
                "return logits from forward=, or ",
            )
            return before
        held = [(change.layer, change.layer.programmed) for change in changes]
        for change in changes:
            correct(change.layer, *change.found)
        after = exact.errors()
    if len(after) < len(before) or not sum(after) < sum(before):
        for layer, programmed in held:
            layer.programmed = programmed
        return before
    return after


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


def _incomparable(exact: ExactOutputs) -> tuple[str, str]:
    """Return why no output could be compared, and what helps."""
    if (shapes := exact.other_shapes) is None:
        return "the chip gives no outputs that can be compared with the exact ones", ""
    return (
        "the outputs have other shapes on the chip than in the exact model, such as "
        f"{shapes[0]} for {shapes[1]}",
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
