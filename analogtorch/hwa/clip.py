"""Weight clipping, which leaves less relative noise in all weights but the largest.

The largest weight has full conductance. If it is smaller, all others have more conductance.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from analogtorch.conversion.kinds import (
    check_module,
    refuse_changed,
    refuse_programmed,
    some_layers,
)
from analogtorch.nn import AnalogLayer
from analogtorch.values import checks

SIGMA = 2.5
"""Default number of standard deviations. Joshi et al. 2020 and Rasch et al. 2023 train with 2 to
2.5."""


@torch.no_grad()
def clip_weights_(
    model: nn.Module,
    sigma: float | None = None,
    *,
    bound: float | None = None,
    per_channel: bool = False,
) -> nn.Module:
    """Clip the weights of each analog layer in place, frozen ones too.

    They are clipped to ``+- sigma`` standard deviations, or to ``+- bound``. Call it after every
    ``optimizer.step()`` of any optimizer, or let ``clip_after_step`` do so, which leaves frozen
    weights: they would shrink a little at each step. Joshi et al. 2020 and
    Rasch et al. 2023 train with clipping at 2 to 2.5 sigma; Analog Foundation Models clip 2.5 sigma
    of each output channel, and NeuRRAM's nets a fixed bound of 0.1 or 0.2.

    With ``sigma``, the weights of a layer or channel are left as they are if they are all equal. A
    weight that several layers share is clipped once, as that of the first layer. The momentum of
    the optimizer does not change. Clipping makes the deviation smaller, so that every call clips
    further: where fewer than ``1 / sigma^2`` of the weights differ from zero, as after pruning, to
    zero in the end.

    Args:
        model: a converted model.
        sigma: number of standard deviations of the layer's weights, > 0; 2.5 unless ``bound`` is
            given.
        bound: largest magnitude in the units of the weights, > 0; instead of ``sigma``.
        per_channel: if True, use the standard deviation of each output's weights for that output,
            about zero: the few weights of a kernel often have one sign, and those of a blur hardly
            differ, so that about their mean it is far smaller than they are.

    Returns:
        The model.

    Raises:
        ValueError: ``sigma`` or ``bound`` is not positive, both are given, or ``per_channel`` is
            given with ``bound``; or the model has no analog layer, has one that is parametrized or
            pruned, or is a programmed chip. Nothing has changed then.
        RuntimeError: a weight of a recurrent layer or an attention was pruned or parametrized after
            the conversion. Nothing has changed then.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> at.hwa.clip_weights_(model, bound=0.1).weight.abs().max() <= 0.1
        tensor(True)
    """
    check("clip_weights_", sigma, bound, per_channel)
    _clip(clippable("clip_weights_", model), sigma, bound, per_channel)
    return model


@torch.no_grad()
def clip_learning_(
    model: nn.Module, sigma: float | None, bound: float | None, per_channel: bool
) -> None:
    """Do as ``clip_weights_``, but leave weights that require no gradient."""
    learning = [x for x in clippable("clip_weights_", model) if x.weight.requires_grad]
    _clip(learning, sigma, bound, per_channel)


def _clip(
    layers: list[AnalogLayer], sigma: float | None, bound: float | None, per_channel: bool
) -> None:
    for layer in layers:
        if bound is not None:
            layer.weight.clamp_(-bound, bound)
        else:
            clip_(layer, (SIGMA if sigma is None else sigma) * deviations(layer, per_channel))


def clip_after_step(
    optimizer: Optimizer,
    model: nn.Module,
    sigma: float | None = None,
    *,
    bound: float | None = None,
    per_channel: bool = False,
) -> RemovableHandle:
    """Do as ``clip_weights_`` after every step of ``optimizer``, but leave frozen weights.

    A weight is frozen if it requires no gradient. The result is a projected gradient step. A hook
    of ``torch.optim`` makes the calls; it is not part of the optimizer's ``state_dict``, so call
    this function again after a resume. A step that ``torch.amp.GradScaler`` skips does not clip. A
    wrapper that is no optimizer itself, such as Accelerate's, steps the optimizer inside: give that
    one, before it is wrapped.

    Args:
        optimizer: an optimizer that trains a weight of an analog layer of the model.
        model: a converted model; its analog layers are found again at each step.
        sigma: as for ``clip_weights_``.
        bound: as for ``clip_weights_``.
        per_channel: as for ``clip_weights_``.

    Returns:
        A handle whose ``remove()`` ends the clipping.

    Raises:
        TypeError: ``optimizer`` is no ``torch.optim.Optimizer``, or cannot take hooks.
        ValueError: ``clip_weights_`` refuses the arguments, or the optimizer trains none of these
            weights.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = at.hwa.clip_after_step(optimizer, model, sigma=2.0)
        >>> handle.remove()
    """
    if not isinstance(optimizer, Optimizer) or "_optimizer_step_post_hooks" not in vars(optimizer):
        raise TypeError(
            "clip_after_step: optimizer must be a torch.optim.Optimizer, not a wrapper of one "
            f"(give it the one inside, before it is wrapped), got {type(optimizer).__name__}"
        )
    check("clip_after_step", sigma, bound, per_channel)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(layer.weight) in trained for layer in clippable("clip_after_step", model)):
        raise ValueError(
            "clip_after_step: the optimizer trains no weight of an analog layer of this model; "
            "make it from model.parameters() of the model that is given here"
        )

    def hook(stepped: Optimizer, *_: Any) -> None:
        # where a fused optimizer skips a step for GradScaler itself
        overflow = getattr(stepped, "found_inf", None)
        if overflow is None or not bool(overflow):
            clip_learning_(model, sigma, bound, per_channel)

    return optimizer.register_step_post_hook(hook)


def check(caller: str, sigma: float | None, bound: float | None, per_channel: bool) -> None:
    """Raise ValueError if options of ``clip_weights_`` are wrong or exclude each other."""
    for name, value in (("sigma", sigma), ("bound", bound)):
        if value is not None:
            checks.number(f"{caller}: {name}", value, above=0)
    checks.flag(f"{caller}: per_channel", per_channel)
    if bound is not None and sigma is not None:
        raise ValueError(
            f"{caller}: sigma={sigma} and bound={bound} exclude each other; give one of them"
        )
    if bound is not None and per_channel:
        raise ValueError(
            f"{caller}: per_channel needs sigma; bound={bound} is the same for every channel"
        )


def clippable(caller: str, model: nn.Module) -> list[AnalogLayer]:
    """Return the analog layers; of those that share a weight, only the first."""
    check_module(caller, model)
    layers = some_layers(model, caller)
    refuse_programmed(model, caller)
    refuse_changed(model, caller)
    return list({id(layer.weight): layer for layer in reversed(layers.values())}.values())[::-1]


def deviations(layer: AnalogLayer, per_channel: bool) -> Tensor:
    """Return the standard deviation of the layer's weights, or about zero of each matrix row's.

    It can be broadcast to the matrix, and is infinite where all weights are equal.
    """
    matrix = layer.as_matrix(layer.weight)
    dims = tuple(range(1 if per_channel else 0, matrix.dim()))
    # not by Tensor.std, which takes ten times as long on CPUs
    spread = matrix if per_channel else matrix - matrix.mean(dims, keepdim=True)
    precise = torch.promote_types(matrix.dtype, torch.float32)
    squares = torch.linalg.vector_norm(spread, dim=dims, keepdim=True, dtype=precise)
    number = matrix.numel() / squares.numel()
    # not by an if, which would wait for the GPU
    differ = matrix.amax(dims, keepdim=True) > matrix.amin(dims, keepdim=True)
    return torch.where(differ, squares / number**0.5, torch.inf).to(matrix.dtype)


def clip_(layer: AnalogLayer, limits: Tensor) -> None:
    """Clip the layer's weights in place to magnitudes that can be broadcast to its matrix."""
    weight = layer.weight
    matrix = layer.as_matrix(weight)
    # of the same form: a sharded weight has no storage that could be asked
    like = torch.empty_strided(weight.shape, weight.stride(), device="meta")
    if layer.as_matrix(like).untyped_storage()._cdata == like.untyped_storage()._cdata:
        matrix.clamp_(-limits, limits)
        return
    # the position of each weight in the matrix, whose numbers are a copy
    positions = torch.arange(weight.numel(), device=weight.device).view_as(weight)
    index = layer.as_matrix(positions).flatten()
    clipped = matrix.clamp(-limits, limits).flatten()
    weight.copy_(torch.empty_like(clipped).index_copy_(0, index, clipped).view_as(weight))
