"""Models that are graphs of operators, in which nothing is a layer."""

import torch
from torch import nn


def exported(model: nn.Module) -> str:
    """Return what to do if a model is a graph of operators, in which nothing is a layer.

    ``torch.export`` makes them; empty for other models. Graphs of ``torch.fx.symbolic_trace`` call
    layers.
    """
    holders = (m for m in model.modules() if m is not model and m._parameters)
    if not isinstance(model, torch.fx.GraphModule) or any(
        type(m) is not nn.Module for m in holders
    ):
        return ""
    return "it is a graph of operators, without layers: give the model that it was exported from"
