"""A long recording mixed from clips and background noise, of which it is known who says what when.

Like a clip of the corpus, a word lasts one second in it, with what its recording has around it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analogtorch.speech.data import SAMPLE_RATE, SAMPLES, Clips
from analogtorch.speech.draws import uniform
from analogtorch.speech.labels import SILENCE
from analogtorch.speech.noise import Noise
from analogtorch.values import checks

_BLOCK = 30
"""Seconds of background from one stretch of one recording, at one level."""


SHORTEST = 2
"""Length of the shortest mixture, s."""
MOST_PER_MINUTE = 60 / SHORTEST
"""Most clips in a minute: a part with one clip is no shorter."""


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A clip in a mixture."""

    start: float
    """Start of the clip, s."""
    word: str
    """Its class."""
    name: str
    """Its name."""

    @property
    def end(self) -> float:
        """End of the clip, s."""
        return self.start + SAMPLES / SAMPLE_RATE


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """A recording and what is said in it."""

    recording: Tensor
    """Float in [-1, 1] at 16 kHz, (samples,)."""
    spoken: tuple[Spoken, ...]
    """The clips in it, in the order of time."""


def mixed(
    clips: Clips,
    noise: Noise,
    *,
    seconds: int = 3600,
    per_minute: float = 10.0,
    snr_db: tuple[float, float] = (5.0, 20.0),
    seed: int = 0,
) -> Mixture:
    """Mix clips at random times into background noise.

    The time is divided evenly: each part has one clip, drawn among all but those of silence, at a
    random time within the part. No clip comes again before all have come. The background changes
    every 30 s: a stretch of a recording, as often as needed, at a level below the median of the
    clips.

    Args:
        clips: the clips to draw from, such as the test split; classes other than keywords, such as
            `_unknown_`, are what false alarms come from.
        noise: background recordings.
        seconds: length, s, >= 2.
        per_minute: clips in a minute, above 0 to 30.
        snr_db: lowest and highest ratio of the median clip to the background, dB.
        seed: seed of clips, times and noise; 0 or more.

    Raises:
        ValueError: an argument is out of range, or there are no clips but silence.
    """
    checks.count("seconds", seconds, least=SHORTEST)
    checks.number("per_minute", per_minute, above=0, most=MOST_PER_MINUTE)
    checks.count("seed", seed, least=0, largest=checks.UINT64)
    low, high = (checks.number("snr_db", value, least=-20, most=100) for value in snr_db)
    rows = [i for i, y in enumerate(clips.labels.tolist()) if clips.classes[y] != SILENCE]
    if not rows:
        raise ValueError("mixed: there are no clips but silence; give clips of words")
    levels = clips.floats(torch.tensor(rows, device="cpu")).square().mean(1).sqrt()
    recording = _background(noise, seconds, seed, (low, high), float(levels.median()))
    count = max(1, int(seconds * per_minute / 60))
    slot, number = seconds / count, np.arange(count)
    rounds = range(-(-count // len(rows)))  # each has all clips, in an order of its own
    orders = [uniform(seed, "clip", turn, np.arange(len(rows))).argsort() for turn in rounds]
    which = np.concatenate(orders)[:count].tolist()
    starts = (number + uniform(seed, "start", number) * (1 - 1 / slot)) * slot
    spoken = []
    for start, row in zip(starts.tolist(), [rows[i] for i in which], strict=True):
        first = int(start * SAMPLE_RATE)
        recording[first : first + SAMPLES] += clips.floats(slice(row, row + 1))[0]
        word = clips.classes[int(clips.labels[row])]
        spoken.append(Spoken(start=first / SAMPLE_RATE, word=word, name=clips.names[row]))
    return Mixture(recording=recording.clamp_(-1, 1), spoken=tuple(spoken))


def _background(
    noise: Noise, seconds: int, seed: int, snr_db: tuple[float, float], level: float
) -> Tensor:
    whole = torch.empty(seconds * SAMPLE_RATE, dtype=torch.float32, device="cpu")
    for block, part in enumerate(whole.split(_BLOCK * SAMPLE_RATE)):
        draws = [float(uniform(seed, "background", block, what)[0]) for what in ("r", "s", "l")]
        recording = noise.recordings[int(draws[0] * len(noise.recordings))]
        stretch = recording.roll(-int(draws[1] * len(recording)))
        stretch = stretch.repeat(-(-len(part) // len(stretch)))[: len(part)]
        ratio = snr_db[0] + draws[2] * (snr_db[1] - snr_db[0])
        loud = float(stretch.square().mean().sqrt())
        part.copy_(stretch * (level * 10 ** (-ratio / 20) / max(loud, 1e-9)))
    return whole
