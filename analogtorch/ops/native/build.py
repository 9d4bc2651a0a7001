"""Compile the C sources into shared libraries: run at installation, never at import.

python -m analogtorch.ops.native.build [--stale]

A library contains the fingerprint of its sources. A library of other sources is never loaded, as
its structures may differ from those that ``structures.py`` reads. ``--stale`` builds only if a
library is missing or has another fingerprint.
"""

import hashlib
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
CONSTANTS = FOLDER.parent / "constants.py"
SOURCES = (
    *("normal.c", "variances.c", "linear.c", "conv.c", "columns.c", "devices.c", "elementwise.c"),
    *("gates.c", "reads.c", "pulses.c", "slices.c", "weights.c"),
)

_COMPILE = (
    *("-O3", "-std=gnu11", "-fPIC", "-fopenmp", "-w"),
    # contraction into fused multiply-adds, and nothing that approximates or reorders
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
_X86 = {"AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"), "AVX2": ("-march=x86-64-v3",)}


def library(capability: str) -> Path:
    """Return the library for torch's CPU capability: ``AVX512``, ``AVX2`` or ``DEFAULT``."""
    return FOLDER / f"libkernels-{capability.lower()}.so"


def fingerprint() -> str:
    """Return the fingerprint of the C sources, their constants, and the compiler's options."""
    parts = [path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))]
    parts.append(repr((SOURCES, _COMPILE, _X86, _header())).encode())
    digests = b"".join(hashlib.blake2b(part, digest_size=16).digest() for part in parts)
    return f"analogtorch-{hashlib.blake2b(digests, digest_size=16).hexdigest()}"


def _header() -> str:
    """Return ``constants.h``, read by its path, as the build has no torch and so no package."""
    return runpy.run_path(str(CONSTANTS))["c_header"]()


def current(path: Path) -> bool:
    """Return whether the library was built from the present sources."""
    return path.exists() and fingerprint().encode() in path.read_bytes()


def build() -> list[Path]:
    """Compile with the machine's C compiler (``CC``, ``gcc`` or ``cc``), once per instruction set.

    OpenMP is compiled in but not linked: a library uses torch's runtime when it is loaded, so that
    both share one pool of threads.

    Returns:
        The libraries that were made.

    Raises:
        OSError: the system is not Linux, there is no compiler, or the compiler failed; the message
            ends with its output.
    """
    if platform.system() != "Linux":
        raise OSError(f"the CPU kernels are built on Linux only, this is {platform.system()}")
    names = [name for name in (os.environ.get("CC"), "gcc", "cc") if name]
    compilers = [found for name in names if (found := shutil.which(name))]
    if not compilers:
        raise OSError("no C compiler: install gcc to build the CPU kernels")
    failed = []
    for compiler in compilers:  # a clang called cc does not know GCC's shuffles
        try:
            return [_compile(compiler, flags, library(name)) for name, flags in _targets().items()]
        except OSError as error:
            failed.append(str(error))
    raise OSError("the CPU kernels need gcc 12 or newer\n" + "\n".join(failed))


def _targets() -> dict[str, tuple[str, ...]]:
    return {"DEFAULT": (), **(_X86 if platform.machine() in ("x86_64", "AMD64") else {})}


def _compile(compiler: str, flags: tuple[str, ...], target: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        objects, made_from = [], (f'-DAT_SOURCES="{fingerprint()}"', f"-I{folder}")
        Path(folder, "constants.h").write_text(_header())
        for source in SOURCES:
            objects.append(str(Path(folder, source).with_suffix(".o")))
            files = ("-c", str(FOLDER / source), "-o", objects[-1])
            _run(compiler, *_COMPILE, *flags, *made_from, *files)
        linked = Path(folder, target.name)
        # without -fopenmp: that would link libgomp
        _run(compiler, "-shared", *objects, "-o", str(linked), "-lm")
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        shutil.copyfile(linked, partial)
        os.replace(partial, target)
    return target


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--stale"]):
        sys.exit("usage: python -m analogtorch.ops.native.build [--stale]")
    try:
        if not sys.argv[1:] or not all(current(library(name)) for name in _targets()):
            print(*build(), sep="\n")
    except OSError as error:
        sys.exit(str(error))
