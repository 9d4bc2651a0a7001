"""Features against the ones stored with the real recordings, and as networks want them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from analogtorch.speech.data import Clips
from analogtorch.speech.features import LogMel, Mfcc
from analogtorch.speech.folder import Folder


@pytest.fixture(scope="module")
def recordings(data_root: Path) -> dict[str, Clips]:
    return Folder(root=str(data_root / "gsc_v2_test12")).load()


def apply(module: torch.nn.Module, clips: Clips) -> torch.Tensor:
    return torch.cat(
        [module(clips.floats(slice(start, start + 128))) for start in range(0, len(clips), 128)]
    )


def test_log_mel_equals_the_stored_features(data_root: Path, recordings: dict[str, Clips]) -> None:
    with np.load(data_root / "gsc_v2_test12" / "logmel_49x40_u8.npz", allow_pickle=False) as file:
        stored, row = file["x"], {path: row for row, path in enumerate(file["path"].tolist())}
    for split in ("val", "test"):
        decibels = apply(LogMel(mean=0, std=1), recordings[split])[:, 0]
        codes = (2 * (decibels + 100)).round().clamp(0, 255)
        difference = (
            codes
            - torch.from_numpy(stored[[row[name] for name in recordings[split].names]]).float()
        )
        assert difference.abs().max() <= 1
        # where float32 rounds a half the other way
        assert difference.count_nonzero() < 1e-4 * difference.numel()


def test_features_are_normalised_on_the_training_part(recordings: dict[str, Clips]) -> None:
    features = apply(LogMel(), recordings["train"])
    assert features.shape == (3189, 1, 49, 40)
    assert features.mean().abs() < 0.001
    assert features.std() == pytest.approx(1, abs=0.001)
    features = apply(Mfcc(coefficients=40), recordings["train"])
    assert features.shape == (3189, 1, 49, 40)
    assert features.mean(dim=(0, 1, 2)).abs().max() < 0.02
    assert (features.std(dim=(0, 1, 2)) - 1).abs().max() < 0.02


def test_log_mel_of_digital_silence_is_its_floor() -> None:
    features = LogMel(mean=0, std=1)(torch.zeros(2, 16_000))
    assert features.shape == (2, 1, 49, 40)
    torch.testing.assert_close(features, torch.full_like(features, -100))


def test_log_mel_of_a_tone_peaks_in_its_filter() -> None:
    tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(16_000) / 16_000)[None]
    low, high = 1127 * np.log1p(np.array([20, 7600]) / 700)
    centres = np.linspace(low, high, 42)[1:-1]
    nearest = np.abs(centres - 1127 * np.log1p(1_000 / 700)).argmin()
    assert (LogMel()(tone).argmax(dim=-1) == nearest).all()


@pytest.mark.parametrize("module", [LogMel(), Mfcc(coefficients=13)])
def test_a_clips_features_do_not_depend_on_its_batch(module: torch.nn.Module) -> None:
    clips = (
        torch.randn(8, 16_000, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-4, -1, 8)[:, None]
    )
    torch.testing.assert_close(module(clips)[:1], module(clips[:1]), rtol=0, atol=1e-5)


def test_mfcc_keeps_the_first_coefficients() -> None:
    clips = 0.1 * torch.randn(3, 16_000, generator=torch.Generator().manual_seed(0))
    ten, forty = Mfcc()(clips), Mfcc(coefficients=40)(clips)
    assert ten.shape == (3, 1, 49, 10)
    torch.testing.assert_close(ten, forty[..., :10])


def test_an_empty_batch_is_an_empty_batch() -> None:
    assert LogMel()(torch.zeros(0, 16_000)).shape == (0, 1, 49, 40)
    assert Mfcc()(torch.zeros(0, 16_000)).shape == (0, 1, 49, 10)


@pytest.mark.parametrize("module", [LogMel(), Mfcc()])
def test_wrong_waveforms_are_refused(module: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 8000\); features need \(B, 16000\)"):
        module(torch.zeros(2, 8_000))
    with pytest.raises(TypeError, match=r"torch\.int16; features need float .*Clips\.floats"):
        module(torch.zeros(2, 16_000, dtype=torch.int16))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="std must be a positive number, got 0"):
        LogMel(std=0)
    with pytest.raises(ValueError, match=r"coefficients must be an integer in \[1, 40\], got 41"):
        Mfcc(coefficients=41)
