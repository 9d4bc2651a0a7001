"""One training seed: the digital net, its control, and the net of each recipe, on chips."""

import copy
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import analogtorch as at
from analogtorch.files import write_atomically
from analogtorch.speech import kws, rehearsal
from analogtorch.speech.ablation import Variant, variants
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import Clips, fingerprint
from analogtorch.speech.examine import placed
from analogtorch.speech.on_chips import converted, measure
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.task import Task, prepare
from analogtorch.speech.validation import validated
from benchmarks.hwa.recipes import CONFIGURED

Result = dict[str, Any]


def one_seed(config: KWSConfig, folder: Path) -> Result:
    """Return the results of a seed: those of the control, and by the name of the recipe.

    Args:
        config: the configuration, with the seed; ``config.report.ablation`` has the recipes beside
            its own.
        folder: folder of the seed; a net whose result is there is not trained again.
    """
    with RunFolder.open(folder, config, resume=True) as run:
        return _Recipes(config, run).result()


class Seed:
    """The digital net of a training seed, and results in its folder, which are kept."""

    def __init__(self, config: KWSConfig, run: RunFolder) -> None:
        self.config, self.run = config, run
        self.recipes = variants(config)

    def begin(self, *planned: str) -> None:
        """Begin the run, or go on with it, before any result is read.

        Args:
            planned: files that the run will write, as ``RunFolder.begin`` takes them.

        Raises:
            ValueError: the folder was begun with other recordings, classes or code.
        """
        task = self.task
        self.run.begin(
            fingerprint(self.splits, *task.augmenter.noise.recordings),
            classes=task.classes,
            code=kws.code_of(self.config),
            planned=planned,
        )

    def kept(
        self, name: str, make: Callable[[Result], Result], whole: Callable[[Result], bool]
    ) -> Result:
        """Return what an earlier run has kept, if it is ``whole``, or what ``make`` returns.

        ``make`` gets what is kept, which is empty at first. ``seconds`` are those of all runs.
        """
        path = self.run.path / f"{name}.json"
        earlier: Result = json.loads(path.read_text()) if path.is_file() else {}
        if earlier and whole(earlier):
            return earlier
        start = time.perf_counter() - earlier.get("seconds", 0.0)
        found = make(earlier) | {"seconds": round(time.perf_counter() - start, 1)}
        write_atomically(self.run.file(path.name), json.dumps(found, indent=2) + "\n")
        return found

    @functools.cached_property
    def splits(self) -> dict[str, Clips]:
        return self.config.data.selected.load()

    @functools.cached_property
    def task(self) -> Task:
        torch.set_num_threads(self.config.threads)
        features = self.config.front_end()
        augment, seed = self.config.augment, self.config.seed
        return prepare(self.splits, augment, seed=seed, features=features)

    @functools.cached_property
    def digital(self) -> nn.Module:
        rehearsal.check_trainable(self.config, self.task, self.config.digital, self.config.hwa)
        return kws.train_digital(self.config, self.task, self.run)

    @functools.cached_property
    def trained(self) -> nn.Module:
        """The net of the configuration, which recipes that train nothing else measure too."""
        return kws.train_hwa(self.config, self.task, self.run, self.digital)


class _Recipes(Seed):
    def result(self) -> Result:
        self.begin()
        found = self._of("control", self._control)
        recipes = {CONFIGURED: self._of("hwa", self._configured)}
        for of in self.recipes:
            recipes[of.name] = self._of(of.key, functools.partial(self._recipe, of))
        self.run.finish()
        return found | self._tiles() | {"recipes": recipes}

    def _tiles(self) -> Result:
        """Return the number of tiles as the report of a run has it, with its notes.

        It is not kept: earlier versions kept one for each block.
        """
        task = self.task
        network = rehearsal.untrained(self.config, task.classes, task.val[0][:2])
        found = placed(self.config, converted(self.config, network), task)
        return {"tiles": found["tiles"], "notes": list(found.get("notes", ()))}

    def _of(self, name: str, make: Callable[[Result], Result]) -> Result:
        """Return a result at the times of the configuration; what is kept may have more."""
        times = self.config.sweep.times
        found = self.kept(name, make, lambda kept: self._rows(kept).keys() >= set(times))
        found.pop("tiles", None)  # of an earlier version
        return found | {"on_chip": {time: found["on_chip"][time] for time in times}}

    def _rows(self, kept: Result) -> Result:
        """Return what is kept by time, none if it is of another number of chips."""
        rows: Result = kept.get("on_chip", {})
        counts = {row["num_chips"] for row in rows.values()}
        return rows if counts == {self.config.sweep.num_chips} else {}

    def _control(self, kept: Result) -> Result:
        config, task, digital = self.config, self.task, self.digital
        control = copy.deepcopy(digital)
        phase = dataclasses.replace(config.hwa, clip_sigma=None, ramp=0.0)
        kws.train_phase(config, task, self.run, control, phase, "control", teacher=digital)
        return {
            "seed": config.seed,
            "digital": at.accuracy(digital, task.test_batches()),
            "control": at.accuracy(control, task.test_batches()),
            **self._on_chip(config, kws.to_chip(config, task, control), kept),
        }

    def _configured(self, kept: Result) -> Result:
        return self._on_chip(self.config, self.trained, kept)

    def _recipe(self, of: Variant, kept: Result) -> Result:
        if not of.trained:
            return self._on_chip(of.config, self.trained, kept)
        net = kws.train_hwa(of.config, self.task, self.run, self.digital, of.key)
        return self._on_chip(of.config, net, kept)

    def _on_chip(self, config: KWSConfig, net: nn.Module, kept: Result) -> Result:
        """Return accuracies of a net on chips, on test and validation parts.

        Args:
            config: the configuration of the net.
            net: the net on its chip.
            kept: an earlier result of this net, of which only what it lacks is measured.
        """
        rows = self._rows(kept)
        lacking = tuple(time for time in config.sweep.times if time not in rows)
        sweep = dataclasses.replace(config.sweep, times=lacking)
        found = measure(dataclasses.replace(config, sweep=sweep), self.task, net).to_dict()
        if rows:
            return kept | {"on_chip": rows | found}
        return {
            "on_chip": found,
            "validation": validated(config, self.task, net).values.mean().item(),
        }
