"""From clips to what training and measuring need: augmented batches, and features computed once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.speech.augment import Augment, Augmenter
from analogtorch.speech.data import Clips
from analogtorch.speech.features import LogMel

# clips whose features are computed, or classified, together: they and their noise fit into the
# caches
_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Twelve-class keyword spotting on one source's clips."""

    train: Clips
    """The training split."""
    val: tuple[Tensor, Tensor]
    """Features (N, 1, 49, 40) and labels (N,)."""
    test: tuple[Tensor, Tensor]
    """Features and labels."""
    calibration: tuple[Tensor, ...]
    """Features of training clips, unchanged, in batches: for input ranges."""
    augmenter: Augmenter
    """What is done to training clips."""
    features: LogMel
    """Waveforms to features."""

    @torch.no_grad()
    def make(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented features and labels of the training clips at ``index`` in an epoch: for
        ``training.Batches``.
        """
        waveforms = self.augmenter.waveforms(self.train.floats(index), index, epoch=epoch)
        return self.augmenter.features(
            self.features(waveforms), index, epoch=epoch
        ), self.train.labels[index]

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test split for ``analogtorch.accuracy``."""
        return zip(*(part.split(_AT_ONCE) for part in self.test), strict=True)


def prepare(
    splits: dict[str, Clips], augment: Augment, *, seed: int, calibration: int = 1000
) -> Task:
    """Features of ``splits``, as a source loads them.

    Args:
        splits: "train", "val" and "test".
        augment: for the training clips.
        seed: of the augmentation and of the choice of the calibration clips; 0 or more.
        calibration: how many training clips set the input ranges.

    Raises:
        FileNotFoundError, ValueError: the folder of background noise cannot be used.
    """
    features, train = LogMel(), splits["train"]
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:calibration]
    return Task(
        train=train,
        val=(_compute(features, splits["val"]), splits["val"].labels),
        test=(_compute(features, splits["test"]), splits["test"].labels),
        calibration=tuple(features(train.floats(part)) for part in chosen.split(_AT_ONCE)),
        augmenter=Augmenter(augment, seed=seed),
        features=features,
    )


@torch.no_grad()
def _compute(features: LogMel, clips: Clips) -> Tensor:
    parts = torch.arange(len(clips)).split(_AT_ONCE)
    return torch.cat([features(clips.floats(part)) for part in parts])
