"""The matrices of analog layers that a run does not reach, such as experts that get no token."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from analogtorch.graph.parameters import NamedParameter
from analogtorch.graph.types import Matrix
from analogtorch.nn import AnalogComposite
from analogtorch.nn.kinds import kind_of


def unreached(
    twin: nn.Module, parameters: Iterable[NamedParameter], analog: frozenset[str], reached: set[str]
) -> Iterator[tuple[str, Matrix]]:
    """Yield the matrix of each weight of ``analog`` that is not in ``reached``, with its name.

    Args:
        twin: the digital model.
        parameters: its Parameters.
        analog: names of the weights that lie on tiles.
        reached: names of those that the run multiplies by.
    """
    for entry in parameters:
        if entry.name in analog and entry.name not in reached:
            module = twin.get_submodule(entry.modules[-1])
            weight, kind = torch.empty(entry.parameter.shape, device="meta"), kind_of(module)
            shape, groups = weight.shape, 1
            if not issubclass(kind, AnalogComposite):
                shape, groups = kind.as_matrix(module, weight).shape, getattr(module, "groups", 1)
            if getattr(module, "transposed", False):
                shape = shape[:-1]  # the product of each position has no kernel
            yield entry.name, Matrix.of(entry.layer, tuple(shape), groups, layer=entry.layer)
