"""Log-mel and MFCC features through torchaudio, with about zero mean and unit variance.

By default both see 49 frames of 40 ms every 20 ms (640 and 320 samples at 16 kHz), a periodic Hann
window, no padding of the clip, |rfft(1024)|^2 and 40 filters from 20 to 7,600 Hz: triangles of unit
peak, evenly spaced and straight-sided over mel = 1127 ln(1 + f/700).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from analogtorch.speech.data import MELS, SAMPLE_RATE, SAMPLES, check_waveforms
from analogtorch.values import checks

_LEAST_FFT = 1024
_MOST_FFT = 8192
_HOST = torch.device("cpu")
"""Front ends are made where clips are, whatever torch.set_default_device says."""


class _Spectrum(nn.Module):
    """The mel spectrum (B, mels, frames) of waveforms (B, 16000), and its checks."""

    def __init__(
        self, window_ms: float, hop_ms: float, mels: int, low_hz: float, high_hz: float
    ) -> None:
        from torchaudio.transforms import MelSpectrogram  # late, so that `kws --help` is quick

        super().__init__()
        window = _samples("window_ms", window_ms, most=512)
        hop = _samples("hop_ms", hop_ms, most=window_ms)
        self.mels = checks.count("mels", mels, most=256)
        low = checks.number("low_hz", low_hz, least=0, below=SAMPLE_RATE / 2)
        high = checks.number("high_hz", high_hz, above=low, most=SAMPLE_RATE / 2)
        fft = max(_LEAST_FFT, 1 << (window - 1).bit_length())
        self.frames = 1 + (SAMPLES - window) // hop
        with _HOST:
            self.mel = MelSpectrogram(
                SAMPLE_RATE, n_fft=fft, win_length=window, hop_length=hop, center=False,
                # torchaudio centres a window that is shorter than its transform; with this many
                # zeros on both sides of the clip the first window starts at the first sample and
                # the last one ends before the end
                pad=(fft - window) // 2,
                f_min=low, f_max=high, n_mels=mels, mel_scale="htk", norm=None, power=2.0,
            )  # fmt: skip
        self.mel.mel_scale.fb.copy_(_filters(fft, mels, low, high))

    def forward(self, waveforms: Tensor) -> Tensor:
        check_waveforms(waveforms, self.mel.mel_scale.fb.dtype)
        if not len(waveforms):
            # the Fourier transform refuses an empty batch
            return waveforms.new_empty(0, self.mels, self.frames)
        return self.mel(waveforms)


def _samples(name: str, milliseconds: float, *, most: float) -> int:
    """Return an even number of samples."""
    checks.number(name, milliseconds, least=0.125, most=most)
    return 2 * round(milliseconds * SAMPLE_RATE / 2000)


def _filters(fft: int, mels: int, low_hz: float, high_hz: float) -> Tensor:
    """Return the filters, (fft / 2 + 1, mels).

    Those of torchaudio are straight over Hz, which changes 4 % of logmel_49x40_u8.npz.
    """

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    low, high = mel(torch.tensor([low_hz, high_hz], dtype=torch.float64, device=_HOST))
    width = (high - low) / (mels + 1)
    centres = low + width * torch.arange(1, mels + 1, device=_HOST)
    bins = mel(torch.arange(fft // 2 + 1, dtype=torch.float64, device=_HOST) * (SAMPLE_RATE / fft))
    return (1 - (bins[:, None] - centres).abs() / width).clamp(min=0).float()


class LogMel(nn.Module):
    """Log-mel features (B, 1, frames, mels) of waveforms (B, 16000), by default (B, 1, 49, 40).

    Waveforms are float in [-1, 1], on the device of the module: the CPU, until it is moved. The
    features are d = 10 log10(mel + 1e-10), in dB of full scale, then (d - `mean`) / `std`. With
    `mean=0, std=1` this is the feature from which
    `logmel_49x40_u8.npz` of the gsc_v2_test12 recordings was rounded.

    Args:
        mean: mean of d in dB. The default was measured over the 3,189 training clips of
            gsc_v2_test12 (Speech Commands v0.02), with the other arguments at their defaults.
        std: standard deviation of d in dB, above 0, measured over the same clips.
        window_ms: length of a frame, 0.125 to 512 ms, rounded to an even number of samples.
        hop_ms: time between frames, from 0.125 ms to `window_ms`, rounded likewise.
        mels: number of filters, 1 to 256.
        low_hz: lower edge of the first filter, 0 to below 8,000 Hz.
        high_hz: upper edge of the last one, above `low_hz`, to 8,000 Hz.

    Raises:
        ValueError: an argument is out of range; in forward, the shape is not (B, 16000).
        TypeError: in forward, waveforms do not have the type of the module: float32, unless it was
            converted.
    """

    def __init__(
        self,
        *,
        mean: float = -22.16,
        std: float = 23.57,
        window_ms: float = 40.0,
        hop_ms: float = 20.0,
        mels: int = MELS,
        low_hz: float = 20.0,
        high_hz: float = 7600.0,
    ) -> None:
        super().__init__()
        self.mean, self.std = checks.number("mean", mean), checks.number("std", std, above=0)
        self.spectrum = _Spectrum(window_ms, hop_ms, mels, low_hz, high_hz)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return the features (B, 1, frames, mels) of waveforms (B, 16000)."""
        return self._normalised(self.spectrum(waveforms)).unsqueeze(1)

    def of_any_length(self, waveforms: Tensor) -> Tensor:
        """Return the features (B, frames, mels) of waveforms (B, samples) of a frame or longer.

        Frames that the samples do not fill are left out.

        Raises:
            ValueError: there are too few samples.
        """
        least = self.spectrum.mel.win_length
        if waveforms.ndim != 2 or waveforms.shape[1] < least:
            raise ValueError(
                f"waveforms of shape {tuple(waveforms.shape)}; features need (B, samples), {least} "
                "samples or more"
            )
        return self._normalised(self.spectrum.mel(waveforms))

    def _normalised(self, spectrum: Tensor) -> Tensor:
        decibels = 10 * torch.log10(spectrum + 1e-10)
        return ((decibels - self.mean) / self.std).mT

    def extra_repr(self) -> str:
        """Return the normalisation."""
        return f"mean={self.mean}, std={self.std}"


class Mfcc(nn.Module):
    """Cepstral features (B, 1, frames, coefficients) of waveforms (B, 16000).

    Waveforms are float in [-1, 1]. The features are those of torchaudio's MFCC: orthonormal DCT-II
    of ln(mel + 1e-6). Then each coefficient is normalised by its constants, measured over the 3,189
    training clips of gsc_v2_test12 with the default window, hop and filters; other numbers of
    filters scale them by sqrt(mels / 40), as they do the transform.

    Args:
        coefficients: number of coefficients to keep, 1 to `mels`, and at most 40.
        window_ms: length of a frame; this and the rest as for `LogMel`.
        hop_ms: time between frames.
        mels: number of filters.
        low_hz: lower edge of the first filter.
        high_hz: upper edge of the last one.

    Raises:
        ValueError: an argument is out of range; in forward, the shape is not (B, 16000).
        TypeError: in forward, waveforms do not have the type of the module: float32, unless it was
            converted.
    """

    mean: Tensor
    std: Tensor
    transform: Tensor

    def __init__(
        self,
        *,
        coefficients: int = 10,
        window_ms: float = 40.0,
        hop_ms: float = 20.0,
        mels: int = MELS,
        low_hz: float = 20.0,
        high_hz: float = 7600.0,
    ) -> None:
        from torchaudio.functional import create_dct

        super().__init__()
        self.spectrum = _Spectrum(window_ms, hop_ms, mels, low_hz, high_hz)
        checks.count("coefficients", coefficients, most=min(mels, len(_MFCC_MEAN)))
        scale = math.sqrt(mels / MELS)
        with _HOST:
            transform = create_dct(coefficients, mels, "ortho")
        constants = {
            "transform": transform,
            "mean": scale * torch.tensor(_MFCC_MEAN[:coefficients], device=_HOST),
            "std": scale * torch.tensor(_MFCC_STD[:coefficients], device=_HOST),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return the features (B, 1, frames, coefficients) of waveforms (B, 16000)."""
        cepstra = torch.log(self.spectrum(waveforms) + 1e-6).mT @ self.transform
        return ((cepstra - self.mean) / self.std).unsqueeze(1)


FRONT_ENDS: dict[str, Callable[..., nn.Module]] = {"logmel": LogMel, "mfcc": Mfcc}
"""The front ends by their names in configurations."""

# fmt: off
_MFCC_MEAN = (
    -31.05, 8.03, 0.49, 1.03, -0.87, -0.01, -0.33, -0.12, -0.25, -0.08, -0.45, -0.21, -0.52, -0.08,
    -0.47, -0.20, -0.40, -0.07, -0.36, -0.01, -0.18, -0.03, -0.19, -0.06, -0.19, -0.07, -0.14,
    -0.03, -0.11, -0.03, -0.10, -0.04, -0.08, -0.04, -0.06, -0.02, -0.03, 0.01, -0.01, 0.01,
)
_MFCC_STD = (
    27.13, 9.23, 4.99, 3.74, 3.44, 2.65, 2.39, 2.02, 1.89, 1.72, 1.63, 1.54, 1.47, 1.33, 1.32, 1.16,
    1.13, 1.06, 1.03, 0.96, 0.93, 0.88, 0.85, 0.81, 0.78, 0.73, 0.70, 0.67, 0.62, 0.59, 0.55, 0.51,
    0.50, 0.49, 0.47, 0.44, 0.43, 0.43, 0.42, 0.40,
)
# fmt: on
