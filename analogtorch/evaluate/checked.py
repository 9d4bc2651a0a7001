"""Checks of the models, chips and seeds that are measured."""

from typing import Any

from torch import nn

from analogtorch.conversion.kinds import (
    check_module,
    refuse_distributed,
    refuse_programmed,
    refuse_unloaded,
    some_layers,
)
from analogtorch.nn import AnalogLayer
from analogtorch.ops import derived
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.writing import Method
from analogtorch.values import checks


def measurable(caller: str, model: nn.Module) -> dict[str, AnalogLayer]:
    """Return the analog layers, by name, of a model that can be programmed.

    Raises:
        ValueError: there is no analog layer; or the model is programmed, distributed or on the meta
            device.
        TypeError: it is no module.
    """
    check_module(caller, model)
    layers = some_layers(model, caller)
    refuse_programmed(model, caller)
    refuse_distributed(model, caller)
    refuse_unloaded(model, caller)
    return layers


def checked_method(caller: str, method: Any) -> Method | None:
    """Return the writing method.

    Raises:
        TypeError: it is no writing method and not None.
    """
    if method is not None:
        checks.instance(f"{caller}: method", method, Method, "at.GradientDescent(), or None")
    return method


def checked_defects(caller: str, defects: Any) -> Defects | None:
    """Return the defects of the chips; None where nothing is broken.

    Raises:
        TypeError: they are neither ``Defects`` nor None.
    """
    if defects is not None:
        example = "at.Defects(stuck_on=0.01), or None"
        checks.instance(f"{caller}: defects", defects, Defects, example)
    return defects if defects is not None and defects.present() else None


def chip_seeds(seed: int, num_chips: int) -> tuple[int, ...]:
    """Return the seeds of the experiment's chips, the same for every model and call."""
    return tuple(derived(seed, "chip", i) for i in range(num_chips))
