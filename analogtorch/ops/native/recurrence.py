"""All steps of a recurrent layer on the CPU: ``analogtorch.ops.recurrence``."""

import ctypes
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
    """What the gradient needs of the steps."""

    h: Tensor
    """The states before, between and after them, (steps + 1, samples, size), by time."""
    c: Tensor | None
    """The same of the cells of an LSTM."""
    gates: Tensor | None
    """What the gates keep, (steps, samples, ...)."""
    mask: Tensor | None
    """Saturated partial sums, (steps, *shape of ``mask_shape``); None: there are none."""
    saturated: Tensor
    """(steps, blocks): whether any did."""
    ranges: Tensor | None
    """The DAC range of each state, (steps, samples); None: those of the operands."""


class Found(NamedTuple):
    """What the steps give."""

    state: tuple[Tensor, Tensor, Tensor | None]
    """h of each step, (steps, samples, size); then the last h, and the last c of an LSTM."""
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


class _Order(NamedTuple):
    """The order of the steps, and where states lie: in the order of time, the first at an end."""

    steps: range
    before: int
    """The state before step t is number t + ``before``."""
    after: int

    @classmethod
    def of(cls, count: int, reverse: bool) -> "_Order":
        return cls(range(count)[::-1], 1, 0) if reverse else cls(range(count), 0, 1)


class _Each:
    """The parts of tensors that belong to each step, to which a structure points."""

    def __init__(self, structure: Any, **tensors: Tensor | None) -> None:
        self.structure = structure
        self.known = [
            (name, t.data_ptr(), t.stride(0) * t.element_size())
            for name, t in tensors.items()
            if t is not None
        ]

    def point(self, step: int) -> None:
        """Let the structure point to those of a step."""
        for name, first, apart in self.known:
            setattr(self.structure, name, first + step * apart)


def _panels(call: Call, w: Tensor, backward: bool) -> Tensor:
    """Return room for the weights in panels, which all steps share."""
    sizes = map(ctypes.c_int64, (*w.shape, call.form.sums, backward))
    return w.new_empty(loading.call("at_linear_packed", *sizes))


def forward(steps: "Steps", x: Tensor, c: Tensor | None, operands: Operands, learns: bool) -> Found:
    """Compute ``ops.recurrence.run``; the first h is ``operands.x``."""
    mode, plan, x, h = steps.mode, steps.plan, x.contiguous(), operands.x
    (count, samples, _), size = x.shape, h.shape[-1]
    order, before, after = _Order.of(count, steps.reverse)
    hs, y = h.new_empty(count + 1, samples, size), x.new_empty(x.shape[1:])
    hs[order[0] + before] = h
    cs = scale = mask = keeps = None
    if c is not None:  # one for all steps, unless the gradient needs them
        cs = torch.empty_like(hs) if learns else torch.empty_like(hs[:1]).expand_as(hs)
        cs[order[0] + before] = c
    if learns:
        keeps = x.new_empty(count, samples, gates.KEPT[mode] * size)
        if plan.saturates:
            mask = x.new_empty(count, *mask_shape(y.shape, plan.blocks, 0), dtype=MASK)
    if (scale := operands.scale) is None:
        scale = y.new_empty(plan.blocks, y.shape[1])
    saturated = x.new_empty(count, plan.blocks, dtype=torch.uint8)
    ranges = x.new_empty(count, samples) if steps.by_vector else None
    numbers = None if steps.samples is None else steps.samples.contiguous()
    scale = scale.contiguous()
    call = Call(operands._replace(x=hs[0]), plan)
    call.point(scale=scale, y=y)
    call.matrix.find_scale = operands.scale is None
    call.point(packed=_panels(call, operands.w, False))
    given = {"samples": numbers, "mask": mask, "saturated": saturated, "input_range": ranges}
    product = _Each(call.matrix, x=hs[before:], **given)
    p = gates.structure(mode, samples, size, products=y)
    last, c_after = (hs, None) if cs is None else (cs, cs[after:])
    state = _Each(p, x=x, h=hs[after:], before=last[before:], c=c_after, kept=keeps)
    for t in order:
        if ranges is not None:
            gates.largest(hs[t + before], ranges[t])
        product.point(t)
        call.run("at_linear")
        call.matrix.find_scale, call.matrix.is_packed = False, True
        state.point(t)
        gates.run("at_gates", p)
    end, outputs = order[-1] + after, hs[after : count + after]
    if learns:  # who changes them in place must not change what the gradient needs
        outputs = outputs.clone()
    ended = outputs, hs[end].clone(), None if cs is None else cs[end].clone()
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
    gy, gh, gc = (None if g is None else g.contiguous() for g in gradients)
    count, samples, size = len(keeps), *hs.shape[1:]
    order, before, after = _Order.of(count, steps.reverse)
    if mask is None:
        saturated = torch.zeros_like(saturated)
    gx = keeps.new_empty(count, samples, gates.gates(mode) * size)
    g_products = torch.empty_like(gx) if mode == "GRU" else gx
    through_product, past_it = torch.empty_like(hs[0]), torch.empty_like(hs[0])
    call = Call(operands._replace(x=hs[0]), plan)
    call.point(scale=operands.scale, gx=through_product)
    call.point(packed=_panels(call, operands.w, True))
    sums = torch.zeros(count, call.form.sums, dtype=torch.float64, device="cpu")
    given = {"mask": mask, "saturated": saturated, "input_range": ranges, "g_range": sums}
    product = _Each(call.matrix, x=hs[before:], g=g_products, **given)
    p = gates.structure(mode, samples, size, g_before=past_it, gc=gc)
    last, c_after = (hs, None) if cs is None else (cs, cs[after:])
    given = {"kept": keeps, "gx": gx, "g_products": g_products}
    state = _Each(p, before=last[before:], c=c_after, **given)
    p.gh[1] = None if gh is None else gh.data_ptr()
    for t in order[::-1]:
        p.gh[0] = None if gy is None else gy[t].data_ptr()
        state.point(t)
        gates.run("at_gates_backward", p)
        product.point(t)
        call.run("at_linear_backward")
        call.matrix.is_packed = True
        p.gh[1] = through_product.data_ptr()
        if mode == "GRU":
            p.gh[2] = past_it.data_ptr()
        elif mode == "LSTM":
            p.gc = past_it.data_ptr()
    gw = torch.empty_like(operands.w) if needed["w"] else None
    g_bias = gx.new_empty(gx.shape[-1]) if needed["bias"] else None
    if gw is not None or g_bias is not None:
        limits = operands.input_range if ranges is None else ranges.view(-1, 1)
        x = hs[before : count + before].flatten(0, 1)
        together = Call(operands._replace(x=x, input_range=limits), plan)
        masks = None if mask is None else mask.transpose(0, 1).flatten(1, 2)
        together.point(scale=operands.scale, mask=masks, saturated=saturated.amax(0))
        together.point(g=g_products.flatten(0, 1), gw=gw, g_bias=g_bias)
        together.run("at_linear_backward")
    g_range = None
    if needed["input_range"]:
        g_range = range_gradient(sums.sum(0), operands.input_range, plan, call)
    first = through_product + past_it if mode == "GRU" else through_product
    return Gradients(gx, None if cs is None else past_it, first, g_range, gw, g_bias)
