"""One run of a model, watched operator by operator: with stand-ins for its weights, or for real.

Stand-ins are torch's fake tensors: shape and type without numbers, so that nothing of a weight's size is computed.
What does not depend on a weight has its numbers all the same, such as masks, lengths and positions: code may decide by
them. Where it decides by what weights make of the input, only a real run shows what the model computes.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

from analogtorch.convert.watch import Observer
from analogtorch.convert.weights import Storage, accessed, bind, operator_name, storage, tensors
from analogtorch.mapping import recurrent
from analogtorch.mapping.recorder import Recorder


class Tracer(Observer):
    """Records every operator of a run.

    Args:
        model: the model that runs.
        recorder: what they are given to.
        fake: makes the stand-ins; None: the run is real.
    """

    def __init__(self, model: nn.Module, recorder: Recorder, fake: FakeTensorMode | None) -> None:
        super().__init__(model)
        self.recorder, self.fake = recorder, fake
        self.recording = False
        """Whether an error comes from the recorder and not from the model."""
        self._unknown: set[Storage] = set()
        """Of real tensors into which numbers were written that nobody knows."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.fake is None or all(map(self._is_known, tensors((args, kwargs)))):
            result = func(*args, **kwargs)
        else:
            result = self._run(self.fake, func, args, kwargs)
        self.recording = True
        self.recorder.see(func, args, kwargs, result, self._path)
        self.recording = False
        return result

    def _is_known(self, t: Tensor) -> bool:
        return not isinstance(t, FakeTensor) and storage(t) not in self._unknown

    def _run(self, fake: FakeTensorMode, func: Any, args: Any, kwargs: Any) -> Any:
        stand_ins: dict[int, Tensor] = {}
        for t in tensors((args, kwargs)):
            if not isinstance(t, FakeTensor):
                stand_ins[id(t)] = fake.from_tensor(t)
                self.recorder.stand_for(stand_ins[id(t)], t)
        written = accessed(func, args, kwargs, written=True)
        self._unknown |= {storage(t) for t in written if id(t) in stand_ins}
        args, kwargs = tree_map_only(Tensor, lambda t: stand_ins.get(id(t), t), (args, kwargs))
        with fake:
            result = _shortcut(func, args, kwargs)
            result = func(*args, **kwargs) if result is None else result
        back = {id(stand_ins[id(t)]): t for t in written if id(t) in stand_ins}  # x.add_(y) returns x
        return tree_map_only(Tensor, lambda t: back.get(id(t), t), result)

    def _path(self) -> str:
        """Name of the module in which an operator runs now."""
        module = self.innermost(sys._getframe(1))
        return "" if module is None else self.modules[id(module)][0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch logs where a stand-in does not do: the run is repeated for real, or the error says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def stand_in(t: Tensor, fake: FakeTensorMode) -> Tensor:
    """A fake tensor, or Parameter, in place of ``t``; of one on the meta device as if it were on the CPU."""
    device = "cpu" if t.is_meta else t.device
    with fake:
        made = torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=device)
    return nn.Parameter(made, requires_grad=False) if isinstance(t, nn.Parameter) else made


def _shortcut(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of a recurrent layer, which torch would make time step by time step; None of anything else."""
    if operator_name(func) not in recurrent.NAMES or "params" not in (a := bind(func, args, kwargs)):
        return None
    x, hx = a["data"] if "batch_sizes" in a else a["input"], tensors(a["hx"])
    outputs = hx[0].shape[-1] * (2 if a["bidirectional"] else 1)
    return x.new_empty((*x.shape[:-1], outputs)), *map(torch.empty_like, hx)
