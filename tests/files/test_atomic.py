"""Files that appear whole or not at all."""

import multiprocessing
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.files import check_writable, locked, part_folder, remove_parts, write_atomically


def _events(monkeypatch) -> list[str]:
    """Note each file and each folder that is written to the disk, and each file that is renamed."""
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def replaced(old, new) -> None:
        events.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return events


def test_a_text_with_a_name_of_another_encoding_is_written(tmp_path) -> None:
    write_atomically(tmp_path / "report.md", "größe, of gr\udcf6\udcdfe\n")
    assert (tmp_path / "report.md").read_bytes() == "größe, of gr\\udcf6\\udcdfe\n".encode()


def test_a_new_file_survives_a_power_failure(tmp_path, monkeypatch) -> None:
    events = _events(monkeypatch)
    assert write_atomically(tmp_path / "new" / "file", "text").read_text() == "text"
    assert events == ["file", "rename", "folder"]


def test_a_file_that_is_replaced_leaves_its_permissions(tmp_path) -> None:
    file = write_atomically(tmp_path / "file", "old")
    (tmp_path / "made").touch()
    assert file.stat().st_mode == (tmp_path / "made").stat().st_mode
    file.chmod(0o600)
    (tmp_path / "link").symlink_to(file)
    write_atomically(tmp_path / "link", "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_so_does_a_checkpoint(tmp_path, monkeypatch) -> None:
    model = at.convert(nn.Linear(4, 3), at.chips.hermes64())
    at.calibrate(model, [torch.ones(2, 4)])
    events = _events(monkeypatch)
    at.save(model, tmp_path / "model")
    assert events.index("rename") > events.index("file")
    assert events[-1] == "folder"


def test_a_folder_that_cannot_be_read_takes_files(tmp_path) -> None:
    tmp_path.chmod(0o300)
    try:
        write_atomically(tmp_path / "file", "text")
    finally:
        tmp_path.chmod(0o700)
    assert (tmp_path / "file").read_text() == "text"


def test_parts_of_a_killed_process_are_removed_where_nobody_can_be_writing_them(tmp_path) -> None:
    kept = [tmp_path / name for name in ("file", ".file.part", ".other.x1.part", ".file.x1.parts")]
    for path in (*kept, tmp_path / ".file.x1.part"):
        path.write_text("")
    (part_folder(tmp_path / "file") / "weights").write_text("")
    with locked(tmp_path) as alone:
        remove_parts(tmp_path / "file", alone=alone)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_where_others_may_be_writing_parts_stay_for_an_hour(tmp_path) -> None:
    def aged(path: Path) -> Path:
        os.utime(path, times=(0, 0))
        return path

    young, old = tmp_path / ".file.x1.part", tmp_path / ".file.x2.part"
    for path in (young, old):
        path.write_text("")
    folders = [part_folder(tmp_path / "file") for _ in range(2)]
    for folder in folders:
        (folder / "weights").write_text("")
        aged(folder)
    aged(old)
    aged(folders[1] / "weights")
    remove_parts(tmp_path / "file", alone=False)
    assert sorted(tmp_path.iterdir()) == sorted([young, folders[0]])


def test_whether_a_file_can_be_written_is_known_before_and_nothing_is_left(tmp_path) -> None:
    (tmp_path / "kept").write_text("as it was")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    before = sorted(tmp_path.rglob("*"))
    for good in ("kept", "new", "a/b/new", "link", "/dev/null", "/dev/stdout"):
        check_writable(tmp_path / good)
    for bad in (".", "kept/file", "/proc/x/file", "x" * 300):
        with pytest.raises(OSError, match="cannot be written: .*; name another file"):
            check_writable(tmp_path / bad)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "kept").read_text() == "as it was"


def test_a_file_that_is_open_is_written_to_from_where_it_is(tmp_path: Path) -> None:
    names = ["/dev/stdout", "/dev/fd/1", str(tmp_path / "link")]
    os.symlink("/proc/self/fd/1", names[-1])
    printed = tmp_path / "printed"
    printed.write_text("of an earlier program")

    def write_all(file: int) -> None:
        os.dup2(file, 1)
        with open(1, "w", closefd=False) as sys.stdout:
            for name in names:
                print("before")
                write_atomically(name, "table\n")
                print("after")

    for mode in ("wb", "ab"):
        with printed.open(mode) as file:
            child = multiprocessing.get_context("fork").Process(
                target=write_all, args=(file.fileno(),)
            )
            child.start()
            child.join()
            assert child.exitcode == 0
    lines = ["before", "table", "after"] * len(names)
    assert printed.read_text().split() == [*lines, *lines]
