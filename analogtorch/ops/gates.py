"""The gates of one step of a recurrent layer, which are digital, and their gradients.

On the CPU one pass over memory computes them, where torch takes a dozen.
"""

from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.library import define
from analogtorch.ops.native import gates as native
from analogtorch.ops.transforms import unseen, untransformed


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
    given = x, products, state[-1]
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    if not (untransformed() and all(t.dtype == torch.float32 and t.is_cpu for t in given)):
        h, c, _ = _by_torch(mode, *given)
    elif not learns and unseen(*given):
        h, c, _ = _compute(*given, mode, learns)
    else:
        h, c, _ = _gates(*given, mode, learns)
    return (h, c) if c is not None and mode == "LSTM" else (h,)


def _by_torch(
    mode: str, x: Tensor, products: Tensor, before: Tensor
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Return h, c of an LSTM, and what the gradient needs."""
    if mode == "GRU":
        xr, xz, xn = x.chunk(3, -1)
        hr, hz, hn = products.chunk(3, -1)
        r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
        new = (xn + r * hn).tanh()
        return new + z * (before - new), None, [r, z, new, hn]
    total = x + products
    if mode == "LSTM":
        i, f, g, o = total.chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * before + i * g
        return o * c.tanh(), c, [i, f, g, o]
    h = total.tanh() if mode == "RNN_TANH" else total.relu()
    return h, None, [h]


def _gradient_by_torch(
    mode: str, gh: Tensor, gc: Tensor, before: Tensor, c: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    if mode == "GRU":
        r, z, new, product = kept.chunk(4, -1)
        g_new = gh * (1 - z) * (1 - new * new)
        gr, gz = g_new * product * r * (1 - r), gh * (before - new) * z * (1 - z)
        return torch.cat([gr, gz, g_new], -1), torch.cat([gr, gz, g_new * r], -1), gh * z
    if mode == "LSTM":
        (i, f, g, o), t = kept.chunk(4, -1), c.tanh()
        gc = gc + gh * o * (1 - t * t)
        of_sigmoids = gc * g * i * (1 - i), gc * before * f * (1 - f), gh * t * o * (1 - o)
        gx = torch.cat([*of_sigmoids[:2], gc * i * (1 - g * g), of_sigmoids[2]], -1)
        return gx, gx, gc * f
    gx = gh * (1 - kept * kept) if mode == "RNN_TANH" else torch.where(kept > 0, gh, 0.0)
    return gx, gx, None


Three = tuple[Tensor, Tensor, Tensor]
"""An operator returns tensors alone: an empty one stands for each that there is not."""


def _filled(like: Tensor, *found: Tensor | None) -> Three:
    return tuple(like.new_empty(0) if t is None else t for t in found)  # type: ignore[return-value]


def _compute(x: Tensor, products: Tensor, before: Tensor, mode: str, learns: bool) -> Three:
    if native.takes(x, products, before):
        return _filled(x, *native.forward(mode, x, products, before, learns))
    return _plain(x, products, before, mode, learns)


def _plain(x: Tensor, products: Tensor, before: Tensor, mode: str, learns: bool) -> Three:
    h, c, kept = _by_torch(mode, x, products, before)
    return _filled(x, h, c, torch.cat(kept, -1) if learns else None)


def _fake(x: Tensor, products: Tensor, before: Tensor, mode: str, learns: bool) -> Three:
    size, *rest = before.shape[-1], *before.shape[:-1]
    kept = x.new_empty(*rest, native.KEPT[mode] * size) if learns else None
    c = x.new_empty(before.shape) if mode == "LSTM" else None
    return _filled(x, x.new_empty(before.shape), c, kept)


def _save(ctx: Any, arguments: tuple[Any, ...], outputs: Three) -> None:
    *_, before, ctx.mode, _ = arguments
    _, c, kept = outputs
    ctx.mark_non_differentiable(*((kept,) if ctx.mode == "LSTM" else (c, kept)))
    ctx.save_for_backward(before, c, kept)


def _backward(ctx: Any, saved: Three, gh: Tensor, gc: Tensor, _: Any) -> Any:
    gx, g_products, g_before = _gates_backward(gh.contiguous(), gc.contiguous(), *saved, ctx.mode)
    return gx, g_products, g_before if g_before.numel() else None, None, None


def _compute_backward(*arguments: Any) -> Three:
    gh, gc, before, c, kept, mode = arguments
    compute = native.backward if native.takes(gh, before, kept) else _gradient_by_torch
    gx, g_products, g_before = compute(mode, gh, gc, before, c, kept)
    # an operator may not return a tensor twice
    return _filled(gh, gx, g_products.clone() if g_products is gx else g_products, g_before)


def _fake_backward(*arguments: Any) -> Three:
    gh, _, before, _, _, mode = arguments
    wide = (*before.shape[:-1], native.gates(mode) * before.shape[-1])
    g_before = gh.new_empty(before.shape) if mode in ("GRU", "LSTM") else None
    return _filled(gh, gh.new_empty(wide), gh.new_empty(wide), g_before)


_gates_backward = define(
    "gates_backward(Tensor gh, Tensor gc, Tensor before, Tensor c, Tensor kept, str mode) "
    "-> (Tensor, Tensor, Tensor)",
    _compute_backward,
    _fake_backward,
)
_gates = define(
    "gates(Tensor x, Tensor products, Tensor before, str mode, bool learns) "
    "-> (Tensor, Tensor, Tensor)",
    _compute,
    _fake,
    save=_save,
    backward=_backward,
    plain=_plain,
)
