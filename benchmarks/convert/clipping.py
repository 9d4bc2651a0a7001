"""Layers whose ADCs weight expansion makes clip."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import analogtorch as at

Forward = Callable[[nn.Module, Tensor], Any]
CLIPPED = 0.25
"""Relative error of the output for an input vector from which on the ADC must have clipped it:
8 bits make errors of a percent."""


@torch.no_grad()
def clipped(
    model: nn.Module, chip: at.Chip, batches: Iterable[Tensor], forward: Forward
) -> list[str]:
    """Return the names of the linear layers whose ADCs clip the product of some input vector.

    On a chip with weight expansion these are layers that write or read the massive activations of
    a language model (Sun et al., COLM 2024, arXiv 2402.17762). There one channel of an input meets
    one large weight: a single product, but, expanded, a sum of as many alike as there are rows.
    """
    largest = dict.fromkeys(_linear(model), 0.0)

    def look(layer: nn.Linear, x: Tensor, y: Tensor) -> None:
        copy = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        copy.weight, copy.bias = layer.weight, layer.bias
        off = at.convert(copy.eval(), chip)(x) - y
        error = (off.norm(dim=1) / y.norm(dim=1).clamp_min(1e-30)).max().item()
        largest[layer] = max(largest[layer], error)

    _run(model, batches, forward, look)
    found = {layer for layer, error in largest.items() if error > CLIPPED}
    return [name for name, layer in model.named_modules() if layer in found]


def _run(
    model: nn.Module,
    batches: Iterable[Tensor],
    forward: Forward,
    look: Callable[[Any, Tensor, Tensor], None],
) -> None:
    """Run the model; ``look`` gets each linear layer with its inputs and outputs, as vectors."""

    def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        look(layer, inputs[0].flatten(0, -2), output.flatten(0, -2))

    with contextlib.ExitStack() as hooks:
        for layer in _linear(model):
            hooks.callback(layer.register_forward_hook(hook).remove)
        for batch in batches:
            forward(model, batch)


def _linear(model: nn.Module) -> Iterator[nn.Linear]:
    return (layer for layer in model.modules() if isinstance(layer, nn.Linear))
