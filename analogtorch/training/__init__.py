"""Training with Lightning: phases that can be replayed step by step, interrupted and resumed bit for bit.

Lightning, which takes seconds to import, is imported when one of the names that need it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from analogtorch.training.phase import Phase

if TYPE_CHECKING:
    from analogtorch.training.batches import Batches
    from analogtorch.training.callbacks import NoiseRamp, StepSeed, WeightClip
    from analogtorch.training.checkpoint import AtomicCheckpoint
    from analogtorch.training.fit import fit
    from analogtorch.training.module import Classifier

__all__ = ["AtomicCheckpoint", "Batches", "Classifier", "NoiseRamp", "Phase", "StepSeed", "WeightClip", "fit"]

_MODULES = {
    "AtomicCheckpoint": "checkpoint",
    "Batches": "batches",
    "Classifier": "module",
    "NoiseRamp": "callbacks",
    "StepSeed": "callbacks",
    "WeightClip": "callbacks",
    "fit": "fit",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found  # `fit` is the function from now on, not the module of that name
    return found
