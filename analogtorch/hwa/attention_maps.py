"""Attention maps: how much each position of a sequence reads of each other one."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from analogtorch.calibration.padding import at_positions
from analogtorch.conversion.route import ATTENTION, attention

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
_LOWEST = -1e4
"""Logarithm of the share of a position that is masked: it is 0, and differences are finite."""


class AttentionMaps(TorchFunctionMode):
    """Keeps the attention maps of a model that runs in the context, in the order of their calls.

    They are those of ``F.scaled_dot_product_attention``, and of a softmax over the last of three or
    four dimensions. What a compiled graph computes is not seen.

    What they are computed from is kept, and they are computed after the run: inside of a part that
    is checkpointed there would be operations that its second run lacks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor | dict[str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is ATTENTION:
            with self:
                return attention(*args, **given)
        out = func(*args, **given)
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            self._kept.append({**dict(zip(names, args, strict=False)), **given})
        elif func in _SOFTMAX and out.dim() in (3, 4) and _dim(args, given) in (-1, out.dim() - 1):
            self._kept.append(out)
        return out

    def logarithms(self) -> list[Tensor]:
        """Return the logarithms of the maps, float32, (samples, heads, positions, read ones).

        Maps of three dimensions have none for the heads.
        """
        return [
            _of_scores(kept) if isinstance(kept, dict) else kept.float().log().clamp_min(_LOWEST)
            for kept in self._kept
        ]


def errors_of_maps(
    student: AttentionMaps, teacher: AttentionMaps, masks: tuple[Tensor, ...]
) -> Tensor:
    """Return the mean of ``map_error`` over the maps of a run.

    Args:
        student: those of the model that learns.
        teacher: those of its teacher.
        masks: as ``map_error`` takes them.

    Raises:
        ValueError: there are none, or others than those of the teacher.
    """
    found, exact = student.logarithms(), teacher.logarithms()
    alike = len(found) == len(exact) and all(map(_alike, found, exact))
    if not (found and alike):
        what = f"{len(found)} in the model and {len(exact)} in its teacher"
        raise ValueError(
            f"adapt: Recipe.attention compares attention maps, of which there are {what}"
            f"{'' if alike or len(found) != len(exact) else ', of other shapes'}; what a compiled "
            "graph computes is not seen. Give Recipe(attention=0)"
        )
    errors = [map_error(y, t.view_as(y), masks) for y, t in zip(found, exact, strict=True)]
    return torch.stack(errors).mean()


def _alike(y: Tensor, t: Tensor) -> bool:
    """Return whether maps are of one shape; one of them may have samples and heads in one."""
    return y.shape[-2:] == t.shape[-2:] and y.numel() == t.numel()


def map_error(student: Tensor, teacher: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
    """Return the Kullback-Leibler divergence of an attention map, the mean over its positions.

    Args:
        student: the logarithm of the map, (samples, heads, positions, read ones) or without heads.
        teacher: that of the teacher, of the same shape.
        masks: which positions count, as ``at_positions`` takes them; those of a map without
            heads, or that reads nothing, always do.

    Returns:
        A scalar >= 0 up to rounding, in nats.
    """
    student, teacher = (_by_position(t, masks) for t in (student, teacher))
    return F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1).mean()


def _by_position(of: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
    """Return a map with the positions that count, and its heads, before the last dimension."""
    if of.dim() == 3:
        return of
    by_position = of.movedim(1, 2)
    return at_positions(by_position.flatten(2), masks).unflatten(2, by_position.shape[2:])


def _dim(args: Any, given: Any) -> Any:
    return given.get("dim", args[1] if len(args) > 1 else None)


def _of_scores(call: dict[str, Any]) -> Tensor:
    """Return the logarithm of the map of a call of ``F.scaled_dot_product_attention``."""
    q, k, mask = call["query"].float(), call["key"].float(), call.get("attn_mask")
    if call.get("enable_gqa"):
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    scale = call.get("scale")
    scores = (q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ k.mT
    if call.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        allowed = mask.dtype is torch.bool
        scores = scores.masked_fill(~mask, -math.inf) if allowed else scores + mask
    # rows that read nothing: all alike
    scores = scores.masked_fill(scores.isneginf().all(-1, keepdim=True), 0.0)
    return scores.log_softmax(-1).clamp_min(_LOWEST)
