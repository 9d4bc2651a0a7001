"""One run of a model, observed operator by operator, with weights or with stand-ins for them.

With stand-ins nothing of a weight's size is computed. Tensors that do not depend on a weight keep
their numbers, such as masks, lengths and positions: code may decide by them. If code decides by
what weights make of the input, only a run with numbers shows what the model computes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from analogtorch.conversion.running import Running
from analogtorch.conversion.watch import Observer
from analogtorch.conversion.weights import Storage, accessed, operator_name, storage, tensors
from analogtorch.graph.recorder import Recorder
from analogtorch.graph.stand_in import StandIn, run


class Tracer(Observer):
    """Records every operator of a run.

    Args:
        running: knows which of the model's modules runs.
        recorder: gets the operators.
    """

    def __init__(self, running: Running, recorder: Recorder) -> None:
        super().__init__()
        self.running, self.recorder = running, recorder
        self.recording = False
        """Whether an error comes from the recorder and not from the model."""
        self._unknown: set[Storage] = set()
        """Storages of tensors with numbers into which stand-ins were written."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._result(func, args, kwargs)
        self.recording = True
        self.recorder.see(func, args, kwargs, result, self._path)
        self.recording = False
        return result

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = tensors((args, kwargs))
        if not any(isinstance(t, StandIn) or storage(t) in self._unknown for t in given):
            return func(*args, **kwargs)
        if operator_name(func) in _PACKING and not isinstance(args[1], StandIn):
            return _packed(func, args)
        result, made = run(func, args, kwargs)
        for t in given:
            if id(t) in made:
                self.recorder.stand_for(made[id(t)], t)
        written = [t for t in accessed(func, args, kwargs, written=True) if id(t) in made]
        self._unknown |= set(map(storage, written))
        back = {id(made[id(t)]): t for t in written}
        return tree_map_only(Tensor, lambda t: back.get(id(t), t), result)

    def _path(self) -> str:
        """Return the name of the module in which an operator runs now."""
        return self.running.name(self.running.innermost)


_PACKING = {"_pack_padded_sequence": 2, "_pad_packed_sequence": 1}
"""Operators whose shapes depend on lengths, with the number of dimensions of their input that count
vectors."""


def _packed(func: Any, args: Any) -> Any:
    """Return the result of packing or unpacking a stand-in by known lengths.

    One number in place of each vector shows it.
    """
    x, counted = args[0], _PACKING[operator_name(func)]
    shape, counts = func(
        torch.zeros(*x.shape[:counted], 1, dtype=torch.float32, device="cpu"), *args[1:]
    )
    return x.new_empty((*shape.shape[:-1], *x.shape[counted:])), counts
