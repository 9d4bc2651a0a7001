"""The times at which tiles, ports, links and digital units are busy in an inference."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from analogtorch.chips import Chip, mvm_time
from analogtorch.cost_model.steps import Mode, Run, Schedule, Step, TileUse
from analogtorch.cost_model.traffic import Tile, Traffic, tile_of
from analogtorch.cost_model.use import use_of
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.types import Placement


class Clock:
    """The times at which each resource is busy and becomes free."""

    def __init__(
        self,
        chip: Chip,
        mode: Mode,
        placed: Mapping[str, Sequence[Placement]],
        matrices: Mapping[str, Matrix],
    ) -> None:
        self.chip, self.cost, self.mode, self.matrices = chip, chip.costs, mode, matrices
        self.mvm_time = mvm_time(chip).value
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
        self.leaving = Traffic()
        self.signed: tuple[str, ...] = ()
        self.mvms: dict[Tile, int] = defaultdict(int)

    def step(
        self, op: Operation, runs: Sequence[Run], moved: Traffic, place: tuple[Tile, ...]
    ) -> Step:
        """Run ``op`` as early as its inputs, its tiles and the mode allow."""
        work = self._work(op, runs, moved, place)
        transfer = moved.seconds(self.chip)
        compute = max((s for (kind, _), s in work.items() if kind == "tile"), default=0.0)
        compute += max(
            (s for (kind, _), s in work.items() if kind in ("chip", "host")), default=0.0
        )
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
            work["tile", tile] += run.mvms * self.mvm_time
        if count := op.operations + moved.sums:
            # the units of the chips where the result lies share them; the host grows with the chips
            chips = sorted({chip for chip, _ in place})
            units: list[tuple[str, Any]] = [("chip", chip) for chip in chips] or [("host", "")]
            rate = self.cost.on_chip.rate if chips else self.cost.host.rate
            seconds = count / (rate.value * (len(chips) or self.num_chips))
            work |= dict.fromkeys(units, seconds)
        return work

    def _links(self, moved: Traffic) -> list[tuple[str, Any]]:
        """Count the numbers on ports and links, and return those in use."""
        network = self.cost.network
        spent: dict[tuple[str, Any], float] = {
            ("port", port): n / network.chip_rate.value for port, n in moved.ports.items()
        }
        if (rate := network.link_rate) is not None:
            spent |= {("link", tile): n / rate.value for tile, n in moved.tiles.items()}
        for link, seconds in spent.items():
            self.busy[link] += seconds
        return list(spent)

    def given(self, op: Operation) -> None:
        """Have what the host has at the start of the inference, or after others."""
        self.done[op.name] = max((self.done[name] for name in op.inputs), default=0.0)

    def leave(self, moved: Traffic) -> None:
        """Bring what the model returns to the host, after all operations."""
        self._links(moved)
        self.leaving = moved

    def finish(self, steps: tuple[Step, ...], runs: tuple[Run, ...]) -> Schedule:
        """Return the whole schedule, with the outputs brought to the host."""
        leaving = self.leaving
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
        uses = [use_of(p.block, self.matrices[p.block.matrix], chip) for p in self.held[tile]]
        cells = sum(use.cells * use.mvms for use in uses) / (
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
    if kind == "port":
        return f"port of chip {which}"
    return f"digital operations on {f'chip {which}' if kind == 'chip' else 'the host'}"
