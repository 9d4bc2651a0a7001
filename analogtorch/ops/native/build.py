"""Compile ``kernels.c`` into the shared library beside it: run at installation, never at import.

python -m analogtorch.ops.native.build
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE, TARGET = FOLDER / "kernels.c", FOLDER / "libkernels.so"

_COMPILE = ["-O3", "-std=c11", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]


def build(target: Path = TARGET) -> Path:
    """Compile the kernels with the C compiler of the machine (``CC``, ``gcc`` or ``cc``) and return the library.

    OpenMP is compiled in but not linked: the library takes torch's own runtime when it is loaded, so that both share
    one pool of threads.

    Raises:
        OSError: not Linux, no compiler, or the compiler failed; the message ends with what it printed.
    """
    if platform.system() != "Linux":
        raise OSError(f"the CPU kernels are built on Linux only, this is {platform.system()}")
    compiler = next(
        (found for name in (os.environ.get("CC"), "gcc", "cc") if name and (found := shutil.which(name))), None
    )
    if compiler is None:
        raise OSError("no C compiler: install gcc to build the CPU kernels")
    with tempfile.TemporaryDirectory() as folder:
        compiled, linked = Path(folder, "kernels.o"), Path(folder, "libkernels.so")
        for command in (
            [compiler, *_COMPILE, "-c", str(SOURCE), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), "-o", str(linked), "-lm"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OSError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        shutil.copyfile(linked, partial)
        os.replace(partial, target)
    return target


if __name__ == "__main__":
    try:
        print(build())
    except OSError as error:
        sys.exit(str(error))
