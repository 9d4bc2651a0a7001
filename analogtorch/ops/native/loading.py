"""The library of CPU kernels for this machine, or why there is none."""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import torch

from analogtorch.values.warned import warn


def _library() -> ctypes.CDLL | None:
    return _found()[0]


@functools.cache
def _found() -> tuple[ctypes.CDLL | None, str]:
    """Return the library for this machine, and the text of ``status``."""
    from analogtorch.ops.native import build  # not at import: it is also run as a program

    capability = torch.backends.cpu.get_cpu_capability()
    paths = (build.library(capability), build.library("DEFAULT"))
    path = next((p for p in paths if p.exists()), None)
    remedy = "install gcc 12 or newer and run: python -m analogtorch.ops.native.build"
    if path is None:
        return None, f"not built for {capability} ({build.FOLDER}); {remedy}"
    if not build.current(path):
        reason = f"{path} was built from other sources than those beside it and is not loaded"
        return None, f"{reason}; {remedy}"
    try:
        return _loaded(path), f"{path.name} ({capability})"
    except OSError as error:
        return None, f"cannot be loaded: {error}; {remedy}"


def _loaded(path: Path) -> ctypes.CDLL:
    bundled = sorted(Path(torch.__file__).parent.glob("lib/libgomp*"))
    for runtime in bundled or [Path("libgomp.so.1")]:
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    for name in ("at_linear_panels", "at_linear_packed"):
        getattr(library, name).restype = ctypes.c_int64
    return library


@functools.cache
def _warn() -> None:
    warn(
        "analogtorch: the CPU kernels do not run, so analog layers run on plain torch, several "
        "times slower. " + status(),
        RuntimeWarning,
    )


def available() -> bool:
    """Return whether the kernels are available; warn once in a process if not."""
    if _library() is None:
        _warn()
        return False
    return True


def status() -> str:
    """Return one line: the library for this CPU, or why there is none and what to do about it."""
    library, words = _found()
    return f"CPU kernels: {words}" if library is not None else f"CPU kernels: none, {words}"


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the library, which must be available."""
    found = _library()
    assert found is not None
    return getattr(found, name)(*arguments)


def array(numbers: tuple[int, ...]) -> Any:
    """Return ``numbers`` as a C array of int64."""
    return (ctypes.c_int64 * len(numbers))(*numbers)
