"""Checks that a network gives what keyword spotting trains and measures: a logit for each class."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.restored import evaluating, switched
from analogtorch.speech.tried import tried


@torch.no_grad()
def check_logits(name: str, network: nn.Module, classes: tuple[str, ...], features: Tensor) -> None:
    """Raise ValueError unless a network, in evaluation mode, gives finite logits.

    Args:
        name: the network, for messages.
        network: the network, whose modules keep their modes.
        classes: the classes in their order.
        features: those of some clips, (B, ...).
    """
    with evaluating(network):
        _check(name, network, classes, features)


def check_training(
    name: str, network: nn.Module, classes: tuple[str, ...], features: Tensor
) -> None:
    """Raise ValueError unless a network gives finite logits and gradients in training mode.

    Its statistics and the random state stay as they are.

    Args:
        name: the network, for messages.
        network: the network.
        classes: the classes in their order.
        features: those of as many clips as a batch of the training has, (B, ...): some networks
            split a batch. They may also need gradients.
    """
    tried = switched(deep_copy(network), training=True)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        logits = _check(f"{name}, in training,", tried, classes, features)
        if logits.requires_grad:
            labels = logits.new_zeros(len(logits), dtype=torch.long)
            try:
                F.cross_entropy(logits, labels).backward()
            except RuntimeError as error:  # of autograd
                raise ValueError(f"{name} gives no gradients: {error}") from error


def _check(name: str, network: nn.Module, classes: tuple[str, ...], features: Tensor) -> Tensor:
    logits = tried(name, network, features, "features")
    wanted = len(features), len(classes)
    given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if given != wanted:
        raise ValueError(
            f"{name} gives {given} for features of shape {tuple(features.shape)}; it must give "
            f"{wanted}, a logit for each class: {', '.join(classes)}. An argument called "
            "classes gets their number"
        )
    if not bool(logits.isfinite().all()):
        raise ValueError(f"{name} gives NaN or infinite logits before any training; it must not")
    return logits
