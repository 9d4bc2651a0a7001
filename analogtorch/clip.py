"""Weight clipping: a smaller largest weight leaves more conductance, and so less relative noise, to all the others."""

import math

import torch
from torch import nn

from analogtorch.convert import analog_layers, refuse_programmed


@torch.no_grad()
def clip_weights_(model: nn.Module, sigma: float = 2.5) -> nn.Module:
    """Clip the weights of each analog layer to ``+- sigma`` standard deviations of that layer, in place.

    Call it after every ``optimizer.step()``; any optimizer. Clipping at 2 to 2.5 sigma is what Joshi et al. 2020 and
    Rasch et al. 2023 train with.

    A layer whose weights are all equal is left alone. The optimizer's momentum does not know of the clipping.

    Args:
        model: a converted model.
        sigma: > 0.

    Raises:
        ValueError: ``sigma`` is not positive, or the model has no analog layer or is a programmed chip.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"clip_weights_: sigma must be a positive number, got {sigma}")
    layers = [layer for _, layer in analog_layers(model)]
    if not layers:
        raise ValueError("clip_weights_: the model has no analog layer; call analogtorch.convert(model, chip) first")
    refuse_programmed(model, "clip_weights_")
    for weight in {id(layer.weight): layer.weight for layer in layers}.values():  # a tied weight once
        bound = sigma * weight.std(correction=0)
        if bound > 0:
            weight.clamp_(-bound, bound)
    return model
