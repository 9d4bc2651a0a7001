"""Several processes save to one folder and load from it.

Every load is one complete save, or an error that names the problem.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tests.checkpoint.writers as writers


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_loads_are_never_a_mix_and_nobody_crashes(seconds: int, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-m",
        writers.__name__,
        str(folder),
        str(seconds),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    counts = {"saves": 0, "loads": 0, "refused": 0}
    *lines, codes = done.stdout.splitlines()
    assert codes == "codes 0 0 0 0"
    for line in lines:
        said = re.fullmatch(r"(saves|loads|refused) (\d+)", line)
        assert said, f"an error that does not name the folder: {line}"
        counts[said[1]] += int(said[2])
    assert counts["saves"] > 10, counts
    assert counts["loads"] > 10, counts
    # somebody who only waits for a gap does not starve
    assert counts["refused"] <= counts["loads"] // 10, counts
    assert sorted(p.name for p in folder.iterdir()) == ["analog.json", "weights.safetensors"]
