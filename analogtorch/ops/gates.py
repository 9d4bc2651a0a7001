"""The gates of one step of a recurrent layer, which are digital, and their gradients.

On the CPU one pass over memory computes them, where torch takes a dozen.
"""

from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.library import once
from analogtorch.ops.native import gates as native
from analogtorch.ops.transforms import unseen


def next_state(
    mode: str, x: Tensor, products: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return the next state of a recurrent layer: (h,), or (h, c) of an LSTM.

    Args:
        mode: ``nn.RNNBase.mode``: ``RNN_TANH``, ``RNN_RELU``, ``GRU`` or ``LSTM``.
        x: the products of the input, (samples, gates * size), in torch's order of gates.
        products: those of the state, of the same shape.
        state: the state before, of tensors (samples, size).
    """
    before = state[-1]
    if unseen(x, products, before) and native.takes(x, products, before):
        given = x, products, before
        if torch.is_grad_enabled() and any(t.requires_grad for t in given):
            h, c = _Gates.apply(mode, *given)
        else:
            h, c, _ = native.forward(mode, *given, False)
        return (h,) if c is None else (h, c)
    return _by_torch(mode, x, products, before)


def _by_torch(mode: str, x: Tensor, products: Tensor, before: Tensor) -> tuple[Tensor, ...]:
    if mode == "GRU":
        xr, xz, xn = x.chunk(3, -1)
        hr, hz, hn = products.chunk(3, -1)
        new = (xn + (xr + hr).sigmoid() * hn).tanh()
        update = (xz + hz).sigmoid()
        return (new + update * (before - new),)
    total = x + products
    if mode == "LSTM":
        i, f, g, o = total.chunk(4, -1)
        c = f.sigmoid() * before + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    return (total.tanh() if mode == "RNN_TANH" else total.relu(),)


class _Gates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mode: str, x: Tensor, products: Tensor, before: Tensor) -> Any:
        h, c, kept = native.forward(mode, x, products, before, True)
        ctx.save_for_backward(before, c, kept)
        ctx.mode = mode
        ctx.set_materialize_grads(False)
        return h, c

    @staticmethod
    def backward(ctx: Any, gh: Tensor | None, gc: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        with torch.no_grad():
            found = native.backward(ctx.mode, gh, gc, *saved)
        return None, *once("gates", found, (gh, gc, *saved))
