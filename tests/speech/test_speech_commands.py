"""The layout and split of the corpus, on a real sample of it and on a small tree made here."""

import csv
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from analogtorch.speech.data import SPLITS
from analogtorch.speech.labels import KEYWORDS, LABELS
from analogtorch.speech.speech_commands import FOLDER, NOISE, SpeechCommands, which_set


def speakers(split: str) -> Iterator[str]:
    """Identifiers that the corpus' rule puts into `split`."""
    names = (hashlib.sha1(str(n).encode()).hexdigest()[:8] for n in range(10_000))
    return (name for name in names if which_set(name) == split)


def write(file: Path, value: int, samples: int = 16_000) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.full(samples, value, np.int16), 16_000)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write two speakers per split with all keywords and three other words, and 20 s of noise."""
    for split in SPLITS:
        for _, speaker in zip(range(2), speakers(split), strict=False):
            for value, word in enumerate((*KEYWORDS, "bed", "cat", "dog")):
                write(tmp_path / FOLDER / word / f"{speaker}_nohash_0.wav", value)
    ramp = np.arange(20 * 16_000) // 16  # says where in the recording a crop came from
    (tmp_path / FOLDER / NOISE).mkdir()
    soundfile.write(tmp_path / FOLDER / NOISE / "ramp.wav", ramp.astype(np.int16), 16_000)
    return tmp_path


def test_twelve_classes_with_ten_percent_unknown_and_silence(tree: Path) -> None:
    for clips in SpeechCommands(root=str(tree)).load().values():
        assert clips.labels.bincount().tolist() == [2, 2] + [2] * 10
        for label, name, value in zip(
            clips.labels.tolist(), clips.names, clips.waveforms[:, 0].tolist(), strict=True
        ):
            if label >= 2:
                assert name.split("/")[1] == LABELS[label]
                assert value == label - 2


def test_shares_can_be_chosen(tree: Path) -> None:
    clips = SpeechCommands(root=str(tree), unknown_percent=30, silence_percent=0).load()["val"]
    assert clips.labels.bincount().tolist() == [0, 6] + [2] * 10


def test_the_seed_chooses_unknown_words_and_silence(tree: Path) -> None:
    one, again, other = (
        SpeechCommands(root=str(tree), seed=seed).load()["train"] for seed in (0, 0, 1)
    )
    assert one.names == again.names
    assert torch.equal(one.waveforms, again.waveforms)
    assert one.names != other.names
    assert not torch.equal(one.waveforms[one.labels == 0], other.waveforms[other.labels == 0])


def test_no_split_shares_noise_with_another(tree: Path) -> None:
    source = SpeechCommands(root=str(tree), silence_percent=100)
    for split, (low, high) in {
        "train": (0, 16_000),
        "val": (16_000, 18_000),
        "test": (18_000, 20_000),
    }.items():
        clips = source.load()[split]
        silence = clips.waveforms[clips.labels == 0].double()
        assert len(silence) == 20
        # the ramp rises by 999 in 15,984 samples, times the level
        slope = silence[:, 15_984] - silence[:, 0]
        start = silence[:, 0] / (slope / 999)
        loud = slope > 100
        assert loud.sum() > 10
        assert start[loud].min() > low - 300
        assert start[loud].max() < high - 1_000 + 300


def test_short_recordings_are_filled(tree: Path) -> None:
    file = next((tree / FOLDER / "yes").iterdir())
    write(file, 7, samples=9_000)
    splits = SpeechCommands(root=str(tree)).load()
    name = f"{Path(FOLDER).name}/yes/{file.name}"
    (row,) = [c.waveforms[c.names.index(name)] for c in splits.values() if name in c.names]
    assert row.unique().tolist() == [0, 7]
    lengths = [each.samples for clips in splits.values() for each in clips.recorded]
    assert sorted(set(lengths)) == [9_000, 16_000]  # the report counts what was changed


def test_a_missing_corpus_names_both_remedies(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no SpeechCommands/.*Point root .*download=True"
    ):
        SpeechCommands(root=str(tmp_path)).load()


def test_missing_noise_is_named(tree: Path) -> None:
    (tree / FOLDER / NOISE / "ramp.wav").unlink()
    with pytest.raises(FileNotFoundError, match="_background_noise_: no such folder, or no"):
        SpeechCommands(root=str(tree)).load()
    assert len(SpeechCommands(root=str(tree), silence_percent=0).load()["test"]) == 22


def test_the_corpus_own_lists_must_agree(tree: Path) -> None:
    folder = tree / FOLDER
    for name, split in (("validation_list.txt", "val"), ("testing_list.txt", "test")):
        paths = [
            p.relative_to(folder)
            for p in sorted(folder.glob("*/*_nohash_*.wav"))
            if which_set(p.name[:8]) == split
        ]
        (folder / name).write_text("".join(f"{path}\n" for path in paths))
    assert len(SpeechCommands(root=str(tree)).load()["test"]) == 24
    (folder / "testing_list.txt").write_text("")
    with pytest.raises(
        ValueError, match=r"belongs to 'test' by the corpus' rule, but validation_list\.txt"
    ):
        SpeechCommands(root=str(tree)).load()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unknown_percent": 101}, r"unknown_percent must be a number in \[0, 100\], got 101"),
        ({"silence_percent": -1}, r"silence_percent must be a number in \[0, 100\], got -1"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_fields_are_checked(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeechCommands(root="x", **fields)


def test_every_real_speaker_of_the_test_set_hashes_to_test(data_root: Path) -> None:
    with (data_root / "gsc_v2_test12" / "manifest.csv").open(newline="") as file:
        found = {row["speaker"] for row in csv.DictReader(file)} - {""}
    assert len(found) > 200
    assert {which_set(speaker) for speaker in found} == {"test"}


def test_a_real_sample_of_the_corpus(data_root: Path, tmp_path: Path) -> None:
    with tarfile.open(data_root / "gsc_v2_test12" / "sample_wav_tree.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    source = SpeechCommands(root=str(tmp_path), unknown_percent=0, silence_percent=0)
    with pytest.raises(
        ValueError, match=r"the split 'train' is empty \(clips: train 0, val 0, test 80\)"
    ):
        source.load()
    # the sample holds speakers of the test part only: give two of its clips new ones
    for split in ("train", "val"):
        write(tmp_path / FOLDER / "yes" / f"{next(speakers(split))}_nohash_0.wav", 1)
    test = source.load()["test"]
    assert test.labels.bincount().tolist() == [0, 0] + [8] * 10
    name = test.names[0]
    expected, _ = soundfile.read(tmp_path / "SpeechCommands" / name, dtype="int16")
    assert torch.equal(test.waveforms[0, : len(expected)], torch.from_numpy(expected))
