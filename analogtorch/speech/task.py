"""The data of training and measurement: augmented batches, and features that are computed once."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from analogtorch.calibration.choice import Effort
from analogtorch.calibration.search import BATCHES
from analogtorch.speech.alone import check_alone
from analogtorch.speech.augment import Augment, Augmenter
from analogtorch.speech.data import Clips
from analogtorch.speech.features import LogMel
from analogtorch.speech.tried import tried

AT_ONCE = 64
"""Clips of a batch, whose features are computed, or that are classified: they fit into caches."""
_QUIET = 0.1
"""Level of the second clip that a front end is tried with."""
_FEW = 8
"""Clips in each batch of a rehearsed search."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Keyword spotting on the clips of one source."""

    train: Clips
    """The training split."""
    test_clips: Clips
    """The test split."""
    val: tuple[Tensor, Tensor]
    """Features (N, ...) and labels (N,)."""
    test: tuple[Tensor, Tensor]
    """Features (N, ...) and labels (N,)."""
    calibration: tuple[Tensor, ...]
    """Features of training clips without augmentation, in batches, for `calibrate`."""
    augmenter: Augmenter
    """The augmentation of training clips."""
    features: nn.Module
    """The front end, from waveforms (B, 16000) to features (B, ...)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in their order."""
        return self.train.classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the features of one clip, such as (1, 49, 40)."""
        return tuple(self.val[0].shape[1:])

    @torch.no_grad()
    def make(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return augmented features and labels of the training clips at ``index`` in an epoch.

        ``training.Batches`` calls it.
        """
        waveforms = self.augmenter.waveforms(self.train.floats(index), index, epoch=epoch)
        found = self.features(waveforms)
        _check_finite(self.features, found, self.train, index, "training clip, augmented,")
        return self.augmenter.features(found, index, epoch=epoch), self.train.labels[index]

    def test_batches(self) -> list[tuple[Tensor, Tensor]]:
        """Return the batches of the test split for ``analogtorch.accuracy``."""
        return _batches(self.test)

    def validation_batches(self) -> list[tuple[Tensor, Tensor]]:
        """Return those of the validation split."""
        return _batches(self.val)

    def small(self, effort: Effort) -> "Task":
        """Return this task with as few calibration clips as an effort can be rehearsed with.

        Raises:
            ValueError: there are too few for that effort.
        """
        if effort != "search":
            return replace(self, calibration=self.calibration[:1])
        if len(self.calibration) < BATCHES:
            raise ValueError(
                f"chip.calibration=search needs {BATCHES} batches of training clips, which are "
                f"{AT_ONCE * (BATCHES - 1) + 1} clips or more, got {len(self.train)}; add clips, "
                "or use chip.calibration=default"
            )
        return replace(self, calibration=self.calibration[0].split(_FEW)[:BATCHES])


def _batches(split: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(part.split(AT_ONCE) for part in split), strict=True))


def prepare(
    splits: dict[str, Clips],
    augment: Augment,
    *,
    seed: int,
    features: nn.Module | None = None,
    calibration: int = 1000,
) -> Task:
    """Compute the features of ``splits``.

    Args:
        splits: the clips of "train", "val" and "test", as a source returns them.
        augment: augmentation of the training clips.
        seed: seed of the augmentation and of the choice of the calibration clips; 0 or more.
        features: the front end; None takes ``LogMel()``.
        calibration: number of training clips for `calibrate`.

    Raises:
        FileNotFoundError: the folder of background noise does not exist or holds no audio.
        ValueError: ``read_noise`` refuses the folder of background noise, or the front end does not
            give finite numbers for each clip, or other ones for a clip alone than in a batch.
    """
    train = splits["train"]
    features, two = LogMel() if features is None else features, _two(train)
    names = [f"the clip {train.names[i]!r}" for i in two.tolist()]
    waveforms = train.floats(two)
    # what divides by the largest of a batch shows where clips are not alike in level
    waveforms[1:] *= _QUIET
    names[1:] = [f"{name}, at {_QUIET:g} of its level," for name in names[1:]]
    check_front_end(features, waveforms, tuple(names))
    chosen = torch.randperm(
        len(train), generator=torch.Generator().manual_seed(seed), device="cpu"
    )[:calibration]
    return Task(
        train=train,
        test_clips=splits["test"],
        val=(_compute(features, splits["val"]), splits["val"].labels),
        test=(_compute(features, splits["test"]), splits["test"].labels),
        calibration=tuple(_parts(features, train, chosen)),
        augmenter=Augmenter(augment, seed=seed),
        features=features,
    )


@torch.no_grad()
def check_front_end(features: nn.Module, waveforms: Tensor, names: tuple[str, ...]) -> Tensor:
    """Return the features of some clips, after a try of the front end on each alone, too.

    Args:
        features: the front end, in evaluation mode.
        waveforms: those of the clips, which differ: (B, 16000).
        names: the clips, for messages.

    Raises:
        ValueError: it fails, gives something else than features for each clip, or those of a clip
            are random or depend on the other clips.
    """
    what = f"the front end {type(features).__name__}"
    found = tried(what, features, waveforms, "waveforms")
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim < 2:
        given = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found)
        raise ValueError(f"{what} gives {given}; it must give floating-point features (B, ...)")
    if len(found) != len(waveforms):
        raise ValueError(
            f"{what} gives {tuple(found.shape)} for {len(waveforms)} clips; it must give features "
            "for each clip"
        )
    check_alone(what, features, waveforms, names, "waveforms", "features")
    return found


def _two(clips: Clips) -> Tensor:
    """Return the indices of the first clip and of the first of another class, or the last one."""
    other = (clips.labels != clips.labels[0]).nonzero().flatten()[:1].tolist() or [len(clips) - 1]
    return torch.tensor(list(dict.fromkeys([0, *other])), device="cpu")


def _compute(features: nn.Module, clips: Clips) -> Tensor:
    return torch.cat(_parts(features, clips, torch.arange(len(clips), device="cpu")))


@torch.no_grad()
def _parts(features: nn.Module, clips: Clips, index: Tensor) -> list[Tensor]:
    """Return the features of the clips at ``index``, in parts."""
    parts = []
    for part in index.split(AT_ONCE):
        parts.append(features(clips.floats(part)))
        _check_finite(features, parts[-1], clips, part, "clip")
    return parts


def _check_finite(
    features: nn.Module, found: Tensor, clips: Clips, index: Tensor, what: str
) -> None:
    """Raise ValueError if the front end gives NaN or infinite numbers for clips, at ``index``."""
    wrong = ~found.isfinite().flatten(1).all(1)
    if bool(wrong.any()):
        first = clips.names[int(index[wrong][0])]
        raise ValueError(
            f"the front end {type(features).__name__} gives numbers that are not finite for "
            f"{int(wrong.sum())} of {len(index)} clips, such as the {what} {first!r}; the "
            "logarithm of silence is one reason: add a small number before it"
        )
