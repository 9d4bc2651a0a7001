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
from analogtorch.speech.ablation import Variant, variants
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import Clips, fingerprint
from analogtorch.speech.on_chips import measure
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

    def begin(self) -> None:
        """Begin the run, or go on with it, before any result is read.

        Raises:
            ValueError: the folder was begun with other recordings, classes or code.
        """
        task = self.task
        self.run.begin(
            fingerprint(self.splits, *task.augmenter.noise.recordings),
            classes=task.classes,
            code=kws.code_of(self.config),
        )

    def kept(
        self, name: str, make: Callable[[], Result], whole: Callable[[Result], bool]
    ) -> Result:
        """Return what an earlier run has kept, if it is ``whole``, or what ``make`` returns."""
        path = self.run.path / f"{name}.json"
        if path.is_file() and whole(found := json.loads(path.read_text())):
            return found
        start = time.perf_counter()
        found = make() | {"seconds": round(time.perf_counter() - start, 1)}
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
        return kws.train_digital(self.config, self.task, self.run)

    @functools.cached_property
    def trained(self) -> nn.Module:
        """The net of the configuration, which recipes that train nothing else measure too."""
        return kws.train_hwa(self.config, self.task, self.run, self.digital)


class _Recipes(Seed):
    def result(self) -> Result:
        self.begin()
        found = self.kept("control", self._control, self._whole)
        recipes = {CONFIGURED: self.kept("hwa", self._configured, self._whole)}
        for of in self.recipes:
            make = functools.partial(self._recipe, of)
            recipes[of.name] = self.kept(of.key, make, self._whole)
        self.run.finish()
        return found | {"recipes": recipes}

    def _whole(self, found: Result) -> bool:
        """Return whether a result is of the chips and times of the configuration."""
        counts = {row["num_chips"] for row in found["on_chip"].values()}
        wanted = self.config.sweep
        return counts == {wanted.num_chips} and set(found["on_chip"]) == set(wanted.times)

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

    def _configured(self) -> Result:
        return self._on_chip(self.config, self.trained)

    def _recipe(self, of: Variant) -> Result:
        if not of.trained:
            return self._on_chip(of.config, self.trained)
        net = kws.train_hwa(of.config, self.task, self.run, self.digital, of.key)
        return self._on_chip(of.config, net)

    def _on_chip(self, config: KWSConfig, net: nn.Module) -> Result:
        """Return accuracies of a net on chips, on test and validation parts, and its tiles."""
        return {
            "on_chip": measure(config, self.task, net).to_dict(),
            "validation": validated(config, self.task, net).values.mean().item(),
            "tiles": at.summary(net).tiles,
        }
