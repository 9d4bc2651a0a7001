"""Scales of channels that move from what writes them into the weights of what reads them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.nn.permanent import no_parameter

LEAST = 1e-3
"""Smallest channel in units of the mean: one that is always zero needs no factor."""


@dataclass(frozen=True, eq=False)
class Move:
    """Layers that read the same channels, and the module that may write them."""

    writer: Any
    readers: tuple[Any, ...]
    head: int
    """Channels in a row that several readers' heads share; 0: each channel is read once."""

    def spread(self, factors: Tensor) -> Tensor:
        """Return the factors of the readers' channels, given those of the writer's."""
        if not self.head:
            return factors
        shared = width_of(self.readers[0]) // len(factors)
        return factors.view(-1, 1, self.head).expand(-1, shared, -1).flatten()

    def gathered(self, logs: Tensor) -> Tensor:
        """Return the logarithms for the writer's channels, given those of the readers'."""
        if not self.head:
            return logs
        shared = len(logs) // written_by(self.writer)
        return logs.view(-1, shared, self.head).mean(1).flatten()

    @torch.inference_mode(False)  # Parameters must be able to learn afterwards
    @torch.no_grad()
    def carry_out(self, exponents: Tensor, kept: "Kept") -> None:
        """Move powers of two of the writer's channels; ``kept`` gets what Parameters were before.

        Parameters get new memory, so that nothing rounds on the way back.
        """
        factors = torch.exp2(exponents)
        bias = getattr(self.writer, "bias", None)
        if bias is not None:
            _set(bias, bias / factors, kept)
        w = self.writer.weight
        by = w.dim() == 2 and not _is_transposed(self.writer)
        _set(w, w / (factors.unsqueeze(1) if by else factors), kept)
        every = self.spread(factors)
        for reader in self.readers:
            by = _is_transposed(reader)
            _set(reader.weight, reader.weight * (every.unsqueeze(1) if by else every), kept)


Kept = dict[nn.Parameter, Tensor]
"""What Parameters were before."""


def _set(p: nn.Parameter, value: Tensor, kept: Kept) -> None:
    kept.setdefault(p, p.data)
    p.data = value


def undo(kept: Kept) -> None:
    """Give Parameters what they were before."""
    for p, value in kept.items():
        p.data = value


def exponents(move: Move, size: Tensor) -> Tensor:
    """Return the powers of two of the writer's channels, whose mean is near 0.

    They are 0 where inputs or weights are all 0, and no channel is larger than another.
    """
    rows = torch.cat([w / w.norm(dim=1, keepdim=True).clamp_min(1e-30) for w in
                      (_rows(reader).float() for reader in move.readers)])  # fmt: skip
    lengths = rows.norm(dim=0)
    if not (size.any() and lengths.any()):
        size = lengths = torch.ones_like(size)
    x, w = (t.clamp_min(LEAST * t.mean()) for t in (size, lengths))
    logs = move.gathered((x / w).log2() / 2)
    return (logs - logs.mean()).round().to(move.writer.weight)


def _is_transposed(layer: nn.Module) -> bool:
    """Return whether it is a ``Conv1D`` of transformers, whose weight is (inputs, outputs)."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def is_linear(layer: nn.Module) -> bool:
    """Return whether it multiplies by a real matrix ``weight`` and may add a ``bias``."""
    known = isinstance(layer, nn.Linear) or _is_transposed(layer)
    return known and not layer.weight.is_complex()  # type: ignore[operator]


def why_fixed(layer: nn.Module) -> str | None:
    """Return why a linear layer takes no factors: what is no Parameter is computed anew."""
    for name in ("weight", "bias"):
        held = getattr(layer, name, None)
        if held is not None and not isinstance(held, nn.Parameter):
            return no_parameter(layer, name)
    return None


def is_norm(module: nn.Module) -> bool:
    """Return whether it may scale channels by a weight of its own."""
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, nn.Parameter)
        and weight.dim() == 1
        and weight.is_floating_point()
        and not any(True for _ in module.children())
    )


def _rows(layer: Any) -> Tensor:
    """Return the weight as (outputs, inputs)."""
    return layer.weight.T if _is_transposed(layer) else layer.weight


def width_of(layer: Any) -> int:
    """Return the number of channels that a linear layer reads."""
    return _rows(layer).shape[1]


def written_by(module: Any) -> int:
    """Return the number of channels that a norm or a linear layer writes."""
    return len(module.weight) if module.weight.dim() == 1 else _rows(module).shape[0]


def head_of(model: nn.Module, name: str) -> int:
    """Return the channels of a head of the attention that a layer is part of; 0: unknown."""
    found = getattr(model.get_submodule(name.rpartition(".")[0]), "head_dim", 0)
    return found if isinstance(found, int) else 0
