"""The form of the clips, the checks on splits, and the sources as configuration."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from analogtorch.speech.augment import Augment
from analogtorch.speech.data import Clips, check_splits
from analogtorch.speech.folder import Folder
from analogtorch.speech.labels import KEYWORDS, LABELS, UNKNOWN_WORDS, label_index
from analogtorch.speech.speech_commands import SpeechCommands
from analogtorch.speech.synthetic import Synthetic


def clips(*speakers: str, label: int = 2) -> Clips:
    count = len(speakers)
    return Clips(
        waveforms=torch.zeros(count, 16_000, dtype=torch.int16),
        labels=torch.full((count,), label),
        speakers=speakers,
        names=tuple(f"clip{n}-{speaker}" for n, speaker in enumerate(speakers)),
    )


def test_labels() -> None:
    assert LABELS == (
        "_silence_",
        "_unknown_",
        "yes",
        "no",
        "up",
        "down",
        "left",
        "right",
        "on",
        "off",
        "stop",
        "go",
    )
    assert len(UNKNOWN_WORDS) == 25
    assert not set(UNKNOWN_WORDS) & set(KEYWORDS)
    assert label_index("go", where="") == 11
    with pytest.raises(
        ValueError, match=r"m\.csv:7: unknown class 'Go'; allowed are _silence_, .*'_unknown_'"
    ):
        label_index("Go", where="m.csv:7")


def test_floats_scale_by_full_scale_and_copy() -> None:
    given = replace(clips("a"), waveforms=torch.full((1, 16_000), -32_768, dtype=torch.int16))
    floats = given.floats()
    assert floats.dtype == torch.float32
    assert floats.unique().tolist() == [-1.0]
    assert given.waveforms[0, 0] == -32_768
    assert clips("a", "b", "c").floats(torch.tensor([2, 0])).shape == (2, 16_000)


def test_clips_refuse_what_does_not_fit() -> None:
    good = clips("a", "b")
    assert len(good) == 2
    with pytest.raises(FrozenInstanceError):
        good.labels = good.labels  # type: ignore[misc]
    with pytest.raises(
        TypeError, match=r"Clips\.waveforms is torch\.float32; it must be torch\.int16"
    ):
        replace(good, waveforms=good.waveforms.float())
    with pytest.raises(ValueError, match=r"shape \(2, 9\).*\(N, 16000\)"):
        replace(good, waveforms=good.waveforms[:, :9])
    with pytest.raises(ValueError, match="2 labels, 1 speakers, 2 names"):
        replace(good, speakers=("a",))
    with pytest.raises(ValueError, match=r"spans 2\.\.12; use 0\.\.11"):
        replace(good, labels=torch.tensor([2, 12]))


def test_splits_must_be_there_and_not_empty() -> None:
    good = {"test": clips("c"), "train": clips("a"), "val": clips("b")}
    assert list(check_splits(good, source="here")) == ["train", "val", "test"]
    with pytest.raises(ValueError, match=r"here gives the splits .*train, val, test"):
        check_splits({"train": clips("a")}, source="here")
    with pytest.raises(
        ValueError, match=r"here: the split 'val' is empty \(clips: train 1, val 0, test 1\)"
    ):
        check_splits(good | {"val": clips()}, source="here")


def test_a_speaker_in_two_splits_is_refused() -> None:
    splits = {"train": clips("a", "b"), "val": clips("c"), "test": clips("b")}
    with pytest.raises(
        ValueError, match=r"'b' is in two splits, 'train' \(clip1-b\) and 'test' \(clip0-b\)"
    ):
        check_splits(splits, source="here")


def test_only_silence_has_no_speaker() -> None:
    silence = clips("", "", label=0)
    check_splits({"train": silence, "val": silence, "test": silence}, source="here")
    with pytest.raises(ValueError, match="clip0- names no speaker"):
        check_splits({"train": clips(""), "val": silence, "test": silence}, source="here")


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (
            Synthetic,
            "{per_class: 20, snr_db: [1, 2], cache: null}",
            Synthetic(per_class=20, snr_db=(1, 2), cache=None),
        ),
        (SpeechCommands, "{root: corpus}", SpeechCommands(root="corpus")),
        (Folder, "{root: x, archives: [a.tar]}", Folder(root="x", archives=("a.tar",))),
        (Augment, "{speeds: [1.0], noise: null}", Augment(speeds=(1.0,))),
    ],
)  # fmt: skip
def test_sources_parse_from_yaml(tmp_path: Path, kind: type, text: str, expected: object) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=kind)
    parser.add_argument("--config", action="config")
    (tmp_path / "run.yaml").write_text(f"data: {text}")
    parsed = parser.parse_args([f"--config={tmp_path / 'run.yaml'}"])
    assert parser.instantiate(parsed).data == expected
