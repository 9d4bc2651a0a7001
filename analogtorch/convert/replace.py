"""Exchange modules of a model in place."""

from collections.abc import Mapping

from torch import nn


def replace(model: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    """Put the modules ``new``, by the ``id`` of those that they replace, in their places, under all their names.

    Returns:
        The model: what replaces it where it is to be replaced itself.
    """
    for parent in [*model.modules(), *new.values()]:  # what is new may hold what is to be replaced
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in new:
                parent._modules[name] = new[id(child)]
    return new.get(id(model), model)
