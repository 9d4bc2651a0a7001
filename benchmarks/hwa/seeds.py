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
from analogtorch.speech import kws
from analogtorch.speech.ablation import variants
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import Clips, fingerprint
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.task import Task, prepare
from benchmarks.hwa.recipes import CONFIGURED

CHOICE = ("1 day", "1 year")
"""Times at which the chips are measured on the validation part, by which a recipe is chosen."""
_CHOICE_SEED, _CHOICE_CHIPS = 1_000_000, 5
"""Chips of the choice; those of the measurement have other seeds."""

Result = dict[str, Any]


def one_seed(config: KWSConfig, folder: Path) -> Result:
    """Return the results of a seed: those of the control, and by the name of the recipe.

    Args:
        config: the configuration, with the seed; ``config.report.ablation`` has the recipes beside
            its own.
        folder: folder of the seed; a net whose result is there is not trained again.
    """
    with RunFolder.open(folder, config, resume=True) as run:
        return _Seed(config, run).result()


class _Seed:
    def __init__(self, config: KWSConfig, run: RunFolder) -> None:
        self.config, self.run = config, run
        self.recipes = variants(config)
        self.names = {CONFIGURED: "hwa", **{each.name: each.key for each in self.recipes}}
        """Name of the files of each recipe."""
        self._begun = False

    def result(self) -> Result:
        found = self._kept("control", self._control)
        configs = {CONFIGURED: self.config, **{each.name: each.config for each in self.recipes}}
        recipes = {
            name: self._kept(self.names[name], functools.partial(self._recipe, name, config))
            for name, config in configs.items()
        }
        if self._begun:
            self.run.finish()
        return found | {"recipes": recipes}

    def _kept(self, name: str, make: Callable[[], Result]) -> Result:
        """Return what an earlier run has kept, or what ``make`` returns."""
        file = f"{name}.json"
        if (found := _measured(self.run.path / file, self.config)) is not None:
            return found
        start = time.perf_counter()
        self._begin()
        found = make() | {"seconds": round(time.perf_counter() - start, 1)}
        write_atomically(self.run.file(file), json.dumps(found, indent=2) + "\n")
        return found

    def _begin(self) -> None:
        if not self._begun:
            self.run.begin(fingerprint(self.splits, *self.task.augmenter.noise.recordings))
            self._begun = True

    @functools.cached_property
    def splits(self) -> dict[str, Clips]:
        return self.config.data.selected.load()

    @functools.cached_property
    def task(self) -> Task:
        torch.set_num_threads(self.config.threads)
        features = self.config.features.build()
        augment, seed = self.config.augment, self.config.seed
        return prepare(self.splits, augment, seed=seed, features=features)

    @functools.cached_property
    def digital(self) -> nn.Module:
        return kws.train_digital(self.config, self.task, self.run)

    def _control(self) -> Result:
        config, task, digital = self.config, self.task, self.digital
        control = copy.deepcopy(digital)
        phase = dataclasses.replace(config.hwa, clip_sigma=None, ramp=0.0)
        kws.train_phase(config, task, self.run, control, phase, "control", teacher=digital)
        return {
            "seed": config.seed,
            "digital": at.accuracy(digital, task.test_batches()),
            "control": at.accuracy(control, task.test_batches()),
            **self._on_chip(config, kws.to_chip(config, task, control)),
        }

    def _recipe(self, name: str, config: KWSConfig) -> Result:
        net = kws.train_hwa(config, self.task, self.run, self.digital, self.names[name])
        return self._on_chip(config, net)

    def _on_chip(self, config: KWSConfig, net: nn.Module) -> Result:
        """Return accuracies of a net on chips, on test and validation parts, and its tiles."""

        def validation(chip: nn.Module) -> float:
            return at.accuracy(chip, [self.task.val])

        chosen = at.sweep(
            net,
            validation,
            num_chips=_CHOICE_CHIPS,
            times=CHOICE,
            seed=_CHOICE_SEED,
            compensation=config.chip.compensation,
            defects=config.chip.defects,
        )
        return {
            "on_chip": kws.measure(config, self.task, net).to_dict(),
            "validation": chosen.values.mean().item(),
            "tiles": at.summary(net).tiles,
        }


def _measured(file: Path, config: KWSConfig) -> Result | None:
    """Return the result in the file, if it has all chips and times of the configuration."""
    if not file.is_file():
        return None
    found: Result = json.loads(file.read_text())
    counts = {row["num_chips"] for row in found["on_chip"].values()}
    times = set(config.sweep.times)
    return found if counts == {config.sweep.num_chips} and set(found["on_chip"]) >= times else None
