"""Weight clipping: a smaller largest weight leaves more conductance, and so less relative noise, to
all the others.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from analogtorch.conversion.kinds import analog_layers, check_module, refuse_programmed
from analogtorch.nn import AnalogLayer
from analogtorch.values import checks

SIGMA = 2.5
"""Where nothing else is said. Joshi et al. 2020 and Rasch et al. 2023 train with 2 to 2.5."""


@torch.no_grad()
def clip_weights_(
    model: nn.Module,
    sigma: float | None = None,
    *,
    bound: float | None = None,
    per_channel: bool = False,
) -> nn.Module:
    """Clip the weights of each analog layer, in place: to ``+- sigma`` standard deviations, or to
    ``+- bound``.

    Call it after every ``optimizer.step()``, or let ``clip_after_step`` do so; any optimizer.
    Clipping at 2 to 2.5 sigma is what Joshi et al. 2020 and Rasch et al. 2023 train with; Analog
    Foundation Models clip 2.5 sigma of each output channel, NeuRRAM's nets a fixed bound of 0.1 or
    0.2.

    Weights that are all equal, of a layer or of a channel, are left alone where ``sigma`` counts. A
    weight that several layers share is clipped once, as that of the first. The optimizer's momentum
    does not know of the clipping.

    Args:
        model: a converted model.
        sigma: > 0, standard deviations of the layer's own weights; 2.5 unless ``bound`` is given.
        bound: > 0, in the units of the weights; instead of ``sigma``.
        per_channel: measure the standard deviation of each output's weights, and clip them to that.

    Raises:
        ValueError: ``sigma`` or ``bound`` is not positive, or both are given, or ``per_channel``
            with ``bound``; the model has no analog layer, or one that is parametrized or pruned, or
            is a programmed chip. Nothing has changed.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> at.hwa.clip_weights_(model, bound=0.1).weight.abs().max() <= 0.1
        tensor(True)
    """
    check("clip_weights_", sigma, bound, per_channel)
    for layer in _clippable("clip_weights_", model):
        weight = layer.weight
        if bound is not None:
            weight.clamp_(-bound, bound)
            continue
        limit = _limit(layer, SIGMA if sigma is None else sigma, per_channel)
        weight.clamp_(-limit, limit)
    return model


def clip_after_step(
    optimizer: Optimizer,
    model: nn.Module,
    sigma: float | None = None,
    *,
    bound: float | None = None,
    per_channel: bool = False,
) -> RemovableHandle:
    """Call ``clip_weights_`` after every step of ``optimizer``, whichever it is: a projected
    gradient step.

    It is a hook of ``torch.optim``, which is not part of the optimizer's ``state_dict``: call it
    again after a resume. A step that ``torch.amp.GradScaler`` skips does not clip. A wrapper that
    is no optimizer of its own, such as Accelerate's, steps the one inside: give that one, before it
    is wrapped.

    Args:
        optimizer: it must train a weight of an analog layer of the model.
        model: a converted model; its analog layers are looked up anew at each step.
        sigma: as for ``clip_weights_``.
        bound: as for ``clip_weights_``.
        per_channel: as for ``clip_weights_``.

    Returns:
        A handle whose ``remove()`` ends it.

    Raises:
        TypeError: ``optimizer`` is no ``torch.optim.Optimizer`` or cannot take hooks.
        ValueError: as ``clip_weights_``, or the optimizer trains none of these weights.

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
    if not any(id(layer.weight) in trained for layer in _clippable("clip_after_step", model)):
        raise ValueError(
            "clip_after_step: the optimizer trains no weight of an analog layer of this model; "
            "make it from model.parameters() of the model that is given here"
        )

    def hook(*_: Any) -> None:
        clip_weights_(model, sigma, bound=bound, per_channel=per_channel)

    return optimizer.register_step_post_hook(hook)


def check(caller: str, sigma: float | None, bound: float | None, per_channel: bool) -> None:
    """Raise ValueError where ``caller`` was given options of ``clip_weights_`` that do not go
    together.
    """
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


def _clippable(caller: str, model: nn.Module) -> list[AnalogLayer]:
    """The analog layers, of those that share a weight the first."""
    check_module(caller, model)
    layers = dict(analog_layers(model))
    if not layers:
        raise ValueError(
            f"{caller}: the model has no analog layer; call analogtorch.convert(model, chip) first"
        )
    refuse_programmed(model, caller)
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
            raise ValueError(
                f"{caller}: layer {name!r} is parametrized or pruned; make that permanent first"
            )
    return list({id(layer.weight): layer for layer in reversed(layers.values())}.values())[::-1]


def _limit(layer: AnalogLayer, sigma: float, per_channel: bool) -> Tensor:
    """The largest magnitude to keep, broadcastable to the layer's weight; infinite where all
    weights are equal.
    """
    weight = layer.weight
    if not per_channel:
        std = weight.std(correction=0)
        # not by an if, which would wait for the GPU
        return torch.where(std > 0, sigma * std, torch.inf)
    matrix = layer.as_matrix(weight)
    std = matrix.flatten(1).std(1, correction=0)
    rows = (
        torch.where(std > 0, sigma * std, torch.inf)
        .view(-1, *[1] * (matrix.dim() - 1))
        .expand_as(matrix)
    )
    # where each weight lies in the matrix, which may be turned or grouped otherwise
    places = layer.as_matrix(
        torch.arange(weight.numel(), device=weight.device).view_as(weight)
    ).flatten()
    return torch.empty_like(rows).flatten().index_copy_(0, places, rows.flatten()).view_as(weight)
