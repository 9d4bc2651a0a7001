"""Background noise to mix into speech, generated or cut from recordings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analogtorch.files import expanded
from analogtorch.speech.audio import SUFFIXES, audio_files, read_recording
from analogtorch.speech.data import SAMPLE_RATE, SAMPLES
from analogtorch.speech.draws import hashed
from analogtorch.values import checks

COLOURS = (0.0, 1.0, 2.0)
"""Exponents a of a power spectrum 1/f^a: white, pink and brown."""


NOISE_PARTS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
"""Stretch of each recording of Speech Commands' noise, in fractions, that a split may hear."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Noise:
    """Noise recordings at 16 kHz, of which one-second crops are taken.

    Raises:
        ValueError: there is no recording, or one has another shape, is too short or is not finite.
        TypeError: it is no tuple of float tensors.
    """

    recordings: tuple[Tensor, ...]
    """Recordings, each float32 of shape (samples,), with at least 16,000 samples."""

    def __post_init__(self) -> None:
        recordings = checks.items("Noise.recordings", self.recordings, "(torch.randn(160_000),)")
        if not recordings:
            raise ValueError(
                "Noise.recordings is empty; give one or more recordings of at least one second"
            )
        for i, recording in enumerate(recordings):
            name = f"Noise.recordings[{i}]"
            checks.instance(name, recording, Tensor, "torch.randn(160_000)")
            if recording.dtype != torch.float32:
                raise TypeError(f"{name} is {recording.dtype}; it must be torch.float32")
            if recording.ndim != 1 or len(recording) < SAMPLES:
                raise ValueError(
                    f"{name} has shape {tuple(recording.shape)}; it must be (samples,), {SAMPLES} "
                    "or more"
                )
            if not bool(recording.isfinite().all()):
                raise ValueError(f"{name} holds NaN or infinite samples; leave it out")
        checks.settle(self, "recordings", recordings)

    def crop(self, position: NDArray[np.float64]) -> Tensor:
        """Return one-second crops, float32 of shape (B, 16000).

        B positions in [0, 1) choose them among all possible starts.
        """
        starts = np.array([len(recording) - SAMPLES + 1 for recording in self.recordings])
        ends = starts.cumsum()
        flat = (position * ends[-1]).astype(np.int64)
        which = np.searchsorted(ends, flat, side="right")
        crops = torch.empty(len(flat), SAMPLES, dtype=torch.float32, device="cpu")
        for row, (recording, start) in enumerate(
            zip(which, flat - (ends - starts)[which], strict=True)
        ):
            crops[row] = self.recordings[recording][start : start + SAMPLES]
        return crops

    def stretch(self, position: float, samples: int) -> Tensor:
        """Return a stretch of one recording, float32 of shape (samples,).

        A position in [0, 1) chooses it among all starts; a recording that ends begins anew.
        """
        lengths = np.array([len(recording) for recording in self.recordings])
        flat = int(position * lengths.sum())
        which = int(np.searchsorted(lengths.cumsum(), flat, side="right"))
        recording = self.recordings[which]
        start = flat - int(lengths[:which].sum())
        times = -(-(start + samples) // len(recording))
        return recording.repeat(times)[start : start + samples]

    def part(self, start: float, stop: float) -> "Noise":
        """Return the stretch from `start` to `stop`, in fractions, of every recording.

        Parts that do not overlap share no sound.

        Raises:
            ValueError: they are no fractions in order, or a recording's stretch is shorter than one
                second.
        """
        checks.number("stop", stop, above=checks.number("start", start, least=0, most=1), most=1)
        cut = tuple(r[int(start * len(r)) : int(stop * len(r))] for r in self.recordings)
        if short := [len(r) for r, c in zip(self.recordings, cut, strict=True) if len(c) < SAMPLES]:
            raise ValueError(
                f"a noise recording of {short[0] / SAMPLE_RATE:.1f} s is too short to cut "
                f"{100 * (stop - start):.0f} % of it into one-second clips; use recordings of at "
                "least 10 s each"
            )
        return Noise(recordings=cut)


def generate_noise(*, seed: int, seconds: int = 60, colours: tuple[float, ...] = COLOURS) -> Noise:
    """Return `seconds` of Gaussian noise for each of `colours`, each with an RMS of 1.

    It is the same for the same arguments.

    Raises:
        ValueError: the seed is below 0, ``seconds`` is no integer >= 1, or a colour is no number >=
            0.
    """
    checks.count("seed", seed, least=0, largest=checks.UINT64)
    checks.count("seconds", seconds)
    colours = tuple(checks.number(f"colours[{i}]", c, least=0) for i, c in enumerate(colours))
    return Noise(
        recordings=tuple(_coloured(colour, seconds * SAMPLE_RATE, seed) for colour in colours)
    )


def read_noise(folder: str | Path, *, resample: bool = False) -> Noise:
    """Return every audio file in `folder`, such as Speech Commands' `_background_noise_`.

    They are in the order of their names; hidden files, whose names begin with a dot, are left out.

    Raises:
        FileNotFoundError: there is no such folder, or no audio in it.
        ValueError: `read_recording` refuses a file, or it is shorter than one second or audio of
            another kind.
    """
    folder = expanded(str(checks.path("folder", folder)))
    files = audio_files(sorted(folder.glob("[!.]*")))
    if not files:
        raise FileNotFoundError(
            f"{folder}: no such folder, or no {', '.join(SUFFIXES)} files in it"
        )
    recordings = tuple(read_recording(file, resample=resample) for file in files)
    for file, recording in zip(files, recordings, strict=True):
        if len(recording) < SAMPLES:
            raise ValueError(
                f"{file}: {len(recording)} samples; noise must last at least one second. Leave it "
                "out."
            )
    return Noise(recordings=recordings)


def _coloured(exponent: float, samples: int, seed: int) -> Tensor:
    generator = np.random.Generator(
        np.random.Philox(key=int(hashed(seed, "noise", int(exponent * 1000))[0]))
    )
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    # Flat below 20 Hz: nothing audible is there, and 1/f would put most of the power into it.
    spectrum *= np.maximum(frequency, 20.0) ** (-exponent / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, samples)
    return torch.from_numpy((noise / np.sqrt(np.mean(noise**2))).astype(np.float32))
