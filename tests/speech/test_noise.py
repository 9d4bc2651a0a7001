"""Noise: its colours, its crops, and parts that share nothing."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from analogtorch.speech.noise import Noise, generate_noise, read_noise


@pytest.mark.parametrize(("position", "exponent"), [(0, 0.0), (1, 1.0), (2, 2.0)])
def test_generated_noise_has_its_colour_and_level(position: int, exponent: float) -> None:
    noise = generate_noise(seed=0, seconds=30).recordings[position].double()
    assert noise.square().mean().sqrt() == pytest.approx(1, rel=1e-4)
    power = torch.fft.rfft(noise).abs().square()
    # 64 Hz to 4 kHz
    octaves = [power[30 * 2**k : 30 * 2 ** (k + 1)].mean().log2() for k in range(6, 12)]
    slope = np.polyfit(range(6), octaves, 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


def test_generated_noise_is_a_function_of_its_seed() -> None:
    one, again, other = (generate_noise(seed=seed, seconds=1).recordings for seed in (0, 0, 1))
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))


def test_crops_cover_every_start_and_never_cross_recordings() -> None:
    noise = Noise(recordings=(torch.arange(16_002.0), 50_000 + torch.arange(16_001.0)))
    crops = noise.crop((np.arange(5) + 0.5) / 5)
    assert crops.shape == (5, 16_000)
    assert crops[:, 0].tolist() == [0, 1, 2, 50_000, 50_001]
    assert torch.equal(crops - crops[:, :1], torch.arange(16_000.0).expand(5, -1))
    assert noise.crop(np.array([1 - 2**-53])).shape == (1, 16_000)


def test_noise_that_would_be_left_out_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    (tmp_path / "._a.wav").write_bytes(b"what a Mac adds to a copy")
    assert len(read_noise(tmp_path).recordings) == 1
    (tmp_path / "b.opus").write_bytes(b"other audio")
    with pytest.raises(ValueError, match=r"b\.opus: audio in a folder is"):
        read_noise(tmp_path)


def test_parts_share_nothing() -> None:
    noise = Noise(recordings=(torch.arange(200_000.0),))
    (early,), (late,) = noise.part(0, 0.8).recordings, noise.part(0.8, 1).recordings
    assert early[-1] + 1 == late[0]
    with pytest.raises(ValueError, match=r"of 12\.5 s is too short to cut 5 %"):
        noise.part(0.95, 1)


def test_seeds_may_be_hashes_of_64_bits() -> None:
    found = [generate_noise(seed=seed, seconds=1).recordings for seed in (2**64 - 1, 2**63)]
    assert not any(map(torch.equal, *found))
