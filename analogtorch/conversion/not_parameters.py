"""Weights of layers that are no Parameters: which there are, and how they become Parameters."""

from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from analogtorch.conversion.weights import Weights
from analogtorch.nn.kinds import kind_of
from analogtorch.nn.permanent import held_tensor, no_parameter

_PLAIN_TENSORS = {("torch", "Tensor"), ("torch", "DTensor"), ("torch", "FakeTensor")}
"""Types of weights, besides Parameters, that hold the numbers of a matrix: complete, spread over
devices, or as a shape."""

_PACKED = ("torch.ao.nn.quantized.modules.", "torch.ao.nn.quantized.dynamic.modules.")
"""Where the quantised layers of torch are, whose weights are in no Parameter."""


def not_parameters(model: nn.Module) -> dict[nn.Module, dict[str, Tensor]]:
    """Return the weights of layers that are no Parameters, by name: quantised or plain tensors.

    What the model computes from its Parameters is not among them. Of several tensors that share
    their numbers there is the first alone; one that several layers hold is there for each.
    """
    known = Weights()
    for own, p in model.named_parameters():
        if not is_lazy(p):
            known.add(own, p)
    found = {}
    for module in model.modules():
        of_module = dict(packed(module))
        for name in _weight_names(module):
            t = held_tensor(module, name)
            if t is None or t.grad_fn is not None or _raw(model, module, t):
                continue
            if all(region.weight is t for region in known.of(t)):
                known.add(name, t)
                of_module[name] = t
        if of_module:
            found[module] = of_module
    return found


def why_no_parameter(model: nn.Module, layer: nn.Module, name: str) -> str:
    """Return why a layer stays digital whose tensor ``name`` is no Parameter, and what to do."""
    t = held_tensor(layer, name)
    if t is None:
        return no_parameter(layer, name)
    return unplaceable(name, t) or no_parameter(layer, name, _raw(model, layer, t))


def packed(module: Any) -> dict[str, Tensor]:
    """Return the matrices of a quantised layer of torch that multiply its input."""
    names = {c.__name__ for c in type(module).__mro__ if c.__module__.startswith(_PACKED)}
    if not names or "Embedding" in names:
        return {}
    read = getattr(module, "get_weight", getattr(module, "weight", None))
    found = read() if callable(read) else {}
    return {"weight": found} if isinstance(found, Tensor) else found


def unplaceable(name: str, weight: Any) -> str | None:
    """Return why the weight ``name`` has no numbers for a tile; None if it has."""
    kind = type(weight)
    plain = (kind.__module__.partition(".")[0], kind.__name__) in _PLAIN_TENSORS
    if not issubclass(kind, nn.Parameter) and not plain:
        return (
            f"its {name} is a {kind.__name__}, a tensor that multiplies by rules of its own "
            "(quantised, sparse)"
        )
    if weight.numel() == 0 or not weight.is_floating_point():
        shape = tuple(weight.shape)
        return f"its {name} has shape {shape} and type {weight.dtype}: nothing to place on a tile"
    if weight.element_size() == 1:
        return (
            f"its {name} is {weight.dtype}, in which torch stores numbers and does not compute: "
            "convert model.to(torch.bfloat16)"
        )
    return None


def _weight_names(module: nn.Module) -> tuple[str, ...]:
    kind = kind_of(module)
    return () if kind is None else kind.weight_names(module)


def _raw(model: nn.Module, layer: nn.Module, t: Tensor) -> list[nn.Parameter]:
    """Return the Parameters from which code of the model seems to compute ``t`` of a layer.

    They have as many numbers, and stand beside it in the layer, or in the module that holds the
    layer, as weight drop has them. What the model assigns anew is no buffer, which would be saved.
    """
    holders = [layer]
    if not any(t is buffer for buffer in layer._buffers.values()):
        holders += [m for m in model.modules() if layer in m._modules.values()]
    return [
        p
        for holder in holders
        for own, p in holder._parameters.items()
        if p is not None and not is_lazy(p) and own not in _weight_names(holder)
        if p.dim() == t.dim() > 1 and p.numel() == t.numel()
    ]
