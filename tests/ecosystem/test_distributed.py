"""Data parallelism with DistributedDataParallel and FSDP2 over two processes, for every model."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("check", ["sharded", "validated"])
def test_two_processes_train_as_one(check: str, tmp_path: Path) -> None:
    command, root = [sys.executable, "-m", "tests.ecosystem.ranks"], Path(__file__).parents[2]
    ranks = [
        subprocess.Popen(
            [*command, check, str(rank), str(tmp_path / "meeting")],
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(
        error[-3000:] for error in errors
    )
