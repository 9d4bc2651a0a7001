"""``map_to_chip``: trace a model, cut its matrices into blocks and map them to tiles."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn
from tqdm import tqdm

from analogtorch.chips import Chip
from analogtorch.conversion.example import Example
from analogtorch.conversion.kinds import analog_layers, check_module, refuse_programmed
from analogtorch.conversion.pattern import Pattern
from analogtorch.conversion.patterns import nearest
from analogtorch.conversion.summary import differences
from analogtorch.graph.trace import Trace, trace
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.demand import Demand
from analogtorch.mapping.mapping import ChipMapping
from analogtorch.mapping.place import Retired, TooLarge, place
from analogtorch.mapping.split import all_blocks, cells
from analogtorch.values import checks


def map_to_chip(
    model: nn.Module,
    example: Example,
    *,
    chip: Chip | None = None,
    num_chips: int | None = 1,
    duplicate: Mapping[str, int] | None = None,
    exclude: str | Iterable[str] | None = None,
    retired: Iterable[tuple[int, int]] = (),
    retired_columns: Iterable[tuple[int, int, int]] = (),
    spread: bool = False,
    progress: bool = False,
) -> ChipMapping:
    """Map a model onto chips: which block lies on which tile, and what stays digital.

    The model runs once in ``eval`` mode, on a copy of its modules that shares the weights; it is
    not changed. The weights have no numbers in that run, unless the forward decides by values that
    depend on them, such as the boxes of a detector. Then the run is repeated with numbers, which a
    model on the meta device does not have. Layers that ``convert`` made analog are mapped, or those
    that it would make analog in a digital model. All else is digital and counted: what ``convert``
    leaves out, products of activations, norms, activation functions, pooling and embeddings.

    Args:
        model: a converted model, or a digital one if ``chip`` is given.
        example: input of one inference: a tensor, a tuple of arguments or a dictionary of keyword
            arguments. Shapes and types matter, and the values by which the forward decides, such as
            lengths. All counts are for one run of this example: give a batch of one for counts per
            sample.
        chip: the chip to map to; None takes that of the model's analog layers, which must all have
            the same. Their training noise may differ.
        num_chips: number of chips; None takes as many as needed.
        duplicate: numbers of copies of matrices for throughput, by pattern of their names:
            ``{"layer1.*": 2}`` maps them twice.
        exclude: patterns of matrices that stay digital, as ``convert`` takes them: by the name of a
            layer, of one of its matrices (``lstm.ih_l0``) or of its Parameter
            (``lstm.weight_ih_l0``).
        retired: tiles that must not be used, as (chip, tile) from 0.
        retired_columns: columns that must not be used, as (chip, tile, column) from 0.
        spread: if True, use tiles that would stay empty for blocks that share one, so that they
            compute at the same time.
        progress: if True, show a bar on stderr after two seconds.

    Returns:
        The mapping; print it for a table.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the model is digital and no chip is given, or its layers are on several chips
            and none is chosen; it does not run on the example, or decides by values that it lacks
            on the meta device; it has no weights to map or does not fit on the chips; or a pattern,
            tile or column matches nothing.

    Example:
        >>> model = analogtorch.convert(torch.nn.Linear(300, 10), analogtorch.chips.hermes64())
        >>> mapping = map_to_chip(model, torch.zeros(1, 300))
        >>> mapping.tiles_used
        1
    """
    check_module("map_to_chip", model)
    refuse_programmed(model, "map_to_chip")
    chip = _chip_of(model) if chip is None else chip
    checks.instance("map_to_chip: chip", chip, Chip, "analogtorch.chips.hermes64()")
    check_num_chips("map_to_chip", num_chips, none="as many as needed")
    for name, value in (("spread", spread), ("progress", progress)):
        checks.flag(f"map_to_chip: {name}", value)
    if duplicate is not None and not isinstance(duplicate, Mapping):
        raise TypeError(
            f"map_to_chip: duplicate must be a mapping such as {{'layer1.*': 2}}, got {duplicate!r}"
        )
    retired = checks.items("map_to_chip: retired", retired, "[(0, 5)]")
    retired_columns = checks.items("map_to_chip: retired_columns", retired_columns, "[(0, 5, 17)]")
    with tqdm(total=2, desc="map", delay=2, disable=not progress) as bar:
        traced = trace(model, example)
        bar.update()
        names = {
            m.name: (m.name, *traced.names.get(m.name, ())) for m in traced.matrices if m.weights
        }
        left = _excluded(names, exclude) | {
            n for n in names if not traced.analog.issuperset(traced.sources[n])
        }
        matrices = tuple(m for m in traced.matrices if m.weights and m.name not in left)
        if not matrices:
            raise ValueError(_nothing(model, traced, left))
        result = placed(
            model=type(model).__name__,
            chip=chip,
            num_chips=num_chips,
            matrices=matrices,
            operations=_demote(traced, {m.name for m in matrices}),
            copies=_copies({m.name: names[m.name] for m in matrices}, duplicate or {}),
            digital_weights=_digital_weights(traced, matrices),
            retired=retired,
            retired_columns=retired_columns,
            spread=spread,
            example=traced.example,
        )
        bar.update()
    return result


def remap(
    mapping: ChipMapping,
    *,
    retired: Iterable[tuple[int, int]] = (),
    retired_columns: Iterable[tuple[int, int, int]] = (),
    num_chips: int | None = None,
    spread: bool = False,
) -> ChipMapping:
    """Map the same model again, around tiles and columns that have failed since.

    Earlier ones stay retired.

    Args:
        mapping: the earlier mapping, which stays as it is.
        retired: further tiles that must not be used, as (chip, tile).
        retired_columns: further columns that must not be used, as (chip, tile, column).
        num_chips: number of chips; None (default): as many as now.
        spread: as in ``map_to_chip``.

    Returns:
        The new mapping.

    Raises:
        ValueError: the model no longer fits, or the chips have no such tile or column.
    """
    check_num_chips("remap", num_chips, none="as many as now")
    retired = checks.items("remap: retired", retired, "[(0, 5)]")
    retired_columns = checks.items("remap: retired_columns", retired_columns, "[(0, 5, 17)]")
    return placed(
        model=mapping.model,
        chip=mapping.chip,
        num_chips=num_chips or mapping.num_chips,
        matrices=mapping.matrices,
        operations=mapping.operations,
        copies=mapping.copies,
        digital_weights=mapping.digital_weights,
        retired=(*mapping.retired, *retired),
        retired_columns=(*mapping.retired_columns, *retired_columns),
        spread=spread,
        example=mapping.example,
    )


def placed(
    *,
    model: str,
    chip: Chip,
    num_chips: int | None,
    matrices: tuple[Matrix, ...],
    operations: tuple[Operation, ...],
    copies: Mapping[str, int],
    digital_weights: tuple[tuple[str, int], ...],
    retired: Iterable[tuple[int, int]],
    retired_columns: Iterable[tuple[int, int, int]],
    spread: bool,
    example: tuple[str, ...] = (),
) -> ChipMapping:
    """Return the mapping of traced matrices.

    Arguments are the fields of ``ChipMapping``; ``copies`` are by name of the matrix.

    Raises:
        ValueError: they do not fit, or the chips have no such tile or column.
    """
    out = Retired(tiles=frozenset(retired), columns=frozenset(retired_columns))
    out.check(chip, num_chips)
    blocks = all_blocks(matrices, chip, copies)
    try:
        demand = Demand.of((m.name for m in matrices), operations)
        placements, used = place(blocks, chip, num_chips, demand, out, spread_out=spread)
    except TooLarge as error:
        raise ValueError(
            _too_large(error.needed, chip, num_chips or 1, matrices, copies, out)
        ) from None
    return ChipMapping(
        model=model,
        chip=chip,
        num_chips=used,
        matrices=matrices,
        operations=operations,
        placements=placements,
        digital_weights=digital_weights,
        retired=tuple(sorted(out.tiles)),
        retired_columns=tuple(sorted(out.columns)),
        example=example,
    )


def check_num_chips(function: str, num_chips: int | None, *, none: str) -> None:
    """Raise ValueError unless ``num_chips`` is None or an integer >= 1.

    Raises:
        ValueError: it is neither.
    """
    if num_chips is not None and (type(num_chips) is not int or num_chips < 1):
        raise ValueError(
            f"{function}: num_chips must be an integer >= 1, or None for {none}; got {num_chips!r}"
        )


def _chip_of(model: nn.Module) -> Chip:
    """Return the chip of the model's analog layers.

    Raises:
        ValueError: no layer is analog, or they are on several chips, which the error names.
    """
    several: list[tuple[Chip, list[str]]] = []
    for name, layer in analog_layers(model):
        for chip, names in several:
            if chip is layer.chip or chip == layer.chip.replace(training=chip.training):
                names.append(name or "(root)")
                break
        else:
            several.append((layer.chip, [name or "(root)"]))
    if not several:
        raise ValueError(
            f"map_to_chip: {type(model).__name__} has no analog layer, and so no chip. Give it "
            "one: map_to_chip(model, example, chip=analogtorch.chips.hermes64()), or call "
            "analogtorch.convert(model, chip)"
        )
    (chip, _), *others = several
    if others:
        raise ValueError(
            f"map_to_chip: the layers of {type(model).__name__} are on {len(several)} chips: "
            f"{'; '.join(_named(other, names, chip) for other, names in several)}. Give the one to "
            "place them on: map_to_chip(model, example, chip=...)"
        )
    return chip


def _named(chip: Chip, names: list[str], first: Chip) -> str:
    differs = (
        f", differing in {differences(chip, first)}"
        if chip.name == first.name and chip is not first
        else ""
    )
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{chip.name}{differs} ({', '.join(map(repr, names[:3]))}{more})"


def _excluded(
    names: Mapping[str, tuple[str, ...]], exclude: str | Iterable[str] | None
) -> set[str]:
    given = [exclude] if isinstance(exclude, str) else exclude or ()
    patterns = checks.items("map_to_chip: exclude", given, "['head']")
    return {name for pattern in patterns for name in _matching("exclude", pattern, names)}


def _copies(names: Mapping[str, tuple[str, ...]], duplicate: Mapping[str, int]) -> dict[str, int]:
    copies: dict[str, int] = {}
    for pattern, count in duplicate.items():
        if type(count) is not int or count < 1:
            raise ValueError(
                f"map_to_chip: duplicate[{pattern!r}] must be an integer >= 1, got {count!r}"
            )
        copies |= dict.fromkeys(_matching("duplicate", pattern, names), count)
    return copies


def _matching(argument: str, text: str, names: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the matrices that a pattern means by any of their names."""
    pattern = Pattern(text, f"map_to_chip, {argument}")
    if found := [name for name, of_matrix in names.items() if pattern.of(of_matrix)]:
        return found
    near = (
        nearest(text.removeprefix("re:"), [name for each in names.values() for name in each])
        or list(names)[:3]
    )
    raise ValueError(
        f"map_to_chip: {argument} pattern {text!r} matches none of the {len(names)} matrices. "
        f"Closest names: {', '.join(map(repr, near))}"
    )


def _demote(traced: Trace, kept: set[str]) -> tuple[Operation, ...]:
    """Make products with matrices that are not mapped digital operations."""
    weights = {m.name: m.weights for m in traced.matrices}
    return tuple(
        op
        if op.matrix is None or op.matrix in kept
        else replace(
            op,
            kind="matmul",
            matrix=None,
            vectors=0,
            operations=2 * op.vectors * weights[op.matrix],
        )
        for op in traced.operations
    )


def _digital_weights(traced: Trace, matrices: tuple[Matrix, ...]) -> tuple[tuple[str, int], ...]:
    on_chip = {source for m in matrices for source in traced.sources[m.name]}
    return tuple((name, count) for name, count in traced.parameters.items() if name not in on_chip)


def _nothing(model: nn.Module, traced: Trace, left: set[str]) -> str:
    if left:
        kind = type(model).__name__
        return f"map_to_chip: nothing to place: all {len(left)} matrices of {kind} stay digital"
    found = ", ".join(list(traced.parameters)[:5]) or "none"
    return (
        f"map_to_chip: nothing to place: no weight of {type(model).__name__} multiplies "
        f"activations in this run. Its parameters: {found}. Give a model with linear, "
        "convolutional, recurrent or attention layers"
    )


def _too_large(
    needed: int,
    chip: Chip,
    num_chips: int,
    matrices: tuple[Matrix, ...],
    copies: Mapping[str, int],
    out: Retired,
) -> str:
    area = chip.array.rows * chip.array.columns
    size = {m.name: cells(m, chip) * copies.get(m.name, 1) for m in matrices}
    largest = sorted(matrices, key=lambda m: -size[m.name])
    usable, excluded, spare = num_chips * chip.array.tiles - len(out.tiles), list[str](), needed
    for matrix in largest:
        if spare <= usable:
            break
        excluded.append(matrix.name)
        spare -= max(1, size[matrix.name] // area)
    named = ", ".join(
        f"{m.name!r} ({m.weights:,} weights, {size[m.name] / area:.1f} tiles)" for m in largest[:3]
    )
    lost = f" without the {len(out.tiles)} retired ones" if out.tiles else ""
    lost += f", {len(out.columns)} columns retired" if out.columns else ""
    few = (
        f"exclude={excluded}"
        if len(excluded) <= 5
        else f"exclude={[*excluded[:5], '...']} ({len(excluded)} layers)"
    )
    enough = -(-(needed + len(out.tiles)) // chip.array.tiles)
    fewer = "ask for fewer copies in duplicate, " if max(copies.values(), default=1) > 1 else ""
    return (
        f"map_to_chip: {sum(m.weights for m in matrices):,} weights in {sum(size.values()):,} "
        f"cells need {needed} tiles of {chip.array.rows}x{chip.array.columns}; {num_chips} x "
        f"{chip.name} "
        f"{'has' if num_chips == 1 else 'have'} {usable}{lost}. Largest: {named}. Nothing was "
        f"placed. Give num_chips={enough} (or num_chips=None for as many as needed), leave the "
        f"largest digital with {few}, {fewer}or give the layers fewer columns"
    )
