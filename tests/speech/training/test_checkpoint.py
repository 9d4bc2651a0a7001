"""Checkpoints are whole or absent, and hold no code."""

import os
import pickle
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from analogtorch.speech.training import AtomicCheckpoint


def test_round_trip(tmp_path: Path) -> None:
    io, path = AtomicCheckpoint(), tmp_path / "deep" / "a.ckpt"
    io.save_checkpoint({"weight": torch.arange(3), "epoch": 2}, path)
    loaded = io.load_checkpoint(path)
    assert loaded["epoch"] == 2
    assert loaded["weight"].tolist() == [0, 1, 2]
    io.remove_checkpoint(path)
    assert list(path.parent.iterdir()) == []


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process may hold 50,000 bytes: a write that fails midway, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that comes with it
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_write_that_fails_midway_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpoint().save_checkpoint({"weight": torch.ones(10)}, path)
    with pytest.raises(OSError, match=rf"could not write {path} .*File too large.*free some space"):
        AtomicCheckpoint().save_checkpoint({"weight": torch.ones(100_000)}, path)
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert torch.load(path, weights_only=True)["weight"].shape == (10,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state": Evil()}, tmp_path / "a.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpoint().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert not (tmp_path / "owned").exists()
