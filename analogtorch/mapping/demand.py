"""How much blocks on one tile would wait for each other, and exchanges that make them wait less."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analogtorch.graph.types import Operation
from analogtorch.mapping.bins import Bin
from analogtorch.mapping.types import Block

_SAME, _NEXT = 4, 2
_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Demand:
    """When and how often each matrix is needed."""

    rank: dict[str, int]
    """Place of each matrix in the order of the model."""
    vectors: dict[str, int]
    """Input vectors of one inference."""

    @classmethod
    def of(cls, matrices: Iterable[str], operations: Iterable[Operation] = ()) -> "Demand":
        """The demand of ``matrices``, given by name in the order of the model."""
        rank = {name: i for i, name in enumerate(matrices)}
        vectors = dict.fromkeys(rank, 0)
        for op in operations:
            if op.matrix in vectors:
                vectors[op.matrix] += op.vectors
        return cls(rank=rank, vectors={name: max(1, count) for name, count in vectors.items()})

    def contention(self, block: Block, others: Iterable[Block]) -> int:
        """How much ``block`` would wait for ``others`` on its tile, in vectors squared.

        The sum over all pairs is least where the tiles' loads are equal, so that no tile holds up a
        pipeline. It counts double for matrices that follow each other, and four times for blocks of
        one matrix, which are needed at once.
        """
        own, at, total = self.vectors[block.matrix], self.rank[block.matrix], 0
        for other in others:
            distance = abs(at - self.rank[other.matrix])
            total += (
                own
                * self.vectors[other.matrix]
                * (_SAME if distance == 0 else _NEXT if distance == 1 else 1)
            )
        return total


def exchange(bins: Sequence[Bin], demand: Demand) -> None:
    """Exchange blocks of equal size between tiles, in place, where that lowers the contention."""
    shapes: dict[tuple[int, int], list[tuple[Bin, int]]] = {}
    for target in bins:
        for i, (block, _, _) in enumerate(target.placed if len(target.placed) > 1 else ()):
            shapes.setdefault((block.rows, block.cols), []).append((target, i))
    for _ in range(_ROUNDS):
        pairs = (
            (a, b) for listed in shapes.values() for n, a in enumerate(listed) for b in listed[:n]
        )
        if not any([_try(*a, *b, demand) for a, b in pairs]):
            return


def spread(bins: Sequence[Bin], tiles: int, demand: Demand) -> list[Bin]:
    """Give blocks that wait most for others an empty tile, until all ``tiles`` are in use or
    nothing waits.

    Args:
        bins: tiles in use; not changed.
        tiles: that there are.
        demand: of the matrices.
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


def _try(first: Bin, i: int, second: Bin, j: int, demand: Demand) -> bool:
    (a, *at_a), (b, *at_b) = first.placed[i], second.placed[j]
    if first is second or (a.matrix, a.copy) == (b.matrix, b.copy):
        return False
    beside_a = [block for n, (block, _, _) in enumerate(first.placed) if n != i]
    beside_b = [block for n, (block, _, _) in enumerate(second.placed) if n != j]
    before = demand.contention(a, beside_a) + demand.contention(b, beside_b)
    after = demand.contention(b, beside_a) + demand.contention(a, beside_b)
    if after >= before or _clash(b, beside_a) or _clash(a, beside_b):
        return False
    first.placed[i], second.placed[j] = (b, at_a[0], at_a[1]), (a, at_b[0], at_b[1])
    return True


def _clash(block: Block, others: Iterable[Block]) -> bool:
    """Whether a copy of its matrix is among the others."""
    return any(other.matrix == block.matrix and other.copy != block.copy for other in others)
