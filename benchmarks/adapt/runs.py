"""The runs of one net, each kept in the output folder when it has finished."""

import argparse
import copy
import functools
import json
from collections.abc import Callable
from typing import Any

from torch import nn

import analogtorch as at
from analogtorch.chips.unit_cells import enlarged
from analogtorch.files import write_atomically
from benchmarks.adapt.subjects import SUBJECTS
from benchmarks.subject import Subject

CALIBRATED: dict[str, dict[str, Any] | None] = {
    "mapped": None,
    "calibrated": {},
    "searched": {"effort": "search", "report": None},
}
"""Options of ``calibrate`` of each row that does not learn; None: it is not calibrated."""
RECIPES: dict[str, dict[str, Any]] = {
    "control": {"noise": 0.0, "clip_sigma": None},
    "adapted": {},
}
"""Fields of the recipe of each row that learns."""

NOISES = {
    "default": at.TrainingNoise(weight="device"),
    "corrected": at.TrainingNoise(weight="device", corrected=True),
    "programming": at.TrainingNoise(),
    "1 day": at.TrainingNoise(weight="device", time="1 day"),
    "1 week": at.TrainingNoise(weight="device", time="1 week"),
    "1 month": at.TrainingNoise(weight="device", time="1 month"),
    "1 year": at.TrainingNoise(weight="device", time="1 year"),
    "1 day and 1 month": at.TrainingNoise(weight="device", time=("1 day", "1 month")),
    "0 s and 1 month": at.TrainingNoise(weight="device", time=("0 s", "1 month")),
}
"""The training noise by name."""
CHIPS_SEED = 1
"""Seed of the chips, which are the same for all rows of a net."""


class Runs:
    """The runs of one net.

    Args:
        net: its name in ``SUBJECTS``.
        options: those of the command.
    """

    def __init__(self, net: str, options: argparse.Namespace) -> None:
        self.net, self.options = net, options

    @functools.cached_property
    def subject(self) -> Subject:
        """The net, made when the first run needs it."""
        return SUBJECTS[self.net](self.options.data, self.options.every)

    def hardware(self) -> dict[str, Any]:
        """Return the scores of the net before any conversion loss, and the chips that it takes."""
        return self._kept("hardware", ("every",), self._hardware)

    def row(self, row: str, seed: int) -> dict[str, Any]:
        """Return one row of one seed."""
        asked: tuple[str, ...] = ("chips", "every", "times", "correct")
        if self.options.correct_steps:
            asked += ("correct_steps",)
        if row in RECIPES:
            asked += ("noise", "steps", "minutes", *self._chosen)
        return self._kept(f"{row}-{seed}", asked, functools.partial(self._row, row, seed))

    @property
    def _chosen(self) -> dict[str, float]:
        """The fields of the recipe that the command gives, if any."""
        asked = {name: getattr(self.options, name) for name in ("attention", "learning_rate")}
        return {name: value for name, value in asked.items() if value is not None}

    def _kept(
        self, what: str, names: tuple[str, ...], make: Callable[[str], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what the folder has for these options; else ``make`` it, which gets its name."""
        stem = f"{self.net}-{what}".replace(" ", "_").replace(",", "")
        path = self.options.out / f"{stem}.json"
        names += ("cells",) * (self.options.cells > 1)  # earlier versions did not say that it is 1
        asked = {name: getattr(self.options, name) for name in names}
        if path.is_file():
            kept: dict[str, Any] = json.loads(path.read_text())
            if kept["asked"] == asked:
                return kept
        found = {**make(stem), "asked": asked}
        write_atomically(path, json.dumps(found, indent=2) + "\n")
        return found

    def _converted(self) -> nn.Module:
        subject, chip = self.subject, enlarged(self._chip(), self.options.cells)
        return at.convert(copy.deepcopy(subject.model), chip, where=subject.where)

    def _chip(self) -> at.Chip:
        return at.chips.hermes64(**self.subject.chip)

    def _hardware(self, name: str) -> dict[str, Any]:
        subject = self.subject
        ideal = at.convert(copy.deepcopy(subject.model), at.chips.ideal(), where=subject.where)
        scores = {"digital": subject.scored(subject.model), "ideal": subject.scored(ideal.eval())}
        mapping = at.map_to_chip(
            self._converted(), subject.one(), chip=self._chip(), num_chips=None
        )
        cost = at.cost(mapping)
        return {
            "measure": subject.measure,
            "lower is better": subject.lower_is_better,
            "options": dict(subject.chip),
            **scores,
            "chips": mapping.num_chips,
            "tiles": mapping.tiles_used,
            "energy": cost.energy.system,
            "digital energy": cost.energy.digital,
            "latency": cost.latency,
        }

    def _row(self, row: str, seed: int, name: str) -> dict[str, Any]:
        model, text, seconds = self._converted(), "", 0.0
        if row in RECIPES:
            found = self._adapted(model, row, seed, name)
            model, text, seconds = found.model, str(found), found.seconds
        elif (calibration := CALIBRATED[row]) is not None:
            subject = self.subject
            at.calibrate(model, subject.calibration, forward=subject.forward, **calibration)
        io = self.subject.scored(model.eval())
        chips = self._swept(model)
        found = {"io": io, "chips": chips, "seconds": seconds, "report": text}
        if self.options.correct:
            batches = self.subject.calibration[: self.options.correct]
            steps, forward = self.options.correct_steps, self.subject.forward
            recovery = at.Recovery(batches=batches, steps=steps, forward=forward)
            found["corrected"] = self._swept(model, recovery)
        return found

    def _swept(self, model: nn.Module, recovery: at.Recovery | None = None) -> list[list[float]]:
        """Return the score of each chip at each time."""
        options = self.options
        swept = at.sweep(
            model,
            self.subject.scored,
            num_chips=options.chips,
            times=options.times,
            seed=CHIPS_SEED,
            recovery=recovery,
            progress=True,
        )
        values: list[list[float]] = swept.values.tolist()
        return values

    def _adapted(self, model: nn.Module, row: str, seed: int, name: str) -> at.hwa.Adapted:
        subject, options = self.subject, self.options
        by = (options.steps, options.minutes, options.noise, *self._chosen.values())
        kept = "-".join(map(str, (name, *by))).replace(" ", "_")
        return at.hwa.adapt(
            model,
            subject.calibration,
            teacher=subject.model,
            recipe=at.hwa.Recipe(
                **{
                    "training": NOISES[options.noise],
                    **subject.recipe,
                    **RECIPES[row],
                    **self._chosen,
                }
            ),
            steps=options.steps,
            minutes=options.minutes,
            seed=seed,
            forward=subject.forward,
            folder=options.out / kept,
            progress=True,
            **subject.adapt,
        )
