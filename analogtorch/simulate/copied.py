"""Copies of models for programmed chips."""

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

from analogtorch.conversion import analog_layers


def copied(model: nn.Module, shared: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a model, for evaluation.

    Args:
        model: the model.
        shared: by ``id``, what the copy has in place of an object; None: nothing.
    """
    memo = dict(shared or {})
    for _, layer in analog_layers(model):  # descriptions, which nothing changes
        memo |= {id(x): x for x in (layer.chip, layer.sections, layer.executions)}
    for module in model.modules():
        # a module has a dozen empty dictionaries of hooks, which deepcopy takes longer to copy than
        # all the rest
        empty = (x for x in vars(module).values() if type(x) in (dict, OrderedDict) and not x)
        memo |= {id(x): type(x)() for x in empty}
    return copy.deepcopy(model, memo).eval().requires_grad_(False)
