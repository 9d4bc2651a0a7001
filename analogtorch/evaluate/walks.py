"""The order in which layers leave the chip or get more devices, by estimate.

A walk begins with all layers on the chip and changes one layer at a time, first the one whose
change saves most of the estimated loss for what it costs. It ends when one layer is left. What a
change costs is energy, latency, the MACs that become digital, or one for each layer. Lammie et al.
("LionHeart", arXiv 2401.09420) go through the layers one after another too, ranked by their MACs,
as long as the accuracy stays above a threshold.

A walk does not know how errors of layers add up, so that what it finds may be improved by exchanges
of single layers.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DIGITAL, ANALOG = 0, 1
"""Numbers of unit cells per weight of a layer that is digital, and of one that stays as it is."""
_MOST = 20


@dataclass(frozen=True)
class Candidate:
    """A choice for each layer: the number of unit cells per weight, 0 for digital."""

    cells: tuple[tuple[str, int], ...]
    """Layers with another number than 1, by name."""

    @classmethod
    def of(cls, state: Mapping[str, int], names: Iterable[str]) -> "Candidate":
        """Return the candidate with these cells by layer; ``names`` are all layers."""
        changed = ((name, state.get(name, ANALOG)) for name in sorted(names))
        return cls(tuple((name, cells) for name, cells in changed if cells != ANALOG))

    @property
    def digital(self) -> tuple[str, ...]:
        """The layers to keep digital."""
        return tuple(name for name, count in self.cells if count == DIGITAL)

    @property
    def devices(self) -> dict[str, int]:
        """The layers with more devices, and their numbers of unit cells per weight."""
        return {name: count for name, count in self.cells if count > ANALOG}


Table = Mapping[str, Mapping[int, float]]
"""A number by layer and by its unit cells per weight."""


def walk(losses: Table, costs: Table) -> list[Candidate]:
    """Return the candidates that a greedy walk meets, all layers on the chip first.

    Args:
        losses: estimated losses, by layer and number of unit cells per weight, >= 0.
        costs: what it costs to have that number instead of one; negative where it saves.
    """
    state = dict.fromkeys(losses, ANALOG)
    found = [Candidate.of(state, state)]
    while True:
        moves = [
            (name, to)
            for name, now in state.items()
            for to in losses[name]
            if now != DIGITAL and (to == DIGITAL or to > now)
        ]
        if not moves:
            return found[:-1]  # the last is all digital
        worth = {
            (name, to): _worth(
                losses[name][state[name]] - losses[name][to],
                costs[name][to] - costs[name][state[name]],
            )
            for name, to in moves
        }
        name, to = max(moves, key=worth.__getitem__)  # the first of equals
        state[name] = to
        found.append(Candidate.of(state, state))


def neighbours(candidate: Candidate, losses: Table) -> list[Candidate]:
    """Return the candidates that differ in one layer, or have one on the chip for another.

    Those with the least estimated loss come first. Layers to exchange are the ``_MOST`` that lose
    most on the chip, and those digital ones that would lose least.
    """
    state = dict.fromkeys(losses, ANALOG) | dict(candidate.cells)
    found = [{name: to} for name, given in losses.items() for to in given if to != state[name]]
    order = sorted(losses, key=lambda name: losses[name][ANALOG])
    off = [name for name in order if state[name] == DIGITAL][:_MOST]
    on = [name for name in order if state[name] != DIGITAL][-_MOST:]
    found += [{one: ANALOG, other: DIGITAL} for one in off for other in on]
    states = [s for change in found if any((s := state | change).values())]

    def loss(given: Mapping[str, int]) -> float:
        return math.fsum(losses[name][cells] for name, cells in given.items())

    return [Candidate.of(s, s) for s in sorted(states, key=loss)]


def _worth(saved: float, added: float) -> tuple[int, float, float]:
    """Return what a change is worth: the larger, the better.

    First come changes that save loss at no cost, then those with most loss per cost, then those
    that only save cost, and last those that save nothing.
    """
    if saved > 0:
        return (3, saved, -added) if added <= 0 else (2, saved / added, saved)
    return (1 if added < 0 else 0, -added, 0.0)
