"""The schedule of one inference: MVMs on tiles, transfers and digital operations.

These are the conventions:

- A block takes one MVM of its tile per input vector; blocks that share a tile run one after
  another, those on different tiles at the same time. Where the chip runs one group of a convolution
  at a time, a block takes one per group in it.
- Signed inputs take ``Cost.signed_passes`` MVMs each. Copies of a matrix divide its vectors.
- Ports and links carry the inputs of one operation at a time.
- An operation starts when its inputs are complete. So the latency is an upper bound for
  convolutions, which could start on the first positions of an image. ``sequential`` runs one
  operation at a time and one inference after another; ``pipelined`` lets branches overlap, and
  inferences follow each other as fast as the busiest resource allows.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from analogtorch.chips import Chip
from analogtorch.cost_model.traffic import Tile, Traffic, groups_of, locations, tile_of, traffic
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.checked import checked, passes
from analogtorch.mapping.types import Block, Placement

Mode = Literal["pipelined", "sequential"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The MVMs of one block for one operation in one inference."""

    operation: str
    placement: Placement
    mvms: int
    """Number of MVMs, with passes of signed inputs and groups."""
    rows: int
    """Number of rows that each MVM drives."""
    cols: float
    """Number of columns that each MVM converts."""
    weights: float
    """Number of weights that each MVM uses."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation in the schedule of an inference. Times in seconds, counted from its start."""

    operation: str
    kind: str
    place: Literal["tiles", "chip", "host"]
    """The unit that runs it: MVMs on tiles, the chip's digital unit, or the host."""
    start: float
    finish: float
    transfer: float
    """Seconds for moving its inputs and partial sums, before and after it computes."""
    compute: float
    mvms: int
    """Number of MVMs of tiles."""
    operations: int
    """Number of digital operations, with additions of partial sums."""
    element_hops: float
    """Numbers times hops between neighbouring tiles."""
    port_elements: float
    """Numbers that enter or leave a chip, counted at every port."""


@dataclass(frozen=True, kw_only=True)
class TileUse:
    """The work of one tile in an inference."""

    chip: int
    tile: int
    """Number of the tile; with ``Chip.array.planes`` above 1, of the tiles that share their
    circuits."""
    mvms: int
    busy: float
    """Seconds of an inference in which it computes."""
    time: float
    """Share (0..1) of the interval between two inferences in which it computes."""
    cells: float
    """Share (0..1) of its cells that hold weights, in the planes in use."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The schedule of one inference on the chip."""

    mode: Mode
    steps: tuple[Step, ...]
    tiles: tuple[TileUse, ...]
    """The tiles in use."""
    runs: tuple[Run, ...]
    """The MVMs by operation and block."""
    latency: float
    """Seconds from the first input to the last output."""
    interval: float
    """Seconds from one inference to the next."""
    bottleneck: str
    """The resource that sets the interval."""
    signed: tuple[str, ...] = ()
    """Matrices whose signed inputs take more than one pass."""

    @property
    def throughput(self) -> float:
        """Inferences per second."""
        return 1 / self.interval

    @property
    def utilisation(self) -> float:
        """Share (0..1) of the cells of the tiles in use that hold weights."""
        return sum(t.cells for t in self.tiles) / len(self.tiles)

    @property
    def num_chips(self) -> int:
        """Number of chips in use."""
        return len({t.chip for t in self.tiles})


def schedule(
    mapping: Any, *, mode: Mode = "pipelined", signed_inputs: Collection[str] | None = None
) -> Schedule:
    """Compute the schedule of one inference of a mapped model.

    Args:
        mapping: a ``ChipMapping``, or anything with ``chip``, ``operations``, ``matrices`` and
            ``placements``.
        mode: ``pipelined`` or ``sequential``.
        signed_inputs: names of the matrices whose inputs have both signs; None means all, the
            dearer case if a chip's rows take unsigned inputs only. It has no effect on other chips.

    Returns:
        The schedule, with latency, interval and the use of each tile.

    Raises:
        ValueError: the mode is unknown; the chip has no ``cost``; there are no placements or no
            vectors; a block is outside its tile or chip; or an operation, matrix or input does not
            exist.
        TypeError: ``mapping`` lacks one of the four attributes.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
    chip, operations, matrices, placed = checked(mapping)
    times = passes(chip, matrices, signed_inputs)
    results = locations(operations, placed, chip)
    elements = {op.name: op.elements for op in operations}
    runs, steps, clock = [], [], _Clock(chip, mode, placed)
    for op in operations:
        matrix = matrices[op.matrix] if op.matrix is not None else None
        own = placed[matrix.name] if matrix else []
        sources = {name: (results[name], elements[name]) for name in op.inputs}
        moved = traffic(op, matrix, own, sources, results[op.name], chip)
        mine = _runs(op, matrix, own, times[matrix.name], chip) if matrix else []
        runs += mine
        steps.append(clock.step(op, mine, moved, results[op.name]))
    clock.signed = tuple(name for name, count in times.items() if count > 1)
    return clock.finish(tuple(steps), tuple(runs), _outputs(operations, results, chip))


class _Clock:
    """The times at which each resource is busy and becomes free."""

    def __init__(self, chip: Chip, mode: Mode, placed: Mapping[str, Sequence[Placement]]) -> None:
        assert chip.cost is not None
        self.chip, self.cost, self.mode = chip, chip.cost, mode
        self.held: dict[Tile, list[Placement]] = defaultdict(list)
        for p in (p for blocks in placed.values() for p in blocks):
            self.held[tile_of(p, chip)].append(p)
        self.tiles = sorted(self.held)
        self.num_chips = len({t[0] for t in self.tiles})
        # seconds per inference by resource
        self.busy: dict[tuple[str, Any], float] = defaultdict(float)
        # when a resource is free again
        self.free: dict[tuple[str, Any], float] = defaultdict(float)
        self.done: dict[str, float] = {}
        self.last = 0.0
        self.signed: tuple[str, ...] = ()
        self.mvms: dict[Tile, int] = defaultdict(int)

    def step(
        self, op: Operation, runs: Sequence[Run], moved: Traffic, place: tuple[Tile, ...]
    ) -> Step:
        """Run ``op`` as early as its inputs, its tiles and the mode allow."""
        work = self._work(op, runs, moved, place)
        transfer = moved.seconds(self.chip)
        compute = max((s for (kind, _), s in work.items() if kind == "tile"), default=0.0)
        compute += sum(s for (kind, _), s in work.items() if kind in ("chip", "host"))
        after = (
            [self.last] if self.mode == "sequential" else [self.done[name] for name in op.inputs]
        )
        links = self._links(moved)
        start = max(
            [*after, *(self.free[r] for r in work), *(self.free[r] for r in links)], default=0.0
        )
        end = self.done[op.name] = start + transfer + compute
        self.free.update(dict.fromkeys(links, start + transfer))
        self.last = max(self.last, end)
        for resource, spent in work.items():
            self.busy[resource] += spent
            self.free[resource] = end
        return Step(
            operation=op.name,
            kind=op.kind,
            place="tiles" if runs else "chip" if place else "host",
            start=start,
            finish=end,
            transfer=transfer,
            compute=compute,
            mvms=sum(r.mvms for r in runs),
            operations=op.operations + moved.sums,
            element_hops=moved.element_hops,
            port_elements=sum(moved.ports.values()),
        )

    def _work(
        self, op: Operation, runs: Sequence[Run], moved: Traffic, place: tuple[Tile, ...]
    ) -> dict[tuple[str, Any], float]:
        """Return the seconds that ``op`` takes of tiles, digital units and host."""
        work: dict[tuple[str, Any], float] = defaultdict(float)
        for run in runs:
            tile = tile_of(run.placement, self.chip)
            self.mvms[tile] += run.mvms
            work["tile", tile] += run.mvms * self.cost.mvm_time.value
        if count := op.operations + moved.sums:
            unit, name = (self.cost.on_chip, "chip") if runs or place else (self.cost.host, "host")
            work[name, "digital operations"] = count / (unit.rate.value * self.num_chips)
        return work

    def _links(self, moved: Traffic) -> list[tuple[str, Any]]:
        """Count what ports and links carry, and return those in use."""
        network = self.cost.network
        spent: dict[tuple[str, Any], float] = {
            ("port", port): n / network.chip_rate.value for port, n in moved.ports.items()
        }
        if (rate := network.link_rate) is not None:
            spent |= {("link", tile): n / rate.value for tile, n in moved.tiles.items()}
        for link, seconds in spent.items():
            self.busy[link] += seconds
        return list(spent)

    def finish(self, steps: tuple[Step, ...], runs: tuple[Run, ...], leaving: Traffic) -> Schedule:
        """Return the whole schedule, with the outputs (``leaving``) brought to the host."""
        self._links(leaving)
        latency = self.last + leaving.seconds(self.chip)
        if not any(self.mvms.values()):
            raise ValueError(
                "the mapping multiplies no vector, as its example is empty: there is no inference "
                "that takes time; map the model with an example of at least one sample"
            )
        resource, interval = max(self.busy.items(), key=lambda item: item[1])
        if self.mode == "sequential":
            interval = latency
        out = Step(
            operation="output",
            kind="transfer",
            place="host",
            start=latency - leaving.seconds(self.chip),
            finish=latency,
            transfer=leaving.seconds(self.chip),
            compute=0.0,
            mvms=0,
            operations=0,
            element_hops=0.0,
            port_elements=sum(leaving.ports.values()),
        )
        return Schedule(
            mode=self.mode,
            steps=(*steps, out),
            tiles=tuple(self._use(tile, interval) for tile in self.tiles),
            runs=runs,
            latency=latency,
            interval=interval,
            signed=self.signed,
            bottleneck="one operation at a time"
            if self.mode == "sequential"
            else _label(*resource),
        )

    def _use(self, tile: Tile, interval: float) -> TileUse:
        chip, busy = self.chip, self.busy["tile", tile]
        planes = len({p.tile for p in self.held[tile]})
        cells = sum(p.block.rows * p.block.cols for p in self.held[tile]) / (
            planes * chip.array.rows * chip.array.columns
        )
        return TileUse(
            chip=tile[0],
            tile=tile[1],
            mvms=self.mvms[tile],
            busy=busy,
            time=busy / interval,
            cells=cells,
        )


def _label(kind: str, which: Any) -> str:
    if kind in ("tile", "link"):
        return (
            f"{'MVMs of' if kind == 'tile' else 'transfers to'} tile {which[1]} of chip {which[0]}"
        )
    return f"port of chip {which}" if kind == "port" else f"{which} on the {kind}"


def _runs(
    op: Operation, matrix: Matrix, placed: Sequence[Placement], times: int, chip: Chip
) -> list[Run]:
    copies = 1 + max(p.block.copy for p in placed)
    runs = []
    for p in placed:
        block, groups = p.block, groups_of(p.block, matrix)
        mvms, cols = _share(op, copies, block.copy) * times, float(block.cols)
        if chip.array.grouped == "sequential":
            mvms, cols, weights = mvms * groups, cols / groups, block.rows * block.cols / groups
        else:
            weights = _on_diagonal(block, matrix)
        runs.append(
            Run(
                operation=op.name,
                placement=p,
                mvms=mvms,
                rows=block.rows,
                cols=cols,
                weights=weights,
            )
        )
    return runs


def _on_diagonal(block: Block, matrix: Matrix) -> float:
    """Return the number of weights in a block of a block-diagonal matrix.

    They are the cells where a group's rows cross its columns.
    """
    cols, total = matrix.cols // matrix.groups, 0
    for group in range(block.col // cols, (block.col + block.cols - 1) // cols + 1):
        high = min(block.row + block.rows, (group + 1) * matrix.rows) - max(
            block.row, group * matrix.rows
        )
        wide = min(block.col + block.cols, (group + 1) * cols) - max(block.col, group * cols)
        total += max(high, 0) * wide
    return float(total)


def _share(op: Operation, copies: int, copy: int) -> int:
    """Return the number of vectors that one copy takes.

    Vectors of one step are dealt to the copies in turn.
    """
    each, extra = divmod(op.vectors, op.steps)
    return sum(
        steps * ((vectors + copies - 1 - copy) // copies)
        for steps, vectors in ((op.steps - extra, each), (extra, each + 1))
    )


def _outputs(
    operations: Sequence[Operation], results: Mapping[str, tuple[Tile, ...]], chip: Chip
) -> Traffic:
    """Return the transfer of results that no operation takes to the host."""
    assert chip.cost is not None
    used, moved = {name for op in operations for name in op.inputs}, Traffic()
    for op in operations:
        if op.name not in used and results[op.name]:
            moved.send(op.elements, results[op.name], None, chip.cost.network.grid_columns)
    return moved
