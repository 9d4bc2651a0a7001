"""The numbers that travel between tiles, chips and host in one inference.

Where nothing is published, these are the conventions:

- An activation travels once to every tile that needs it, and to the host, and waits there. It
  passes ports once for each chip that it goes to, and once for the host. A convolution's window is
  formed at the tile.
- The host has what the model is given, and gets what it returns.
- A block gets the rows it holds. Without multicast: tiles with the same rows are all sent them.
- Of a chunk, a slice or a selection of a result, its part travels. Several parts are taken to be
  different ones, until together they are the whole.
- Blocks of one column that hold different rows, or further unit cells of its weights, send their
  partial sums to the tile of the first, where they are added; with ``Cost.sums_on_host`` all of
  these leave the chip, and the host has the result. Slices and pulses of a partial sum are shifted
  and added before. Each unit cell is sent the inputs, which pass the port once.
- A one-hot vector travels as one number, and its result comes from the block that holds its row.
- A recurrent matrix, analog or digital, takes the past results of its layer, from where the gates
  are computed.
- A digital operation of the chip runs where the first result that it takes lies, on the host
  otherwise. The inputs of a digital layer are rounded where its products are computed. The last
  states of a recurrent layer count as parts of its outputs.
- Hops are Manhattan distances on the grid of tiles, averaged over the tiles that hold the source.
  Leaving a chip and entering another are two passages of a port, and the way inside the chips is
  not counted.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analogtorch.chips import Chip
from analogtorch.cost_model.use import groups_of
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.types import Placement

Tile = tuple[int, int]
"""Chip and tile; tiles that share their circuits count as one."""
Location = tuple[Tile, ...]
"""The tiles that hold a result; () is the host."""


@dataclass(frozen=True)
class Source:
    """A result that an operation takes."""

    name: str
    """The operation that it is of."""
    location: Location
    elements: float
    """The number of elements of it that are taken."""
    whole: float
    """The number of elements that it has."""


@dataclass
class Arrived:
    """The numbers that have arrived, and that need not travel there again."""

    _arrived: dict[tuple[Any, ...], float] = field(default_factory=lambda: defaultdict(float))

    def new(self, key: tuple[Any, ...], elements: float, whole: float) -> float:
        """Return how many of ``elements`` have not arrived, out of ``whole`` different ones."""
        fresh = max(0.0, min(elements, whole - self._arrived[key]))
        self._arrived[key] += fresh
        return fresh


@dataclass
class Traffic:
    """The numbers that one operation moves in one inference."""

    arrived: Arrived = field(default_factory=Arrived)
    """What operations before have moved; it is kept up to date."""

    element_hops: float = 0.0
    """Numbers times hops between neighbouring tiles."""
    tiles: dict[Tile, float] = field(default_factory=lambda: defaultdict(float))
    """Numbers that reach each tile."""
    ports: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    """Numbers that enter or leave each chip."""
    sums: int = 0
    """Additions of partial sums."""

    def send(
        self,
        elements: float,
        source: Source,
        target: Tile | None,
        columns: int,
        *,
        port: bool = True,
    ) -> None:
        """Move ``elements`` that are spread over the tiles of ``source`` to the tile ``target``.

        A ``target`` of None is the host.

        ``port`` is False if the numbers have passed the ports already, on their way to another tile
        of the same chip.
        """
        spread, chip = max(len(source.location), 1), None if target is None else target[0]
        share, whole = elements / spread, source.whole / spread
        for tile in source.location or (None,):
            if tile == target:
                continue
            new = self.arrived.new((source.name, tile, target), share, whole)
            if target is not None and new:
                self.tiles[target] += new
            if tile is not None and target is not None and tile[0] == chip:
                self.element_hops += new * _hops(tile[1], target[1], columns)
            elif port:
                passing = self.arrived.new((source.name, tile, "port", chip), new, whole)
                for end in (tile, target):
                    if end is not None:
                        self.ports[end[0]] += passing

    def seconds(self, chip: Chip) -> float:
        """Return the time of the transfers: tiles and ports receive at once, the busiest counts."""
        network = chip.costs.network
        ports = max(self.ports.values(), default=0.0) / network.chip_rate.value
        if network.link_rate is None:
            return ports
        return max(ports, max(self.tiles.values(), default=0.0) / network.link_rate.value)


def locations(
    operations: Sequence[Operation],
    matrices: Mapping[str, Matrix],
    placed: Mapping[str, Sequence[Placement]],
    chip: Chip,
) -> dict[str, Location]:
    """Return the location of the result of every operation."""
    found: dict[str, Location] = {}
    given = {op.name for op in operations if op.kind == "input"}
    for op in operations:
        if op.matrix is not None:
            blocks = placed[op.matrix]
            all_heads = _heads(op, matrices[op.matrix], blocks, chip)
            heads = sorted({head for heads in all_heads for head in heads})
            found[op.name] = tuple(dict.fromkeys(tile_of(blocks[i], chip) for i in heads))
        elif chip.costs.on_chip.runs(op.kind):
            found[op.name] = next((found[n] for n in op.inputs if n not in given), ())
        else:
            found[op.name] = ()
    return found


def traffic(
    op: Operation,
    matrix: Matrix | None,
    placed: Sequence[Placement],
    sources: Sequence[Source],
    location: Location,
    chip: Chip,
    arrived: Arrived,
) -> Traffic:
    """Return what ``op`` moves: its inputs to where it runs, and its partial sums.

    Args:
        op: the operation.
        matrix: the matrix that it multiplies by, if any.
        placed: the blocks of that matrix.
        sources: the inputs; of a recurrent matrix, of all steps.
        location: the location of the result of ``op``.
        chip: the chip that it runs on.
        arrived: what has arrived before.
    """
    moved, columns = Traffic(arrived), chip.costs.network.grid_columns
    if matrix is None:
        for source in sources:
            if not location and source.location:
                moved.send(source.elements, source, None, columns)
            for target in location if source.location != location else ():
                moved.send(source.elements / len(location), source, target, columns)
        return moved
    copies = 1 + max(p.block.copy for p in placed)
    rows = matrix.rows * (1 if chip.array.grouped == "sequential" else matrix.groups)
    for source, wanted in _needed(op, matrix, sources):
        entered: set[tuple[int, ...]] = set()
        reached: set[tuple[Tile, tuple[int, ...]]] = set()
        for p in placed:
            share = p.block.rows / rows * matrix.cells / copies
            rows_of: tuple[int, ...] = (p.chip, p.block.copy // matrix.cells, p.block.row)
            if chip.array.grouped == "sequential":  # the inputs of its columns' groups only
                share *= groups_of(p.block, matrix, chip) / matrix.groups
                rows_of += (p.block.col if matrix.groups > 1 else 0,)
            tile = tile_of(p, chip)
            if (tile, rows_of) not in reached:  # once for all of its blocks with these rows
                moved.send(wanted * share, source, tile, columns, port=rows_of not in entered)
            reached.add((tile, rows_of))
            entered.add(rows_of)
    _gather(moved, op, matrix, placed, chip)
    return moved


def _needed(op: Operation, matrix: Matrix, sources: Sequence[Source]) -> list[tuple[Source, float]]:
    """Return the elements that enter the matrix, at most what it takes.

    Without a source they are constants of the host.
    """
    taken = op.vectors * (1 if op.one_hot else matrix.rows * matrix.groups)
    given = sum(source.elements for source in sources)
    if not given:
        constants = taken / matrix.kernel
        return [(Source(op.name, (), constants, constants), constants)]
    return [(source, source.elements * min(1, taken / given)) for source in sources]


def additions(op: Operation, matrix: Matrix, placed: Sequence[Placement], chip: Chip) -> int:
    """Return how often partial sums of several blocks are added."""
    each = _partial_sums(op, matrix, placed, chip)
    return sum(
        round(each[i] * cols)
        for i, heads in enumerate(_first(op, matrix, placed))
        for head, cols in heads.items()
        if head != i
    )


def _gather(
    moved: Traffic, op: Operation, matrix: Matrix, placed: Sequence[Placement], chip: Chip
) -> None:
    """Send partial sums to the first block of their columns and count the additions.

    The slices and pulses of a partial sum are added up where they are converted.
    """
    costs, each = chip.costs, _partial_sums(op, matrix, placed, chip)
    parts = chip.slices.slicing.columns * (1 if op.one_hot else chip.pulses)
    for i, heads in enumerate(_heads(op, matrix, placed, chip)):
        for head, cols in heads.items():
            sums = each[i] * cols
            if not costs.covers_slices:
                moved.sums += round(sums * (parts - 1))
            if head != i:
                source, target = tile_of(placed[i], chip), tile_of(placed[head], chip)
                partial = Source(f"{op.name}, block {i}", (source,), sums, sums)
                moved.send(sums, partial, target, costs.network.grid_columns)
                moved.sums += round(sums)


def _partial_sums(
    op: Operation, matrix: Matrix, placed: Sequence[Placement], chip: Chip
) -> list[float]:
    """Return for each block the number of partial sums per column of its tile.

    A column holds a slice of the weights, of which several make a partial sum.
    """
    copies = 1 + max(p.block.copy for p in placed)
    each = op.vectors * matrix.cells / copies / chip.slices.slicing.columns
    return [each * (p.block.rows / matrix.rows if op.one_hot else 1) for p in placed]


def _heads(
    op: Operation, matrix: Matrix, placed: Sequence[Placement], chip: Chip
) -> list[Counter[int]]:
    """Return for each block how many of its columns are added in which block of the chip."""
    if chip.costs.sums_on_host:
        return [Counter({i: p.block.cols}) for i, p in enumerate(placed)]
    return _first(op, matrix, placed)


def _first(op: Operation, matrix: Matrix, placed: Sequence[Placement]) -> list[Counter[int]]:
    """Return for each block how many of its columns have their first rows in which block.

    Blocks are named by their index in ``placed``. The rows of one-hot vectors are read one by one,
    and only the unit cells of a weight are added.
    """
    found: list[Counter[int]] = [Counter() for _ in placed]
    first: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    for i in sorted(range(len(placed)), key=lambda i: placed[i].block.row):
        block = placed[i].block
        columns = first[block.copy // matrix.cells, block.row if op.one_hot else 0]
        found[i].update(columns.setdefault(c, i) for c in range(block.col, block.col + block.cols))
    return found


def tile_of(placement: Placement, chip: Chip) -> Tile:
    """Return the tile that a block lies on, or the set of tiles with common circuits."""
    return placement.chip, placement.tile // chip.array.planes


def _hops(a: int, b: int, columns: int) -> int:
    return abs(a // columns - b // columns) + abs(a % columns - b % columns)
