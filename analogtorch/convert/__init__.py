"""Make the layers of a model analog, and prove that they are: choose, fold, swap, guard."""

from analogtorch.convert.fold import fold_batch_norm
from analogtorch.convert.guard import GuardReport, guard
from analogtorch.convert.kinds import analog_layers, check_module, reason, refuse_programmed, refuse_unloaded
from analogtorch.convert.share import Share, share
from analogtorch.convert.swap import convert, to_digital
from analogtorch.convert.taken import refuse_taken, taken
from analogtorch.convert.unread import name_unread, named, quiet

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
