"""Files that appear whole or not at all."""

import os
import stat

import torch
from torch import nn

import analogtorch as at
from analogtorch.files import write_atomically


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


def test_a_new_file_survives_a_power_failure(tmp_path, monkeypatch) -> None:
    events = _events(monkeypatch)
    assert write_atomically(tmp_path / "new" / "file", "text").read_text() == "text"
    assert events == ["file", "rename", "folder"]


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
