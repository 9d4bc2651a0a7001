"""Exchange modules of a model in place."""

from collections.abc import Mapping

from torch import nn


def replace(model: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    """Put the modules ``new``, by the ``id`` of those that they replace, in their places, under all
    their names.

    That is among the children of each module, and among what its other attributes hold: the module
    itself, or a list, tuple or dictionary of them. A forward may well go by these, and would go on
    calling what was replaced.

    Returns:
        The model: what replaces it where it is to be replaced itself.
    """
    for parent in [*model.modules(), *new.values()]:  # what is new may hold what is to be replaced
        for name, value in list(vars(parent).items()):
            if isinstance(value, dict):
                for key in [key for key, v in value.items() if id(v) in new]:
                    value[key] = new[id(value[key])]
            elif isinstance(value, list) and any(id(v) in new for v in value):
                value[:] = [new.get(id(v), v) for v in value]
            elif type(value) is tuple and any(id(v) in new for v in value):
                vars(parent)[name] = tuple(new.get(id(v), v) for v in value)
            elif id(value) in new:
                vars(parent)[name] = new[id(value)]
    return new.get(id(model), model)
