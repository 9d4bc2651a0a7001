from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from analogtorch.speech.data import Clips
from analogtorch.speech.transcription.recordings import (
    Recording,
    joined,
    pieces,
    read_recordings,
    spoken,
)
from analogtorch.speech.transcription.speech import Speech
from analogtorch.speech.transcription.whisper import Whisper

NOISE = np.random.default_rng(0).normal(size=16_000).astype(np.float32) / 10


def _wav(path: Path, samples: np.ndarray = NOISE, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


def test_a_folder_is_read_with_what_is_said(tmp_path: Path) -> None:
    _wav(tmp_path / "b.wav")
    (tmp_path / "b.txt").write_text("Turn the\nlight on.\n")
    _wav(tmp_path / "a" / "84-1-0001.flac", rate=8_000)
    (tmp_path / "a" / "._84-1.trans.txt").write_bytes(b"\0\5\x16\7 of a Mac \xff")
    (tmp_path / "a" / "84-1.trans.txt").write_text("84-1-0001 GO NOW\n84-1-0002 ELSEWHERE\n")
    _wav(tmp_path / "c.wav")
    (tmp_path / "notes.md").write_text("no audio")
    found = read_recordings(tmp_path)
    assert [(r.name, r.said) for r in found] == [
        ("a/84-1-0001.flac", "GO NOW"),
        ("b.wav", "Turn the light on."),
        ("c.wav", None),
    ]
    assert [r.seconds for r in found] == [2.0, 1.0, 1.0]  # 8 kHz is converted
    (one,) = read_recordings(tmp_path / "b.wav")
    assert (one.name, one.said) == ("b.wav", "Turn the light on.")


def test_references_stand_in_a_table(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _wav(tmp_path / "audio" / f"{name}.wav")
    table = 'path,text\na.wav,yes\nb.wav,"no, no"\n'
    (tmp_path / "other.csv").write_text(table)
    found = read_recordings(tmp_path / "audio", tmp_path / "other.csv")
    assert [r.said for r in found] == ["yes", "no, no"]
    (tmp_path / "audio" / "references.csv").write_text(table)
    assert [r.said for r in read_recordings(tmp_path / "audio")] == ["yes", "no, no"]
    (tmp_path / "one.txt").write_text("yes")
    (one,) = read_recordings(tmp_path / "audio" / "a.wav", tmp_path / "one.txt")
    assert one.said == "yes"


@pytest.mark.parametrize("path", ["{}/b.wav", "./b.wav", "../audio/b.wav ", "b.wav"])
def test_one_recording_has_its_row_of_a_table(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "audio"
    for name in ("a", "b"):
        _wav(folder / f"{name}.wav")
    table = folder / "references.csv"
    table.write_text(f"path, text\na.wav, yes\n{path.format(folder)}, no\n")
    for one, given in ((folder / "b.wav", None), (folder / "b.wav", table), (folder, None)):
        assert [r.said for r in read_recordings(one, given)][-1] == "no"
    table.write_text("path,text\na.wav,yes\n")
    (b,) = read_recordings(folder / "b.wav")
    assert b.said is None
    with pytest.raises(ValueError, match=r"references\.csv: has a reference for none"):
        read_recordings(folder / "b.wav", table)


def test_no_recording_of_a_folder_is_left_out(tmp_path: Path) -> None:
    _wav(tmp_path / "a.wav")
    _wav(tmp_path / ".cache" / "b.wav")
    assert [r.name for r in read_recordings(tmp_path)] == ["a.wav"]
    (tmp_path / "b.m4a").write_bytes(b"other audio")
    with pytest.raises(ValueError, match=r"b\.m4a: audio in a folder is \.wav, .* Convert"):
        read_recordings(tmp_path)
    (tmp_path / "b.m4a").unlink()
    (tmp_path / "b").symlink_to(tmp_path / ".cache", target_is_directory=True)
    with pytest.raises(ValueError, match="b is a link"):
        read_recordings(tmp_path)
    (tmp_path / "b").unlink()
    (tmp_path / "b.wav").symlink_to("none.wav")
    with pytest.raises(FileNotFoundError, match=r"b\.wav: no such audio file"):
        read_recordings(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " ?!\n", "a.txt: the reference of a.wav has no word"),
        ("a.txt", "", "has no word"),
        ("references.csv", "path,words\na.wav,yes\n", "lacks the columns text"),
        ("references.csv", "path,text\nb.wav,yes\n", "there is no recording .*b.wav"),
        ("references.csv", "path,text\na.wav,yes\na.wav,no\n", "has a reference already"),
        ("references.csv", 'path,text\na.wav,"yes\nb.wav,no\n', "close each quotation mark"),
        ("references.csv", 'path,"text\na.wav,yes\n', "csv:1: close each quotation mark"),
        ("references.csv", "path,text\na.wav\n", "has no word"),
        ("references.csv", "path,text\na.wav,no, no\n", "csv:2: the row has more cells .* quot"),
    ],
)
def test_references_of_no_use_are_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    _wav(tmp_path / "a.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_recordings(tmp_path)


def test_audio_of_no_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such audio file or folder"):
        read_recordings(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no audio file"):
        read_recordings(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file of references"):
        read_recordings(_wav(tmp_path / "a.wav"), tmp_path / "none.csv")
    (tmp_path / "all.txt").write_text("yes")
    with pytest.raises(ValueError, match="references of a folder are a table"):
        read_recordings(tmp_path, tmp_path / "all.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="no text in UTF-8"):
        read_recordings(tmp_path / "a.wav", tmp_path / "latin.txt")
    for content, message in ((b"", "not readable as audio"), (b"RIFF1234", "not readable")):
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_recordings(tmp_path)
    _wav(tmp_path / "a.wav", np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="holds no samples"):
        read_recordings(tmp_path)


def test_long_recordings_are_cut_where_they_are_quiet() -> None:
    second = torch.from_numpy(NOISE)
    quiet = torch.zeros(4_800)
    long = torch.cat([second, second, second, quiet] * 4)
    found = pieces(long, 6)  # at most 4 s of 6 are filled
    assert torch.equal(torch.cat(found), long)
    assert all(len(piece) <= 4 * 16_000 for piece in found)
    assert all(piece[-480:].abs().max() < 0.01 for piece in found)
    assert [len(piece) for piece in pieces(second, 6)] == [16_000]
    assert pieces(torch.zeros(32_000), 6) == []
    assert pieces(torch.full((100,), 1e-4), 6) == []
    assert pieces(torch.full((32_000,), 0.1), 6) == []  # an offset is no sound
    assert len(pieces(torch.cat([second, torch.zeros(100_000), second]), 6)) == 2


def test_silence_has_an_empty_text(whisper: Whisper) -> None:
    recordings = [
        Recording(name="silence", samples=torch.zeros(16_000), said="nothing"),
        Recording(name="long", samples=torch.from_numpy(np.tile(NOISE, 2))),
        Recording(name="short", samples=torch.from_numpy(NOISE[:4000]), said="yes"),
    ]
    speech = Speech.of(whisper, recordings, batch_size=2)
    assert set(speech.owners) == {1, 2}
    texts = speech.texts(whisper, whisper.model)
    assert texts[0] == ""
    alone = Speech.of(whisper, recordings[2:]).texts(whisper, whisper.model)
    assert alone == texts[2:]
    quiet = Speech.of(whisper, recordings[:1])
    assert quiet.texts(whisper, whisper.model) == [""]
    assert quiet.wer(whisper)(whisper.model) == 1.0
    assert speech.wer(whisper)(whisper.model) >= 0.5
    with pytest.raises(ValueError, match="no recording has a reference"):
        Speech.of(whisper, recordings[1:2]).wer(whisper)
    with pytest.raises(ValueError, match="recordings is empty"):
        Speech.of(whisper, [])


def _clips() -> Clips:
    classes = ("_silence_", "yes", "no")
    return Clips(
        waveforms=torch.arange(1, 13)[:, None].expand(-1, 16_000).to(torch.int16).contiguous(),
        labels=torch.tensor([0, 1, 2] * 4),
        speakers=("", "ann", "ann", "", "ann", "bob", "", "bob", "bob", "", "bob", "eve"),
        names=tuple(map(str, range(12))),
        classes=classes,
    )


def test_words_of_one_speaker_are_joined() -> None:
    clips = _clips()
    found = joined(clips, 4, words=3, pause=0.5)
    assert [r.seconds for r in found] == [4.5] * 4
    for recording in found:
        parts = (recording.samples.view(3, 24_000)[:, 0] * 32_768).round().int().tolist()
        own = [part - 1 for part in parts]
        assert len(set(own)) == 3
        assert len({clips.speakers[i] for i in own}) == 1
        assert recording.said == " ".join(clips.classes[int(clips.labels[i])] for i in own)
        assert not recording.samples.view(3, 24_000)[:, 16_000:].any()
    assert {r.name.rpartition(" ")[2] for r in found} == {"ann", "bob"}
    again = joined(clips, 4, words=3, pause=0.5)
    assert all(torch.equal(a.samples, b.samples) for a, b in zip(found, again, strict=True))
    with pytest.raises(ValueError, match="no speaker has 5 clips of words"):
        joined(clips, 1, words=5)


def test_sentences_are_spoken_the_same_each_time() -> None:
    pytest.importorskip("espeakng_loader")
    found, again = (spoken(["Go on.", "Stop."]) for _ in range(2))
    assert [r.said for r in found] == ["Go on.", "Stop."]
    assert 0.3 < found[0].seconds < 2
    assert all(torch.equal(a.samples, b.samples) for a, b in zip(found, again, strict=True))
    with pytest.raises(ValueError, match="'...' has no word"):
        spoken(["..."])


def test_variables_and_home_are_replaced_in_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wav(tmp_path / "a.wav")
    (tmp_path / "said.txt").write_text("yes")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RECORDINGS", str(tmp_path))
    (found,) = read_recordings("${RECORDINGS}/a.wav", "~/said.txt")
    assert found.said == "yes"
