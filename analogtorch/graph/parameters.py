"""The Parameters of a model, with the modules and layers that they belong to."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize

_WEIGHTS = ("weight", "weight_v", "weight_orig")
"""torch's names for the weight of a layer: plain, weight-normalised and pruned."""


@dataclass(frozen=True)
class NamedParameter:
    """A Parameter under one of its names."""

    name: str
    """Full name, as in ``named_parameters``."""
    parameter: nn.Parameter
    modules: tuple[str, ...]
    """Full names of the modules that it is in, from the outermost to the one that holds it."""
    layer: str
    """Full name of the layer whose weight it is, or is computed from if the layer is parametrized;
    its own name if it is no layer's weight."""


def named_parameters(model: nn.Module) -> list[NamedParameter]:
    """Return the Parameters of ``model``, shared ones under each of their names."""
    return list(_inside(model, ("",), None))


def once(parameters: list[NamedParameter]) -> dict[str, NamedParameter]:
    """Return each Parameter once, by the first of its names."""
    seen: set[int] = set()
    found = {}
    for entry in parameters:
        if id(entry.parameter) not in seen:
            seen.add(id(entry.parameter))
            found[entry.name] = entry
    return found


def holders(
    model: nn.Module, parameters: list[NamedParameter]
) -> dict[str, dict[str, NamedParameter]]:
    """Return what each Parameter is in the modules that hold it, by its first name.

    A module that is at several places of ``model`` counts by the first of its names.
    """
    modules = dict(model.named_modules())
    first: dict[int, str] = {}
    found: dict[str, dict[str, NamedParameter]] = {}
    for entry in parameters:
        name = first.setdefault(id(entry.parameter), entry.name)
        if (module := entry.modules[-1]) in modules:
            found.setdefault(name, {}).setdefault(module, entry)
    return found


def _inside(
    module: nn.Module, modules: tuple[str, ...], layer: str | None
) -> Iterator[NamedParameter]:
    """Yield the Parameters of a module and its children; ``layer``: whose weight they all make."""
    name = modules[-1]
    for own, p in module.named_parameters(recurse=False, remove_duplicate=False):
        yield NamedParameter(
            _joined(name, own), p, modules, _layer(name, own) if layer is None else layer
        )
    lists = module.parametrizations if parametrize.is_parametrized(module) else None
    for child_name, child in module._modules.items():
        inner = (*modules, _joined(name, child_name))
        if isinstance(child, nn.ModuleDict) and child is lists:
            for own, computed in child.items():
                deeper = (*inner, _joined(inner[-1], own))
                yield from _inside(computed, deeper, _layer(name, own))
        elif child is not None:
            yield from _inside(child, inner, layer)


def _joined(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def _layer(module: str, name: str) -> str:
    if name in _WEIGHTS:
        return module or "(root)"
    return _joined(module, name)
