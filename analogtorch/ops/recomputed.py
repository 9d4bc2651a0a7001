"""Whether activation checkpointing recomputes a layer with the noise that it ran with."""

import sys
from collections import OrderedDict
from types import FrameType
from typing import Any

import torch
from torch import Tensor

_RECOMPUTING = ("unpack_hook", "backward")
"""The functions of ``torch.utils.checkpoint`` that run a forward again, of its two kinds."""


class _Drawn:
    """The latest seeds that layers have drawn, of which a recomputation draws one again."""

    MOST = 1 << 16

    def __init__(self) -> None:
        self.known: OrderedDict[Any, None] = OrderedDict()
        self.noted, self.task, self.forgotten = 0, -1, False
        """Seeds of forwards since a backward that draws began, that backward, and whether some of
        the forwards before it are no longer known."""

    def check(self, seed: Tensor) -> None:
        """Note a seed that was just drawn, or find it among those noted in a recomputation.

        Raises:
            RuntimeError: a recomputation has drawn a seed that no forward had.
        """
        key = _key(seed)
        if key is None:
            return
        task = torch._C._current_graph_task_id()
        inside = task != -1
        if inside and task != self.task:
            self.noted, self.task, self.forgotten = 0, task, self.noted > self.MOST
        if inside and key not in self.known and not self.forgotten and _is_recomputation():
            raise RuntimeError(
                "activation checkpointing recomputes a layer with other noise than it ran with, "
                "which would give wrong gradients: leave preserve_rng_state of "
                "torch.utils.checkpoint at True, on a GPU give the checkpointed function a tensor "
                "that is there, and train one model at a time in a process: threads share the "
                "generator of torch"
            )
        self.known.pop(key, None)  # it becomes the latest
        self.known[key] = None
        self.noted += not inside
        if len(self.known) > self.MOST:
            self.known.popitem(last=False)


def _key(seed: Tensor) -> Any:
    """Return what tells a seed from others, without waiting for a GPU; None: not known."""
    if seed.device.type == "cpu":
        return int(seed)
    if seed.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return None
    generator = torch.cuda.default_generators[seed.device.index]
    return seed.device.index, generator.initial_seed(), generator.get_offset()


def _is_recomputation() -> bool:
    """Return whether it is ``torch.utils.checkpoint`` that runs a layer inside a backward."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        module, function = frame.f_globals.get("__name__"), frame.f_code.co_name
        if module == "torch.autograd.graph" and function == "_engine_run_backward":
            return False  # a hook, or the backward of a function, which runs layers of its own
        if module == "torch.utils.checkpoint" and function in _RECOMPUTING:
            return True
        frame = frame.f_back
    return False


drawn = _Drawn()
"""The seeds of all layers of the process."""
