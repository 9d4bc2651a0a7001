"""The digital side of a programmed chip, carried from one time over to another."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from analogtorch.conversion import analog_layers
from analogtorch.conversion.kinds import check_module
from analogtorch.nn import AnalogLayer
from analogtorch.nn.programmed import Origin


def keyed(model: nn.Module) -> Iterator[tuple[str, AnalogLayer, str]]:
    """Yield the analog layers with the name that keys their noise.

    It is the name at the conversion, made unique. A model therefore keeps its devices when it is
    wrapped in another module or its layers in adapters, and copies of one layer get different
    devices.
    """
    seen: dict[str, int] = {}
    for name, layer in analog_layers(model):
        copies = seen[layer.layer_name] = seen.get(layer.layer_name, 0) + 1
        yield name, layer, layer.layer_name if copies == 1 else f"{layer.layer_name}#{copies}"


def check_corrected(model: nn.Module, corrected: Any, recalibration: Any, origin: Origin) -> None:
    """Raise an error unless ``corrected`` is a view of a chip with the weights of ``model``.

    The chip must be that of ``origin``, and the time not a later one.

    Raises:
        TypeError: it is no module.
        ValueError: its layers are not programmed, or are those of another model or chip, or of a
            later time; or there is a schedule of ``recalibration`` too.
    """
    check_module("at: corrected", corrected)
    if recalibration is not None:
        raise ValueError(
            "at: corrected holds the compensation of the time when it was found, so nothing is "
            "read again; leave out recalibration=, or pass it to the at(...) that is corrected"
        )
    ours, theirs = ({key: layer for _, layer, key in keyed(m)} for m in (model, corrected))
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
        _check_origin(other.programmed.origin, origin)


def _check_origin(found: Origin | None, origin: Origin) -> None:
    if found is None:
        return
    if (found.seed, found.written) != (origin.seed, origin.written):
        differs = "with another method or other defects"
        if found.seed != origin.seed:
            differs = f"of seed {found.seed}, not {origin.seed}"
        raise ValueError(
            f"at: corrected is another chip, {differs}, which has other errors; pass what at(...) "
            "of this chip gave"
        )
    if found.time > origin.time:
        now = "as programmed" if math.isinf(origin.time) else f"at {origin.time:g} s"
        raise ValueError(
            f"at: corrected is the chip at {found.time:g} s, and it is asked for {now}: registers "
            "stay for later times only; pass what at(...) gave for an earlier time"
        )
