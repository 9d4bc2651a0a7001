"""Log-mel and MFCC features through torchaudio, with about zero mean and unit variance.

Both see 49 frames of 40 ms each 20 ms (640 and 320 samples at 16 kHz), a periodic Hann window, no
padding of the clip, |rfft(1024)|^2 and 40 filters from 20 to 7,600 Hz: triangles of unit peak,
evenly spaced and straight-sided over mel = 1127 ln(1 + f/700).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.transforms import MFCC, MelSpectrogram

from analogtorch.speech.data import FRAMES, MELS, SAMPLE_RATE, check_waveforms
from analogtorch.values import checks

_WINDOW, _HOP, _FFT = 640, 320, 1024
# torchaudio centres a window that is shorter than its transform; with this many zeros on both sides
# of the clip the first window starts at the first sample and the last one ends before the end.
_MARGIN = (_FFT - _WINDOW) // 2
_MEL: dict[str, Any] = {
    "n_fft": _FFT, "win_length": _WINDOW, "hop_length": _HOP, "center": False, "pad": _MARGIN,
    "f_min": 20.0, "f_max": 7600.0, "n_mels": MELS, "mel_scale": "htk", "norm": None, "power": 2.0,
}  # fmt: skip


def _filters() -> Tensor:
    """Return the filters, (513, 40).

    Those of torchaudio are straight over Hz, which changes 4 % of logmel_49x40_u8.npz.
    """

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    low, high = mel(torch.tensor([_MEL["f_min"], _MEL["f_max"]], dtype=torch.float64))
    width = (high - low) / (MELS + 1)
    centres = low + width * torch.arange(1, MELS + 1)
    bins = mel(torch.arange(_FFT // 2 + 1, dtype=torch.float64) * (SAMPLE_RATE / _FFT))
    return (1 - (bins[:, None] - centres).abs() / width).clamp(min=0).float()


class LogMel(nn.Module):
    """Log-mel features (B, 1, 49, 40), frames by filters, of waveforms (B, 16000).

    Waveforms are float in [-1, 1]. The features are d = 10 log10(mel + 1e-10), in dB of full scale,
    then (d - `mean`) / `std`. With `mean=0, std=1` this is the feature from which
    `logmel_49x40_u8.npz` of the gsc_v2_test12 recordings was rounded.

    Args:
        mean: mean of d in dB. The default was measured over the 3,189 training clips of
            gsc_v2_test12 (Speech Commands v0.02).
        std: standard deviation of d in dB, above 0, measured over the same clips.

    Raises:
        ValueError: `mean` is no number or `std` is not above 0; in forward, the shape is not (B,
            16000).
        TypeError: in forward, waveforms do not have the type of the module: float32, unless it was
            converted.
    """

    def __init__(self, *, mean: float = -22.16, std: float = 23.57) -> None:
        super().__init__()
        self.mean, self.std = checks.number("mean", mean), checks.number("std", std, above=0)
        self.mel = MelSpectrogram(SAMPLE_RATE, **_MEL)
        self.mel.mel_scale.fb.copy_(_filters())

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return the features (B, 1, 49, 40) of waveforms (B, 16000)."""
        check_waveforms(waveforms, self.mel.mel_scale.fb.dtype)
        if not len(waveforms):
            # the Fourier transform refuses an empty batch
            return waveforms.new_empty(0, 1, FRAMES, MELS)
        decibels = 10 * torch.log10(self.mel(waveforms) + 1e-10)
        return ((decibels - self.mean) / self.std).mT.unsqueeze(1)

    def extra_repr(self) -> str:
        """Return the normalisation."""
        return f"mean={self.mean}, std={self.std}"


class Mfcc(nn.Module):
    """Cepstral features (B, 1, 49, coefficients) of waveforms (B, 16000).

    Waveforms are float in [-1, 1]. The features are torchaudio's MFCC: orthonormal DCT-II of ln(mel
    + 1e-6). Then each coefficient is normalised by its constants, measured over the 3,189 training
    clips of gsc_v2_test12.

    Args:
        coefficients: number of coefficients to keep, 1 to 40.

    Raises:
        ValueError: `coefficients` is out of range; in forward, the shape is not (B, 16000).
        TypeError: in forward, waveforms do not have the type of the module: float32, unless it was
            converted.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, coefficients: int = 10) -> None:
        super().__init__()
        checks.count("coefficients", coefficients, most=MELS)
        # log_mels: the alternative clips 80 dB below the loudest clip of the batch, so a clip would
        # depend on others.
        self.mfcc = MFCC(SAMPLE_RATE, n_mfcc=coefficients, log_mels=True, melkwargs=_MEL)
        self.mfcc.MelSpectrogram.mel_scale.fb.copy_(_filters())
        mean = torch.tensor(_MFCC_MEAN[:coefficients])[:, None]
        std = torch.tensor(_MFCC_STD[:coefficients])[:, None]
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return the features (B, 1, 49, coefficients) of waveforms (B, 16000)."""
        check_waveforms(waveforms, self.mean.dtype)
        if not len(waveforms):
            return waveforms.new_empty(0, 1, FRAMES, len(self.mean))
        return ((self.mfcc(waveforms) - self.mean) / self.std).mT.unsqueeze(1)


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
