"""The clips that every source of speech returns, and the checks that all sources share."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from analogtorch.speech.labels import LABELS, SILENCE, alike, classes_of
from analogtorch.values import checks

SAMPLE_RATE = 16_000
"""Sampling rate, Hz."""
SAMPLES = 16_000
"""Number of samples of one clip, which lasts one second."""
FRAMES, MELS = 49, 40
"""Frames of the features of a clip, and filters of each. They stand here as a configuration needs
them, and torchaudio, which computes features, takes seconds to import."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Recorded:
    """A recording before it became a clip."""

    rate: int
    """Its sampling rate, Hz."""
    samples: int
    """Its samples at 16 kHz."""

    @property
    def seconds(self) -> float:
        """Its length, s."""
        return self.samples / SAMPLE_RATE

    @property
    def padded(self) -> bool:
        """Whether it is shorter than a clip, which has zeros at its end then."""
        return self.samples < SAMPLES

    @property
    def cut(self) -> bool:
        """Whether it is longer than a clip, which is its loudest second then."""
        return self.samples > SAMPLES


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """N labelled recordings of one second.

    Raises:
        TypeError: a field is no tensor or has another dtype, or speakers or names are no tuple of
            texts.
        ValueError: shapes do not fit together, a label is outside `classes`, or `classes` are not
            two or more different texts.
    """

    waveforms: Tensor
    """Samples (N, 16000), int16, at 16 kHz, mono."""
    labels: Tensor
    """Indices into `classes`, (N,), int64."""
    speakers: tuple[str, ...]
    """Speaker of each clip (a person or a synthetic voice); "" if nobody speaks, or if the speaker
    is unknown."""
    names: tuple[str, ...]
    """Name of each clip for messages: a path, or the synthesised text."""
    classes: tuple[str, ...] = LABELS
    """The classes in their order: by default the 12 of Speech Commands."""
    recorded: tuple[Recorded, ...] = ()
    """What each clip was made from; empty if that is not known."""

    def __post_init__(self) -> None:
        for field, dtype in (("waveforms", torch.int16), ("labels", torch.int64)):
            checks.instance(
                f"Clips.{field}", getattr(self, field), Tensor, f"torch.zeros(1, dtype={dtype})"
            )
            if (given := getattr(self, field).dtype) != dtype:
                raise TypeError(f"Clips.{field} is {given}; it must be {dtype}")
        count = self.labels.shape[:1].numel()
        if self.waveforms.shape != (count, SAMPLES) or self.labels.ndim != 1:
            raise ValueError(
                f"Clips.waveforms has shape {tuple(self.waveforms.shape)} and labels "
                f"{tuple(self.labels.shape)}; they must be (N, {SAMPLES}) and (N,)"
            )
        for field in ("speakers", "names"):
            given = getattr(self, field)
            if not (
                isinstance(given, tuple | list) and all(isinstance(text, str) for text in given)
            ):
                raise TypeError(
                    f"Clips.{field} must be a tuple of texts, one per clip, got "
                    f"{checks.shown(given)}"
                )
            checks.settle(self, field, tuple(given))
        if len(self.speakers) != count or len(self.names) != count:
            raise ValueError(
                f"Clips has {count} labels, {len(self.speakers)} speakers, {len(self.names)} names"
            )
        if self.recorded and len(self.recorded) != count:
            raise ValueError(
                f"Clips has {count} labels and {len(self.recorded)} of recorded; give one of each "
                "clip, or none"
            )
        checks.settle(self, "classes", classes_of("Clips.classes", self.classes))
        last = len(self.classes) - 1
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) <= last:
            raise ValueError(
                f"Clips.labels spans {int(self.labels.min())}..{int(self.labels.max())}; use "
                f"0..{last}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def floats(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Return the waveforms at `index` as float32 in [-1, 1): samples / 32768.

        Features and augmentation take this form.
        """
        return self.waveforms[index].float().div_(32_768)


def check_waveforms(waveforms: Any, dtype: torch.dtype | None = None) -> None:
    """Raise an error unless ``waveforms`` is a batch of clips for features or augmentation.

    It must be float in [-1, 1] of shape (B, 16000).

    Args:
        waveforms: the batch.
        dtype: the dtype that it must have; None allows any floating-point dtype.

    Raises:
        TypeError: it is no tensor, or one of another type.
        ValueError: the shape is another.
    """
    checks.instance("waveforms", waveforms, Tensor, "Clips.floats()")
    if waveforms.ndim != 2 or waveforms.shape[1] != SAMPLES:
        raise ValueError(
            f"waveforms of shape {tuple(waveforms.shape)}; features need (B, {SAMPLES}): 1 s at 16 "
            "kHz"
        )
    if not waveforms.is_floating_point():
        raise TypeError(
            f"waveforms are {waveforms.dtype}; features need float in [-1, 1]: use Clips.floats()"
        )
    if dtype is not None and waveforms.dtype != dtype:
        raise TypeError(
            f"waveforms are {waveforms.dtype}, the features {dtype}; convert one of them with "
            ".to(dtype)"
        )


def check_snr(owner: Any) -> None:
    """Check the field ``snr_db`` of a frozen dataclass and set it.

    It must hold two numbers from -20 to 100 dB, the smaller first.

    Raises:
        ValueError: it is something else.
    """
    name, given = f"{type(owner).__name__}.snr_db", owner.snr_db
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(
            f"{name} must be (lowest, highest) in dB, such as (5.0, 40.0), got "
            f"{checks.shown(given)}"
        )
    low = checks.number(f"{name}[0]", given[0], least=-20, most=100)
    high = checks.number(f"{name}[1]", given[1], least=-20, most=100)
    if low > high:
        raise ValueError(
            f"{name} must be (lowest, highest) in dB, such as (5.0, 40.0), got {given}"
        )
    checks.settle(owner, "snr_db", (low, high))


def fingerprint(splits: Mapping[str, Clips], *noise: Tensor) -> str:
    """Return the SHA-256 of all recordings and labels in their order, and of ``noise``.

    The source and the names of the recordings do not matter.
    """
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f"{split} {len(splits[split])}".encode())
        digest.update(splits[split].labels.contiguous().numpy().data)
        digest.update(splits[split].waveforms.contiguous().numpy().data)
    for recording in noise:
        digest.update(f"noise {len(recording)}".encode())
        digest.update(recording.contiguous().numpy().data)
    return f"sha256:{digest.hexdigest()}"


class Source(Protocol):
    """A source of speech: `Synthetic`, `SpeechCommands`, `Folder`, or your class with `load`."""

    def load(self, progress: bool = False) -> dict[str, Clips]:
        """Return the clips of "train", "val" and "test", of one set of classes.

        No speaker is in two of them. `progress` shows a bar on stderr.
        """
        ...


def check_splits(splits: Mapping[str, Clips], *, source: str) -> dict[str, Clips]:
    """Return `splits` in the order of `SPLITS`, after `check_partition`.

    Raises:
        ValueError: a split is missing, or `check_partition` refuses them.
        TypeError: it is no dictionary of `Clips`.
    """
    if not isinstance(splits, Mapping):
        raise TypeError(
            f"{source} must give a dictionary of {', '.join(SPLITS)}, got {checks.shown(splits)}"
        )
    if set(splits) != set(SPLITS):
        given = ", ".join(map(repr, splits))
        raise ValueError(
            f"{source} gives the splits {given}; it must give exactly {', '.join(SPLITS)}"
        )
    for split, clips in splits.items():
        checks.instance(
            f"{source}: the split {split!r}", clips, Clips, "Folder(root='data').load()['val']"
        )
    if len({clips.classes for clips in splits.values()}) > 1:
        given = ", ".join(f"{split} {clips.classes}" for split, clips in splits.items())
        raise ValueError(f"{source}: the splits have different classes: {given}")
    entries = (
        (split, clips.classes[label], speaker, name)
        for split, clips in splits.items()
        for label, speaker, name in zip(
            clips.labels.tolist(), clips.speakers, clips.names, strict=True
        )
    )
    check_partition(entries, source=source)
    return {split: splits[split] for split in SPLITS}


def check_partition(
    entries: Iterable[tuple[str, str, str, str]], *, source: str, named: bool = True
) -> None:
    """Raise an error if a split is empty or a speaker, in whatever spelling, is in two splits.

    Args:
        entries: split, class, speaker and name of each clip.
        source: name of the source for messages.
        named: if True, every clip but those of `_silence_` must name its speaker.

    Raises:
        ValueError: the message names the split or the speakers, the clips concerned, and the
            remedy.
    """
    counts = dict.fromkeys(SPLITS, 0)
    seen: dict[str, tuple[str, str, str]] = {}
    leaks: dict[str, str] = {}
    for split, label, speaker, name in entries:
        counts[split] += 1
        if not speaker:
            if named and label != SILENCE:
                raise ValueError(
                    f"{source}: {name} names no speaker; only {SILENCE} clips may leave it empty"
                )
            continue
        other, first, spelt = seen.setdefault(alike(speaker), (split, name, speaker))
        if other != split:
            again = "" if speaker == spelt else f", spelt {speaker!r}"
            leaks.setdefault(spelt, f"{other!r} ({first}) and {split!r} ({name}{again})")
    if leaks:
        (first, where), *more = leaks.items()
        listed = ", ".join(repr(speaker) for speaker, _ in more[:10])
        others = f"; so are {listed}{', ...' * (len(more) > 10)}" if more else ""
        raise ValueError(
            f"{source}: speaker {first!r} is in two splits, {where}{others}. Accuracy would be "
            "measured on voices from training: keep all clips of a speaker in one split."
        )
    for split, count in counts.items():
        if not count:
            raise ValueError(
                f"{source}: the split {split!r} is empty (clips: "
                f"{', '.join(f'{s} {n}' for s, n in counts.items())}). Training needs all three: "
                "assign some speakers' clips to it."
            )


def speaker_note(splits: Mapping[str, Clips]) -> str | None:
    """Return a caveat for the report if clips of words name no speaker, else None."""
    words = [
        speaker
        for clips in splits.values()
        for label, speaker in zip(clips.labels.tolist(), clips.speakers, strict=True)
        if clips.classes[label] != SILENCE
    ]
    if all(words):
        return None
    return (
        f"{sum(not speaker for speaker in words):,} of {len(words):,} clips name no speaker: the "
        "same voices may be in training and test, and accuracy on other people may be lower."
    )


def coverage_note(splits: Mapping[str, Clips]) -> str | None:
    """Return a caveat for the report if a split has no clip of a class, else None."""
    absent = {
        split: [c for i, c in enumerate(clips.classes) if not bool((clips.labels == i).any())]
        for split, clips in splits.items()
    }
    said = [f"{', '.join(absent[s])} in {s}" for s in SPLITS if absent.get(s)]
    if not said:
        return None
    return (
        f"no clips of {'; none of '.join(said)}: the accuracy says nothing about classes without "
        "test clips, a net does not learn those without training clips, and choices on validation "
        "clips leave out those without them."
    )


def silence_note(splits: Mapping[str, Clips]) -> str | None:
    """Return a caveat for the report if there is no sound in clips of words, else None."""
    mute = [
        f"{name} ({clips.classes[label]} in {split})"
        for split, clips in splits.items()
        for heard, label, name in zip(
            _heard(clips), clips.labels.tolist(), clips.names, strict=True
        )
        if not heard and clips.classes[label] != SILENCE
    ]
    if not mute:
        return None
    return (
        f"no sound in {len(mute):,} clip{'s' * (len(mute) > 1)} of words: {', '.join(mute[:5])}"
        f"{', ...' * (len(mute) > 5)}. Nobody can tell what was said: leave them out, or give them "
        f"the label {SILENCE}."
    )


def _heard(clips: Clips) -> list[bool]:
    """Return of each clip whether its samples differ."""
    low, high = clips.waveforms.aminmax(dim=1)
    return (low != high).tolist()


def check_recordings(splits: Mapping[str, Clips], *, source: str) -> None:
    """Raise an error if a recording is in two splits or under two labels.

    Names do not matter. Clips of silence do not count.

    Raises:
        ValueError: the message has both names and the remedy.
    """
    seen: dict[bytes, tuple[str, int, str]] = {}
    for split, clips in splits.items():
        heard = _heard(clips)
        for row, (label, name) in enumerate(zip(clips.labels.tolist(), clips.names, strict=True)):
            if not heard[row]:
                continue
            key = hashlib.sha256(clips.waveforms[row].numpy().data).digest()
            other, first, before = seen.setdefault(key, (split, label, name))
            if (other, first) != (split, label):
                raise ValueError(
                    f"{source}: {before} ({clips.classes[first]} in {other!r}) and {name} "
                    f"({clips.classes[label]} in {split!r}) are the same recording; keep one of "
                    "them"
                )
