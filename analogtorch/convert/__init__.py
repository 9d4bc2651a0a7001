"""Make the layers of a model analog, and prove that they are: choose, fold, swap, guard."""

from analogtorch.convert.fold import fold_batch_norm
from analogtorch.convert.guard import GuardReport, guard
from analogtorch.convert.kinds import analog_layers, check_module, reason, refuse_programmed, refuse_unloaded
from analogtorch.convert.swap import convert, to_digital
from analogtorch.convert.taken import refuse_taken, taken

__all__ = [
    "GuardReport",
    "analog_layers",
    "check_module",
    "convert",
    "fold_batch_norm",
    "guard",
    "reason",
    "refuse_programmed",
    "refuse_taken",
    "refuse_unloaded",
    "taken",
    "to_digital",
]
