"""A class or function of the user's, named in a text: importing it runs its code."""

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

EXAMPLE = "my_net.py:Net, or my_package.nets:Net of an installed module"


def is_code(name: Any) -> bool:
    """Return whether ``name`` has the form of code: ``file.py:Name`` or ``module:Name``."""
    return isinstance(name, str) and ":" in name


def load_code(name: str, *, where: str) -> Any:
    """Return the object that ``name`` names; its file or module is imported, and so runs.

    Modules are also found in the current folder, and those beside a file in the file's folder.

    Args:
        name: ``path/to/file.py:Name`` or ``module:Name``; ``~`` is replaced.
        where: the caller's name for it, for messages.

    Raises:
        ValueError: it has another form, or the file or module has no such name.
        FileNotFoundError: there is no such file.
        ImportError: the module, or one that it imports, is not installed.
    """
    source, _, attribute = name.rpartition(":")
    if not source or not attribute.isidentifier():
        raise ValueError(f"{where} {name!r}: write {EXAMPLE}")
    try:
        module = _file(source, where) if source.endswith(".py") else _module(source)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{where} {name!r}: there is no module {error.name!r}; a file is written with .py, as "
            "in my_net.py:Net"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ValueError(f"{where} {name!r}: {source} has no {attribute!r}") from None


def digest_of(name: str) -> str:
    """Return the SHA-256 of the source file of code that is loaded already; "" if it has none."""
    source = name.rpartition(":")[0]
    path = source if source.endswith(".py") else getattr(sys.modules.get(source), "__file__", None)
    if path is None or not (file := Path(path).expanduser()).is_file():
        return ""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _module(name: str) -> ModuleType:
    with importable(Path.cwd()):
        return importlib.import_module(name)


def _file(text: str, where: str) -> ModuleType:
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{where}: there is no file {path}")
    # the same file under the same content is one module, so that its classes are the same
    key = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:8]
    name = f"{re.sub(r'[^A-Za-z0-9]', '_', path.stem)}_{key}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as dataclasses look for their module
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Find modules in ``folder``, after installed ones of the same name."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
