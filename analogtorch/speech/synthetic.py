"""Keywords spoken by eSpeak NG: speech for a machine without recordings or a network.

It lets the whole path run anywhere, but shows nothing about accuracy on people: its voices are far
more alike.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from analogtorch.speech import espeak
from analogtorch.speech.audio import to_int16
from analogtorch.speech.cache import cached, digest
from analogtorch.speech.data import SAMPLE_RATE, SAMPLES, SPLITS, Clips, check_snr, check_splits
from analogtorch.speech.draws import hashed, uniform
from analogtorch.speech.espeak import Utterance
from analogtorch.speech.labels import (
    KEYWORDS,
    SILENCE,
    UNKNOWN,
    UNKNOWN_WORDS,
    Preset,
    classes_of,
    settle_labels,
)
from analogtorch.speech.noise import Noise, generate_noise
from analogtorch.values import checks
from analogtorch.values.progress import Progress

logger = logging.getLogger("analogtorch")

ACCENTS = (
    "gmw/en", "gmw/en-029", "gmw/en-GB-scotland", "gmw/en-GB-x-gbclan", "gmw/en-GB-x-gbcwmd",
    "gmw/en-GB-x-rp", "gmw/en-US", "gmw/en-US-nyc",
)  # fmt: skip
"""The English voices of eSpeak NG 1.52, without the one that reads the Shavian alphabet."""

VARIANTS = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "AnxiousAndy", "Denis", "Diogo", "Gene", "Gene2",
    "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Mr serious", "Nguyen",
    "Reed", "RicishayMax", "RicishayMax2", "RicishayMax3", "Storm", "adam", "anika", "announcer",
    "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "edward2",
    "f1", "f2", "f3", "f4", "f5", "grandma", "grandpa", "gustave", "ian", "iven", "iven2", "iven3",
    "iven4", "john", "kaukovalta", "klatt", "klatt2", "klatt3", "klatt4", "klatt5", "klatt6",
    "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel", "miguel",
    "mike2", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby",
    "steph", "steph2", "steph3", "travis", "victor", "whisper", "whisperf", "zac",
)  # fmt: skip
"""The voice variants of eSpeak NG 1.52, without robots and monsters. They are the speakers; each is
in one split."""

# version of the recipe and part of the cache's key: raise it when other clips are generated
_VERSION = 2


class _Plan(NamedTuple):
    """The decisions about one clip.

    All of its random numbers are keyed by (seed, split, label, number).
    """

    label: int
    key: tuple[int | str, ...]
    utterance: Utterance | None  # None: silence
    speaker: str

    def draw(self, what: str, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(uniform(*self.key, what)[0])

    def pick(self, what: str, options: Sequence[str]) -> str:
        return options[int(self.draw(what, 0, len(options)))]


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Speech of eSpeak NG: words, other words and silence, in many voices, with noise.

    It needs the extra `synthetic`. The same configuration gives the same clips, bit for bit,
    whatever `workers` is.

    Raises:
        ValueError: a field is out of range.
    """

    labels: Preset | tuple[str, ...] = "speech_commands_12"
    """The classes: a preset, or English words such as [low, high], with _silence_ (noise alone) and
    _unknown_ (the words of Speech Commands that are no classes) if you like."""
    per_class: int = 300
    """Clips of each class over all splits; at least 10."""
    val_percent: float = 15.0
    """Percentage of voices and clips in "val"; 10 to 40."""
    test_percent: float = 20.0
    """Percentage of voices and clips in "test"; 10 to 40."""
    seed: int = 0
    """Seed of voices, words, speeds, pitches, levels, positions and noise; 0 or more."""
    snr_db: tuple[float, float] = (5.0, 40.0)
    """Range of the ratio of speech to noise, in dB over the duration of the speech."""
    cache: str | None = "~/.cache/analogtorch"
    """Folder that keeps the clips (10 MB for 300 clips of a class); null makes them anew each
    time."""
    workers: int = 2
    """Number of processes that speak; 1 or more."""

    def __post_init__(self) -> None:
        settle_labels(self)
        if UNKNOWN in self.classes and not self._others():
            raise ValueError(
                f"Synthetic.labels: no word is left for {UNKNOWN}, as all that it is made of are "
                f"classes of their own; leave out {UNKNOWN} or some words"
            )
        checks.counts(self, "per_class", least=10, remedy="fewer leave a split empty")
        checks.numbers(self, "val_percent", "test_percent", least=10, most=40)
        checks.counts(self, "seed", least=0, largest=checks.UINT64)
        checks.counts(self, "workers")
        check_snr(self)
        if self.cache is not None:
            checks.text("Synthetic.cache", self.cache, "~/.cache/analogtorch")

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in their order."""
        return classes_of("Synthetic.labels", self.labels)

    def load(self, progress: bool = False) -> dict[str, Clips]:
        """Return the clips of the three splits, from the cache or made now.

        The default size takes 15 s on two free cores.

        Raises:
            ImportError: espeakng-loader is not installed.
            RuntimeError: eSpeak NG failed.
        """
        sizes = (self.per_class, self.val_percent, self.test_percent)
        recipe = (_VERSION, espeak.version(), *sizes, self.seed, self.snr_db, self.classes)
        make = partial(self._make, progress)
        name = f"synthetic-{digest(recipe)}.npz"
        splits = cached(self.cache, name, make) if self.cache else make()
        return check_splits(splits, source="synthetic speech")

    def _make(self, progress: bool) -> dict[str, Clips]:
        voices = self._voices()
        plans = {split: list(self._plans(split, voices[split])) for split in SPLITS}
        spoken = [plan.utterance for split in SPLITS for plan in plans[split] if plan.utterance]
        bar = Progress(total=len(spoken), desc="eSpeak NG", unit="clip", disable=not progress)
        speech = espeak.synthesise(spoken, workers=self.workers)
        with bar:
            return {split: self._render(split, plans[split], speech, bar) for split in SPLITS}

    def _voices(self) -> dict[str, list[str]]:
        order = sorted(VARIANTS, key=lambda variant: float(uniform(self.seed, "voice", variant)[0]))
        return dict(zip(SPLITS, self._cut(order), strict=True))

    def _cut(self, items: list[str]) -> tuple[list[str], list[str], list[str]]:
        val = max(1, round(len(items) * self.val_percent / 100))
        test = max(1, round(len(items) * self.test_percent / 100))
        return items[val + test :], items[:val], items[val : val + test]

    def _others(self) -> list[str]:
        """Return the words of `_unknown_`."""
        return [word for word in (*KEYWORDS, *UNKNOWN_WORDS) if word not in self.classes]

    def _plans(self, split: str, variants: list[str]) -> Iterator[_Plan]:
        val, test = (round(self.per_class * p / 100) for p in (self.val_percent, self.test_percent))
        count = {"train": self.per_class - val - test, "val": val, "test": test}[split]
        others = self._others()
        for label, name in enumerate(self.classes):
            for number in range(count):
                yield _plan(label, name, (self.seed, split, name, number), variants, others)

    def _render(self, split: str, plans: list[_Plan], speech: Iterator, bar: Progress) -> Clips:
        # late, so that `kws --help` does not wait for torchaudio
        from torchaudio.transforms import Resample

        noise = generate_noise(seed=int(hashed(self.seed, "noise", split)[0]))
        host = torch.device("cpu")
        waveforms = torch.empty(len(plans), SAMPLES, dtype=torch.int16, device=host)
        cut: Counter[str] = Counter()
        with host:  # torchaudio makes tensors on the default device
            resample = Resample(espeak.SAMPLE_RATE, SAMPLE_RATE)
            for row, plan in enumerate(plans):
                word = torch.zeros(0, dtype=torch.float32, device=host)
                if plan.utterance:
                    word = resample(torch.frombuffer(next(speech), dtype=torch.int16).float())
                    bar.update()
                    cut[plan.utterance.text] += len(word) > SAMPLES
                waveforms[row] = to_int16(_mix(plan, word, noise, self.snr_db))
        for text, count in cut.items():
            if count:
                logger.warning(
                    "synthetic: %r lasts longer than a second in %d clips of %s, which end before "
                    "it does; take a shorter text", text, count, split,
                )  # fmt: skip
        return Clips(
            waveforms=waveforms,
            labels=torch.tensor([plan.label for plan in plans], device="cpu"),
            speakers=tuple(plan.speaker for plan in plans),
            names=tuple("/".join(map(str, plan.key[1:])) for plan in plans),
            classes=self.classes,
        )


def _plan(
    label: int, name: str, key: tuple[int | str, ...], variants: list[str], others: list[str]
) -> _Plan:
    """Choose word, voice, speed and pitch; `others` are the words of `_unknown_`."""
    plan = _Plan(label, key, None, "")
    if name == SILENCE:
        return plan
    variant = plan.pick("variant", variants)
    utterance = Utterance(
        text=plan.pick("word", others) if name == UNKNOWN else name,
        voice=f"{plan.pick('accent', ACCENTS)}+{variant}",
        rate=round(plan.draw("rate", 120, 260)),
        pitch=round(plan.draw("pitch", 25, 75)),
        pitch_range=round(plan.draw("range", 20, 80)),
    )
    return plan._replace(utterance=utterance, speaker=variant)


def _mix(plan: _Plan, word: Tensor, noise: Noise, snr_db: tuple[float, float]) -> Tensor:
    """Return one second, float (16000,): the word near the middle at some level, with noise."""
    background = noise.crop(np.array([plan.draw("crop")]))[0]
    if not plan.utterance:
        return background * 10 ** (plan.draw("level", -70, -30) / 20)
    word = word[:SAMPLES]
    word = word * (10 ** (plan.draw("level", -24, -3) / 20) / max(float(word.abs().max()), 1.0))
    slack = SAMPLES - len(word)
    start = min(max(slack // 2 + round(plan.draw("shift", -0.15, 0.15) * SAMPLE_RATE), 0), slack)
    power = float(word.square().mean().sqrt())
    clip = background * (power * 10 ** (-plan.draw("snr", *snr_db) / 20))
    clip[start : start + len(word)] += word
    return clip
