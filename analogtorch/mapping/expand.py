"""Weight expansion in a mapping: more rows per matrix, and the digital product before each MVM."""

from dataclasses import replace

from torch import nn

from analogtorch.chips import Chip
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.chosen import Chosen
from analogtorch.nn import AnalogComposite
from analogtorch.nn.kinds import kind_of


def expand(chosen: Chosen, model: nn.Module, chip: Chip) -> Chosen:
    """Return what is mapped with the rows and digital products of ``chip.expansion``.

    Each product charges ``M x`` anew: ``2 x rows x inputs`` operations for each input vector.

    Raises:
        ValueError: a matrix is that of a layer without weight expansion.
    """
    if not chip.expansion.on:
        return chosen
    modules = dict(model.named_modules())
    for matrix in chosen.matrices:
        _refuse(matrix, modules.get(matrix.layer), chip)
    return replace(
        chosen,
        matrices=tuple(_on_rows(matrix, chip) for matrix in chosen.matrices),
        operations=_with_products(chosen, chip),
    )


def _on_rows(matrix: Matrix, chip: Chip) -> Matrix:
    rows = chip.expansion.rows(matrix.rows)
    return replace(matrix, rows=rows, shape=(matrix.cols, rows))


def _with_products(chosen: Chosen, chip: Chip) -> tuple[Operation, ...]:
    inputs, found = {m.name: m.rows for m in chosen.matrices}, list[Operation]()
    for op in chosen.operations:
        if op.matrix is not None:
            rows = chip.expansion.rows(inputs[op.matrix])
            product = replace(
                op,
                name=f"{op.name}.expansion",
                kind="matmul",
                matrix=None,
                vectors=0,
                elements=op.vectors * rows,
                operations=2 * op.vectors * rows * inputs[op.matrix],
            )
            found.append(product)
            op = replace(op, inputs=(product.name,), taken=(product.elements,))
        found.append(op)
    return tuple(found)


def _refuse(matrix: Matrix, module: nn.Module | None, chip: Chip) -> None:
    kind = None if module is None else kind_of(module)
    known = kind is None or issubclass(kind, AnalogComposite) or kind.expands
    if known and matrix.groups == 1 and len(matrix.shape) <= 2:
        return
    name = matrix.name
    raise ValueError(
        f"map_to_chip: {name!r} has no weight expansion, which chip {chip.name!r} asks for "
        f"(Expansion.factor={chip.expansion.factor:g}); linear and recurrent layers and attention "
        f"have it. Map on chip.replace(expansion={{'factor': None}}), or leave it digital with "
        f"exclude=[{name!r}]"
    )
