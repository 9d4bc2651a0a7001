"""Augmentation: a pure function of (seed, epoch, index), within its limits, and quick."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.transforms import SpecAugment

from analogtorch.speech.augment import Augment, Augmenter, _mask_bank
from analogtorch.speech.draws import hashed

OFF = {
    "shift_ms": 0, "gain_db": 0, "speeds": (1.0,), "noise_probability": 0, "time_masks": 0,
    "frequency_masks": 0,
}  # fmt: skip
INDEX = torch.arange(64)


def waveforms(count: int = 64) -> torch.Tensor:
    return 0.1 * torch.randn(count, 16_000, generator=torch.Generator().manual_seed(0)).clamp(-9, 9)


def augmenter(*, seed: int = 0, **changes: object) -> Augmenter:
    return Augmenter(Augment(**(OFF | changes)), seed=seed)  # type: ignore[arg-type]


def test_everything_off_changes_nothing() -> None:
    given = waveforms()
    assert torch.equal(augmenter().waveforms(given, INDEX, epoch=3), given)
    features = torch.randn(64, 1, 49, 40)
    assert torch.equal(augmenter().features(features, INDEX, epoch=3), features)


def test_a_clip_is_changed_alike_in_any_batch() -> None:
    augment, given = Augmenter(Augment(), seed=5), waveforms()
    whole = augment.waveforms(given, INDEX, epoch=2)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    again = Augmenter(Augment(), seed=5)
    torch.manual_seed(99)
    for rows in order.split(7):
        torch.testing.assert_close(
            again.waveforms(given[rows], rows, epoch=2), whole[rows], rtol=0, atol=1e-6
        )
    features = torch.ones(64, 1, 49, 40)
    masked = augment.features(features, INDEX, epoch=2)
    for rows in order.split(7):
        assert torch.equal(again.features(features[rows], rows, epoch=2), masked[rows])


@pytest.mark.parametrize("changes", [{"seed": 6}, {"epoch": 3}, {"index": INDEX + 64}])
def test_seed_epoch_and_index_each_matter(changes: dict) -> None:
    def apply(
        seed: int = 5, epoch: int = 2, index: torch.Tensor = INDEX
    ) -> tuple[torch.Tensor, torch.Tensor]:
        augment = Augmenter(Augment(), seed=seed)
        features = torch.ones(64, 1, 49, 40)
        return augment.waveforms(waveforms(), index, epoch=epoch), augment.features(
            features, index, epoch=epoch
        )

    for one, other in zip(apply(), apply(**changes), strict=True):
        assert (one != other).flatten(1).any(dim=1).float().mean() > 0.9


def test_torchs_generator_and_the_input_are_left_alone() -> None:
    given, state = waveforms(), torch.get_rng_state()
    augment = Augmenter(Augment(), seed=12_345)
    augment.waveforms(given, INDEX, epoch=0)
    augment.features(torch.ones(64, 1, 49, 40), INDEX, epoch=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(given, waveforms())


def test_shift_moves_and_fills_with_zeros() -> None:
    given = torch.ones(500, 16_000)
    shifted = augmenter(shift_ms=50).waveforms(given, torch.arange(500), epoch=0)
    filled = (shifted == 0).sum(dim=1)
    left = shifted[:, 0] == 0
    assert filled.max() <= 800
    assert filled.max() > 780
    assert 0.4 < left.float().mean() < 0.6  # 500 fair coins: within 4.5 standard errors
    assert torch.equal(shifted.sum(dim=1), 16_000 - filled)


def test_gain_stays_within_its_range() -> None:
    given = waveforms(500)
    decibels = (
        20
        * (
            augmenter(gain_db=6).waveforms(given, torch.arange(500), epoch=0)[:, 0] / given[:, 0]
        ).log10()
    )
    assert 5.9 < decibels.abs().max() <= 6.001
    assert decibels.mean().abs() < 0.7  # standard error 12/sqrt(12*500) = 0.155


def test_noise_has_the_ratio_asked_for() -> None:
    given = waveforms(300)
    noisy = augmenter(noise_probability=0.5, snr_db=(10.0, 20.0)).waveforms(
        given, torch.arange(300), epoch=0
    )
    added = (noisy - given).square().mean(dim=1)
    got = added > 0
    assert 0.4 < got.float().mean() < 0.6  # 300 fair coins: within 3.5 standard errors
    ratio = 10 * (given[got].square().mean(dim=1) / added[got]).log10()
    assert 9.99 < ratio.min() < 10.5
    assert 19.5 < ratio.max() < 20.01


def test_silence_gets_noise_and_stays_finite() -> None:
    noisy = augmenter(noise_probability=1).waveforms(
        torch.zeros(8, 16_000), torch.arange(8), epoch=0
    )
    level = noisy.square().mean(dim=1).sqrt()
    assert (level > 0).all()
    assert (level < 10 ** (-54.9 / 20)).all()


def test_noise_from_recordings(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", np.full(20_000, 3_000, np.int16), 16_000)
    noisy = augmenter(noise=str(tmp_path), noise_probability=1).waveforms(
        waveforms(), INDEX, epoch=0
    )
    added = noisy - waveforms()
    assert (added > 0).all()
    assert added.std(dim=1).max() < 1e-6
    soundfile.write(tmp_path / "click.wav", np.full(9, 3_000, np.int16), 16_000)
    with pytest.raises(ValueError, match=r"click\.wav: 9 samples; noise must last"):
        augmenter(noise=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder, or no"):
        augmenter(noise=str(tmp_path / "nowhere"))


def test_real_noise_recordings(data_root: Path) -> None:
    noise = augmenter(noise=str(data_root / "gsc_background_noise")).noise
    assert len(noise.recordings) == 4
    assert min(map(len, noise.recordings)) > 60 * 16_000


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_pitch_and_keeps_the_middle(speed: float) -> None:
    time = torch.arange(16_000) / 16_000 - 0.5
    given = torch.cos(2 * torch.pi * 500 * time) * torch.exp(-((time / 0.1) ** 2))
    faster = augmenter(speeds=(speed,)).waveforms(given[None], torch.tensor([0]), epoch=0)[0]
    assert faster.shape == (16_000,)
    peak = torch.fft.rfft(faster).abs().argmax()
    assert abs(peak - 500 * speed) <= 1
    assert abs(faster.abs().argmax() - 8_000) < 20


def test_each_speed_is_used() -> None:
    given = waveforms(300)
    changed = augmenter(speeds=(1.0, 0.9, 1.1)).waveforms(given, torch.arange(300), epoch=0)
    # a third of 300: within 3.7 standard errors
    assert 70 < (changed == given).all(dim=1).sum() < 130


def test_masks_are_stretches_within_their_limits() -> None:
    augment = augmenter(time_masks=1, time_mask_frames=8, frequency_masks=1, frequency_mask_bins=6)
    masked = augment.features(torch.ones(500, 1, 49, 40), torch.arange(500), epoch=0)[:, 0] == 0
    frames, bins = masked.all(dim=2), masked.all(dim=1)
    assert torch.equal(masked, frames[:, :, None] | bins[:, None, :])
    for lines, longest in ((frames, 8), (bins, 6)):
        widths = lines.sum(dim=1)
        assert widths.unique().tolist() == list(range(longest))
        starts = lines.float().argmax(dim=1)
        ends = lines.shape[1] - lines.flip(1).float().argmax(dim=1)
        assert torch.equal(widths[widths > 0], (ends - starts)[widths > 0])


def test_loud_clips_are_clipped() -> None:
    loud = augmenter(gain_db=40).waveforms(waveforms(), INDEX, epoch=0)
    assert loud.abs().max() == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift_ms": 501}, r"Augment\.shift_ms must be a number in \[0, 500\], got 501"),
        ({"noise_probability": 1.1}, r"noise_probability must be a number in \[0, 1\], got 1\.1"),
        ({"time_mask_frames": -1}, r"time_mask_frames must be an integer in \[0, 49\], got -1"),
        ({"speeds": ()}, r"speeds must be a tuple such as \(0\.9, 1\.0, 1\.1\), got \(\)"),
        ({"speeds": (1.0, 3.0)}, r"speeds\[1\] must be a number in \[0\.5, 2\], got 3\.0"),
        ({"snr_db": (9.0, 3.0)}, r"snr_db must be \(lowest, highest\) .*got \(9\.0, 3\.0\)"),
        ({"time_masks": 0, "time_mask_frames": 12}, "time_mask_frames=12 has no effect with time"),
        ({"frequency_masks": 0, "frequency_mask_bins": 3}, "bins=3 has no effect with frequency"),
        ({"noise_probability": 0, "snr_db": (0.0, 9.0)}, "set noise_probability too, or leave snr"),
    ],
)
def test_fields_are_checked(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment(**fields)


def test_a_wrong_index_is_refused() -> None:
    with pytest.raises(ValueError, match=r"index has shape \(63,\) .*must be \(64,\) integers"):
        augmenter().waveforms(waveforms(), torch.arange(63), epoch=0)


def test_masks_are_those_that_torchaudio_draws_of_whole_features() -> None:
    augment = augmenter(time_masks=2, time_mask_frames=8, frequency_masks=2, frequency_mask_bins=6)
    _mask_bank.cache_clear()
    over_time, over_bands = _mask_bank((2, 8), (2, 6), 0, 49, 40)
    draw = SpecAugment(2, 8, 2, 6, zero_masking=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(hashed(0, "masks")[0] >> np.uint64(1)))
        whole = draw(torch.ones(4096, 1, 40, 49)).mT
    assert torch.equal(over_time * over_bands, whole)
    wide = augment.features(torch.ones(2, 1, 1984, 64), torch.arange(2), epoch=0)
    assert wide.shape == (2, 1, 1984, 64)


@pytest.mark.parametrize("name", ["_background_noise_", "noise"])
def test_training_hears_nothing_of_the_noise_that_others_are_tested_with(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    tone = np.linspace(0, 0.5, 20 * 16_000, dtype=np.float32)
    soundfile.write(tmp_path / name / "a.wav", tone, 16_000)
    (found,) = augmenter(noise=str(tmp_path / name)).noise.recordings
    assert len(found) == (16 if name == "_background_noise_" else 20) * 16_000
    soundfile.write(tmp_path / name / "b.wav", tone[:20_000], 16_000)  # not of Speech Commands
    assert len(augmenter(noise=str(tmp_path / name)).noise.recordings[1]) == 20_000
