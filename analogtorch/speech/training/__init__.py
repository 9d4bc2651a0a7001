"""Training with Lightning, in phases that can be replayed, interrupted and resumed bit for bit.

Lightning takes seconds to import. It is imported when one of the names that need it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from analogtorch.speech.training.phase import Phase

if TYPE_CHECKING:
    from analogtorch.speech.training.batches import Batches
    from analogtorch.speech.training.checkpoint import AtomicCheckpoint
    from analogtorch.speech.training.curve import Curve
    from analogtorch.speech.training.curve_file import read_curve
    from analogtorch.speech.training.fit import fit
    from analogtorch.speech.training.module import Classifier, Learner

__all__ = [
    "AtomicCheckpoint",
    "Batches",
    "Classifier",
    "Curve",
    "Learner",
    "Phase",
    "fit",
    "read_curve",
]

_MODULES = {
    "AtomicCheckpoint": "checkpoint",
    "Batches": "batches",
    "Classifier": "module",
    "Curve": "curve",
    "Learner": "module",
    "fit": "fit",
    "read_curve": "curve_file",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found  # `fit` is the function from now on, not the module of that name
    return found
