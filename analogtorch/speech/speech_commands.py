"""Google Speech Commands v0.02, with any of its words as classes, from a folder or a download.

It downloads only when asked. Source: P. Warden, "Speech Commands: A Dataset for Limited-Vocabulary
Speech Recognition", arXiv:1804.03209; CC BY 4.0.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from analogtorch.files import expanded
from analogtorch.speech.audio import read_clips, to_int16
from analogtorch.speech.clip_files import NOISE
from analogtorch.speech.data import (
    SAMPLE_RATE,
    SAMPLES,
    SPLITS,
    Clips,
    Recorded,
    check_partition,
)
from analogtorch.speech.draws import uniform
from analogtorch.speech.labels import SILENCE, UNKNOWN, Preset, classes_of, settle_labels
from analogtorch.speech.noise import NOISE_PARTS, Noise, read_noise
from analogtorch.values import checks

if TYPE_CHECKING:
    from torchaudio.datasets import SPEECHCOMMANDS

FOLDER = "SpeechCommands/speech_commands_v0.02"
"""Folder of the corpus below a root, as torchaudio names it."""


class _Word(NamedTuple):
    path: str  # below the root's SpeechCommands folder
    label: int
    speaker: str


def which_set(speaker: str) -> str:
    """Return the corpus' split of a speaker: 80 % train, 10 % val, 10 % test.

    A speaker is the part of a file name before "_nohash_". The rule is that of the authors
    (arXiv:1804.03209, section 6.2; TensorFlow's `input_data.which_set`).
    """
    largest = 2**27 - 1
    position = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (largest + 1) * (100 / largest)
    if position < 10:
        return "val"
    return "test" if position < 20 else "train"


@dataclass(frozen=True, kw_only=True)
class SpeechCommands:
    """Google Speech Commands v0.02: words, `_unknown_` and `_silence_`.

    The splits are those of the corpus. `_unknown_` is a random choice among the other words.
    `_silence_` is cut from the recordings in `_background_noise_`, at random levels: training from
    the first 80 % of each recording, validation from the next 10 %, test from the last. Recordings
    shorter than one second get zeros at their end.

    Raises:
        ValueError: a field is out of range.
    """

    root: str
    """Folder with SpeechCommands/speech_commands_v0.02, as torchaudio unpacks it; variables are
    replaced as in `Folder.root`."""
    labels: Preset | tuple[str, ...] = "speech_commands_12"
    """The classes: a preset, or words of the corpus such as [yes, no], with _silence_ and _unknown_
    if you like."""
    download: bool = False
    """Download and unpack the corpus (2.4 GB) if it is not there."""
    unknown_percent: float = 10.0
    """Clips of `_unknown_` in each split, in percent of its keyword clips; 0 to 100. The task has
    10."""
    silence_percent: float = 10.0
    """Clips of `_silence_` in each split, in percent of its keyword clips; 0 to 100. The task has
    10."""
    seed: int = 0
    """Seed that chooses the `_unknown_` clips and cuts the `_silence_` ones; 0 or more."""

    def __post_init__(self) -> None:
        checks.text("SpeechCommands.root", self.root, "data")
        settle_labels(self)
        checks.flag("SpeechCommands.download", self.download)
        checks.numbers(self, "unknown_percent", "silence_percent", least=0, most=100)
        checks.counts(self, "seed", least=0, largest=checks.UINT64)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in their order."""
        return classes_of("SpeechCommands.labels", self.labels)

    def load(self, progress: bool = False) -> dict[str, Clips]:
        """Return the clips of the three splits.

        Raises:
            FileNotFoundError: the corpus or its background noise is missing.
            ValueError: a recording cannot be read, a split has no clips, or the lists of the corpus
                contradict its rule.
        """
        corpus = self._corpus()
        words = self._words(corpus)
        check_partition(
            (
                (split, self.classes[w.label], w.speaker, w.path)
                for split in SPLITS
                for w in words[split]
            ),
            source=self.root,
        )
        silent = self.silence_percent and SILENCE in self.classes
        noise = read_noise(expanded(self.root) / FOLDER / NOISE) if silent else None
        return {split: self._clips(split, words[split], noise, progress) for split in SPLITS}

    def _corpus(self) -> "SPEECHCOMMANDS":
        # late, so that `kws --help` does not wait for torchaudio
        from torchaudio.datasets import SPEECHCOMMANDS

        root = expanded(self.root)
        if not self.download and not (root / FOLDER).is_dir():
            raise FileNotFoundError(
                f"root={self.root!r} holds no {FOLDER}. Point root at the folder that does, "
                "or write download=True to fetch 2.4 GB"
            )
        root.mkdir(parents=True, exist_ok=True)
        return SPEECHCOMMANDS(root, download=self.download)

    def _words(self, corpus: "SPEECHCOMMANDS") -> dict[str, list[_Word]]:
        """Return the keyword and unknown clips of each split, in the order of their paths."""
        index = {word: number for number, word in enumerate(self.classes)}
        found: set[str] = set()
        listed = _listed(expanded(self.root) / FOLDER)
        keywords: dict[str, list[_Word]] = {split: [] for split in SPLITS}
        others: dict[str, list[_Word]] = {split: [] for split in SPLITS}
        for position in range(len(corpus)):
            path, _, word, speaker, _ = corpus.get_metadata(position)
            split = which_set(speaker)
            if listed and listed.get(path, "train") != split:
                raise ValueError(
                    f"{path} belongs to {split!r} by the corpus' rule, but validation_list.txt and "
                    "testing_list.txt say otherwise; unpack the corpus anew, or remove both lists "
                    "to use the rule"
                )
            found.add(word)
            if word in index:
                keywords[split].append(_Word(path, index[word], speaker))
            elif UNKNOWN in index:
                others[split].append(_Word(path, index[UNKNOWN], speaker))
        if absent := [w for w in index if w not in found | {SILENCE, UNKNOWN}]:
            raise ValueError(
                f"labels names {absent[0]!r}, of which {self.root} has no clip; its words are "
                f"{', '.join(sorted(found))}{checks.nearest(absent[0], found)}"
            )
        return {
            split: sorted(keywords[split] + self._choose(others[split], len(keywords[split])))
            for split in SPLITS
        }

    def _choose(self, others: list[_Word], keywords: int) -> list[_Word]:
        order = sorted(others, key=lambda word: float(uniform(self.seed, word.path)[0]))
        return order[: math.ceil(keywords * self.unknown_percent / 100)]

    def _clips(self, split: str, words: list[_Word], noise: Noise | None, progress: bool) -> Clips:
        base = expanded(self.root) / Path(FOLDER).parent
        spoken, recorded = read_clips(
            ((word.path, base / word.path) for word in words), len(words),
            resample=False, fit="pad_or_trim", progress=progress, title=f"reading {split}",
        )  # fmt: skip
        keywords = sum(self.classes[word.label] != UNKNOWN for word in words)
        count = math.ceil(keywords * self.silence_percent / 100)
        silence = torch.empty(0, SAMPLES, dtype=torch.int16, device="cpu")
        if noise:
            silence = self._silence(split, count, noise)
        words = words + [
            _Word(f"{SILENCE}/{n}", self.classes.index(SILENCE), "") for n in range(len(silence))
        ]
        return Clips(
            waveforms=torch.cat([spoken, silence]),
            recorded=recorded + (Recorded(SAMPLE_RATE, SAMPLES),) * len(silence),
            labels=torch.tensor([word.label for word in words], device="cpu"),
            speakers=tuple(word.speaker for word in words),
            names=tuple(word.path for word in words),
            classes=self.classes,
        )

    def _silence(self, split: str, count: int, noise: Noise) -> torch.Tensor:
        number = np.arange(count)
        crops = noise.part(*NOISE_PARTS[split]).crop(uniform(self.seed, split, "crop", number))
        level = torch.from_numpy(uniform(self.seed, split, "level", number)).float()
        return to_int16(crops * level[:, None])


def _listed(folder: Path) -> dict[str, str]:
    """Return the split of each path in the corpus' lists; empty if there are no lists."""
    lists = {"val": folder / "validation_list.txt", "test": folder / "testing_list.txt"}
    if not all(file.is_file() for file in lists.values()):
        return {}
    return {
        f"{folder.name}/{line}": split
        for split, file in lists.items()
        for line in file.read_text().split()
    }
