"""What each clip of a test was heard as, digitally and on chips."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class Misheard:
    """A clip that chips misheard."""

    index: int
    """Index in the test split."""
    name: str
    """Name of the clip: a path, or the synthesised text."""
    said: str
    """Its label."""
    digital: str
    """What the digital net heard."""
    chips: tuple[str, ...]
    """What each chip heard."""
    wav: bytes
    """The clip as a WAV file."""

    def to_dict(self) -> dict[str, Any]:
        """Return all but the recording, ready for JSON."""
        return {
            "index": self.index,
            "name": self.name,
            "said": self.said,
            "digital": self.digital,
            "chips": list(self.chips),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """What N clips were heard as by the digital net, and on chips after HWA training.

    Raises:
        ValueError: shapes do not fit together.
    """

    classes: tuple[str, ...]
    labels: Tensor
    """Index of the class of each clip, (N,), int64."""
    digital: Tensor
    """What the digital net heard, (N,), int64."""
    chips: Tensor
    """What each chip heard, (chips, N), int64."""
    seeds: tuple[int, ...]
    """Seed of each chip: those of the first chips of the sweep."""
    time: str
    """Time after programming."""
    note: str = ""
    """A caveat of ``time``, such as that the devices' data end before it; empty if there is
    none."""
    misheard: tuple[Misheard, ...] = ()
    """Some of the clips that chips misheard."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        wanted = {"digital": (count,), "chips": (len(self.seeds), count)}
        for field, shape in wanted.items():
            if tuple(getattr(self, field).shape) != shape:
                raise ValueError(
                    f"Heard.{field} must have shape {shape}, got "
                    f"{checks.shown(getattr(self, field))}"
                )

    def confusion(self, heard: Tensor) -> Tensor:
        """Return how often each class (rows) was heard as each class (columns), as counts.

        Args:
            heard: what was heard, (N,) or (chips, N); chips are added.
        """
        count = len(self.classes)
        pairs = self.labels.expand_as(heard) * count + heard
        return torch.bincount(pairs.flatten(), minlength=count**2).reshape(count, count)

    def chosen(self, count: int) -> tuple[int, ...]:
        """Return the indices of at most ``count`` misheard clips.

        Those come first that the digital net hears and most chips do not; of each label one,
        then further ones.
        """
        wrong = (self.chips != self.labels).sum(0).tolist()
        right = (self.digital == self.labels).tolist()
        found = [i for i, number in enumerate(wrong) if number > 0]
        found.sort(key=lambda i: (not right[i], -wrong[i], i))
        labels = self.labels.tolist()
        firsts = list({labels[i]: i for i in reversed(found)}.values())
        firsts.sort(key=found.index)
        return tuple(dict.fromkeys([*firsts, *found]))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return the confusion matrices as counts, those of the chips added, ready for JSON."""
        return {
            "time": self.time,
            **({"note": self.note} if self.note else {}),
            "seeds": list(self.seeds),
            "digital": self.confusion(self.digital).tolist(),
            "chips": self.confusion(self.chips).tolist(),
            "misheard": [clip.to_dict() for clip in self.misheard],
        }
