"""Accuracy by the weight noise of training and that of inference, as NeuRRAM's authors print it.

One digital net is trained for the chip with each noise of ``TRAINED``, and its weights then get
each noise of ``INFERENCE``: Gaussian, in units of the largest weight of a layer, the same draws for
all nets. Inputs and outputs are quantised as on the chip; nothing else is simulated.
"""

import copy
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import analogtorch as at
from analogtorch.conversion.kinds import analog_layers
from analogtorch.speech import kws
from analogtorch.speech.ablation import Variant
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.rundir import RunFolder
from benchmarks.hwa.seeds import Result, Seed

TRAINED = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
"""Standard deviations in units of the largest weight, as in the table of Wan et al. (Nature 608,
504, 2022), in the authors' code."""
INFERENCE = (0.0, 0.05, 0.1, 0.15, 0.2)
"""The table ends at 0.1."""
RECIPES: dict[str, dict[str, Any]] = {
    f"{noise:.0%}": {
        "chip.training.scale": noise,
        "chip.training.weight": "gaussian",
        "chip.training.output": False,
    }
    for noise in TRAINED
}
"""The trainings, as ``benchmarks.hwa.recipes`` has them."""
PUBLISHED = {
    0.0: (87.86, 87.62, 87.66, 87.26, 86.50, 85.70, 85.22),
    0.05: (87.33, 87.91, 87.58, 87.12, 86.50, 85.74, 85.22),
    0.1: (81.35, 85.89, 87.06, 87.14, 86.71, 85.91, 85.19),
}
"""That table: accuracy in % by the noise of inference, for each of ``TRAINED``; NeuRRAM's keyword
spotter, simulated by its authors."""


def one_seed(config: KWSConfig, folder: Path) -> Result:
    """Return the accuracies of a seed, by the noise of training and of inference, draw by draw.

    Args:
        config: the configuration, with the seed; ``config.report.ablation`` is ``RECIPES``, and
            ``config.sweep.num_chips`` the number of draws.
        folder: folder of the seed; a net whose result is there is not trained again.
    """
    with RunFolder.open(folder, config, resume=True) as run:
        return _Seed(config, run).table()


class _Seed(Seed):
    def table(self) -> Result:
        self.begin()
        nets = {
            each.name: self.kept(
                f"noise-{each.key}",
                functools.partial(self._net, each),
                lambda found: len(found["accuracy"]["0%"]) == self.config.sweep.num_chips,
            )
            for each in self.recipes
        }
        self.run.finish()
        return {"seed": self.config.seed, "nets": nets}

    def _net(self, recipe: Variant, _: Result) -> Result:
        net = kws.train_hwa(recipe.config, self.task, self.run, self.digital, recipe.key)
        return {
            "digital": at.accuracy(self.digital, self.task.test_batches()),
            "accuracy": {
                f"{noise:.0%}": [
                    at.accuracy(disturbed(net, noise, seed), self.task.test_batches())
                    for seed in range(self.config.sweep.num_chips)
                ]
                for noise in INFERENCE
            },
        }


@torch.no_grad()
def disturbed(net: nn.Module, noise: float, seed: int) -> nn.Module:
    """Return a copy of a converted net with Gaussian noise in the weights of its analog layers.

    Args:
        net: a converted net.
        noise: standard deviation in units of the largest weight of each layer, >= 0.
        seed: seed of the draw.
    """
    changed, draws = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    for _, layer in analog_layers(changed):
        weight = layer.weight
        weight += noise * weight.abs().max() * torch.randn(weight.shape, generator=draws)
    return changed


def rows(results: Sequence[Result]) -> list[list[str]]:
    """Return the table, in percent: mean and standard deviation over draws and seeds."""
    table = [["inference \\ training", *RECIPES]]
    for noise in INFERENCE:
        cells = []
        for name in RECIPES:
            found = _values(results, name, f"{noise:.0%}")
            spread = f" ± {statistics.stdev(found):.1f}" if noise and len(found) > 1 else ""
            cells.append(f"{statistics.fmean(found):.1f}{spread}")
        table.append([f"{noise:.0%}", *cells])
    for noise, published in PUBLISHED.items():
        table.append([f"{noise:.0%}, published", *(f"{value:.1f}" for value in published)])
    return table


def shape(results: Sequence[Result]) -> list[list[str]]:
    """Return what each noise of inference costs, in points, here and as published.

    Lost: by the net that is trained without noise, and by the best training, below that net without
    noise at inference.
    """
    table = [["inference", "", "lost without training noise", "best training noise", "lost by it"]]
    here = {
        noise: [statistics.fmean(_values(results, name, f"{noise:.0%}")) for name in RECIPES]
        for noise in INFERENCE
    }
    for noise in INFERENCE[1:]:
        for whose, found in (("here", here), ("published", PUBLISHED)):
            if noise in found:
                clean, noisy = found[0.0][0], found[noise]
                best = max(range(len(noisy)), key=noisy.__getitem__)
                costs = (
                    f"{clean - noisy[0]:.1f}",
                    f"{TRAINED[best]:.0%}",
                    f"{clean - max(noisy):.1f}",
                )
                table.append([f"{noise:.0%}", whose, *costs])
    return table


def notes(results: Sequence[Result], config: KWSConfig) -> list[str]:
    """Return the caveats that a reader needs to judge the tables."""
    nets = [net for each in results for net in each["nets"].values()]
    digital = statistics.fmean(100 * each["nets"]["0%"]["digital"] for each in results)
    return [
        f"Accuracy, %, of {config.model.name} (digital {digital:.1f}) behind the converters of "
        f"{config.chip.name}: mean and standard deviation of {config.sweep.num_chips} draws of the "
        f"noise of the weights, the same for all nets, and {len(results)} training seeds.",
        "Noise: standard deviation in units of the largest weight of a layer, in training of a "
        "block of its rows. Simulated, as the published one.",
        f"{config.digital.epochs} epochs without noise and then {config.hwa.epochs} with it; "
        f"{sum(net['seconds'] for net in nets):.0f} s of one process.",
    ]


def _values(results: Sequence[Result], training: str, inference: str) -> list[float]:
    """Return the accuracies in percent; without noise, all draws of a seed are the same."""
    found = [each["nets"][training]["accuracy"][inference] for each in results]
    return [100 * value for draws in found for value in (draws if inference != "0%" else draws[:1])]
