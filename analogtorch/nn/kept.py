"""The weights that cells hold, kept between the forwards of a model in evaluation.

To cut weights into slices, or to expand them, takes as long as a product of some dozens of vectors,
and evaluation does it with the same weights again and again. Each layer keeps the last result with
a copy of the weight that it is of, and compares: a weight that has changed in any way is seen,
while version counters miss ``weight.data.mul_(2)``. A layer that trains keeps nothing.
"""

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from analogtorch.ops.slices import cells

if TYPE_CHECKING:
    from analogtorch.nn.base import AnalogLayer
    from analogtorch.nn.execution import Execution


class _Kept(NamedTuple):
    execution: "Execution"
    weight: Tensor
    """A copy of the weight."""
    found: Tensor
    """What the cells hold of it."""


# no attribute of the layer: copies and files of a model go without
_KEPT: "WeakKeyDictionary[AnalogLayer, _Kept]" = WeakKeyDictionary()


def cell_weights(execution: "Execution", index: int, layer: "AnalogLayer") -> Tensor:
    """Return the weights that the cells of a section of ``layer`` are to hold.

    They have the gradient of ``layer.weight`` where autograd asks for it.
    """
    section, chip, weight = execution.sections[index], execution.chip, layer.weight

    def of(weight: Tensor) -> Tensor:
        return cells(section, layer.placed_matrix(weight, chip))

    if not (section.slicing.weight_bits or chip.expansion.on):
        return of(weight)
    if layer.training or not _constant(weight) or len(execution.sections) > 1:
        if not torch.compiler.is_compiling():
            _KEPT.pop(layer, None)
        return of(weight)
    kept = _KEPT.get(layer)
    if kept is not None and kept.execution is execution and _same(weight, kept.weight):
        return kept.found
    with torch.inference_mode(False), torch.no_grad():  # it serves outside too
        found = of(weight.detach())
        _KEPT[layer] = _Kept(execution, weight.detach().clone(), found)
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _constant(weight: Tensor) -> bool:
    """Return whether nothing traces or differentiates the weight, so that its numbers are known.

    On a GPU a comparison would wait for it.
    """
    return (
        not torch.compiler.is_compiling()
        and type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and not (torch.is_grad_enabled() and weight.requires_grad)
        and torch._C._len_torch_dispatch_stack() == 0
    )
