"""A model on the same chips, each time with other non-idealities, as a metric sees it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from analogtorch.chips import Chip
from analogtorch.chips.non_idealities import needs
from analogtorch.conversion.kinds import analog_layers
from analogtorch.devices import seconds
from analogtorch.evaluate.apart import Kept, apart_copy
from analogtorch.evaluate.journal import Journal, Unkept
from analogtorch.evaluate.journal import key as time_key
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.metric import Metric, finite, measure
from analogtorch.simulate.chip import beyond_data, program
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.writing import Method


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a measurement changes: functions from what a model has to what is measured."""

    name: str
    """Its name where values are kept."""
    chip: Callable[[Chip], Chip] = lambda chip: chip
    """The chip of a layer."""
    defects: Callable[[Defects], Defects] = lambda defects: defects
    """The defects of all chips."""


DEFECT = "defects."
"""What the names of defects begin with."""


AS_IT_IS = Change(name="as it is")
NONE = Change(
    name="none",
    chip=lambda chip: chip.without(*chip.non_idealities()),
    defects=lambda _: Defects(),
)
"""The change to a chip without non-idealities."""


def only(name: str) -> Change:
    """Return the change to chips with that non-ideality alone.

    It keeps those that it needs, such as the ADC before a digital unit.
    """
    defect = name.removeprefix(DEFECT)
    return Change(
        name=f"only {name}",
        chip=lambda chip: chip.without(
            *(n for n in chip.non_idealities() if n not in {name, *needs(chip, name)})
        ),
        defects=lambda whole: (
            whole.without(*(n for n in whole.present() if n != defect))
            if name.startswith(DEFECT)
            else Defects()
        ),
    )


def grown(name: str, factor: float) -> Change:
    """Return the change to chips with that non-ideality times a factor; 0 leaves it out."""
    key = f"{name} times {factor!r}"
    if name.startswith(DEFECT):
        defect = name.removeprefix(DEFECT)
        return Change(name=key, defects=lambda whole: whole.scaled(**{defect: factor}))
    return Change(name=key, chip=lambda chip: chip.scaled(**{name: factor}))


class Bench:
    """Measures the model on the same chips with other descriptions, what the journal lacks of it.

    Args:
        model: a converted model, which is copied.
        metric: what is measured.
        seeds: seeds of the chips.
        time: time after programming, as ``ProgrammedChip.at`` takes it.
        look: how the chips are read.
        method: how the cells are written.
        defects: which share of each chip is broken.
        journal: where values are kept.
        step: is called after each value.
    """

    def __init__(
        self,
        model: nn.Module,
        metric: Metric,
        seeds: tuple[int, ...],
        time: str | float,
        look: Look,
        method: Method | None,
        defects: Defects | None,
        journal: Journal | Unkept,
        step: Callable[[], object],
    ) -> None:
        self.model = apart_copy(model)
        self.chips = {name: layer.chip for name, layer in analog_layers(self.model)}
        self.metric, self.seeds, self.time = metric, seeds, seconds(time)
        self.look, self.method, self.defects = look, method, defects
        self.journal, self.step = journal, step
        self._now = AS_IT_IS.name  # what the layers have; placing them again takes a while

    def reference(self) -> float:
        """Return the metric of a chip without non-idealities, which has nothing to correct."""
        return self._values(NONE, self.seeds[:1], replace(self.look, recovery=None))[0]

    def value(self, change: Change) -> list[float]:
        """Return the metric of each chip."""
        return self._values(change, self.seeds, self.look)

    def takes(self, change: Change) -> bool:
        """Return whether the change is possible.

        It is not if a converter has no bits left, or more than everything would be broken.
        """
        try:
            for chip in set(self.chips.values()):
                change.chip(chip)
            if self.defects is not None:
                change.defects(self.defects)
        except ValueError:
            return False
        return True

    def _values(self, change: Change, seeds: tuple[int, ...], look: Look) -> list[float]:
        values, key = [], f"{change.name} at {time_key(self.time)}"
        for number, seed in enumerate(seeds):
            with self.journal.claim(number, wait=True):
                kept = Kept(self.journal, number, seed, self.step)
                values.append(kept.value(key, partial(self._measure, change, seed, look)))
        return values

    @torch.no_grad()
    def _measure(self, change: Change, seed: int, look: Look) -> float:
        if change.name != self._now:
            for name, layer in analog_layers(self.model):
                layer.chip = change.chip(self.chips[name])
            self._now = change.name
        defects = None if self.defects is None else change.defects(self.defects)
        if not any(layer.chip.thermal.activation_energy for _, layer in analog_layers(self.model)):
            look = replace(look, temperature=None)  # no chip depends on it now
        physical = program(self.model, seed=seed, method=self.method, defects=defects)
        physical.warned.update(beyond_data(self.model, self.time))  # noted once
        view = look.at(physical)(self.time)
        given = measure(self.metric, view)
        return finite("budget", self.metric, given, f"on the chip of seed {seed}")
