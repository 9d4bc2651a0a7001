"""Reading of recordings into one form: int16, 16 kHz, mono, 16,000 samples."""

import io
import logging
import math
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from analogtorch.speech.cut_short import KNOWN, is_cut_short
from analogtorch.speech.data import SAMPLE_RATE, SAMPLES, Recorded
from analogtorch.speech.named import option
from analogtorch.values import checks
from analogtorch.values.progress import Progress

logger = logging.getLogger("analogtorch")

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
"""Names of audio files in a folder end with one of these."""
_OTHERS = (
    ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".m4a", ".mka", ".mp4", ".oga", ".opus",
    ".webm", ".wma",
)  # fmt: skip
"""Names of other audio files end with one of these."""
_BEYOND = 1e-3
"""Share of samples of a file of floats that may lie beyond full scale: single peaks."""
_CANCELS = 0.1
"""Spread of the mean of the channels, in units of theirs, below which they cancel each other: it is
0.7 if one of two is silent, or if they have nothing in common."""
_CROSSINGS, _ROLLOFF = 6, 0.99
"""Zeros of the sinc on each side that resampling takes, and its cut-off in units of the lower half
rate: the defaults of torchaudio."""
_FILTERS = 1 << 19
"""Numbers that the filters of torchaudio may have; more than for any usual rate, such as 11,025."""
_AT_ONCE = 1 << 16
"""Samples that are computed at a time otherwise."""
P = TypeVar("P", bound=PurePath)
Fit = Literal["error", "pad_or_trim"]
"""What to do with a clip of another length: refuse it, or add zeros at its end or keep its loudest
second."""


def check_fit(fit: str) -> None:
    """Raise ValueError unless `fit` is one of the values of `Fit`."""
    checks.choice("fit", fit, get_args(Fit))


def audio_files(paths: Iterable[P]) -> list[P]:
    """Return those paths of a folder whose names are those of audio files, in their order.

    Raises:
        ValueError: one is audio of another kind, which would be left out, or `check_name` refuses
            its name.
    """
    found = list(paths)
    if others := [path for path in found if path.suffix.lower() in _OTHERS]:
        raise ValueError(
            f"{others[0]}: audio in a folder is {', '.join(SUFFIXES)}. Convert this file, or move "
            "it elsewhere"
        )
    audio = [path for path in found if path.suffix.lower() in SUFFIXES]
    for path in audio:
        check_name(path)
    return audio


def check_name(path: PurePath) -> None:
    """Raise ValueError unless the name of a file is UTF-8.

    soundfile opens no others, and reports, which name clips and classes, cannot hold them.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{str(path)!a}: the name is not UTF-8, but of another encoding such as Latin-1. "
            "Rename it; if it is in an archive, pack that anew."
        ) from error


def read_recording(audio: str | Path | bytes, *, name: str = "", resample: bool = False) -> Tensor:
    """Return one recording of any length as float32 in [-1, 1], shape (samples,).

    It is at 16 kHz and mono; channels are averaged, and a warning is logged if they cancel each
    other, as those of a balanced line do.

    Args:
        audio: a file, or the contents of one: WAV, FLAC, OGG, MP3, AIFF, AU, CAF, NIST, RF64, W64,
            or another that libsndfile reads and whose length is checked (`cut_short.KNOWN`).
        name: name of the recording in messages; by default the path.
        resample: convert another sampling rate to 16 kHz (torchaudio's windowed sinc) instead of
            refusing it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no audio, is damaged, cut short, empty or not finite, has another rate,
            holds floats of which more than 0.1 % lie beyond [-1, 1], or has a name that
            `check_name` refuses.
        TypeError: `audio` is neither a path nor bytes.
    """
    return _read(audio, name, resample)[0]


def sampling_rate(audio: str | Path) -> int:
    """Return the sampling rate, Hz, of a file that `read_recording` reads."""
    import soundfile  # late, so that `kws --help` does not wait for it

    return soundfile.info(checks.path("audio", audio)).samplerate


def _read(audio: str | Path | bytes, name: str, resample: bool) -> tuple[Tensor, int]:
    """Return what `read_recording` does, and the sampling rate of the file, Hz."""
    audio = audio if isinstance(audio, bytes) else checks.path("audio", audio)
    checks.flag("resample", resample)
    import soundfile  # late, so that `kws --help` does not wait for it

    name = name or _name(audio)
    if isinstance(audio, Path) and not audio.is_file():
        raise FileNotFoundError(f"{name}: no such audio file")
    if isinstance(audio, Path):
        check_name(audio)
    source = io.BytesIO(audio) if isinstance(audio, bytes) else audio
    try:
        with soundfile.SoundFile(source) as file:
            data, rate = file.read(dtype="float32"), file.samplerate
            missing, floats = file.frames - len(data), file.subtype in ("FLOAT", "DOUBLE")
            kind = file.format
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name}: not readable as audio, or damaged ({error}). Replace or leave out this file."
        ) from error
    if kind not in KNOWN:
        raise ValueError(
            f"{name}: of {kind} files it is not known whether they are whole or cut short. "
            "Convert this file to WAV or FLAC, or leave it out."
        )
    if is_cut_short(audio, missing):
        raise ValueError(
            f"{name}: cut short: it announces more than it holds, or has no end. Replace or leave "
            "out this file."
        )
    samples = torch.from_numpy(data if data.ndim == 1 else data.mean(axis=1))
    if not len(samples):
        raise ValueError(f"{name}: holds no samples. Replace or leave out this file.")
    if not bool(samples.isfinite().all()):
        raise ValueError(f"{name}: holds NaN or infinite samples. Replace or leave out this file.")
    beyond = int((samples.abs() > 1).sum()) / len(samples)
    # not for decoders of MP3 and OGG, whose rounding goes beyond full scale where music is loud
    if beyond > _BEYOND and floats:
        raise ValueError(
            f"{name}: {100 * beyond:.3g} % of its samples lie beyond full scale, up to "
            f"{float(samples.abs().max()):.6g}; those of a file of floats are -1 to 1, and others "
            "would be clipped. Divide them by their full scale, such as 32768, or leave out this "
            "file."
        )
    if data.ndim > 1:
        _warn_of_cancelling(name, torch.from_numpy(data), samples)
    if rate == SAMPLE_RATE:
        return samples, rate
    if not resample:
        raise ValueError(
            f"{name}: sampled at {rate} Hz; {SAMPLE_RATE} Hz is needed. Write "
            f"{option('resample', True)} to convert it."
        )
    return resampled(samples, rate), rate


def _warn_of_cancelling(name: str, channels: Tensor, mean: Tensor) -> None:
    """Log a warning if channels (samples, channels) cancel each other in their mean (samples,)."""
    loud = float(channels.var(0, correction=0).mean().sqrt())
    if (left := float(mean.std(correction=0))) < _CANCELS * loud:
        logger.warning(
            "%s: its %s channels cancel each other in their mean, which alone is used: %.2g of "
            "full scale (RMS), where they have %.2g; write one of them to a file, and give that",
            name,
            channels.shape[1],
            left,
            loud,
        )


def resampled(waveforms: Tensor, rate: int, new: int = SAMPLE_RATE) -> Tensor:
    """Return waveforms (..., samples) of ``rate`` samples per second at the rate ``new``."""
    common = math.gcd(rate, new)
    if (rate // common) * (new // common) > _FILTERS:
        return _at_each_sample(waveforms, rate // common, new // common)
    # late, so that `kws --help` does not wait for it
    from torchaudio.functional import resample

    with waveforms.device:  # it makes tensors on the default device
        return resample(waveforms, rate, new)


def _at_each_sample(waveforms: Tensor, rate: int, new: int) -> Tensor:
    """Return what ``torchaudio.functional.resample`` does, by the taps of each sample alone.

    torchaudio makes a filter for each of the ``new`` places between two samples that coincide, all
    as long as there are samples between them: 12 GB for 44,099 Hz.

    Args:
        waveforms: (..., samples).
        rate: their samples in a span.
        new: samples in the same span, without a common divisor.
    """
    cutoff = _ROLLOFF * min(1.0, new / rate)  # in units of the old rate
    width = math.ceil(_CROSSINGS / cutoff)
    taps = torch.arange(-width, width + 2, dtype=torch.float64, device=waveforms.device)
    rows = waveforms.reshape(-1, waveforms.shape[-1])
    padded = torch.nn.functional.pad(rows, (width, width + 2)).unfold(1, len(taps), 1)
    length, parts = -(-new * rows.shape[1] // rate), list[Tensor]()
    for some in torch.arange(length, device=rows.device).split(_AT_ONCE):
        before = some * rate // new
        between = (some * rate - before * new).double() / new
        t = ((taps - between.unsqueeze(1)) * cutoff).clamp(-_CROSSINGS, _CROSSINGS)
        window = (t * (torch.pi / 2 / _CROSSINGS)).cos().square()
        kernel = (t.sinc() * window * cutoff).to(rows.dtype)
        parts.append(torch.stack([(row[before] * kernel).sum(1) for row in padded]))
    return torch.cat(parts, 1).view(*waveforms.shape[:-1], length)


def read_clip(
    audio: str | Path | bytes, *, name: str = "", resample: bool = False, fit: Fit = "error"
) -> Tensor:
    """Return one clip as int16 of shape (16000,); see `read_recording`.

    16-bit recordings keep every bit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `read_recording` refuses it, or it does not last one second and `fit="error"`.
    """
    return _clip(audio, name, resample, fit)[0]


def _clip(
    audio: str | Path | bytes, name: str, resample: bool, fit: Fit
) -> tuple[Tensor, Recorded]:
    """Return what `read_clip` does, and what it was made from."""
    check_fit(fit)
    samples, rate = _read(audio, name, resample)
    recorded = Recorded(rate, len(samples))
    if len(samples) != SAMPLES:
        if fit == "error":
            raise ValueError(
                f"{name or _name(audio)}: {len(samples)} samples at {SAMPLE_RATE} Hz; one clip is "
                f"{SAMPLES}. Write {option('fit', 'pad_or_trim')} to add zeros at its end or keep "
                "its loudest second."
            )
        samples = torch.nn.functional.pad(samples, (0, max(0, SAMPLES - len(samples))))
    return to_int16(_loudest(samples)), recorded


def _loudest(samples: Tensor) -> Tensor:
    """Return the second with the most energy, the first of equal ones, (16000,).

    In a recording of a word it holds the word, wherever it was said. The clips of Speech Commands
    were cut so too (P. Warden, arXiv:1804.03209).
    """
    energy = torch.nn.functional.pad(samples.double().square().cumsum(0), (1, 0))
    start = int((energy[SAMPLES:] - energy[:-SAMPLES]).argmax())
    return samples[start : start + SAMPLES]


def _name(audio: str | Path | bytes) -> str:
    return "audio in memory" if isinstance(audio, bytes) else str(audio)


def to_int16(samples: Tensor) -> Tensor:
    """Return float samples in [-1, 1] as int16, rounded and clipped at full scale.

    It is the inverse of `Clips.floats`.
    """
    return samples.mul(32_768).round_().clamp_(-32_768, 32_767).to(torch.int16)


def read_clips(
    audio: Iterable[tuple[str, Path | bytes]],
    count: int,
    *,
    resample: bool,
    fit: Fit,
    progress: bool,
    title: str,
) -> tuple[Tensor, tuple[Recorded, ...]]:
    """Return `count` clips as int16 of shape (count, 16000), and what each was made from.

    Each is given as its name and its file or contents; see `read_clip`.
    """
    waveforms, recorded = np.empty((count, SAMPLES), dtype=np.int16), list[Recorded]()
    bar = Progress(audio, total=count, desc=title, unit="clip", disable=not progress)
    for row, (name, file) in enumerate(bar):
        clip, before = _clip(file, name, resample, fit)
        waveforms[row] = clip.numpy()
        recorded.append(before)
    return torch.from_numpy(waveforms), tuple(recorded)
