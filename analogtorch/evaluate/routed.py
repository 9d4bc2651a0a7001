"""Calls of layers by their weights, which are analog before a model is measured."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from analogtorch.conversion.example import Example, runner
from analogtorch.conversion.guard import route_bypasses
from analogtorch.conversion.route import routed_as_before_on_error
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import Bypass, watch


def route_calls(caller: str, model: nn.Module, example: Example) -> Mapping[str, Bypass]:
    """Route the calls that one run shows, such as ``F.linear(x, self.qkv.weight)``, to the layers.

    ``map_to_chip`` charges them as analog. What cannot be routed stays, as in ``calibrate``, and so
    do layers that the example does not reach.

    Args:
        caller: the function of messages.
        model: a converted model.
        example: its input, as ``map_to_chip`` takes it, on any device.

    Returns:
        What else multiplies by weights of layers, by the layer's name.
    """
    run = runner(caller, placed(example, model))
    with routed_as_before_on_error(model), quiet():
        return route_bypasses(model, run, watch(model, run)).factors


def placed(example: Example, model: nn.Module) -> Example:
    """Return a copy of an example where the model is, zeros for tensors on the meta device."""
    device = next((t.device for t in model.parameters()), torch.device("cpu"))

    def copied(t: object) -> object:
        if not isinstance(t, Tensor):
            return t
        if t.is_meta:
            return torch.zeros_like(t, device=device)
        return t.detach().to(device, copy=True)  # the model may write into it

    found: Example = tree_map(copied, example)
    return found
