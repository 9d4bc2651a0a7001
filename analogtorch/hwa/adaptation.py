"""The stages of ``adapt``, each measured on chips and undone if it makes the error larger."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from analogtorch.calibration import calibrate, reestimate_batch_norm
from analogtorch.calibration.inputs import means_corrected
from analogtorch.calibration.norm_statistics import (
    digital_statistics,
    remember_digital,
    statistics_as_now,
    tracking,
)
from analogtorch.calibration.settings import undone
from analogtorch.chips import Chip, from_dict, to_dict
from analogtorch.conversion import analog_layers
from analogtorch.hwa.adapted import Generalisation, Stage, Step
from analogtorch.hwa.budget import Budget
from analogtorch.hwa.on_chips import OnChips, Reading
from analogtorch.hwa.run_folder import RunFolder
from analogtorch.hwa.training import Training
from analogtorch.hwa.twin import Twin
from analogtorch.simulate.recovery import Recovery
from analogtorch.values.progress import Progress
from analogtorch.values.warned import warn

CALIBRATED = 32
"""Most batches that calibrate: a search passes over them for each thing that it tries."""
_CORRECTING = 2
"""Most batches by which chips correct their columns at a look: to correct takes a chip about six
times as long as a forward of the same batches."""
_PROBES = 30
"""Most steps whose time is measured to find how many fit into the time that is given."""
_SEARCHED = 10
"""Looks at the chips that ``calibrate`` takes as long as at most where it finds ranges alone, as it
does after the training, whatever a search before it took."""

_RUNNING = ("forward", "allow_unused", "progress")
"""Options of ``calibrate`` that say how the model runs, which hold for ranges per vector too."""


@dataclass(kw_only=True)
class Adaptation:
    """An adaptation that goes on; see ``adapt`` for its arguments."""

    twin: Twin
    fitted: Sequence[Any]
    """Batches to calibrate and to train on."""
    chips: OnChips
    options: Mapping[str, Any] | None
    """Options of ``calibrate``; None keeps the ranges that the model has."""
    seed: int
    folder: RunFolder | None
    writer: Any
    progress: bool
    budget: Budget
    stages: list[Stage] = field(default_factory=list)
    learnt: float | None = None
    """The error on chips, before the training, on batches that are learnt from."""
    generalisation: Generalisation | None = None
    """What the training left of the errors on chips; None: it is not known yet, or it is undone."""
    recovered: Reading | None = None
    """The model at the end, on chips that correct their columns."""
    recovered_before: Reading | None = None
    """The same of the model before the training."""
    learning: list[str] = field(default_factory=list)
    """The Parameters that learn; calibration at the end adds DAC ranges."""

    def run(self, steps: int) -> Training:
        """Carry out all stages, or those that an interrupted run has left."""
        state = None if self.folder is None else self.folder.read()
        training = Training(self.twin, steps=steps, seed=self.seed, budget=self.budget)
        if state is None:
            self._begin(training)
        else:
            if "compared" not in state:
                raise ValueError(
                    "adapt: folder holds a run that an earlier version began, which did not keep "
                    "how outputs are compared; give another folder"
                )
            self.twin.comparison.go_on(state["compared"], state.get("ways"))
            self.learning = state["learning"]
            _as_begun(self.twin.student, state["chips"], self.learning)
            digital = digital_statistics(self.twin.student)
            training.load_state_dict(state["training"])
            now = digital_statistics(self.twin.student)
            moved = {n: d for n, d in digital.items() if not all(map(torch.equal, d, now[n]))}
            remember_digital(self.twin.student, moved)
            self.stages = [_stage(kept) for kept in state["stages"]]
            self.learnt = state.get("learnt")  # a run of an earlier version has none
            if (found := state.get("generalisation")) is not None:
                self.generalisation = Generalisation(**found)
            for name in ("recovered", "recovered_before"):
                if (found := state.get(name)) is not None:
                    setattr(self, name, Reading(**found))
            self.budget.earlier = state["seconds"]
            self.budget.after = state.get("after", 0.0)  # a run of an earlier version has none
        if state is None or not state["finished"]:
            self._train(training)
            self._finish(training)
        return training

    def _begin(self, training: Training) -> None:
        error, look = self._measured("converted")
        measured = self.budget.spent
        if self.options is not None:
            error = self._calibrated(self.options, error)
            training.reset()  # the DAC ranges learn from now on
        calibrated = min(self.budget.spent - measured, _SEARCHED * look)
        measured = self.budget.spent
        # statistics without noise can cost a deep net everything, and training more to get it back
        error = self._move_norms(error)
        with contextlib.suppress(ValueError):  # it warns at the end
            self.recovered_before = self._recovered()
        self.learnt = self._learnt_error()
        # all of it comes once more after the training, and a look at what it has learnt
        self.budget.after = self.budget.spent - measured + calibrated + look
        if (minutes := self.budget.minutes) is not None:
            fitting, training.looks = self._fitting(training, look)
            if fitting < 1 < training.steps:
                warn(
                    f"adapt: {minutes:g} minutes leave no time for the training, which has one "
                    f"step; {self.budget.spent:.0f} s went by before it, and what comes after it "
                    f"takes about {self.budget.after:.0f} s. Give {self._quicker()}"
                )
            training.steps = min(training.steps, max(1, fitting))
        training.start(error)
        self.learning = [n for n, p in self.twin.student.named_parameters() if p.requires_grad]
        self._keep(training)

    def _calibrated(self, options: Mapping[str, Any], error: float) -> float:
        """Calibrate the student, unless it errs more for it; return the smaller error.

        A student without ranges does not round the outputs of its tiles, which a chip whose digital
        unit does cannot copy: it is no state to go back to.
        """
        bare, unrounded = self._ranges_as_now(), self._unrounded
        self._calibrate_rounded(options)
        if not unrounded:
            return self._unless_worse("calibrated", bare, error)
        reading = self.chips.measure()
        if reading.mean <= error:
            self._add(Stage(name="calibrated", reading=reading))
            return reading.mean
        calibrated, error = self._ranges_as_now(), reading.mean
        bare()
        self._calibrate(_per_vector(options))
        rounded = self.chips.measure()
        kept = rounded.mean < error
        if not kept:
            calibrated()
        self._add(Stage(name="calibrated", reading=reading, kept=not kept))
        self._add(Stage(name="ranges per vector", reading=rounded, kept=kept))
        return min(rounded.mean, error)

    @property
    def _unrounded(self) -> bool:
        """Whether digital units that round have no ranges in which to do so."""
        layers = (layer for _, layer in analog_layers(self.twin.student) if layer.takes_range)
        found = [x.output_ranges for x in layers if x.chip.periphery.output_bits]
        return bool(found) and all(ranges is None for ranges in found)

    def _measured(self, name: str) -> tuple[float, float]:
        """Measure the student, and return its error and the seconds that it took."""
        began = time.monotonic()
        reading = self.chips.measure()
        self._add(Stage(name=name, reading=reading))
        return reading.mean, time.monotonic() - began

    def _add(self, stage: Stage) -> None:
        self.stages.append(stage)
        if self.progress:
            undone = "" if stage.kept else ", undone"
            Progress.write(
                f"adapt: {stage.name}, error on chips {stage.reading.mean:.3g}{undone} "
                f"({self.budget.spent:.0f} s)",
                file=sys.stderr,
            )

    def _fitting(self, training: Training, look: float) -> tuple[int, int]:
        """Return how many steps fit into the time that is left, and the looks among them.

        Less than one step: none does. Looks are fewer where they would take over half of the time.
        """
        step = training.seconds_of_step(_spread(self.fitted, _PROBES))
        left = self.budget.left
        looks = max(1, min(training.recipe.looks, math.floor(left / 2 / look)))
        return math.floor((left - looks * look) / step), looks

    def _quicker(self) -> str:
        """Return what leaves more time for the training."""
        found = ["more minutes"]
        if len(self.chips.seeds) > 1:
            found.append("a smaller num_chips")
        if len(self.chips.times) > 1:
            found.append("fewer times")
        if self.options is not None and self.options.get("effort") != "ranges":
            found.append('calibration={"effort": "ranges"}')
        return " or ".join(found)

    def _learnt_error(self) -> float | None:
        """Return the error on chips on some batches that are learnt from; None: none is held back.

        They are as many as are held back, and the chips are the same.
        """
        held = self.chips.held
        if any(a is b for a in held for b in self.fitted):
            return None
        some = _spread(self.fitted, len(held))
        chips = self.chips
        found = OnChips(self.twin, some, chips.seeds, chips.times, recovery=chips.recovery)
        return found.measure().mean

    def _train(self, training: Training) -> None:
        with Progress(
            total=training.steps, initial=training.step, desc="adapt", disable=not self.progress
        ) as bar:

            def after(step: Step) -> None:
                bar.update()
                if self.writer is not None:
                    _write(self.writer, step)
                if step.error is not None:
                    bar.set_postfix(error=f"{step.error:.3g}", refresh=False)
                    self._keep(training)

            training.run(self.fitted, self.chips, after)

    def _finish(self, training: Training) -> None:
        error = self._distilled(training)
        if self.options is not None:
            # the weights have learnt for the chips that they are on
            again = {n: v for n, v in self.options.items() if n != "report"} | {"effort": "ranges"}
            undo = self._ranges_as_now()
            error = self._tried("recalibrated", lambda: self._calibrate_rounded(again), undo, error)
        self._move_norms(error)
        try:
            self.recovered = self._recovered()
        except ValueError as refused:
            warn(f"adapt: chips with corrected columns are not measured: {refused}")
        self._keep(training, finished=True)

    def _recovered(self) -> Reading | None:
        """Return what chips have that correct their columns; None: all stages are of such chips.

        The student does not change.
        """
        if self.chips.recovery is not None:
            return None
        some = _spread(self.fitted, len(self.chips.held))
        return self.chips.measure(Recovery(batches=some, steps=0, forward=self.twin.forward))

    def _distilled(self, training: Training) -> float:
        """Add the stage of the training, undone if no look was better than its start."""
        start = next(stage.reading for stage in reversed(self.stages) if stage.kept)
        if training.best < start.mean:
            error = self._measured("distilled")[0]
            if self.learnt and (learnt := self._learnt_error()) is not None:
                self.generalisation = Generalisation(
                    learnt=learnt / self.learnt, held=error / start.mean
                )
            return error
        # none: there was no look, or an earlier version took it and kept its mean alone
        reading = start if training.trained is None else training.trained
        self._add(Stage(name="distilled", reading=reading, kept=False))
        return start.mean

    def _move_norms(self, error: float) -> float:
        """Move statistics of batch norms, if there are some, unless the error becomes larger."""
        if not (norms := tracking(self.twin.student)):
            return error
        undo = statistics_as_now(norms)
        return self._tried("batch norm re-estimated", self._reestimate, undo, error)

    def _tried(
        self, name: str, change: Callable[[], None], undo: Callable[[], Any], error: float
    ) -> float:
        """Change the student, unless its error becomes larger; return the smaller error."""
        try:
            change()
        except ValueError as refused:  # the training is not lost for it
            warn(f"adapt: not {name}: {refused}")
            undo()
            return error
        return self._unless_worse(name, undo, error)

    def _unless_worse(self, name: str, undo: Callable[[], Any], error: float) -> float:
        """Measure a change of the student, undo it if it errs more, return the smaller error."""
        reading = self.chips.measure()
        kept = reading.mean <= error
        if not kept:
            undo()
        self._add(Stage(name=name, reading=reading, kept=kept))
        return reading.mean if kept else error

    def _ranges_as_now(self) -> Callable[[], None]:
        return undone(layer for _, layer in analog_layers(self.twin.student))

    def _calibrate(self, options: Mapping[str, Any]) -> None:
        given = {"forward": self.twin.forward, "progress": self.progress, **options}
        recovery = self.chips.recovery
        with means_corrected(recovery is not None and recovery.columns is not None):
            calibrate(self.twin.student, calibrating(self.fitted), **given)

    def _calibrate_rounded(self, options: Mapping[str, Any]) -> None:
        """Calibrate the student, with ranges per vector if it is left without ranges to round in.

        The chips that were chosen stay.
        """
        self._calibrate(options)
        if self._unrounded:
            self._calibrate(_per_vector(options))

    def _reestimate(self) -> None:
        with self.twin.training_noise():
            reestimate_batch_norm(
                self.twin.student, self.fitted, seed=self.seed, forward=self.twin.forward
            )

    def _keep(self, training: Training, finished: bool = False) -> None:
        if self.folder is not None:
            state = {
                "training": training.state_dict(),
                "chips": _chips(self.twin.student),
                "compared": self.twin.compared,
                "ways": [list(way) for way in self.twin.comparison.ways],
                "learning": self.learning,
                "stages": [_plain(stage) for stage in self.stages],
                "learnt": self.learnt,
                "generalisation": self.generalisation and asdict(self.generalisation),
                "recovered": self.recovered and asdict(self.recovered),
                "recovered_before": self.recovered_before and asdict(self.recovered_before),
                "seconds": self.budget.spent,
                "after": self.budget.after,
                "finished": finished,
            }
            self.folder.write(state, training.history)


def calibrating(fitted: Sequence[Any]) -> list[Any]:
    """Return those of the batches that calibrate."""
    return _spread(fitted, min(CALIBRATED, len(fitted)))


def recovering(twin: Twin, fitted: Sequence[Any]) -> Recovery:
    """Return how chips correct their columns at each look, of which there are many."""
    some = _spread(fitted, min(_CORRECTING, len(fitted)))
    return Recovery(batches=some, rounds=1, steps=0, forward=twin.forward)


def _per_vector(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of ``calibrate`` that give ranges per vector and run the model alike."""
    return {n: v for n, v in options.items() if n in _RUNNING} | {"method": None}


def _spread(batches: Sequence[Any], count: int) -> list[Any]:
    """Return this many of the batches, from all over them; some twice if there are fewer."""
    return [batches[i * len(batches) // count] for i in range(count)]


def _chips(model: nn.Module) -> dict[str, str]:
    """Return the chip of each layer as JSON: a search may have changed its weight scale."""
    return {name: json.dumps(to_dict(layer.chip)) for name, layer in analog_layers(model)}


def _as_begun(model: nn.Module, chips: Mapping[str, str], learning: Sequence[str]) -> None:
    """Give each layer the chip that ``_chips`` has kept, and let the same Parameters learn."""
    made: dict[str, Chip] = {}
    for name, layer in analog_layers(model):
        if json.dumps(to_dict(layer.chip)) != chips[name]:
            if chips[name] not in made:
                made[chips[name]] = from_dict(json.loads(chips[name]))
            layer.put_on(made[chips[name]])
    for name, p in model.named_parameters():
        p.requires_grad_(name in learning)


def _plain(stage: Stage) -> dict[str, Any]:
    return {"name": stage.name, "kept": stage.kept, "reading": asdict(stage.reading)}


def _stage(plain: dict[str, Any]) -> Stage:
    return Stage(name=plain["name"], kept=plain["kept"], reading=Reading(**plain["reading"]))


def _write(writer: Any, step: Step) -> None:
    for name, value in vars(step).items():
        if name != "step" and value is not None:
            writer.add_scalar(f"adapt/{name}", value, step.step)
