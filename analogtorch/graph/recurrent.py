"""LSTM, GRU and RNN operators: their matrices, and how often each is applied."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from analogtorch.graph.products import Product

_GATES = {"lstm": 13, "gru": 11, "rnn_tanh": 2, "rnn_relu": 2}
"""Digital operations per unit and step: adding both products, gate functions, new state."""

NAMES = frozenset((*_GATES, *(f"{name}_cell" for name in _GATES)))
"""Names of the operators that are recurrent layers, or one step of one."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One layer and direction of a recurrent operator."""

    inputs: Product
    recurrent: Product
    projection: Product | None
    """The projection of an LSTM with ``proj_size``."""
    gates: int
    """Number of digital operations of all steps."""
    outputs: int
    """Number of elements that it returns."""
    steps: int
    layer: int


def cells(name: str, a: dict[str, Any]) -> Iterator[Cell]:
    """Yield layers and directions of the recurrent operator ``name``, in the order of their run.

    Args:
        name: one of ``NAMES``.
        a: its arguments by name; if there are ``batch_sizes``, its input is a packed sequence.
    """
    kind = name.removesuffix("_cell")
    if name.endswith("_cell"):
        yield _cell(kind, [a["w_ih"], a["w_hh"]], a["input"], steps=1, layer=0)
        return
    if "batch_sizes" in a:
        x, steps = a["data"], a["batch_sizes"].numel()
    else:
        x = a["input"]
        steps = x.shape[1 if a["batch_first"] and x.dim() == 3 else 0]
    directions = 2 if a["bidirectional"] else 1
    matrices = [w for w in a["params"] if w.dim() == 2]
    each = len(matrices) // (a["num_layers"] * directions)
    for index in range(a["num_layers"] * directions):
        weights = matrices[index * each : (index + 1) * each]
        yield _cell(kind, weights, x, steps=steps, layer=index // directions)


def _cell(kind: str, weights: list[Tensor], x: Tensor, *, steps: int, layer: int) -> Cell:
    vectors = x.shape[:-1].numel()
    made = [
        Product(
            weight=w,
            activation=given,
            shape=tuple(w.shape),
            vectors=vectors,
            row_stride=w.stride(-1),
        )
        for w, given in zip(weights, (x, None, None), strict=False)
    ]
    projection = made[2] if len(made) > 2 else None
    gated = weights[0].shape[0] // {"lstm": 4, "gru": 3}.get(kind, 1)
    outputs = projection.shape[0] if projection else gated
    return Cell(
        inputs=made[0],
        recurrent=made[1],
        projection=projection,
        gates=_GATES[kind] * gated * vectors,
        outputs=outputs * vectors,
        steps=steps,
        layer=layer,
    )
