"""Weight clipping, which leaves less relative noise in all weights but the largest.

The largest weight has full conductance. If it is smaller, all others have more conductance.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from analogtorch.conversion.kinds import (
    analog_layers,
    check_module,
    refuse_changed,
    refuse_flat,
    refuse_programmed,
    some_layers,
)
from analogtorch.nn import AnalogLayer
from analogtorch.values import checks

SIGMA = 2.5
"""Default number of standard deviations. Joshi et al. 2020 and Rasch et al. 2023 train with 2 to
2.5."""
Tail = tuple[float, float, Tensor]
"""Where a layer is clipped at the start and in the end, and its deviations at the start."""
Tails = Mapping[str, Tail]
"""Those of layers by name."""
_HALVINGS = 30
"""Bisections for the place of a clip: it is known to 1e-9 of the largest weight then."""


@torch.no_grad()
def clip_weights_(
    model: nn.Module,
    sigma: float | None = None,
    *,
    bound: float | None = None,
    per_channel: bool = False,
) -> nn.Module:
    """Clip the weights of each analog layer in place, frozen ones too.

    They are clipped to ``+- sigma`` standard deviations, or to ``+- bound``. Joshi et al. 2020 and
    Rasch et al. 2023 train with clipping at 2 to 2.5 sigma; Analog Foundation Models clip 2.5 sigma
    of each output channel, and NeuRRAM's nets a fixed bound of 0.1 or 0.2.

    This is for one call, as before a training. Clipping makes the deviation smaller, so that every
    call clips further: where fewer than ``1 / sigma^2`` of the weights differ from zero, as after
    pruning, to zero in the end. ``clip_after_step`` clips after each step, without that.

    With ``sigma``, the weights of a layer or channel are left as they are if they are all equal. A
    weight that several layers share is clipped once, as that of the first layer. The momentum of
    the optimizer does not change.

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
            pruned, is a programmed chip, or is sharded by ``FullyShardedDataParallel``. Nothing has
            changed then.
        RuntimeError: a weight of a recurrent layer or an attention was pruned or parametrized after
            the conversion. Nothing has changed then.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> at.hwa.clip_weights_(model, bound=0.1).weight.abs().max() <= 0.1
        tensor(True)
    """
    check("clip_weights_", sigma, bound, per_channel)
    for layer in clippable("clip_weights_", model):
        if bound is not None:
            layer.weight.clamp_(-bound, bound)
        else:
            clip_(layer, (SIGMA if sigma is None else sigma) * deviations(layer, per_channel))
    return model


def clip_after_step(
    optimizer: Optimizer,
    model: nn.Module,
    sigma: float | None = None,
    *,
    bound: float | None = None,
    per_channel: bool = False,
) -> RemovableHandle:
    """Clip the weights of the analog layers after every step of ``optimizer``, as ``adapt`` does.

    The weights at the time of this call decide the limit of a layer. Standard deviations never
    count as smaller than they are then, so that clipping again and again takes no more than once.
    Where ``sigma`` of them would take more of the weights than it takes of Gaussian ones, in the
    sum of squares, as in heavy-tailed first layers, the limit lies further out, where it takes as
    much. A weight that comes later, in place of another for example, is taken as it is after the
    first step that finds it, and one whose numbers are all equal once they differ. With ``bound``
    the limit is that.

    Layers with a weight scale per column, which ``summary`` names and ``calibrate`` may choose, are
    clipped output by output in ``adapt``: give ``per_channel=True`` for that, after ``calibrate``.

    Weights that require no gradient stay as they are. The result is a projected gradient step. A
    hook of ``torch.optim`` makes the calls; it is not part of the optimizer's ``state_dict``: after
    a resume, call this function again before the state of the model is loaded, for the limits to
    be those of the start. A step that ``torch.amp.GradScaler`` skips does not clip. A
    wrapper that is no optimizer itself, such as Accelerate's, steps the optimizer inside: give that
    one, before it is wrapped.

    Args:
        optimizer: an optimizer that trains a weight of an analog layer of the model.
        model: a converted model; its analog layers are found again at each step.
        sigma: number of standard deviations, > 0; 2.5 unless ``bound`` is given.
        bound: as for ``clip_weights_``.
        per_channel: as for ``clip_weights_``.

    Returns:
        A handle whose ``remove()`` ends the clipping.

    Raises:
        TypeError: ``optimizer`` is no ``torch.optim.Optimizer``, or cannot take hooks.
        ValueError: ``clip_weights_`` refuses its arguments or the model, or the optimizer trains
            none of these weights.

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

    clipping = StepClip(sigma, bound, per_channel)
    clipping.find(model)

    def hook(stepped: Optimizer, *_: Any) -> None:
        # where a fused optimizer skips a step for GradScaler itself
        overflow = getattr(stepped, "found_inf", None)
        if overflow is None or not bool(overflow):
            clipping.clip(model)

    return optimizer.register_step_post_hook(hook)


class StepClip:
    """Clips the weights of a model step by step, at limits that those of the start decide.

    Args:
        sigma: as for ``clip_after_step``.
        bound: as for ``clip_weights_``.
        per_channel: as for ``clip_weights_``.
    """

    def __init__(self, sigma: float | None, bound: float | None, per_channel: bool) -> None:
        self._sigma = SIGMA if sigma is None else sigma
        self._bound, self._per_channel = bound, per_channel
        self._weights: dict[str, Tensor] = {}
        """Those for which ``tails`` are."""
        self.tails: dict[str, Tail] = {}
        """Where each layer is clipped, by name; those of a state are of the weights there are."""

    @torch.no_grad()
    def find(self, model: nn.Module) -> list[tuple[str, AnalogLayer]]:
        """Find where each layer is clipped whose weight was not there before.

        Returns:
            All layers, with their names.
        """
        layers = _named("clip_after_step", model)
        for name, layer in layers if self._bound is None else ():
            known = self._weights.setdefault(name, layer.weight) is layer.weight
            if known and name in self.tails:
                continue
            self._weights[name] = layer.weight
            found = _tail(layer, self._sigma, self._per_channel)
            if bool(found[2].isfinite().any()):
                self.tails[name] = found
            else:  # all equal
                self.tails.pop(name, None)
        return layers

    @torch.no_grad()
    def clip(self, model: nn.Module) -> None:
        """Clip the weights that learn."""
        for name, layer in self.find(model):
            if not layer.weight.requires_grad:
                continue
            if self._bound is not None:
                layer.weight.clamp_(-self._bound, self._bound)
            elif name in self.tails:
                _clip(layer, self.tails[name], 1.0, self._per_channel)


@torch.no_grad()
def tails(model: nn.Module, sigma: float | None) -> dict[str, Tail]:
    """Return where the weights of each layer that learns are clipped, in standard deviations.

    The first number is that of the largest weight, which clips nothing. The second is ``sigma`` for
    Gaussian weights. Where more weights are large, as in the first layers of some nets, clipping
    there would change what the layer computes: it is the number that changes the weights as little
    as ``sigma`` changes Gaussian ones, in the sum of their squares. Then come the standard
    deviations as they are now. Without ``sigma`` nothing is clipped, and the result is empty.
    """
    if sigma is None:
        return {}
    return {name: _tail(layer, sigma, _by_column(layer)) for name, layer in _learning(model)}


@torch.no_grad()
def clip(model: nn.Module, tails: Tails, share: float) -> None:
    """Clip the weights that learn, by the unit whose largest weight has full conductance.

    Args:
        model: the student.
        tails: where each layer is clipped, of ``tails`` at the start.
        share: how far the limit has come from the first number to the second, in [0, 1].
    """
    for name, layer in _learning(model):
        _clip(layer, tails[name], share, _by_column(layer))


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
    refuse_flat(model, caller)
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


def _named(caller: str, model: nn.Module) -> list[tuple[str, AnalogLayer]]:
    """Return the layers of ``clippable`` with their names."""
    own = {id(layer) for layer in clippable(caller, model)}
    return [(name, layer) for name, layer in analog_layers(model) if id(layer) in own]


def _learning(model: nn.Module) -> list[tuple[str, AnalogLayer]]:
    return [(name, layer) for name, layer in _named("adapt", model) if layer.weight.requires_grad]


def _clip(layer: AnalogLayer, tail: Tail, share: float, per_channel: bool) -> None:
    """Clip a layer, whose standard deviations count at least as they were at the start.

    Clipping makes them smaller, and would else go on at each step: a kernel with one large weight
    would lose nearly all of it.
    """
    start, end, before = tail
    now = deviations(layer, per_channel)
    before = before.to(now.device, now.dtype)
    if hasattr(now, "device_mesh"):  # of a sharded weight
        before = type(now).from_local(before, now.device_mesh)  # type: ignore[attr-defined]
    clip_(layer, (start + share * (end - start)) * torch.maximum(now, before))


def _tail(layer: AnalogLayer, sigma: float, per_channel: bool) -> Tail:
    before = deviations(layer, per_channel)
    sizes, before = _whole((layer.as_matrix(layer.weight).abs() / before).double()), _whole(before)
    allowed = _beyond(sigma) * sizes.square().sum().item()
    large = sizes[sizes > sigma]

    def loses_little(limit: float) -> bool:
        return (large - limit).clamp_min(0).square().sum().item() <= allowed

    low, high = sigma, max(sizes.max().item(), sigma)
    largest = high
    if loses_little(sigma):
        return largest, sigma, before
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if loses_little(middle) else (middle, high)
    return largest, high, before


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor with its parts in other processes, if it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _beyond(sigma: float) -> float:
    """Return the mean square by which Gaussian weights of variance 1 exceed ``sigma``."""
    outside = math.erfc(sigma / math.sqrt(2))
    return (1 + sigma**2) * outside - sigma * math.sqrt(2 / math.pi) * math.exp(-(sigma**2) / 2)


def _by_column(layer: AnalogLayer) -> bool:
    return layer.chip.periphery.weight_scale == "column"
