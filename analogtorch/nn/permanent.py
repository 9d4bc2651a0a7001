"""How a tensor of a layer that is no plain Parameter becomes one."""

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize


def no_parameter(layer: nn.Module, name: str, raw: Collection[nn.Parameter] = ()) -> str:
    """Return that the tensor ``name`` of ``layer`` is no plain Parameter, and what makes it one.

    Args:
        layer: a digital or analog layer.
        name: the tensor's name.
        raw: the Parameters from which code of the model computes the tensor, if any.
    """
    if call := _removed(layer, name):
        return f"its {name} is not a plain Parameter; make it one by {call}"
    if (t := getattr(layer, name, None)) is None:
        return f"it has no {name}"
    learns = any(p.requires_grad for p in (t, *raw))
    computes = ""
    if raw or t.grad_fn is not None or any(map(_is_own, layer._forward_pre_hooks.values())):
        computes = " but computed by code of the model: remove that code, and then"
    return (
        f"its {name} is not a plain Parameter{computes or ';'} make it one by "
        f"{_assigned(name, learns)}"
    )


def held_tensor(layer: nn.Module, name: str) -> Tensor | None:
    """Return the tensor ``name`` if it is a buffer or an attribute of the layer; None otherwise.

    What pruning and the norms of older versions of torch keep as an attribute is left out: torch
    computes it from Parameters.
    """
    t = layer._buffers.get(name, vars(layer).get(name))
    return t if isinstance(t, Tensor) and _removed(layer, name) is None else None


def _assigned(name: str, learns: bool) -> str:
    frozen = "" if learns else ", requires_grad=False"
    return f"layer.{name} = torch.nn.Parameter(layer.{name}{frozen})"


def _is_own(hook: Any) -> bool:
    """Return whether a hook is the user's own: those of torch compute tensors of other names."""
    return not type(hook).__module__.startswith("torch.")


def _removed(layer: nn.Module, name: str) -> str | None:
    """Return what ends that torch computes a tensor; None if torch does not."""
    from torch.nn.utils import prune  # not at import: torch imports prune when asked
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    if parametrize.is_parametrized(layer, name):
        call = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
        made = layer.get_submodule(f"parametrizations.{name}")
        learns = any(p.requires_grad for p in made.parameters())
        if "original" in made._parameters or (learns and "original" not in made._buffers):
            return call
        return f"{call}, then {_assigned(name, learns)}"  # torch leaves a plain tensor
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
            return f"torch.nn.utils.prune.remove(layer, {name!r})"
        if isinstance(hook, WeightNorm) and hook.name == name:
            return f"torch.nn.utils.remove_weight_norm(layer, {name!r})"
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return f"torch.nn.utils.remove_spectral_norm(layer, {name!r})"
    return None
