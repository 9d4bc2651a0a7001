"""The gates of recurrent layers on the CPU: ``analogtorch.ops.gates``."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.native import loading
from analogtorch.ops.native.structures import Gates

MODES = ("RNN_TANH", "RNN_RELU", "GRU", "LSTM")
"""The modes in the order of ``enum kind`` in gates.c."""
KEPT = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 4, "LSTM": 4}
"""How many arrays of the size of the state the gradient needs, by the mode."""


def takes(*tensors: Tensor) -> bool:
    """Return whether the kernels compute with these tensors."""
    ours = all(t.dtype == torch.float32 and t.is_cpu for t in tensors)
    return ours and tensors[0].numel() > 0 and loading.available()


def structure(mode: str, samples: int, size: int, **tensors: Tensor | None) -> Any:
    """Return the structure that the kernels read, which points to these contiguous tensors."""
    p = Gates(kind=MODES.index(mode), samples=samples, size=size)
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(p, name, tensor.data_ptr())
    return p


def run(name: str, p: Any) -> None:
    """Call a kernel."""
    loading.call(name, ctypes.byref(p))


def forward(
    mode: str, x: Tensor, products: Tensor, before: Tensor, learns: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return h, c of an LSTM, and what the gradient needs if ``learns``.

    The arguments are those of ``ops.gates.next_state``; ``before`` is its last state.
    """
    x, products, before = x.contiguous(), products.contiguous(), before.contiguous()
    size = before.shape[-1]
    samples = before.numel() // size
    h, c = torch.empty_like(before), torch.empty_like(before) if mode == "LSTM" else None
    kept = before.new_empty(*before.shape[:-1], KEPT[mode] * size) if learns else None
    given = {"x": x, "products": products, "before": before, "h": h, "c": c, "kept": kept}
    run("at_gates", structure(mode, samples, size, **given))
    return h, c, kept


def backward(
    mode: str,
    gh: Tensor,
    gc: Tensor,
    before: Tensor,
    c: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of the first three tensors of ``forward``, from those of h and c.

    What is only there for an LSTM may be empty.
    """
    before, size = before.contiguous(), before.shape[-1]
    samples = before.numel() // size
    gx = kept.new_empty(*before.shape[:-1], gates(mode) * size)
    g_products = torch.empty_like(gx) if mode == "GRU" else gx
    g_before = torch.empty_like(before) if KEPT[mode] > 1 else None
    given = {"before": before, "kept": kept, "gx": gx, "g_products": g_products}
    p = structure(mode, samples, size, **given, g_before=g_before)
    p.gh[0] = gh.data_ptr()
    if mode == "LSTM":
        p.c, p.gc = c.data_ptr(), gc.data_ptr()
    run("at_gates_backward", p)
    return gx, g_products, g_before


def gates(mode: str) -> int:
    """Return the gates of a mode: arrays of the size of the state in each of its products."""
    return 3 if mode == "GRU" else 4 if mode == "LSTM" else 1


def largest(vectors: Tensor, found: Tensor) -> None:
    """Write the largest magnitude of each of the ``vectors`` (samples, size) into ``found``."""
    sizes = map(ctypes.c_int64, vectors.shape)
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (vectors, found))
    loading.call("at_largest", *pointers, *sizes)
