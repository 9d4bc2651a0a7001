"""How the CPU kernels are built, which library is loaded, and what is said where none is."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.ops import gpu, native
from analogtorch.ops.native import build, loading


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder where libraries are looked for: the sources without any."""
    for source in build.FOLDER.glob("*.[ch]"):
        shutil.copy(source, tmp_path)
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    caches = (loading._found, loading._warn)
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def _first_run() -> list[warnings.WarningMessage]:
    """What two forwards of a layer on the CPU warn of."""
    layer = at.convert(nn.Sequential(nn.Linear(3, 2)), at.chips.hermes64()).eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        layer(torch.ones(1, 3)), layer(torch.ones(1, 3))
    return [w for w in said if "kernels" in str(w.message)]


def test_missing_kernels_are_said_once_when_a_model_runs(folder: Path) -> None:
    assert "not built" in native.status()
    (said,) = _first_run()
    assert said.category is RuntimeWarning
    assert "python -m analogtorch.ops.native.build" in str(said.message)


def test_a_library_of_other_sources_is_never_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = build.library("DEFAULT")
    library.write_bytes(build.fingerprint().encode())
    with (folder / "linear.c").open("a") as source:
        source.write("/* changed */")
    monkeypatch.setattr(loading.ctypes, "CDLL", None)
    assert "built from other sources" in native.status()
    (said,) = _first_run()
    assert "built from other sources" in str(said.message)


def test_a_broken_library_is_said(folder: Path) -> None:
    build.library("DEFAULT").write_bytes(b"not a library " + build.fingerprint().encode())
    assert "cannot be loaded" in native.status()
    assert not native.available()


def test_the_status_names_the_library_that_runs() -> None:
    if not native.available():
        pytest.skip("the CPU kernels are not built: no C compiler")
    assert native.status().startswith("CPU kernels: libkernels-")
    assert torch.backends.cpu.get_cpu_capability() in native.status()


def test_the_status_of_a_torch_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.loading, "triton", None)
    assert gpu.status().startswith("GPU kernels: none, there is no Triton")


def test_only_stale_libraries_are_built_again(tmp_path: Path) -> None:
    folder = tmp_path / "native"
    folder.mkdir()
    shutil.copy(build.CONSTANTS, tmp_path)
    for source in (*build.FOLDER.glob("*.[ch]"), build.FOLDER / "build.py"):
        shutil.copy(source, folder)
    for name in build._targets():
        (folder / build.library(name).name).write_bytes(build.fingerprint().encode())

    def stale() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(folder / "build.py"), "--stale"]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PATH": ""}
        )

    assert stale().returncode == 0
    with (tmp_path / "constants.py").open("a") as source:
        source.write("ANOTHER = 1\n")  # it tries, as the kernels would compute with other numbers
    assert "install gcc" in stale().stderr
    shutil.copy(build.CONSTANTS, tmp_path)
    assert stale().returncode == 0
    (folder / build.library("DEFAULT").name).unlink()
    assert "install gcc" in stale().stderr


def test_a_compiler_that_fails_is_followed_by_the_next(monkeypatch) -> None:
    monkeypatch.setenv("CC", "false")
    monkeypatch.setattr(
        build,
        "_compile",
        lambda compiler, flags, target: build._run(compiler, "--version") or target,
    )
    assert build.library("DEFAULT") in build.build()


def test_build_without_a_compiler_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="install gcc"):
        build.build()


def test_the_build_runs_as_a_program_without_a_warning() -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "import runpy; runpy.run_module('analogtorch.ops.native.build')",
    ]
    assert subprocess.run(command, capture_output=True, check=False).stderr == b""
