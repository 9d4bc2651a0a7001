"""All steps of a recurrent layer on the CPU: ``analogtorch.ops.recurrence``."""

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.ops.mask import MASK, mask_shape
from analogtorch.ops.native import gates, loading
from analogtorch.ops.native.call import Call
from analogtorch.ops.native.product import range_gradient
from analogtorch.ops.operands import Operands

if TYPE_CHECKING:
    from analogtorch.ops.recurrence import Steps


class Kept(NamedTuple):
    """What the gradient needs of the steps; vectors are those of all steps."""

    h: Tensor
    """The states before, between and after them, (steps + 1, samples, size), by time."""
    c: Tensor | None
    """The same of the cells of an LSTM."""
    gates: Tensor | None
    """What the gates keep, (vectors, ...)."""
    mask: Tensor | None
    """Saturated partial sums, the bytes of ``mask_shape`` of each step, (vectors, ...); None: there
    are none."""
    saturated: Tensor
    """(steps, blocks): whether any did."""
    ranges: Tensor | None
    """The DAC range of each state, (vectors,); None: those of the operands."""


class Found(NamedTuple):
    """What the steps give."""

    state: tuple[Tensor, Tensor, Tensor | None]
    """h of each step, (vectors, size); then the last h, and the last c of an LSTM."""
    scale: Tensor
    """Weight scales of the product."""
    kept: Kept


class Gradients(NamedTuple):
    """The gradients of what the steps are given: of operands by their names."""

    inputs: Tensor
    """Of the products of the input."""
    c: Tensor | None
    x: Tensor
    """Of the first h."""
    input_range: Tensor | None
    w: Tensor | None
    bias: Tensor | None


class _Order:
    """The order of the steps, and where their vectors and states lie.

    States lie in the order of time, with the first one at an end.
    """

    def __init__(self, steps: "Steps") -> None:
        count = len(steps.sizes)
        self.sizes = steps.sizes
        self.steps = range(count)[::-1] if steps.reverse else range(count)
        self.before, self.after = (1, 0) if steps.reverse else (0, 1)
        """The state before step t is number t + ``before``, that after it t + ``after``."""
        self.first = [0, *itertools.accumulate(steps.sizes)]
        """The first vector of each step; then their number."""
        self.start, self.end = self.steps[0] + self.before, self.steps[-1] + self.after
        """Numbers of the first and the last state."""

    def parts(self, states: Tensor, shift: int) -> Tensor:
        """Return the vectors of all steps of ``states``, (vectors, size)."""
        if self.sizes[0] == self.sizes[-1]:
            return states[shift : len(self.sizes) + shift].flatten(0, 1)
        return torch.cat([states[t + shift, :n] for t, n in enumerate(self.sizes)])


class _Each:
    """The parts of tensors that belong to each step, to which a structure points."""

    def __init__(
        self,
        structure: Any,
        order: _Order,
        by_step: Mapping[str, Tensor | None],
        by_vector: Mapping[str, Tensor | None],
    ) -> None:
        self.structure, self.known = structure, list[tuple[str, int, int, Sequence[int]]]()
        for tensors, places in ((by_step, range(len(order.sizes))), (by_vector, order.first)):
            for name, t in tensors.items():
                if t is not None:
                    apart = t.stride(0) * t.element_size()
                    self.known.append((name, t.data_ptr(), apart, places))

    def point(self, step: int) -> None:
        """Let the structure point to those of a step."""
        for name, first, apart, places in self.known:
            setattr(self.structure, name, first + places[step] * apart)


def _panels(call: Call, w: Tensor, backward: bool) -> Tensor:
    """Return room for the weights in panels, which all steps share."""
    sizes = map(ctypes.c_int64, (*w.shape, call.form.sums, backward))
    return w.new_empty(loading.call("at_linear_packed", *sizes))


def forward(steps: "Steps", x: Tensor, c: Tensor | None, operands: Operands, learns: bool) -> Found:
    """Compute ``ops.recurrence.run``; the first h is ``operands.x``."""
    mode, plan, x, h, order = steps.mode, steps.plan, x.contiguous(), operands.x, _Order(steps)
    count, (vectors, outputs), (samples, size) = len(order.sizes), x.shape, h.shape
    hs, y = h.new_empty(count + 1, samples, size), x.new_empty(samples, outputs)
    hs[order.start] = h
    cs = mask = keeps = None
    if c is not None:  # one for all steps, unless the gradient needs them
        cs = torch.empty_like(hs) if learns else torch.empty_like(hs[:1]).expand_as(hs)
        cs[order.start] = c
    if learns:
        keeps = x.new_empty(vectors, gates.KEPT[mode] * size)
        if plan.saturates:
            row = mask_shape(x.shape, plan.blocks, 0)[-1]
            mask = x.new_empty(vectors, plan.blocks * row, dtype=MASK)
    if (scale := operands.scale) is None:
        scale = y.new_empty(plan.blocks, outputs)
    saturated = x.new_empty(count, plan.blocks, dtype=torch.uint8)
    ranges = x.new_empty(vectors) if steps.by_vector else None
    numbers = None if steps.samples is None else steps.samples.contiguous()
    scale = scale.contiguous()
    call = Call(operands._replace(x=hs[0]), plan)
    call.point(scale=scale, y=y, packed=_panels(call, operands.w, False))
    call.matrix.find_scale = operands.scale is None
    by_step = {"x": hs[order.before :], "samples": numbers, "saturated": saturated}
    product = _Each(call.matrix, order, by_step, {"mask": mask, "input_range": ranges})
    p = gates.structure(mode, samples, size, products=y)
    last, c_after = (hs, None) if cs is None else (cs, cs[order.after :])
    of_states = {"h": hs[order.after :], "before": last[order.before :], "c": c_after}
    state = _Each(p, order, of_states, {"x": x, "kept": keeps})
    for t in order.steps:
        n, before, after = order.sizes[t], t + order.before, t + order.after
        if ranges is not None:
            gates.largest(hs[before, :n], ranges[order.first[t] :])
        call.matrix.vectors = p.samples = n
        product.point(t)
        call.run("at_linear")
        call.matrix.find_scale, call.matrix.is_packed = False, True
        state.point(t)
        gates.run("at_gates", p)
        if n < samples:  # a sequence that has ended, or has not begun from behind, keeps its state
            hs[after, n:] = hs[before, n:]
            if cs is not None and learns:
                cs[after, n:] = cs[before, n:]
    found = order.parts(hs, order.after)
    if learns:  # who changes them in place must not change what the gradient needs
        found = found.clone()
    ended = found, hs[order.end].clone(), None if cs is None else cs[order.end].clone()
    return Found(ended, scale, Kept(hs, cs, keeps, mask, saturated, ranges))


def backward(
    steps: "Steps",
    gradients: Sequence[Tensor | None],
    kept: Kept,
    operands: Operands,
    needed: Mapping[str, bool],
) -> Gradients:
    """Return the gradients from those of outputs, last h and last c.

    Args:
        steps: what ran.
        gradients: of ``Found.state``.
        kept: of the forward.
        operands: those of the first step, with the scale.
        needed: whether operands need theirs, by their names.
    """
    mode, plan, (hs, cs, keeps, mask, saturated, ranges) = steps.mode, steps.plan, kept
    assert keeps is not None
    order, (_, samples, size) = _Order(steps), hs.shape
    if mask is None:
        saturated = torch.zeros_like(saturated)
    gx = keeps.new_empty(len(keeps), gates.gates(mode) * size)
    g_products = torch.empty_like(gx) if mode == "GRU" else gx
    # of the state, through its product and past it; sequences that do not run keep theirs
    gy, *g_last = gradients
    through, past = (torch.zeros_like(hs[0]) for _ in g_last)
    for carried, g in zip((through, past), g_last, strict=True):
        if g is not None:
            carried.copy_(g)
    call = Call(operands._replace(x=hs[0]), plan)
    call.point(scale=operands.scale, gx=through, packed=_panels(call, operands.w, True))
    sums = torch.zeros(len(order.sizes), call.form.sums, dtype=torch.float64, device="cpu")
    by_step = {"x": hs[order.before :], "saturated": saturated, "g_range": sums}
    by_vector = {"mask": mask, "input_range": ranges, "g": g_products}
    product = _Each(call.matrix, order, by_step, by_vector)
    p = gates.structure(mode, samples, size)
    p.gh[1] = through.data_ptr()
    if mode in ("GRU", "LSTM"):
        p.g_before = past.data_ptr()
    if mode == "GRU":
        p.gh[2] = past.data_ptr()
    elif mode == "LSTM":
        p.gc = past.data_ptr()
    last, c_after = (hs, None) if cs is None else (cs, cs[order.after :])
    of_states = {"before": last[order.before :], "c": c_after}
    state = _Each(p, order, of_states, {"kept": keeps, "gx": gx, "g_products": g_products})
    gy = None if gy is None else gy.contiguous()
    for t in order.steps[::-1]:
        call.matrix.vectors = p.samples = order.sizes[t]
        p.gh[0] = None if gy is None else gy[order.first[t] :].data_ptr()
        state.point(t)
        gates.run("at_gates_backward", p)
        product.point(t)
        call.run("at_linear_backward")
        call.matrix.is_packed = True
    gw = torch.empty_like(operands.w) if needed["w"] else None
    g_bias = gx.new_empty(gx.shape[-1]) if needed["bias"] else None
    if gw is not None or g_bias is not None:
        limits = operands.input_range if ranges is None else ranges.view(-1, 1)
        x = order.parts(hs, order.before)
        together = Call(operands._replace(x=x, input_range=limits), plan)
        masks = None if mask is None else _by_block(mask, order, plan.blocks)
        together.point(scale=operands.scale, mask=masks, saturated=saturated.amax(0))
        together.point(g=g_products, gw=gw, g_bias=g_bias)
        together.run("at_linear_backward")
    g_range = None
    if needed["input_range"]:
        g_range = range_gradient(sums.sum(0), operands.input_range, plan, call)
    first = through + past if mode == "GRU" else through
    return Gradients(gx, None if cs is None else past, first, g_range, gw, g_bias)


def _by_block(mask: Tensor, order: _Order, blocks: int) -> Tensor:
    """Return the mask of all steps, (blocks, vectors, bytes)."""
    if blocks == 1:
        return mask.unsqueeze(0)
    parts = (part.view(blocks, len(part), -1) for part in mask.split(list(order.sizes)))
    return torch.cat(list(parts), 1)
