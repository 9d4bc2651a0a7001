"""``map_by_chip``: a model whose layers are on several chips, as one mapping for each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from analogtorch.chips import Chip
from analogtorch.conversion.example import Example
from analogtorch.conversion.kinds import (
    analog_layers,
    check_module,
    refuse_programmed,
    refuse_scripted,
)
from analogtorch.graph.trace import trace
from analogtorch.graph.types import Operation
from analogtorch.mapping.chosen import Chosen, chips_of, choose, warn_of, with_cells
from analogtorch.mapping.expand import expand
from analogtorch.mapping.fitted import fitted
from analogtorch.mapping.mapping import ChipMapping


def map_by_chip(
    model: nn.Module,
    example: Example,
    *,
    duplicate: Mapping[str, int] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> tuple[ChipMapping, ...]:
    """Map a model whose layers are on several chips: each layer on its own, one mapping per chip.

    ``cost_model.total_energy`` adds the energies of their costs; latencies add up where one chip
    computes after another, also where layers of one chip wait for those of another between them.
    ``remap`` maps one of them around tiles that have failed. A digital operation counts for the
    chip of the product that follows it, the last ones for that of the last product. What arrives
    from another chip comes from the host, as an input of the model does. Parameters on no tile are
    listed in the mapping of the last chip.

    Args:
        model: a model that ``convert`` put on chips, such as with ``sensor``.
        example: as ``map_to_chip`` takes it.
        duplicate: as ``map_to_chip`` takes it.
        exclude: as ``map_to_chip`` takes it.

    Returns:
        The mappings, in the order in which the model has the chips, each on as many as it needs.

    Warns:
        UserWarning: as ``map_to_chip``.

    Raises:
        TypeError: an argument is of another type.
        ValueError: no layer is analog, the model does not run on the example, it has no weights to
            map, or a pattern matches nothing.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 4, 3))
        >>> net = at.convert(net, at.chips.hermes64(), sensor="0")
        >>> [m.chip.name for m in at.mapping.map_by_chip(net, torch.rand(1, 1, 8, 8))]
        ['photodiode_sensor', 'hermes64']
    """
    check_module("map_by_chip", model)
    refuse_programmed(model, "map_by_chip")
    refuse_scripted(model, "map_by_chip")
    chips = chips_of(model, "map_by_chip")
    held, traced = _held(model, chips), trace(model, example)
    whole = choose(model, traced, exclude, duplicate, "map_by_chip")
    warn_of("map_by_chip", model, traced, whole.matrices)
    places = {m.name: held[traced.sources[m.name][0]] for m in whole.matrices}
    runs, used = _where(whole.operations, places), sorted(set(places.values()))
    before = _before(whole.operations)
    found = []
    for i in used:
        chip = chips[i][0]
        part = with_cells(_part(whole, places, runs, before, i), traced, model, chip)
        part = expand(part, model, chip)
        mapped = fitted(
            model=type(model).__name__,
            chip=chip,
            num_chips=None,
            matrices=part.matrices,
            operations=part.operations,
            copies=part.copies,
            digital_weights=whole.digital_weights if i == used[-1] else (),
            retired=(),
            retired_columns=(),
            spread=False,
            example=traced.example,
        )
        found.append(mapped)
    return tuple(found)


def _held(model: nn.Module, chips: Sequence[tuple[Chip, list[str]]]) -> dict[str, int]:
    """Return the chip of the weight of each analog layer, by its number."""
    number = {name: i for i, (_, names) in enumerate(chips) for name in names}
    return {
        layer.parameter_name(name): number[name or "(root)"] for name, layer in analog_layers(model)
    }


def _where(operations: tuple[Operation, ...], places: Mapping[str, int]) -> dict[str, int]:
    """Return the chip of each operation: for digital ones that of the next product, or the last."""
    found: dict[str, int] = {}
    now = next(places[op.matrix] for op in reversed(operations) if op.matrix is not None)
    for op in reversed(operations):
        now = now if op.matrix is None else places[op.matrix]
        found[op.name] = now
    return found


def _before(operations: Sequence[Operation]) -> dict[str, dict[str, None]]:
    """Return all operations whose results each of them needs, by name, through others too."""
    found: dict[str, dict[str, None]] = {}
    for op in operations:
        found[op.name] = dict.fromkeys(op.inputs)
        for name in op.inputs:
            found[op.name] |= found[name]
    return found


def _part(
    whole: Chosen,
    places: Mapping[str, int],
    runs: Mapping[str, int],
    before: Mapping[str, Iterable[str]],
    chip: int,
) -> Chosen:
    """Return what a chip computes; results of others are inputs, and what others take is output."""
    elements = {op.name: op.elements for op in whole.operations}
    mine = {op.name for op in whole.operations if runs[op.name] == chip and op.kind != "output"}
    needed = {name for op in whole.operations if op.name in mine for name in op.inputs}
    operations, leaving = list[Operation](), dict[str, int]()
    for op in whole.operations:
        if op.name in mine:
            operations.append(op)
            continue
        if op.name in needed:
            after = [name for name in before[op.name] if name in mine]
            operations.append(Operation.given(op.name, op.elements, after))
        for name, taken in op.takes(elements).items():
            if name in mine:
                leaving[name] = min(leaving.get(name, 0) + taken, elements[name])
    if not any(op.kind == "output" for op in whole.operations):  # as it is not known what is
        used = {name for op in whole.operations for name in op.inputs}
        left = (op for op in operations if op.kind != "input" and op.name not in used)
        leaving |= {op.name: op.elements for op in left}
    operations.append(Operation.returned(leaving))
    matrices = tuple(m for m in whole.matrices if places[m.name] == chip)
    return replace(whole, matrices=matrices, operations=tuple(operations))
