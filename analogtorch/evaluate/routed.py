"""Calls of layers by their weights, which are analog before a model is measured."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from analogtorch.conversion.example import Example, runner
from analogtorch.conversion.guard import route_bypasses
from analogtorch.conversion.route import routed_as_before_on_error
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import Bypass, watch
from analogtorch.graph.trace import trace


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

    Raises:
        ValueError: the model does not run on the example.
    """
    run = runner(caller, placed(example, model))
    with accepted(caller, model, example), routed_as_before_on_error(model), quiet():
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


@contextlib.contextmanager
def accepted(caller: str, model: nn.Module, example: Example) -> Iterator[None]:
    """Raise ValueError with the remedy if the model fails in the context, run on the example."""
    try:
        yield
    except Exception as error:  # the model's code may raise anything
        trace(model, example)  # whose error names the module that refuses the example
        raise ValueError(
            f"{caller}: the model does not run on the example, though it can be mapped by it: give "
            "an example that the model accepts, with tensors of the types that it takes. "
            f"({type(error).__name__}: {error})"
        ) from error
