"""Make the layers of a model analog, and prove that they are: choose, fold, swap, guard."""

from analogtorch.conversion.fold import fold_batch_norm
from analogtorch.conversion.guard import GuardReport, guard
from analogtorch.conversion.kinds import analog_layers, check_module, reason, refuse_programmed, refuse_unloaded
from analogtorch.conversion.share import Share, share
from analogtorch.conversion.swap import convert, to_digital
from analogtorch.conversion.taken import refuse_taken, taken
from analogtorch.conversion.unread import name_unread, named, quiet

__all__ = [
    "GuardReport",
    "Share",
    "analog_layers",
    "check_module",
    "convert",
    "fold_batch_norm",
    "guard",
    "name_unread",
    "named",
    "quiet",
    "reason",
    "refuse_programmed",
    "refuse_taken",
    "refuse_unloaded",
    "share",
    "taken",
    "to_digital",
]
