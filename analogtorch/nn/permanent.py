"""How a tensor that torch computes from other Parameters becomes a plain Parameter again."""

from torch import nn


def permanent(layer: nn.Module, name: str) -> str:
    """Return what makes the tensor ``name`` of ``layer`` the plain Parameter that it was."""
    from torch.nn.utils import parametrize, prune  # not at import: torch imports prune when asked
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    if parametrize.is_parametrized(layer, name):
        return f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
            return f"torch.nn.utils.prune.remove(layer, {name!r})"
        if isinstance(hook, WeightNorm) and hook.name == name:
            return f"torch.nn.utils.remove_weight_norm(layer, {name!r})"
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return f"torch.nn.utils.remove_spectral_norm(layer, {name!r})"
    return f"layer.{name} = torch.nn.Parameter(...)"
