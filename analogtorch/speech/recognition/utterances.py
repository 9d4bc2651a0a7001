"""Utterances of several words, joined from real recordings of single ones in background noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from analogtorch.speech.audio import resampled
from analogtorch.speech.data import SAMPLE_RATE, SAMPLES, Clips, check_snr
from analogtorch.speech.draws import hashed, uniform
from analogtorch.speech.noise import Noise
from analogtorch.speech.recognition.vocabulary import Vocabulary
from analogtorch.values import checks

_FRAME = SAMPLE_RATE // 50
_QUIET = 10 ** (-30 / 20)
"""A word begins and ends where its 20 ms are louder than this share of its loudest: 30 dB."""
_MARGIN = 3
"""Frames of a clip that are kept before and after its word: 60 ms."""
_END = 0.4
"""Shortest pause after the last word, s."""


@dataclass(frozen=True, kw_only=True)
class Joining:
    """How utterances are made of clips.

    Raises:
        ValueError: a field is out of range.
    """

    words: tuple[int, int] = (3, 7)
    """Fewest and most words, each >= 1."""
    pause_s: tuple[float, float] = (0.0, 0.3)
    """Shortest and longest pause between words, s; 0 to 10."""
    noise_probability: float = 1.0
    """Share of utterances with background noise, if there is any; 0 to 1."""
    snr_db: tuple[float, float] = (10.0, 30.0)
    """Range of the ratio of the RMS of the words to that of the noise, dB."""
    speeds: tuple[float, ...] = (1.0,)
    """Speeds of which each utterance gets one, 0.5 to 2 each; the pitch changes with the speed."""
    gain_db: float = 0.0
    """Largest change of level, up or down, dB; 0 to 40."""

    def __post_init__(self) -> None:
        for name, form in (("words", "(3, 7)"), ("pause_s", "(0.0, 0.3)")):
            pair = checks.items(f"Joining.{name}", getattr(self, name), form)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"Joining.{name} must be (least, most), got {checks.shown(pair)}")
            for value in pair:
                if name == "words":
                    checks.count("Joining.words", value)
                else:
                    checks.number("Joining.pause_s", value, least=0, most=10)
            checks.settle(self, name, tuple(pair))
        checks.numbers(self, "noise_probability", least=0, most=1)
        checks.numbers(self, "gain_db", least=0, most=40)
        check_snr(self)
        speeds = checks.items("Joining.speeds", self.speeds, "(0.9, 1.0, 1.1)")
        if not speeds:
            raise ValueError("Joining.speeds is empty; (1.0,) changes nothing")
        for speed in speeds:
            checks.number("Joining.speeds", speed, least=0.5, most=2)
        checks.settle(self, "speeds", tuple(speeds))


@dataclass(frozen=True, kw_only=True, eq=False)
class Utterance:
    """Several words in a row."""

    samples: Tensor
    """Float samples (n,) in [-1, 1] at 16 kHz."""
    said: str
    """The words."""
    spans: Tensor
    """Start and end of each word, s: float (words, 2)."""
    speakers: tuple[str, ...]
    """Who speaks them, each once."""


class ConnectedWords(Dataset[Utterance]):
    """Utterances of the words of one split: each is a pure function of (seed, epoch, index).

    A clip is drawn among all; its speaker says the other words, too, as far as there are clips, and
    no clip is there twice. Words are cut out of their clips where they are loud, and joined with
    pauses. Training and test are disjoint by speaker if the splits are.

    Args:
        clips: clips of words; classes in underscores, such as ``_silence_``, are left out.
        joining: how they are joined.
        size: number of utterances of an epoch.
        noise: background recordings, or None.
        seed: seed of everything; 0 or more.

    Raises:
        ValueError: there are fewer clips than words of an utterance, or a number is out of range.
    """

    def __init__(
        self,
        clips: Clips,
        joining: Joining | None = None,
        *,
        size: int,
        noise: Noise | None = None,
        seed: int = 0,
    ) -> None:
        self.joining = Joining() if joining is None else joining
        self.clips, self.noise = clips, noise
        self.size = checks.count("ConnectedWords: size", size)
        self.seed = checks.count("ConnectedWords: seed", seed, least=0, largest=checks.UINT64)
        self.vocabulary = Vocabulary(tokens=tuple(c for c in clips.classes if c[0] != "_"))
        self._rows = [i for i, y in enumerate(clips.labels.tolist()) if clips.classes[y][0] != "_"]
        if len(self._rows) < self.joining.words[1]:
            raise ValueError(
                f"ConnectedWords: {len(self._rows)} clips of words are too few for utterances of "
                f"{self.joining.words[1]}"
            )
        self._of: dict[str, list[int]] = {}
        for row in self._rows:
            self._of.setdefault(clips.speakers[row], []).append(row)
        self._spans = word_spans(clips.waveforms)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Utterance:
        return self.utterance(index)

    def utterance(self, index: int, epoch: int = 0) -> Utterance:
        """Return an utterance of an epoch.

        Raises:
            IndexError: there is none of that number.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"utterance {index} of {self.size}")
        key, joining = (self.seed, epoch, index), self.joining
        fewest, most = joining.words
        count = fewest + int(uniform(*key, "words")[0] * (most - fewest + 1))
        rows = self._chosen(key, count)
        pauses = uniform(*key, "pause", np.arange(count + 1))
        low, high = joining.pause_s
        parts: list[Tensor] = []
        spans = torch.empty(count, 2, dtype=torch.float32, device="cpu")
        for number, (row, pause) in enumerate(zip(rows, pauses, strict=False)):
            start, end = self._spans[row].tolist()
            parts += [
                torch.zeros(_samples(low + pause * (high - low)), dtype=torch.float32, device="cpu")
            ]
            spans[number, 0] = sum(map(len, parts))
            parts += [self.clips.waveforms[row, start:end] / 32_768]
            spans[number, 1] = sum(map(len, parts))
        # an end of some length, so that a net can write the last word down
        parts.append(
            torch.zeros(
                _samples(_END + pauses[count] * (high - low)), dtype=torch.float32, device="cpu"
            )
        )
        joined = torch.cat(parts)
        samples = self._noisy(key, self._faster(key, joined))
        level = joining.gain_db * (2 * float(uniform(*key, "gain")[0]) - 1)
        labels = self.clips.labels[rows].tolist()
        return Utterance(
            samples=(samples * 10 ** (level / 20)).clamp(-1, 1),
            said=" ".join(self.clips.classes[label] for label in labels),
            spans=spans / SAMPLE_RATE * (len(samples) / len(joined)),
            speakers=tuple(dict.fromkeys(self.clips.speakers[row] for row in rows)),
        )

    def _chosen(self, key: tuple[int, ...], count: int) -> list[int]:
        first = self._rows[int(uniform(*key, "clip")[0] * len(self._rows))]
        own = [row for row in self._of[self.clips.speakers[first]] if row != first]
        rows = [first, *_shuffled(key, own)[: count - 1]]
        if len(rows) < count:
            others = [row for row in self._rows if row not in {first, *own}]
            rows += _shuffled(key, others)[: count - len(rows)]
        return _shuffled((*key, 1), rows)

    def _faster(self, key: tuple[int, ...], samples: Tensor) -> Tensor:
        speeds = self.joining.speeds
        speed = speeds[int(uniform(*key, "speed")[0] * len(speeds))]
        return samples if speed == 1 else resampled(samples, round(100 * speed), 100)

    def _noisy(self, key: tuple[int, ...], samples: Tensor) -> Tensor:
        share, where, ratio = uniform(*key, "noise", np.arange(3)).tolist()
        silent = not samples.any()  # has no level that noise could be relative to
        if silent or self.noise is None or share >= self.joining.noise_probability:
            return samples
        low, high = self.joining.snr_db
        background = self.noise.stretch(where, len(samples))
        loud = samples[samples != 0].square().mean() / background.square().mean().clamp(min=1e-12)
        return samples + background * loud.sqrt() * 10 ** (-(low + ratio * (high - low)) / 20)


def word_spans(waveforms: Tensor) -> Tensor:
    """Return where the word of each clip starts and ends: int64, (N, 2), in samples.

    Args:
        waveforms: clips (N, 16000).
    """
    loud = waveforms.float().unflatten(1, (-1, _FRAME)).square().mean(2).sqrt()
    heard = loud >= _QUIET * loud.amax(1, keepdim=True)
    frames = torch.arange(SAMPLES // _FRAME, device="cpu")
    start = torch.where(heard, frames, SAMPLES // _FRAME).amin(1) - _MARGIN
    end = torch.where(heard, frames, -1).amax(1) + 1 + _MARGIN
    return (torch.stack([start, end], 1) * _FRAME).clamp(0, SAMPLES)


def _samples(seconds: float) -> int:
    return round(float(seconds) * SAMPLE_RATE)


def _shuffled(key: tuple[int, ...], rows: Sequence[int]) -> list[int]:
    order = hashed(*key, "order", np.array(rows, dtype=np.int64)).tolist()
    return [row for _, row in sorted(zip(order, rows, strict=True))]
