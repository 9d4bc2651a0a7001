"""Importing the library costs little (CPU time: the machine may be busy), prints nothing and starts nothing."""

import subprocess
import sys

import analogtorch as at

_SCRIPT = """
import time, torch
start = time.process_time()
import analogtorch
took = time.process_time() - start
import sys
heavy = {"lightning", "transformers", "torchaudio", "matplotlib", "rich", "jsonargparse", "soundfile"}
heavy &= set(sys.modules)
print(took, torch.cuda.is_initialized(), sorted(heavy), sep="|")
"""


def test_import_is_lean() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True) for _ in range(3)
    ]
    took, cuda, heavy = zip(*(run.stdout.strip().split("|") for run in runs), strict=True)
    assert min(map(float, took)) < 0.3
    assert set(cuda) == {"False"}
    assert set(heavy) == {"[]"}
    assert all(run.stderr == "" for run in runs)


def test_public_names_exist_and_have_docstrings() -> None:
    for name in at.__all__:
        thing = getattr(at, name)
        assert name == "TIMES" or thing.__doc__, name
