"""Synthetic speech: complete, disjoint by voice, reproducible, cached."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from analogtorch.speech.data import Clips
from analogtorch.speech.labels import KEYWORDS, LABELS, UNKNOWN_WORDS
from analogtorch.speech.synthetic import VARIANTS, Synthetic

pytest.importorskip("espeakng_loader", reason='needs pip install "analogtorch[synthetic]"')

SMALL = Synthetic(per_class=10, val_percent=20, test_percent=20, cache=None)


@pytest.fixture(scope="module")
def small() -> dict[str, Clips]:
    return SMALL.load()


def same(one: dict[str, Clips], other: dict[str, Clips]) -> bool:
    return all(
        torch.equal(a.waveforms, b.waveforms)
        and torch.equal(a.labels, b.labels)
        and (a.speakers, a.names) == (b.speakers, b.names)
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def test_every_split_has_every_class(small: dict[str, Clips]) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        assert small[split].labels.bincount().tolist() == [count] * len(LABELS)


def test_voices_are_real_and_disjoint(small: dict[str, Clips]) -> None:
    voices = {split: set(clips.speakers) - {""} for split, clips in small.items()}
    assert voices["train"] | voices["val"] | voices["test"] <= set(VARIANTS)
    assert (
        not voices["train"] & voices["val"]
        | voices["train"] & voices["test"]
        | voices["val"] & voices["test"]
    )
    assert len(set(VARIANTS)) == len(VARIANTS)


def test_clips_are_distinct_and_audible(small: dict[str, Clips]) -> None:
    everything = torch.cat([clips.waveforms for clips in small.values()])
    assert len(everything.unique(dim=0)) == len(everything)
    spoken = torch.cat([clips.waveforms[clips.labels != 0] for clips in small.values()])
    peaks = spoken.float().abs().amax(dim=1)
    assert peaks.min() > 1_500  # -24 dB of full scale is 2,067, and noise may take from it
    silence = torch.cat([clips.floats()[clips.labels == 0] for clips in small.values()])
    assert silence.std(dim=1).max() < 10 ** (-29 / 20)


def test_the_same_configuration_gives_the_same_bits(small: dict[str, Clips]) -> None:
    assert same(small, replace(SMALL, workers=1).load())


def test_another_seed_gives_other_speech(small: dict[str, Clips]) -> None:
    other = replace(SMALL, seed=1).load()
    assert not torch.equal(other["val"].waveforms, small["val"].waveforms)
    assert set(other["train"].speakers) != set(small["train"].speakers)


def test_more_clips_leave_the_first_ones_alone() -> None:
    voices = SMALL._voices()["test"]
    few, many = (list(replace(SMALL, per_class=n)._plans("test", voices)) for n in (10, 50))
    assert set(few) <= set(many)


def test_unknown_words_vary() -> None:
    plans = list(Synthetic(per_class=300)._plans("train", SMALL._voices()["train"]))
    words = {
        plan.utterance.text
        for plan in plans
        if plan.utterance and LABELS[plan.label] == "_unknown_"
    }
    assert words == set(UNKNOWN_WORDS)


@pytest.fixture
def made(small: dict[str, Clips], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one with each synthesis, which is replaced by the clips made before."""
    calls: list[bool] = []

    def make(self: Synthetic, progress: bool) -> dict[str, Clips]:
        calls.append(progress)
        return small

    monkeypatch.setattr(Synthetic, "_make", make)
    return calls


def test_the_cache_keeps_every_bit(
    small: dict[str, Clips], made: list[bool], tmp_path: Path
) -> None:
    config = replace(SMALL, cache=str(tmp_path / "deep" / "cache"))
    for _ in range(2):
        assert same(small, config.load())
    assert len(made) == 1
    replace(config, seed=1).load()
    replace(config, workers=1).load()
    assert len(made) == 2
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_cache_is_made_anew(
    small: dict[str, Clips],
    made: list[bool],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    config = replace(SMALL, cache=str(tmp_path))
    config.load()
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes({"flipped": data, "cut": data[: len(data) // 3], "empty": bytearray()}[damage])
    with caplog.at_level(logging.WARNING, logger="analogtorch"):
        assert same(small, config.load())
    assert f"{file} is damaged" in caplog.text
    assert same(small, config.load())
    assert len(made) == 2


def test_a_full_disk_costs_a_warning_and_leaves_nothing(
    small: dict[str, Clips],
    made: list[bool],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(file: IO[bytes], **arrays: np.ndarray) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with caplog.at_level(logging.WARNING, logger="analogtorch"):
        assert same(small, replace(SMALL, cache=str(tmp_path)).load())
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"per_class": 9}, "per_class must be an integer >= 10, got 9; fewer leave a split empty"),
        ({"val_percent": 5}, r"val_percent must be a number in \[10, 40\], got 5"),
        ({"test_percent": 41}, r"test_percent must be a number in \[10, 40\], got 41"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"snr_db": (9.0, 3.0)}, r"snr_db must be \(lowest, highest\) .*got \(9\.0, 3\.0\)"),
        ({"workers": 0}, "workers must be an integer >= 1, got 0"),
    ],
)
def test_fields_are_checked(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synthetic(**fields)


def test_a_class_of_other_words_needs_some() -> None:
    with pytest.raises(ValueError, match="no word is left for _unknown_.*; leave out _unknown_"):
        Synthetic(labels=(*KEYWORDS, *UNKNOWN_WORDS, "_unknown_"))


def test_texts_that_last_longer_than_a_clip_are_named(caplog: pytest.LogCaptureFixture) -> None:
    text = "turn on the radio in the kitchen"
    replace(SMALL, labels=("yes", text)).load()
    assert f"{text!r} lasts longer than a second in" in caplog.text
    assert "'yes'" not in caplog.text
