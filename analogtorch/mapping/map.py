"""``map_to_chip``: trace a model, cut its matrices into blocks and map them to tiles."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from analogtorch.chips import Chip
from analogtorch.conversion.example import Example
from analogtorch.conversion.kinds import check_module, refuse_lazy, refuse_programmed
from analogtorch.graph.trace import Trace, trace
from analogtorch.mapping.chosen import chip_of, choose, warn_of, with_cells
from analogtorch.mapping.expand import expand
from analogtorch.mapping.fitted import fitted
from analogtorch.mapping.mapping import ChipMapping
from analogtorch.mapping.place import Retired, moved
from analogtorch.values import checks
from analogtorch.values.progress import Progress


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
    that it would make analog in a digital model; those that the example does not reach have no
    vectors. All else is digital and counted: what ``convert``
    leaves out, products of activations, norms, activation functions, pooling and embeddings.

    Args:
        model: a converted model, or a digital one if ``chip`` is given.
        example: input of one inference: a tensor, a tuple of arguments or a dictionary of keyword
            arguments. Shapes and types matter, and the values by which the forward decides, such as
            lengths. All counts are for one run of this example: give a batch of one for counts per
            sample.
        chip: the chip to map to; None takes that of the model's analog layers, which must all have
            the same. Their training noise may differ, and the cells of some may have several times
            the devices: a weight then takes as many unit cells. Where those of all layers have,
            give the chip; otherwise its unit cells are taken to be that large.
        num_chips: number of chips; None takes as many as needed.
        duplicate: numbers of copies of matrices for throughput, by pattern of their names:
            ``{"layer1.*": 2}`` maps them twice. They share no tile with other matrices, unless the
            chips have too few.
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

    Warns:
        UserWarning: weights of an analog layer are placed twice, as the model applies them in two
            ways, such as transposed; only the layer's own is simulated as analog. Or the model
            computes with them without calling the layer, which is simulated digitally. Or the
            example does not reach analog layers, which take tiles and no vectors.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the model is digital and no chip is given, or its layers are on several chips
            and none is chosen; it does not run on the example, or decides by values that it lacks
            on the meta device; it has no weights to map or does not fit on the chips; the chip
            has weight expansion, which a layer has not; a weight of an analog layer is no plain
            Parameter (it is parametrized, pruned, or another tensor); or a pattern, tile or column
            matches nothing.
        RuntimeError: a weight of a recurrent layer or an attention is no plain Parameter since the
            conversion.

    Example:
        >>> model = analogtorch.convert(torch.nn.Linear(300, 10), analogtorch.chips.hermes64())
        >>> mapping = at.map_to_chip(model, torch.zeros(1, 300))
        >>> mapping.tiles_used
        1
    """
    check_module("map_to_chip", model)
    refuse_programmed(model, "map_to_chip")
    refuse_lazy(model, "map_to_chip")
    chip = chip_of(model) if chip is None else chip
    checks.instance("map_to_chip: chip", chip, Chip, "analogtorch.chips.hermes64()")
    num_chips = checked_num_chips("map_to_chip", num_chips, none="as many as needed")
    for name, value in (("spread", spread), ("progress", progress)):
        checks.flag(f"map_to_chip: {name}", value)
    retired = checks.items("map_to_chip: retired", retired, "[(0, 5)]")
    retired_columns = checks.items("map_to_chip: retired_columns", retired_columns, "[(0, 5, 17)]")
    with Progress(total=2, desc="map", delay=2, disable=not progress) as bar:
        traced = trace(model, example)
        bar.update()
        result = map_traced(
            model,
            traced,
            chip,
            num_chips=num_chips,
            duplicate=duplicate,
            exclude=exclude,
            retired=retired,
            retired_columns=retired_columns,
            spread=spread,
        )
        bar.update()
    warn_of("map_to_chip", model, traced, result.matrices)
    return result


def map_traced(
    model: nn.Module,
    traced: Trace,
    chip: Chip,
    *,
    num_chips: int | None = None,
    duplicate: Mapping[str, int] | None = None,
    exclude: str | Iterable[str] | None,
    retired: Iterable[tuple[int, int]] = (),
    retired_columns: Iterable[tuple[int, int, int]] = (),
    spread: bool = False,
    cells: Mapping[str, int] | None = None,
) -> ChipMapping:
    """Map a model that was traced; the arguments are those of ``map_to_chip``.

    ``cells`` are numbers of unit cells per weight, by name of the layer; those of the model if it
    is not among them.

    Raises:
        ValueError: as ``map_to_chip`` does.
    """
    Retired.of(retired, retired_columns).check(chip, num_chips)
    chosen = choose(model, traced, exclude, duplicate)
    chosen = expand(with_cells(chosen, traced, model, chip, cells), model, chip)
    return fitted(
        model=type(model).__name__,
        chip=chip,
        num_chips=num_chips,
        matrices=chosen.matrices,
        operations=chosen.operations,
        copies=chosen.copies,
        digital_weights=chosen.digital_weights,
        retired=retired,
        retired_columns=retired_columns,
        spread=spread,
        example=traced.example,
    )


def remap(
    mapping: ChipMapping,
    *,
    retired: Iterable[tuple[int, int]] = (),
    retired_columns: Iterable[tuple[int, int, int]] = (),
    num_chips: int | None = None,
    spread: bool = False,
) -> ChipMapping:
    """Map the same model again, around tiles and columns that have failed since.

    A tile that has failed, or holds a block on a column that has, moves to an unused tile as it is:
    all other tiles keep their blocks, and need not be written again. Where too few tiles are
    unused, all blocks are placed anew, as ``map_to_chip`` does. Earlier tiles and columns stay
    retired.

    Args:
        mapping: the earlier mapping, which stays as it is.
        retired: further tiles that must not be used, as (chip, tile).
        retired_columns: further columns that must not be used, as (chip, tile, column).
        num_chips: number of chips; None (default): as many as now.
        spread: if True, place all blocks anew, and on all tiles, as ``map_to_chip`` does.

    Returns:
        The new mapping.

    Raises:
        ValueError: the model no longer fits, or the chips have no such tile or column.
        TypeError: ``mapping`` is none.
    """
    checks.instance("remap: mapping", mapping, ChipMapping, "at.map_to_chip(model, example)")
    checks.flag("remap: spread", spread)
    num_chips = checked_num_chips("remap", num_chips, none="as many as now")
    retired = checks.items("remap: retired", retired, "[(0, 5)]")
    retired_columns = checks.items("remap: retired_columns", retired_columns, "[(0, 5, 17)]")
    num_chips = num_chips or mapping.num_chips
    # earlier ones may be of chips that were given, and are not in use
    Retired.of(retired, retired_columns).check(mapping.chip, num_chips)
    out = Retired.of((*mapping.retired, *retired), (*mapping.retired_columns, *retired_columns))
    kept = None if spread else moved(mapping.placements, mapping.chip, num_chips, out)
    if kept is not None:
        return replace(
            mapping,
            placements=kept,
            num_chips=1 + max(p.chip for p in kept),
            retired=tuple(sorted(out.tiles)),
            retired_columns=tuple(sorted(out.columns)),
        )
    return fitted(
        model=mapping.model,
        chip=mapping.chip,
        num_chips=num_chips,
        matrices=mapping.matrices,
        operations=mapping.operations,
        copies=mapping.copies,
        digital_weights=mapping.digital_weights,
        retired=out.tiles,
        retired_columns=out.columns,
        spread=spread,
        example=mapping.example,
    )


def checked_num_chips(function: str, num_chips: int | None, *, none: str) -> int | None:
    """Return ``num_chips``, which must be None or an integer >= 1.

    Raises:
        ValueError: it is neither.
    """
    if num_chips is None:
        return None
    return checks.count(f"{function}: num_chips", num_chips, remedy=f"None is for {none}")
