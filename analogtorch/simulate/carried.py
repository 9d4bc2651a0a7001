"""The digital side of a programmed chip, carried from one time over to another."""

from typing import Any

import torch
from torch import nn

from analogtorch.conversion import analog_layers
from analogtorch.conversion.kinds import check_module


def check_corrected(model: nn.Module, corrected: Any, recalibration: Any) -> None:
    """Raise an error unless ``corrected`` is a view of a chip with the weights of ``model``.

    Raises:
        TypeError: it is no module.
        ValueError: its layers are not programmed, or are those of another model; or there is a
            schedule of ``recalibration`` too.
    """
    check_module("at: corrected", corrected)
    if recalibration is not None:
        raise ValueError(
            "at: corrected holds the compensation of the time when it was found, so nothing is "
            "read again; leave out recalibration=, or pass it to the at(...) that is corrected"
        )
    ours, theirs = dict(analog_layers(model)), dict(analog_layers(corrected))
    if not theirs or any(layer.programmed is None for layer in theirs.values()):
        raise ValueError(
            "at: corrected is not programmed; pass what at(...) of this chip gave, once corrected: "
            "corrected=at.correct_columns(physical.at('30 days'), batches)"
        )
    if differ := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(
            f"at: corrected has other analog layers than this chip: one of them lacks {differ[0]!r}"
            "; pass what at(...) of this chip gave"
        )
    for name, layer in ours.items():
        other = theirs[name]
        if (other.chip, other.weight.shape) != (layer.chip, layer.weight.shape):
            raise ValueError(
                f"at: corrected has other analog layers than this chip, which has {name!r}; pass "
                "what at(...) of this chip gave"
            )
        if other.weight.device != layer.weight.device:
            raise ValueError(
                f"at: corrected is on {other.weight.device}, the chip on {layer.weight.device}; "
                "move corrected to the chip's device"
            )
        if not torch.equal(other.weight, layer.weight):
            raise ValueError(
                f"at: layer {name!r} of corrected has other target weights than this chip; pass "
                "what at(...) of this chip gave"
            )
