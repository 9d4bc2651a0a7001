"""How a tensor of a layer that is no plain Parameter becomes one."""

from torch import Tensor, nn
from torch.nn.utils import parametrize


def permanent(layer: nn.Module, name: str) -> str:
    """Return what makes the tensor ``name`` of ``layer`` a plain Parameter, as code."""
    if not parametrize.is_parametrized(layer, name):
        t = getattr(layer, name, None)
        return _removed(layer, name) or _assigned(name, isinstance(t, Tensor) and t.requires_grad)
    call = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
    made = layer.get_submodule(f"parametrizations.{name}")
    learns = any(p.requires_grad for p in made.parameters())
    if learns or "original" in made._parameters:
        return call
    return f"{call}, then {_assigned(name, False)}"  # torch leaves a plain tensor


def plain_tensor(layer: nn.Module, name: str) -> Tensor | None:
    """Return the tensor ``name`` if the layer holds it and it is neither a Parameter nor computed.

    That is a buffer or an attribute. Pruning and the norms of older versions of torch keep what
    they compute as an attribute too.
    """
    t = layer._buffers.get(name, vars(layer).get(name))
    return t if isinstance(t, Tensor) and _removed(layer, name) is None else None


def _assigned(name: str, learns: bool) -> str:
    frozen = "" if learns else ", requires_grad=False"
    return f"layer.{name} = torch.nn.Parameter(layer.{name}{frozen})"


def _removed(layer: nn.Module, name: str) -> str | None:
    """Return the call that removes the hook that computes a tensor; None if there is no hook."""
    from torch.nn.utils import prune  # not at import: torch imports prune when asked
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
            return f"torch.nn.utils.prune.remove(layer, {name!r})"
        if isinstance(hook, WeightNorm) and hook.name == name:
            return f"torch.nn.utils.remove_weight_norm(layer, {name!r})"
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return f"torch.nn.utils.remove_spectral_norm(layer, {name!r})"
    return None
