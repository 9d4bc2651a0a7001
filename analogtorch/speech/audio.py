"""Reading of recordings into one form: int16, 16 kHz, mono, 16,000 samples."""

import io
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analogtorch.speech.data import SAMPLE_RATE, SAMPLES
from analogtorch.speech.named import option
from analogtorch.values import checks

# sizes from here on: a program wrote them because it could not come back to the header
_UNKNOWN_SIZE = 2**31 - 2**16
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
"""Names of audio files in a folder end with one of these."""
_OTHERS = (
    ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".m4a", ".mka", ".mp4", ".oga", ".opus",
    ".webm", ".wma",
)  # fmt: skip
"""Names of other audio files end with one of these."""
_BEYOND = 1e-3
"""Share of samples of a file of floats that may lie beyond full scale: single peaks."""
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
        ValueError: one is audio of another kind, which would be left out.
    """
    found = list(paths)
    if others := [path for path in found if path.suffix.lower() in _OTHERS]:
        raise ValueError(
            f"{others[0]}: audio in a folder is {', '.join(SUFFIXES)}. Convert this file, or move "
            "it elsewhere"
        )
    return [path for path in found if path.suffix.lower() in SUFFIXES]


def read_recording(audio: str | Path | bytes, *, name: str = "", resample: bool = False) -> Tensor:
    """Return one recording of any length as float32 in [-1, 1], shape (samples,).

    It is at 16 kHz and mono; channels are averaged.

    Args:
        audio: a file, or the contents of one: WAV, FLAC, OGG, MP3, or what else libsndfile reads.
        name: name of the recording in messages; by default the path.
        resample: convert another sampling rate to 16 kHz (torchaudio's windowed sinc) instead of
            refusing it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no audio, is damaged, empty or not finite, has another rate, or holds
            floats of which more than 0.1 % lie beyond [-1, 1].
        TypeError: `audio` is neither a path nor bytes.
    """
    audio = audio if isinstance(audio, bytes) else checks.path("audio", audio)
    checks.flag("resample", resample)
    import soundfile  # late, so that `kws --help` does not wait for it

    name = name or _name(audio)
    if isinstance(audio, Path) and not audio.is_file():
        raise FileNotFoundError(f"{name}: no such audio file")
    source = io.BytesIO(audio) if isinstance(audio, bytes) else audio
    try:
        data, rate = soundfile.read(source, dtype="float32")
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name}: not readable as audio, or damaged ({error}). Replace or leave out this file."
        ) from error
    if _is_cut_short(audio):
        raise ValueError(
            f"{name}: cut short: its header announces more than it holds. Replace or leave out "
            "this file."
        )
    samples = torch.from_numpy(data if data.ndim == 1 else data.mean(axis=1))
    if not len(samples):
        raise ValueError(f"{name}: holds no samples. Replace or leave out this file.")
    if not bool(samples.isfinite().all()):
        raise ValueError(f"{name}: holds NaN or infinite samples. Replace or leave out this file.")
    beyond = int((samples.abs() > 1).sum()) / len(samples)
    # not for decoders of MP3 and OGG, whose rounding goes beyond full scale where music is loud
    if beyond > _BEYOND and _holds_floats(audio):
        raise ValueError(
            f"{name}: {100 * beyond:.3g} % of its samples lie beyond full scale, up to "
            f"{float(samples.abs().max()):.6g}; those of a file of floats are -1 to 1, and others "
            "would be clipped. Divide them by their full scale, such as 32768, or leave out this "
            "file."
        )
    if rate == SAMPLE_RATE:
        return samples
    if not resample:
        raise ValueError(
            f"{name}: sampled at {rate} Hz; {SAMPLE_RATE} Hz is needed. Write "
            f"{option('resample', True)} to convert it."
        )
    return resampled(samples, rate)


def resampled(waveforms: Tensor, rate: int, new: int = SAMPLE_RATE) -> Tensor:
    """Return waveforms (..., samples) of ``rate`` samples per second at the rate ``new``."""
    # late, so that `kws --help` does not wait for it
    from torchaudio.functional import resample

    with waveforms.device:  # it makes tensors on the default device
        return resample(waveforms, rate, new)


def read_clip(
    audio: str | Path | bytes, *, name: str = "", resample: bool = False, fit: Fit = "error"
) -> Tensor:
    """Return one clip as int16 of shape (16000,); see `read_recording`.

    16-bit recordings keep every bit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `read_recording` refuses it, or it does not last one second and `fit="error"`.
    """
    check_fit(fit)
    samples = read_recording(audio, name=name, resample=resample)
    if len(samples) != SAMPLES:
        if fit == "error":
            raise ValueError(
                f"{name or _name(audio)}: {len(samples)} samples at {SAMPLE_RATE} Hz; one clip is "
                f"{SAMPLES}. Write {option('fit', 'pad_or_trim')} to add zeros at its end or keep "
                "its loudest second."
            )
        samples = torch.nn.functional.pad(samples, (0, max(0, SAMPLES - len(samples))))
    return to_int16(_loudest(samples))


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


def _holds_floats(audio: Path | bytes) -> bool:
    import soundfile  # late, as in `read_recording`

    info = soundfile.info(io.BytesIO(audio) if isinstance(audio, bytes) else audio)
    return info.subtype in ("FLOAT", "DOUBLE")


def _is_cut_short(audio: Path | bytes) -> bool:
    """Return whether a WAV file announces more bytes than it has.

    libsndfile returns what is left of it without an error.
    """
    if isinstance(audio, Path):
        size = audio.stat().st_size
        with audio.open("rb") as file:
            head = file.read(8)
    else:
        size, head = len(audio), audio[:8]
    announced = int.from_bytes(head[4:], "little")
    return head[:4] == b"RIFF" and _UNKNOWN_SIZE > announced > size - 8


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
) -> Tensor:
    """Return `count` clips as int16 of shape (count, 16000); see `read_clip`.

    Each is given as its name and its file or contents.
    """
    waveforms = np.empty((count, SAMPLES), dtype=np.int16)
    bar = tqdm(audio, total=count, desc=title, unit="clip", disable=not progress)
    for row, (name, file) in enumerate(bar):
        waveforms[row] = read_clip(file, name=name, resample=resample, fit=fit).numpy()
    return torch.from_numpy(waveforms)
