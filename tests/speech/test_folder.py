"""Folders and archives of labelled clips, and every row that cannot be used."""

import re
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from analogtorch.speech.changed_clips import changed_note
from analogtorch.speech.clip_rows import read_manifest
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import Clips, coverage_note, silence_note, speaker_note
from analogtorch.speech.folder import Folder
from analogtorch.speech.kws import notes_on
from analogtorch.speech.labels import LABELS
from analogtorch.speech.named import by_command

ROWS = ["yes/a.wav,yes,ann,train", "go/b.wav,go,bob,val", "_silence_/c.wav,_silence_,,test"]
HEADER = "path,label,speaker,split"


def fill(root: Path, rows: list[str] = ROWS, header: str = HEADER, samples: int = 16_000) -> Path:
    """A folder with a manifest and the clips of ROWS, each of another constant value."""
    root.mkdir(exist_ok=True)
    (root / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    for value, row in enumerate(ROWS):
        file = root / row.split(",")[0]
        file.parent.mkdir(exist_ok=True)
        soundfile.write(file, np.full(samples, value, np.int16), 16_000)
    return root


def folder(root: Path | str, **options: Any) -> Folder:
    """A source of the twelve classes, of which ROWS has three."""
    return Folder(root=str(root), labels="speech_commands_12", **options)


def pack(root: Path, archive: str, mode: str = "w") -> None:
    """Move the clips below `root` into an archive, with the "./" that `tar -c .` writes."""
    with tarfile.open(root / archive, mode) as tar:  # type: ignore[call-overload]
        for file in sorted(root.glob("*/*.wav")):
            tar.add(file, arcname=f"./{file.relative_to(root)}")
            file.unlink()


def test_a_folder_of_files(tmp_path: Path) -> None:
    splits = folder(fill(tmp_path)).load()
    assert [splits[s].names for s in ("train", "val", "test")] == [
        ("yes/a.wav",),
        ("go/b.wav",),
        ("_silence_/c.wav",),
    ]
    assert [splits[s].waveforms[0, 0].item() for s in splits] == [0, 1, 2]
    assert [LABELS[splits[s].labels[0]] for s in splits] == ["yes", "go", "_silence_"]
    assert [splits[s].speakers for s in splits] == [("ann",), ("bob",), ("",)]


def test_archives_are_read_without_unpacking(tmp_path: Path) -> None:
    plain = folder(fill(tmp_path)).load()
    pack(tmp_path, "clips.tar")
    before = sorted(tmp_path.rglob("*"))
    packed = folder(tmp_path).load()
    assert sorted(tmp_path.rglob("*")) == before
    for split in plain:
        assert torch.equal(plain[split].waveforms, packed[split].waveforms)


def test_other_columns_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    fill(tmp_path, [f"x,{row}" for row in ROWS], header="\ufeffword," + HEADER)
    assert len(folder(tmp_path).load()["train"]) == 1


def test_spaces_around_a_cell_do_not_count(tmp_path: Path) -> None:
    fill(tmp_path, ["yes/a.wav , yes, ann ,train ", *ROWS[1:]])
    assert folder(tmp_path).load()["train"].speakers == ("ann",)
    fill(tmp_path, ROWS, header="path , label, speaker, split")
    assert folder(tmp_path).load()["train"].speakers == ("ann",)
    fill(tmp_path, [*ROWS, "yes/d.wav, yes,ann ,test"])
    with pytest.raises(ValueError, match=r"speaker 'ann' is in two splits"):
        folder(tmp_path).load()
    cases = [ROWS[0], "go/b.wav,Yes,bob,val", ROWS[2]]
    with pytest.raises(ValueError, match=r"'yes' \(.*csv:2\) and 'Yes' \(.*csv:3\) differ in case"):
        Folder(root=str(fill(tmp_path, cases))).load()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("yes/a.wav,maybe,ann,train", r"manifest\.csv:5: unknown class 'maybe'; allowed are"),
        (
            "yes/a.wav,yes,ann,dev",
            r"manifest\.csv:5: unknown split 'dev'; allowed are train, val, test",
        ),
        ("yes/a.wav,yes", r"manifest\.csv:5: the row has an empty path or label, or too few"),
        ("yes/a.wav;yes;ann;train", r"csv:5: .*too few cells, which commas separate: "),
        (",yes,ann,train", r"manifest\.csv:5: the row has an empty path"),
        ("yes/a.wav,yes,,train", r"yes/a\.wav names no speaker; only _silence_"),
        (
            "yes/a.wav,yes,bob,train",
            r"speaker 'bob' is in two splits, 'val' \(go/b\.wav\) and 'train' \(yes/a\.wav\)",
        ),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder(fill(tmp_path, [*ROWS, row])).load()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "yes/a.wav,yes,ann,train",
            r"csv:5: 'yes/a\.wav' is listed already, as yes in 'train' \(.*csv:2\)",
        ),
        ("yes//./a.wav,no,ann,train", r"csv:5: 'yes/a\.wav' is listed already, as yes"),
        (
            "_silence_/c.wav,_silence_,,train",
            r"csv:5: '_silence_/c\.wav' is listed already, as _silence_ in 'test'",
        ),
        ("../yes/a.wav,yes,ann,train", r"csv:5: the path '\.\./yes/a\.wav' leaves the folder"),
        ("yes/../../a.wav,yes,ann,train", "leaves the folder"),
        ("/etc/passwd,yes,ann,train", "leaves the folder"),
        ("link.wav,yes,ann,train", r"csv:5: .*link\.wav is a link; put the recording itself"),
        ("away/a.wav,yes,ann,train", r"csv:5: .*away is a link"),
        (
            "copy.wav,no,ann,train",
            r"yes/a\.wav \(yes in 'train'\) and copy\.wav \(no in 'train'\) are the same recording",
        ),
        (
            "copy.wav,yes,cy,test",
            r"yes/a\.wav \(yes in 'train'\) and copy\.wav \(yes in 'test'\) are the same recording",
        ),
    ],
)
def test_recordings_twice_or_from_elsewhere(tmp_path: Path, row: str, message: str) -> None:
    root = fill(tmp_path / "clips", [*ROWS, row])
    tone = np.arange(16_000, dtype=np.int16)
    for name in ("yes/a.wav", "copy.wav", "../a.wav"):
        soundfile.write(root / name, tone, 16_000)
    (root / "link.wav").symlink_to(root / "yes/a.wav")
    (root / "away").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=message):
        folder(root).load()


def test_a_folder_may_be_reached_by_a_link_and_a_variable(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "clips")
    (tmp_path / "link").symlink_to(tmp_path / "clips")
    monkeypatch.setenv("WHERE", str(tmp_path))
    assert len(folder("${WHERE}/link").load()["train"]) == 1
    monkeypatch.delenv("WHERE")
    assert len(folder(f"${{WHERE:-{tmp_path}}}/clips").load()["train"]) == 1
    with pytest.raises(
        ValueError, match=r"the variable WHERE is not set; set it, or write \$\{WHERE:-a default\}"
    ):
        folder("${WHERE}/link").load()


def test_links_and_damage_in_archives(tmp_path: Path) -> None:
    root = fill(tmp_path, samples=16_000)
    with tarfile.open(root / "clips.tar", "w") as tar:
        for row in ROWS[1:]:
            tar.add(root / row.split(",")[0], row.split(",")[0])
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("yes/a.wav")
            link.type, link.linkname = kind, "go/b.wav"
        tar.addfile(link)
    with pytest.raises(
        ValueError,
        match=r"csv:2: 'yes/a\.wav' in '.*clips\.tar' is a link, a sparse file or larger",
    ):
        folder(root).load()
    pack(fill(root), "clips.tar")
    whole = (root / "clips.tar").read_bytes()
    for kept, message in (
        (len(whole) // 2, r"clips\.tar'?: damaged or cut short|there is no"),
        (100, "no tar archive"),
    ):
        (root / "clips.tar").write_bytes(whole[:kept])
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            folder(root).load()


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or tar archive"):
        folder(tmp_path / "nowhere").load()
    fill(tmp_path, [*ROWS, "yes/z.wav,yes,zoe,train"])
    with pytest.raises(FileNotFoundError, match=r"manifest\.csv:5: there is no 'yes/z\.wav' in "):
        folder(tmp_path).load()
    pack(tmp_path, "clips.tar")
    with pytest.raises(
        FileNotFoundError, match=r"manifest\.csv:5: there is no 'yes/z\.wav' in .*clips\.tar"
    ):
        folder(tmp_path).load()
    with pytest.raises(FileNotFoundError, match=r"other\.tar: no such archive"):
        folder(tmp_path, archives=("other.tar",)).load()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    fill(tmp_path, ["yes/a.wav,yes,train"], header="path,label,split")
    with pytest.raises(
        ValueError, match=r"manifest\.csv: no column 'speaker' .*needs path, label, speaker, split"
    ):
        folder(tmp_path).load()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Path,Label,Speaker,Split", r"csv: no column 'path' .*, in small letters"),
        ("path,label,speaker,Split", r"csv: no column 'split' .*, in small letters"),
        (HEADER + ", label", r"csv: the column 'label' is there twice .*, each once"),
    ],
)
def test_a_column_in_capitals_or_twice_is_named(header: str, message: str, tmp_path: Path) -> None:
    fill(tmp_path, [f"{row},yes" for row in ROWS], header=header)
    with pytest.raises(ValueError, match=message):
        folder(tmp_path).load()


def test_what_windows_and_excel_write_is_refused_with_the_remedy(tmp_path: Path) -> None:
    fill(tmp_path, [*ROWS, "yes\\a.wav,yes,ann,train"])
    with pytest.raises(
        FileNotFoundError, match=r"csv:5: there is no 'yes\\\\a\.wav' in .*Write / instead of \\"
    ):
        folder(tmp_path).load()
    rows = [row.replace(",", ";") for row in ROWS]
    for header in (HEADER.replace(",", ";"), HEADER.replace(",", "\t")):
        fill(tmp_path, ROWS, header=header)
        (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]))
        with pytest.raises(
            ValueError,
            match=r"csv: no column 'path' .*, separated by commas, not by semicolons or tabs",
        ):
            folder(tmp_path).load()


def test_an_empty_split_or_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the split 'val' is empty"):
        folder(fill(tmp_path, [ROWS[0], ROWS[2]])).load()
    (tmp_path / "manifest.csv").write_text("")
    with pytest.raises(ValueError, match="no column 'path'"):
        folder(tmp_path).load()
    (tmp_path / "manifest.csv").write_bytes(b"path,label,speaker,split\n\xff\xfe,yes,ann,train\n")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        folder(tmp_path).load()


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    pack(fill(tmp_path), "clips.tar.gz", "w:gz")
    with pytest.raises(ValueError, match=r"clips\.tar\.gz: compressed, damaged"):
        folder(tmp_path, archives=("clips.tar.gz",)).load()
    pack(fill(tmp_path), "a.tar")
    pack(fill(tmp_path), "b.tar")
    with pytest.raises(ValueError, match=r"twice in the archives: .*a\.tar', .*b\.tar'"):
        folder(tmp_path).load()


def test_a_bad_clip_is_named_with_its_row(tmp_path: Path) -> None:
    fill(tmp_path, samples=15_000)
    with pytest.raises(
        ValueError, match=r"manifest\.csv:2 \(yes/a\.wav\): 15000 samples .*fit=.pad_or_trim."
    ):
        folder(tmp_path).load()
    assert len(folder(tmp_path, fit="pad_or_trim").load()["val"]) == 1


def test_fit_is_checked_at_once() -> None:
    with pytest.raises(ValueError, match="fit must be one of .*got 'crop'"):
        Folder(root="x", fit="crop")  # type: ignore[arg-type]


def test_real_recordings(data_root: Path) -> None:
    splits = Folder(root=str(data_root / "gsc_v2_test12")).load()
    assert {split: len(clips) for split, clips in splits.items()} == {
        "train": 3189,
        "val": 583,
        "test": 1118,
    }
    counts = torch.cat([clips.labels for clips in splits.values()]).bincount()
    expected = {
        "_silence_": 408,
        "_unknown_": 408,
        "yes": 419,
        "no": 405,
        "up": 425,
        "down": 406,
        "left": 412,
    }
    expected |= {"right": 396, "on": 396, "off": 402, "stop": 411, "go": 402}
    assert counts.tolist() == [expected[label] for label in LABELS]


def words(root: Path, *paths: str) -> Path:
    """Write a clip of its own for each path, of noise."""
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(-99, 99, 16_000)
        soundfile.write(file, noise.astype(np.int16), 16_000)
    return root


SPOKEN = [f"{word}/{who}_{n}.wav" for word in ("low", "high") for who in "abcd" for n in (1, 2)]


def names(splits: dict[str, Clips]) -> dict[str, str]:
    return {name: split for split, clips in splits.items() for name in clips.names}


def test_folders_name_the_words(tmp_path: Path) -> None:
    extra = ["_background_noise_/n.wav", ".hidden/x.wav", "low/.x.wav", "high/readme.txt"]
    words(tmp_path, *SPOKEN, *(e for e in extra if e.endswith("wav")))
    (tmp_path / extra[-1]).write_text("no clip")
    splits = Folder(root=str(tmp_path)).load()
    assert sorted(names(splits)) == sorted(SPOKEN)
    for clips in splits.values():
        assert clips.classes == ("high", "low")
        assert set(clips.labels.tolist()) == {0, 1}
        assert [clips.classes[label] for label in clips.labels] == [
            name.split("/")[0] for name in clips.names
        ]
    assert {split: len(clips) for split, clips in splits.items()} == {
        "train": 10,
        "val": 2,
        "test": 4,
    }
    assert names(Folder(root=str(tmp_path)).load()) == names(splits)
    assert names(Folder(root=str(tmp_path), seed=1).load()) != names(splits)
    assert speaker_note(splits).startswith("16 of 16 clips name no speaker: the same voices")


def test_speakers_in_file_names_stay_in_one_split(tmp_path: Path) -> None:
    splits = Folder(root=str(words(tmp_path, *SPOKEN)), speaker="^([^_]+)_").load()
    speakers = [set(clips.speakers) for clips in splits.values()]
    assert set.union(*speakers) == set("abcd")
    assert sum(map(len, speakers)) == 4
    assert speaker_note(splits) is None


def test_a_speaker_of_most_clips_is_in_training(tmp_path: Path, caplog) -> None:
    few = [f"{w}/{who}_{n}.wav" for w in ("low", "high") for who in "bcdefghij" for n in (1, 2)]
    many = [f"{w}/a_{n}.wav" for w in ("low", "high") for n in range(40)]
    root = str(words(tmp_path, *few, *many))
    with caplog.at_level("INFO", "analogtorch"):
        for seed in range(8):
            splits = Folder(root=root, speaker="^(.)", seed=seed).load()
            sizes = [len(splits[split]) for split in ("train", "val", "test")]
            assert sizes == [80 + 24, 4, 8]  # the others have 36 clips: 10 and 20 % of those
            assert "a" in splits["train"].speakers
    assert "by speaker, with seed 7: 104 train, 4 val, 8 test" in caplog.text


def test_parts_that_are_far_from_what_was_asked_are_warned_of(tmp_path: Path, caplog) -> None:
    counts = {"a": 2, "b": 20, "c": 8, "d": 10, "e": 28, "f": 6}
    clips = [
        f"{w}/{s}_{n}.wav" for w in ("low", "high") for s, k in counts.items() for n in range(k)
    ]
    root, warned = str(words(tmp_path, *clips)), 0
    for seed in range(8):
        caplog.clear()
        sizes = {k: len(v) for k, v in Folder(root=root, speaker="^(.)", seed=seed).load().items()}
        for name, asked in (("val", 10), ("test", 20)):
            share = 100 * sizes[name] / sum(sizes.values())
            said = f"{name} has {share:.0f} % of the clips in place of {asked} %, as speakers are w"
            assert (said in caplog.text) == (abs(share - asked) > 10)
            warned += said in caplog.text
    assert warned


@pytest.mark.parametrize(
    "form", ["{w}/{s}/{n}.wav", "{w}/{s}_nohash_{n}.wav", "clips/{w}/{s}/{n}.wav"]
)
def test_folders_and_names_of_speech_commands_name_speakers(form: str, tmp_path: Path) -> None:
    paths = [form.format(w=w, s=s, n=n) for w in ("low", "high") for s in "abcd" for n in (0, 1)]
    splits = Folder(root=str(words(tmp_path, *paths))).load()
    assert {c.classes for c in splits.values()} == {("high", "low")}
    assert sorted(s for c in splits.values() for s in set(c.speakers)) == list("abcd")


def test_folders_name_the_splits_and_speakers_in_two_are_refused(tmp_path: Path) -> None:
    order = {"train": "ab", "val": "c", "test": "d"}
    paths = [
        f"{s}/{w}/{who}/1.wav" for s, all_ in order.items() for who in all_ for w in ("lo", "hi")
    ]
    splits = Folder(root=str(words(tmp_path / "good", *paths))).load()
    assert names(splits) == {path: path.split("/")[0] for path in paths}
    leaks = [*paths, "test/lo/a/2.wav", "val/hi/b/2.wav"]
    with pytest.raises(
        ValueError,
        match=r"speaker 'a' is in two splits, 'test' \(test/lo/a/2\.wav\) and 'train' "
        r"\(train/hi/a/1\.wav\); so are 'b'\. Accuracy",
    ):
        Folder(root=str(words(tmp_path / "bad", *leaks))).load()
    with pytest.raises(ValueError, match=r"^lo/x\.wav lies in no folder of a split, but test/"):
        Folder(root=str(words(tmp_path / "mixed", *paths, "lo/x.wav"))).load()


@pytest.mark.parametrize("splits", ["training validation testing", "Train Val Test", "train dev"])
def test_splits_by_other_names_are_no_words(splits: str, tmp_path: Path) -> None:
    each = splits.split()
    paths = [f"{s}/{w}/{s}{n}.wav" for s in each for w in ("low", "high", "mid") for n in (1, 2, 3)]
    listed = ", ".join(sorted(each))
    with pytest.raises(ValueError, match=f"folders {listed} are splits .* call them train, val"):
        Folder(root=str(words(tmp_path / "clips", *paths))).load()


def test_one_tar_archive_is_a_source(tmp_path: Path) -> None:
    words(tmp_path / "all", *SPOKEN)
    plain = Folder(root=str(tmp_path / "all"), seed=3).load()
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "all", ".")
    assert names(Folder(root=str(tmp_path / "all.tar"), seed=3).load()) == names(plain)
    fill(tmp_path / "listed")
    with tarfile.open(tmp_path / "listed.tar", "w") as tar:
        tar.add(tmp_path / "listed", ".")
    assert folder(tmp_path / "listed.tar").load()["train"].names == ("yes/a.wav",)


def test_an_archive_that_is_cut_off_between_two_members_is_refused(tmp_path: Path) -> None:
    words(tmp_path / "all", *SPOKEN)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "all", ".")
        end = tar.offset
    whole = (tmp_path / "all.tar").read_bytes()
    with tarfile.open(tmp_path / "all.tar") as tar:
        last, before = tar.getmembers()[-1], tar.getmembers()[-2]
    for size, name in ((end, last.name), (last.offset, before.name)):
        (tmp_path / "all.tar").write_bytes(whole[:size])
        message = rf"all\.tar': cut short after '{re.escape(name)}': a tar archive ends with block"
        with pytest.raises(ValueError, match=message):
            Folder(root=str(tmp_path / "all.tar")).load()
    (tmp_path / "all.tar").write_bytes(whole[: end + 512])  # one block is an end
    Folder(root=str(tmp_path / "all.tar")).load()


def test_a_missing_clip_of_one_archive_names_it_once(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "listed", [*ROWS, "yes/z.wav,yes,ann,train"])
    with tarfile.open(tmp_path / "listed.tar", "w") as tar:
        tar.add(tmp_path / "listed", ".")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no 'yes/z\.wav' in listed\.tar\. Corr"):
        folder("listed.tar").load()


def test_members_that_lead_out_of_an_archive_are_named(tmp_path: Path) -> None:
    words(tmp_path / "all", *SPOKEN)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for file in sorted((tmp_path / "all").rglob("*.wav")):
            tar.add(file, arcname=f"../{file.relative_to(tmp_path / 'all')}")
    with pytest.raises(
        ValueError, match=r"all\.tar': '\.\./.*wav' leads out of .* -cf all\.tar \."
    ):
        Folder(root=str(tmp_path / "all.tar")).load()


def test_a_manifest_may_be_named_as_the_archive_lists_it(tmp_path: Path) -> None:
    fill(tmp_path / "listed")
    with tarfile.open(tmp_path / "listed.tar", "w") as tar:
        tar.add(tmp_path / "listed", ".")
    found = folder(tmp_path / "listed.tar", manifest="./manifest.csv").load()
    assert names(found) == names(folder(tmp_path / "listed.tar").load())


def test_a_manifest_without_rows_lists_no_clip(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,label,speaker,split\n")
    with pytest.raises(ValueError, match=r"manifest\.csv: there is no clip"):
        Folder(root=str(tmp_path)).load()


@pytest.mark.parametrize("form", ["folder", "archive", "archive in a folder"])
def test_the_manifest_of_a_folder_that_was_packed_whole_counts(form: str, tmp_path: Path) -> None:
    plain = folder(fill(tmp_path / "words")).load()
    root = tmp_path / "root"
    root.mkdir()
    if form == "folder":
        (tmp_path / "words").rename(root / "words")
    else:
        with tarfile.open(root / "words.tar", "w") as tar:
            tar.add(tmp_path / "words", "words")
    found = folder(root / "words.tar" if form == "archive" else root).load()
    for split, clips in plain.items():
        assert found[split].names == tuple(f"words/{name}" for name in clips.names)
        assert torch.equal(found[split].waveforms, clips.waveforms)
        assert found[split].speakers == clips.speakers


def test_a_manifest_elsewhere_is_no_silent_loss(tmp_path: Path) -> None:
    root = words(tmp_path, *SPOKEN)
    (root / "low" / "manifest.csv").write_text(HEADER + "\n")
    with pytest.raises(ValueError, match=r"the manifest 'low/manifest\.csv' lies neither at the"):
        Folder(root=str(root)).load()
    fill(root)  # one at the top is the one
    assert folder(root).load()["train"].names == ("yes/a.wav",)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("cafe\u0301", "differ in spaces around them or the encoding of accents alone"),
        ("caf\u00e9 ", "differ in spaces around them or the encoding of accents alone"),
        ("Caf\u00e9", "differ in case alone"),
    ],
)
def test_one_word_in_two_spellings_is_refused(other: str, message: str, tmp_path: Path) -> None:
    paths = [f"{word}/{n}.wav" for word in ("caf\u00e9", other, "low") for n in range(4)]
    with pytest.raises(ValueError, match=message):
        Folder(root=str(words(tmp_path, *paths))).load()


@pytest.mark.parametrize("form", ["folder", "manifest"])
def test_a_listed_word_is_found_in_another_encoding_of_its_accents(
    form: str, tmp_path: Path
) -> None:
    spelt, listed = "cafe\u0301", "caf\u00e9"  # as macOS writes folders, and as keyboards do
    paths = [f"{word}/{n}.wav" for word in (spelt, "low") for n in range(4)]
    root = words(tmp_path / "clips", *paths)
    if form == "manifest":
        places = zip(paths, ["train", "train", "val", "test"] * 2, strict=True)
        rows = [f"{path},{path.split('/')[0]},{path},{split}" for path, split in places]
        (root / "manifest.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    splits = Folder(root=str(root), labels=(listed, "low")).load()
    for clips in splits.values():
        assert clips.classes == (listed, "low")
        said = [name.split("/")[0] == "low" for name in clips.names]
        assert clips.labels.tolist() == said
    if form == "folder":  # listed in both, they are two classes
        paths += [f"{listed}/{n}.wav" for n in range(4)]
        root = words(tmp_path / "more", *paths)
        clips = Folder(root=str(root), labels=(listed, spelt, "low")).load()["train"]
        assert set(clips.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (["a.wav"], {}, r"a\.wav lies in no folder of a word; put it into one, as low/a\.wav"),
        (["low/a.wav"], {}, r"1 clips of 'low'; at least 3 are needed to draw three splits"),
        ([f"low/{n}.wav" for n in range(3)], {}, r"the clips have 1 classes \(low\)"),
        ([], {}, r"there is no clip; a folder for each word"),
        (SPOKEN, {"speaker": "(x)"}, r"speaker='\(x\)' does not match 'a_1\.wav' of high/a_1\.wav"),
        (SPOKEN[:4] + SPOKEN[8:12], {"speaker": "^(.)"}, r"2 speakers, .* at least 3 are needed"),
        (SPOKEN, {"labels": ("low", "hihg")},
         r"unknown class 'high'; allowed are low, hihg, did you mean 'hihg'\?"),
        ([*SPOKEN[:12], *(p.replace("high", "hgh") for p in SPOKEN[12:])],
         {"speaker": "^(.)"}, r"the class 'hgh' \(hgh/c_1\.wav\) has no clip in '.*', did you"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(
    paths: list[str], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Folder(root=str(words(tmp_path, *paths)), **options).load()


@pytest.mark.parametrize("name", ["low/ann_9.m4a", "high/a.OPUS", "a.aiff"])
def test_audio_that_would_be_left_out_is_refused(name: str, tmp_path: Path) -> None:
    root = words(tmp_path / "clips", *SPOKEN)
    (root / name).write_text("other audio")
    with pytest.raises(ValueError, match=rf"{name}: audio in a folder is \.wav, .* Convert"):
        Folder(root=str(root)).load()


# other file systems take UTF-8 alone, and have no folder of such a name
@pytest.mark.parametrize(
    "form", ["archive", "archive with a manifest", *["folder"] * (sys.platform == "linux")]
)
def test_names_that_no_report_can_hold_are_refused(form: str, tmp_path: Path) -> None:
    odd = "gr\udcf6\udcdfe"  # in Latin-1, as Python has bytes that are not UTF-8
    root = words(tmp_path / "clips", *SPOKEN)
    if form == "archive with a manifest":  # whose own folder is such a one
        fill(root)
    if form == "folder":
        (root / "low").rename(root / odd)
    else:
        with tarfile.open(root.with_suffix(".tar"), "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.add(root / "high", f"{odd}/high")
            tar.add(root / "low", f"{odd}/low")
            if form == "archive with a manifest":
                tar.add(root / "manifest.csv", f"{odd}/manifest.csv")
        root = root.with_suffix(".tar")
    with pytest.raises(ValueError, match=r"'gr\\udcf6\\udcdfe/.*\.wav': .* not UTF-8.*Rename"):
        Folder(root=str(root)).load()


def packed(root: Path, form: str) -> str:
    """The folder, or a tar archive of it."""
    if form == "folder":
        return str(root)
    with tarfile.open(root.with_suffix(".tar"), "w") as tar:
        tar.add(root, ".")
    return str(root.with_suffix(".tar"))


@pytest.mark.parametrize(
    ("bare", "form"),
    [("go/a.txt", "folder"), ("low/ann/a.txt", "folder"), ("go/a.txt", "archive")],
)
def test_a_folder_without_a_clip_is_refused(bare: str, form: str, tmp_path: Path) -> None:
    root = words(tmp_path / "clips", *SPOKEN)
    (root / bare).parent.mkdir(parents=True)
    (root / bare).write_text("no clip")
    with pytest.raises(ValueError, match=r"no clip in the folder '.*', which holds \.txt; clips"):
        Folder(root=packed(root, form)).load()
    if form == "folder":
        (root / bare).unlink()
        with pytest.raises(
            ValueError, match=f"no clip in the folder '{bare[:2]}.*', which is empty"
        ):
            Folder(root=str(root)).load()


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_hidden_folders_and_those_of_a_mac_do_not_count(form: str, tmp_path: Path) -> None:
    root = words(tmp_path / "clips", *SPOKEN)
    plain = names(Folder(root=str(root)).load())
    for hidden in ("__MACOSX/low/._a_1.wav", "__MACOSX/._low", "__MACOSX/a.wav", ".git/mid/HEAD"):
        (root / hidden).parent.mkdir(parents=True, exist_ok=True)
        (root / hidden).write_text("no clip")
    assert names(Folder(root=packed(root, form)).load()) == plain


def test_a_hidden_archive_of_a_mac_does_not_count(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    packed(words(root / "clips", *SPOKEN), "archive")
    shutil.rmtree(root / "clips")
    plain = names(Folder(root=str(root)).load())
    (root / "._clips.tar").write_bytes(b"\0\5\x16\7 no archive")
    assert names(Folder(root=str(root)).load()) == plain


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("hidden", [".DS_Store", "._a_1.wav", "_background_noise_/n.wav"])
def test_a_word_of_hidden_files_alone_is_refused(hidden: str, form: str, tmp_path: Path) -> None:
    root = words(tmp_path / "clips", *SPOKEN)
    (root / "mid" / hidden).parent.mkdir(parents=True)
    (root / "mid" / hidden).write_text("no clip")
    with pytest.raises(ValueError, match="no clip in the folder 'mid', which holds only hidden"):
        Folder(root=packed(root, form)).load()


def test_a_listed_word_without_a_clip_is_refused(tmp_path: Path, caplog) -> None:
    root = str(words(tmp_path, *SPOKEN))
    listed = ("low", "high", "hihg", "mid")
    with pytest.raises(ValueError, match="labels lists hihg, mid, of which there is no clip"):
        Folder(root=root, labels=listed).load()
    made = ("low", "high", "_silence_", "_unknown_")
    assert Folder(root=root, labels=made).load()["train"].classes == made
    with caplog.at_level("WARNING", "analogtorch"):
        folder(fill(tmp_path / "listed")).load()
    assert "no clips of no, up, down" in caplog.text


def test_a_class_without_clips_in_a_split_is_said(tmp_path: Path) -> None:
    root = str(words(tmp_path / "clips", *SPOKEN, "mid/a_1.wav", "mid/b_1.wav"))
    with pytest.raises(
        ValueError, match=r"'mid' \(mid/a_1\.wav\) has no clip in 'test'\. It has 2, by 'a', 'b'\."
    ):
        Folder(root=root, speaker="^(.)").load()
    splits = Folder(root=root, speaker="^(.)", labels=("low", "mid", "high", "_silence_")).load()
    assert coverage_note(splits).startswith(
        "no clips of _silence_ in train; none of _silence_ in val; none of mid, _silence_ in test: "
        "the accuracy says nothing"
    )
    full = str(words(tmp_path / "full", *SPOKEN))
    assert coverage_note(Folder(root=full, speaker="^(.)").load()) is None


def test_speakers_are_drawn_until_each_class_is_in_each_split(tmp_path: Path, caplog) -> None:
    """A word that few speakers say is in all splits after some draws, whatever the seed."""
    common = [f"low/{who}_1.wav" for who in "abcdefghijklmnopqrst"]
    rare = [f"high/{who}_1.wav" for who in "dkr"]
    root, draws = str(words(tmp_path, *common, *rare)), []
    for seed in range(8):
        caplog.clear()
        with caplog.at_level("INFO", "analogtorch"):
            splits = Folder(root=root, speaker="^(.)", seed=seed).load()
        assert all(set(clips.labels.tolist()) == {0, 1} for clips in splits.values())
        assert not set.intersection(*(set(clips.speakers) for clips in splits.values()))
        draws.append(re.search(r"with seed \d(.*): ", caplog.text).group(1))
        again = Folder(root=root, speaker="^(.)", seed=seed).load()
        assert names(again) == names(splits)
    assert any("at draw" in draw for draw in draws)


def test_a_first_draw_with_all_classes_stays(tmp_path: Path) -> None:
    """Runs that were begun with one go on with it."""
    root = str(words(tmp_path, *[f"{w}/{who}_1.wav" for w in ("a", "b") for who in "abcdefgh"]))
    found = Folder(root=root, speaker="^(.)", seed=3).load()
    given = {split: "".join(sorted(set(clips.speakers))) for split, clips in found.items()}
    assert given == {"train": "abdef", "val": "h", "test": "cg"}


def test_where_draws_fail_the_seed_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("analogtorch.speech.folder._DRAWS", 1)
    common = [f"low/{who}_1.wav" for who in "abcdefghijklmnopqrst"]
    root = str(words(tmp_path, *common, *(f"high/{who}_1.wav" for who in "dkr")))
    message = r"'high' .* has no clip in .* Or draw other splits, such as those of seed=1: all 1 dr"
    with pytest.raises(ValueError, match=message):
        Folder(root=root, speaker="^(.)").load()
    with (
        pytest.raises(ValueError, match=r"those of --data\.folder\.seed 1: all"),
        by_command("data.folder"),
    ):
        Folder(root=root, speaker="^(.)").load()


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    words(tmp_path / "clips", *SPOKEN)
    (tmp_path / "clips/mid").symlink_to(tmp_path / "clips/low")
    with pytest.raises(ValueError, match="mid is a link; put the recordings themselves into"):
        Folder(root=str(tmp_path / "clips")).load()


def test_a_clip_of_another_length_is_named_once(tmp_path: Path) -> None:
    words(tmp_path, *SPOKEN)
    soundfile.write(tmp_path / "low/a_1.wav", np.zeros(9_000, np.int16), 16_000)
    with pytest.raises(ValueError, match=r"^low/a_1\.wav: 9000 samples at 16000 Hz"):
        Folder(root=str(tmp_path)).load()
    assert len(Folder(root=str(tmp_path), fit="pad_or_trim").load()["train"]) == 10


def test_recordings_that_are_changed_to_fit_are_counted(tmp_path: Path) -> None:
    words(tmp_path, *SPOKEN)
    assert changed_note(Folder(root=str(tmp_path)).load()) is None
    noise = np.random.default_rng(9).integers(-99, 99, 30_000).astype(np.int16)
    soundfile.write(tmp_path / "low/a_1.wav", noise[:3], 16_000)
    soundfile.write(tmp_path / "low/a_2.wav", noise[:24_000], 16_000)
    soundfile.write(tmp_path / "low/b_1.wav", noise[:8_000], 8_000)
    soundfile.write(tmp_path / "high/b_1.wav", noise[:4_000], 8_000)
    found = Folder(root=str(tmp_path), fit="pad_or_trim", resample=True).load()
    assert changed_note(found) in notes_on(KWSConfig(), found)
    assert changed_note(found) == (
        "Of 16 clips 2 got zeros at their end (shortest 0.00019 s: low/a_1.wav); of 1 the loudest "
        "second was kept (longest 1.5 s: low/a_2.wav); 2 were resampled to 16000 Hz (8000 Hz: 2)."
    )


def test_a_class_that_was_recorded_otherwise_is_named(tmp_path: Path) -> None:
    rows = [(word, who) for word in ("low", "high", "mid") for who in "abcdefghijkl"]
    words(tmp_path, *(f"{word}/{who}.wav" for word, who in rows))
    for number, who in enumerate("abcdefghijkl"):
        noise = np.random.default_rng(number + 99).integers(-99, 99, 8_000)
        soundfile.write(tmp_path / f"high/{who}.wav", noise.astype(np.int16), 8_000)
    note = changed_note(Folder(root=str(tmp_path), resample=True).load())
    assert note is not None
    assert "Classes differ in that (resampled 100 % of 'high', 0 % of 'low'): a net can" in note


def test_clips_of_words_without_a_sound_are_named() -> None:
    waves = torch.zeros(4, 16_000, dtype=torch.int16)
    waves[0, 5] = 1
    clips = Clips(
        waveforms=waves,
        labels=torch.tensor([2, 2, 0, 1]),
        speakers=("",) * 4,
        names=tuple("abcd"),
    )
    assert silence_note({"train": clips, "val": clips}).startswith(
        "no sound in 4 clips of words: b (yes in train), d (_unknown_ in train), b (yes in val), d"
    )
    heard = Clips(
        waveforms=waves[::2], labels=torch.tensor([2, 0]), speakers=("", ""), names=("a", "c")
    )
    assert silence_note({"train": heard}) is None


@pytest.mark.parametrize("note", ['"6 inch mic', '"6 inch" mic', '"two\nlines"'])
def test_a_quotation_mark_that_is_not_closed_loses_no_row(tmp_path: Path, note: str) -> None:
    """Rows behind it were part of its cell, and their clips left out without a word."""
    rows = [f"{row}," for row in ROWS]
    rows[1] += note
    root = fill(tmp_path, rows, header=f"{HEADER},note")
    with pytest.raises(ValueError, match=r"manifest\.csv:3: .*close each quotation mark"):
        folder(root).load()


@pytest.mark.parametrize("end", ["\n", "\r"])
@pytest.mark.parametrize("first", [0, 1])
def test_no_cell_of_a_manifest_goes_on_in_the_next_line(first: int, end: str) -> None:
    """One without a column's name did, one in the first line, or one of a file of an old Mac."""
    lines = [HEADER, *ROWS]
    lines[first] += ',"6 inch'
    lines[3] += ',"'
    with pytest.raises(ValueError, match=f"m.csv:{first + 1}: a cell goes on in the next line"):
        read_manifest("m.csv", end.join(lines).encode())


def _spoken(root: Path, paths: list[str], first: int = 1) -> Path:
    for value, path in enumerate(paths, first):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / path, np.full(16_000, value, np.int16), 16_000)
    return root


def test_of_several_folders_the_pattern_names_the_speaker(tmp_path: Path) -> None:
    """People and days together were the speaker, so that people were in training and test."""
    people, days = ("ann", "bob", "cid", "dan"), ("monday", "tuesday")
    paths = [f"{w}/{who}/{d}/1.wav" for w in ("low", "high") for who in people for d in days]
    root = str(_spoken(tmp_path, paths))
    with pytest.raises(
        ValueError, match=r"2 folders below .* speaker='\^\(\[\^/\]\+\)/' for 'ann'"
    ):
        Folder(root=root).load()
    with (
        pytest.raises(ValueError, match=r"by --data\.folder\.speaker '\^\(\[\^/\]\+\)/' for 'ann'"),
        by_command("data.folder"),
    ):
        Folder(root=root).load()
    splits = Folder(root=root, speaker="^([^/]+)/").load()
    assert sorted(who for clips in splits.values() for who in set(clips.speakers)) == list(people)


def test_silence_has_no_speaker_to_be_named(tmp_path: Path) -> None:
    """It may lie in several folders, and the pattern of the speaker need not match them."""
    for split, who in (("train", "ann"), ("val", "bob"), ("test", "cid")):
        paths = [f"{split}/low/{who}/1.wav", f"{split}/_silence_/{who}/hum/1.wav"]
        _spoken(tmp_path, paths, first=ord(who[0]) * 9)
    for speaker in (None, "^([a-z]+)/1"):
        splits = Folder(root=str(tmp_path), speaker=speaker, labels=("low", "_silence_")).load()
        assert set(splits["val"].speakers) == {"bob", "bob/hum"}


def test_a_speaker_is_one_in_any_spelling(tmp_path: Path) -> None:
    rows = [row.replace("bob", "Ann ") for row in ROWS]
    with pytest.raises(ValueError, match=r"speaker 'ann' is in two splits.*b\.wav, spelt 'Ann'"):
        folder(fill(tmp_path / "listed", rows)).load()
    names = ("ann", "Ann", "jos\u00e9", "jose\u0301", "cid", "dan")
    root = _spoken(
        tmp_path / "drawn", [f"{w}/{who}_1.wav" for w in ("low", "high") for who in names]
    )
    splits = Folder(root=str(root), speaker="^([^_]+)_").load()
    where = {who: split for split, clips in splits.items() for who in clips.speakers}
    assert where["ann"] == where["Ann"]
    assert where["jos\u00e9"] == where["jose\u0301"]
