"""The parts of the schedule of an inference: steps, MVMs, and the use of tiles."""

from dataclasses import dataclass
from typing import Literal

from analogtorch.mapping.types import Placement

Mode = Literal["pipelined", "sequential"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The MVMs of one block for one operation in one inference."""

    operation: str
    placement: Placement
    mvms: int
    """Number of MVMs, with passes of signed inputs, pulses and groups."""
    rows: int
    """Number of rows that each MVM drives."""
    cols: float
    """Number of columns that each MVM converts."""
    weights: float
    """Number of cells that each MVM uses: a weight has several if it is sliced."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation in the schedule of an inference, with times in seconds from its start."""

    operation: str
    kind: str
    """As ``Operation.kind``; ``partial_sums``: the host adds them; ``transfer``: of the outputs."""
    place: Literal["tiles", "chip", "host"]
    """The unit that runs it: MVMs on tiles, the chip's digital unit, or the host."""
    start: float
    """Time at which it begins, with the transfer of its inputs, s."""
    finish: float
    """Time at which its result is complete, s."""
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
    """Number of the chip, from 0."""
    tile: int
    """Number of the tile on its chip, from 0; with ``Chip.array.planes`` above 1, of the tiles that
    share their circuits."""
    mvms: int
    """Number of MVMs of all its blocks in an inference, as ``Run.mvms`` counts them."""
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
