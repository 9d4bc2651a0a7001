"""Augmentation of training clips, as a pure function of (seed, epoch, index).

A clip in an epoch is changed in the same way whatever batch it is in, whichever process does it,
and whatever torch's generators have been used for.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analogtorch.files import expanded
from analogtorch.speech.audio import resampled
from analogtorch.speech.clip_files import NOISE
from analogtorch.speech.data import SAMPLE_RATE, SAMPLES, check_snr, check_waveforms
from analogtorch.speech.draws import hashed, uniform
from analogtorch.speech.noise import NOISE_PARTS, Noise, generate_noise, read_noise
from analogtorch.values import checks

# masks drawn in advance, of which each clip gets one: torchaudio draws from torch's global
# generator
_MASKS = 4096
# RMS below which a clip counts as silent; the SNR of noise is then relative to this level
_QUIETEST = 10 ** (-50 / 20)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The changes of a training clip, and their limits. Zero (or 1.0 for `speeds`) turns one off.

    Raises:
        ValueError: a field is out of range.
    """

    shift_ms: float = 100.0
    """Largest shift in time to either side, in ms, filled with zeros; 0 to 500."""
    gain_db: float = 6.0
    """Largest change of level, up or down, in dB; 0 to 40."""
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    """Speeds of which each clip gets one, 0.5 to 2 each; the pitch changes with the speed."""
    noise_probability: float = 0.8
    """Share of clips that get background noise; 0 to 1."""
    snr_db: tuple[float, float] = (5.0, 40.0)
    """Range of the ratio of the clip's RMS to the noise's, in dB, between -20 and 100."""
    noise: str | None = None
    """Folder of noise recordings of one second or longer; other rates than 16 kHz are converted.
    Of Speech Commands' `_background_noise_` it is the first 80 % of each: clips of silence in
    validation and test are cut from the rest. null generates white, pink and brown noise."""
    time_masks: int = 2
    """Number of stretches of frames set to 0 (the mean) in the features (SpecAugment:
    arXiv:1904.08779); 0 to 10."""
    time_mask_frames: int = 8
    """Longest stretch, in frames of the features (20 ms each by default); 0 to 49."""
    frequency_masks: int = 2
    """Number of bands set to 0 in the features; 0 to 10."""
    frequency_mask_bins: int = 6
    """Widest band, in filters; 0 to 40."""

    def __post_init__(self) -> None:
        for field, limit in {"shift_ms": 500, "gain_db": 40, "noise_probability": 1}.items():
            checks.numbers(self, field, least=0, most=limit)
        for field in ("time_masks", "frequency_masks"):
            checks.counts(self, field, least=0, most=10)
        checks.counts(self, "time_mask_frames", least=0, most=49)
        checks.counts(self, "frequency_mask_bins", least=0, most=40)
        if not isinstance(self.speeds, tuple | list) or not self.speeds:
            raise ValueError(
                "Augment.speeds must be a tuple such as (0.9, 1.0, 1.1), got "
                f"{checks.shown(self.speeds)}"
            )
        given = enumerate(self.speeds)
        speeds = (checks.number(f"Augment.speeds[{i}]", v, least=0.5, most=2) for i, v in given)
        checks.settle(self, "speeds", tuple(speeds))
        check_snr(self)
        if self.noise is not None:
            checks.text("Augment.noise", self.noise, "data/noise")
        for name, needed in (
            ("time_mask_frames", "time_masks"),
            ("frequency_mask_bins", "frequency_masks"),
            ("snr_db", "noise_probability"),
        ):
            given = getattr(self, name)
            if not getattr(self, needed) and given != getattr(Augment, name):
                raise ValueError(
                    f"Augment.{name}={checks.shown(given)} has no effect with {needed}=0; set "
                    f"{needed} too, or leave {name} out"
                )


class Augmenter:
    """Changes training clips as an `Augment` describes.

    Args:
        config: the changes.
        seed: seed of all changes, 0 or more.

    Raises:
        FileNotFoundError: the folder of noise does not exist or holds no audio.
        ValueError: `read_noise` refuses the folder of noise.
        TypeError: `config` is no `Augment`.
    """

    def __init__(self, config: Augment, *, seed: int) -> None:
        self.config = checks.instance("config", config, Augment, "Augment(noise_probability=0.5)")
        self.seed = checks.count("seed", seed, least=0, largest=checks.UINT64)
        self.noise = _heard(config.noise) if config.noise else generate_noise(seed=seed)

    def waveforms(self, waveforms: Tensor, index: Tensor, *, epoch: int) -> Tensor:
        """Return the waveforms with speed, level, shift and noise, in this order.

        They are clipped to [-1, 1]. The input is not changed.

        Args:
            waveforms: float in [-1, 1] of shape (B, 16000).
            index: integers of shape (B,): the index of each row in the training split.
            epoch: number of the epoch, 0 or more.

        Raises:
            ValueError: a shape is another, or the epoch is no integer >= 0.
            TypeError: an argument is no tensor, or waveforms are not floating point.
        """
        check_waveforms(waveforms)
        keys = (self.seed, checks.count("epoch", epoch, least=0), _as_index(index, waveforms))
        changed = self._change_level(self._change_speed(waveforms, keys), keys)
        changed = self._mix_noise(self._shift(changed, keys), keys)
        return changed.clamp(-1, 1)

    def features(self, features: Tensor, index: Tensor, *, epoch: int) -> Tensor:
        """Return the features with SpecAugment masks.

        Masked `features` have shape (B, 1, frames, filters) and a mean near 0; without masks they
        have any. The other arguments are those of `waveforms`.
        """
        checks.instance("features", features, Tensor, "LogMel()(waveforms)")
        if not self.config.time_masks and not self.config.frequency_masks:
            return features
        if features.ndim != 4 or features.shape[1] != 1 or not features.is_floating_point():
            raise ValueError(
                f"features are {features.dtype} of shape {tuple(features.shape)}; masks need float "
                "of (B, 1, frames, filters), as LogMel gives them: set time_masks and "
                "frequency_masks to 0"
            )
        checks.count("epoch", epoch, least=0)
        given = self.config
        times = given.time_masks, given.time_mask_frames
        bands = given.frequency_masks, given.frequency_mask_bins
        over_time, over_bands = _mask_bank(times, bands, self.seed, *features.shape[-2:])
        drawn = hashed(self.seed, epoch, _as_index(index, features), "mask") % np.uint64(_MASKS)
        which = torch.from_numpy(drawn.astype(np.int64))
        return features * (over_time[which] * over_bands[which]).to(features)

    def _change_speed(self, waveforms: Tensor, keys: tuple) -> Tensor:
        speeds = self.config.speeds
        which = (uniform(*keys, "speed") * len(speeds)).astype(np.int64)
        changed = waveforms.clone()
        for position, speed in enumerate(speeds):
            rows = torch.from_numpy(np.flatnonzero(which == position))
            if speed != 1 and len(rows):
                faster = resampled(waveforms[rows], round(SAMPLE_RATE * speed))
                excess = faster.shape[1] - SAMPLES  # half of it is cut, or filled, on either side
                changed[rows] = torch.nn.functional.pad(
                    faster, (-(excess // 2), excess // 2 - excess)
                )
        return changed

    def _change_level(self, waveforms: Tensor, keys: tuple) -> Tensor:
        decibels = self.config.gain_db * (2 * uniform(*keys, "gain") - 1)
        return waveforms * _column(10 ** (decibels / 20), waveforms)

    def _shift(self, waveforms: Tensor, keys: tuple) -> Tensor:
        most = round(self.config.shift_ms * SAMPLE_RATE / 1000)
        starts = torch.from_numpy((uniform(*keys, "shift") * (2 * most + 1)).astype(np.int64))
        windows = torch.nn.functional.pad(waveforms, (most, most)).unfold(1, SAMPLES, 1)
        return windows[torch.arange(len(starts), device="cpu"), starts]

    def _mix_noise(self, waveforms: Tensor, keys: tuple) -> Tensor:
        low, high = self.config.snr_db
        ratio = 10 ** (-(low + (high - low) * uniform(*keys, "snr")) / 20)
        ratio *= uniform(*keys, "noisy") < self.config.noise_probability
        noise = self.noise.crop(uniform(*keys, "crop")).to(waveforms)
        wanted = _rms(waveforms).clamp(min=_QUIETEST) * _column(ratio, waveforms)
        return waveforms + noise * (wanted / _rms(noise).clamp(min=1e-9))


def _heard(folder: str) -> Noise:
    """Return the noise in a folder that training may hear."""
    noise = read_noise(folder, resample=True)
    # of shorter ones no clips of silence are cut
    long = all(len(each) >= 10 * SAMPLE_RATE for each in noise.recordings)
    corpus = expanded(folder).resolve().name == NOISE
    return noise.part(*NOISE_PARTS["train"]) if corpus and long else noise


def _as_index(index: Tensor, batch: Tensor) -> NDArray[np.int64]:
    checks.instance("index", index, Tensor, "torch.arange(len(batch))")
    if index.shape != (len(batch),) or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"index has shape {tuple(index.shape)} and {index.dtype}; it must be ({len(batch)},) "
            "integers"
        )
    return index.cpu().numpy().astype(np.int64)


def _column(values: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)[:, None]


def _rms(waveforms: Tensor) -> Tensor:
    return waveforms.square().mean(dim=1, keepdim=True).sqrt()


@lru_cache(maxsize=2)
def _mask_bank(
    times: tuple[int, int], bands: tuple[int, int], seed: int, frames: int, bins: int
) -> tuple[Tensor, Tensor]:
    """Return masks over time (4096, 1, frames, 1) and over bands (4096, 1, 1, bins).

    They are 1 and, where masked, 0; their product is the mask of a clip. Those of times, and of
    bands, are their number and their length at most. torch's generator keeps its state.
    """
    from torchaudio.transforms import SpecAugment

    def drawn(times: tuple[int, int], bands: tuple[int, int], bins: int, frames: int) -> Tensor:
        draw = SpecAugment(
            n_time_masks=times[0], time_mask_param=times[1],
            n_freq_masks=bands[0], freq_mask_param=bands[1],
            zero_masking=True,
        )  # fmt: skip
        return draw(torch.ones(_MASKS, 1, bins, frames, dtype=torch.float32, device="cpu")).mT

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would seed every GPU as well, which fork_rng would not undo.
        torch.default_generator.manual_seed(int(hashed(seed, "masks")[0] >> np.uint64(1)))
        return drawn(times, (0, 1), 1, frames), drawn((0, 1), bands, bins, 1)
