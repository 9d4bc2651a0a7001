"""Functions of numbers and of normals at their positions, in one pass over memory."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from torch import Tensor

from analogtorch.ops.formula import Formula, record
from analogtorch.ops.native import elementwise as native

Draw = tuple[Tensor, Tensor, Tensor]
"""Normals: the key, () int64; and their rows and first columns, (R,) int64, as ``normal`` takes
them."""


def elementwise(
    function: Callable[..., Sequence[Tensor] | Tensor],
    numbers: Sequence[Tensor],
    draws: Sequence[Draw],
    out: Tensor,
) -> bool:
    """Write what a function gives into ``out``; return False, and write nothing, without a kernel.

    The kernel knows functions that ``formula.record`` follows, of float32 on the CPU.

    Args:
        function: takes the numbers, then normals of each draw, works element by element and returns
            one tensor for each result, or their stack. It has a hash, by which its formula is found
            again.
        numbers: at least one tensor; all have one shape (R, ...).
        draws: of the normals.
        out: (results, R, ...), of the same type; each result is contiguous.
    """
    if not native.takes((*numbers, *out)):
        return False
    formula = _formula(function, len(numbers) + len(draws))
    if formula is None or len(formula.results) != len(out):  # torch broadcasts them
        return False
    native.elementwise(formula, numbers, draws, tuple(out))
    return True


@lru_cache(maxsize=256)
def _formula(function: Callable[..., Sequence[Tensor] | Tensor], arguments: int) -> Formula | None:
    return record(function, (None,) * arguments)
