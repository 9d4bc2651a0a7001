"""How much blocks on one tile would wait for each other, and exchanges that reduce the waiting."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from analogtorch.graph.types import Operation
from analogtorch.mapping.bins import Bin
from analogtorch.mapping.types import Block

_FACTOR = {0: 4, 1: 2}
"""Factor on the waiting of two blocks, by the distance of their matrices in the model."""
_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Demand:
    """When and how often each matrix is needed in one inference."""

    rank: dict[str, int]
    """Position of each matrix in the order of the model."""
    vectors: dict[str, int]
    """Number of input vectors of each matrix."""
    cells: Mapping[str, int] = field(default_factory=dict)
    """``Matrix.cells`` of each matrix; 1 for those that are not among them."""
    alone: frozenset[str] = frozenset()
    """Matrices whose blocks share a tile with those of no other matrix."""

    @classmethod
    def of(
        cls,
        matrices: Iterable[str],
        operations: Iterable[Operation] = (),
        cells: Mapping[str, int] | None = None,
    ) -> "Demand":
        """Return the demand of ``matrices``, given by name in the order of the model."""
        rank = {name: i for i, name in enumerate(matrices)}
        vectors = dict.fromkeys(rank, 0)
        for op in operations:
            if op.matrix in vectors:
                vectors[op.matrix] += op.vectors
        vectors = {name: max(1, count) for name, count in vectors.items()}
        return cls(rank=rank, vectors=vectors, cells=cells or {})

    def apart(self, block: Block, others: Iterable[Block]) -> bool:
        """Return whether ``block`` must not lie on the tile of ``others``.

        Copies that share the vectors of a matrix never share a tile, as they are there to compute
        at the same time. The unit cells of one weight may.
        """
        cells = self.cells.get(block.matrix, 1)
        return any(
            other.copy // cells != block.copy // cells
            if other.matrix == block.matrix
            else block.matrix in self.alone or other.matrix in self.alone
            for other in others
        )

    def contention(self, block: Block, others: Iterable[Block]) -> int:
        """Return how much ``block`` would wait for ``others`` on its tile, in vectors squared.

        The sum over all pairs is smallest where the loads of the tiles are equal, so that no tile
        delays a pipeline. It counts double for matrices that follow each other, and four times for
        blocks of one matrix, which are needed at once.
        """
        vectors = self.vectors[block.matrix]
        rank = self.rank[block.matrix]
        total = 0
        for other in others:
            distance = abs(rank - self.rank[other.matrix])
            total += vectors * self.vectors[other.matrix] * _FACTOR.get(distance, 1)
        return total


def exchange(bins: Sequence[Bin], demand: Demand) -> None:
    """Exchange blocks of equal size between tiles where that lowers the contention.

    ``bins`` are changed.
    """
    shapes: dict[tuple[int, int], list[tuple[_Load, int]]] = {}
    for target in bins:
        if len(target.placed) > 1:
            load = _Load(target, demand)
            for i, (block, _, _) in enumerate(target.placed):
                shapes.setdefault((block.rows, block.cols), []).append((load, i))
    for _ in range(_ROUNDS):
        pairs = (
            (a, b) for listed in shapes.values() for n, a in enumerate(listed) for b in listed[:n]
        )
        if not any([_try(*a, *b, demand) for a, b in pairs]):
            return


def spread(bins: Sequence[Bin], tiles: int, demand: Demand) -> list[Bin]:
    """Give the blocks that wait most for others an empty tile.

    It ends when all ``tiles`` are in use or nothing waits.

    Args:
        bins: the tiles in use; they are not changed.
        tiles: the number of tiles that there are.
        demand: the demand of the matrices.
    """
    content = [list(target.placed) for target in bins]
    while len(content) < tiles:
        waits = [
            (
                demand.contention(block, (b for n, (b, _, _) in enumerate(listed) if n != i)),
                -number,
                -i,
            )
            for number, listed in enumerate(content)
            for i, (block, _, _) in enumerate(listed)
        ]
        most, number, i = max(waits)
        if most == 0:
            break
        content.append([content[-number].pop(-i)])
    slots = [target.slot for target in bins] + [None] * (len(content) - len(bins))
    return [
        Bin(free=[], placed=placed, slot=slot) for placed, slot in zip(content, slots, strict=True)
    ]


class _Load:
    """The vectors of the blocks on a tile, added up, as all pairs of many blocks are compared."""

    def __init__(self, target: Bin, demand: Demand) -> None:
        self.bin, self.demand = target, demand
        self.total = 0
        self.by_rank: Counter[int] = Counter()
        for block, _, _ in target.placed:
            self._add(block, 1)

    def contention(self, block: Block, without: Block) -> int:
        """Return ``Demand.contention`` of ``block`` with the others here but for ``without``."""
        demand = self.demand
        rank, gone = demand.rank[block.matrix], demand.rank[without.matrix]
        less = demand.vectors[without.matrix]
        total = self.total - less
        for distance, factor in _FACTOR.items():
            for near in {rank - distance, rank + distance}:
                total += (factor - 1) * (self.by_rank[near] - less * (near == gone))
        return demand.vectors[block.matrix] * total

    def others(self, i: int) -> list[Block]:
        """Return the blocks but for that at place ``i``."""
        return [block for n, (block, _, _) in enumerate(self.bin.placed) if n != i]

    def replace(self, i: int, block: Block) -> None:
        """Lay ``block`` where that at place ``i`` lies."""
        before, row, column = self.bin.placed[i]
        self.bin.placed[i] = (block, row, column)
        self._add(before, -1)
        self._add(block, 1)

    def _add(self, block: Block, sign: int) -> None:
        vectors = sign * self.demand.vectors[block.matrix]
        self.total += vectors
        self.by_rank[self.demand.rank[block.matrix]] += vectors


def _try(first: _Load, i: int, second: _Load, j: int, demand: Demand) -> bool:
    a, b = first.bin.placed[i][0], second.bin.placed[j][0]
    if first is second or (a.matrix, a.copy) == (b.matrix, b.copy):
        return False
    before = first.contention(a, a) + second.contention(b, b)
    after = first.contention(b, a) + second.contention(a, b)
    if after >= before or demand.apart(b, first.others(i)) or demand.apart(a, second.others(j)):
        return False
    first.replace(i, b)
    second.replace(j, a)
    return True
