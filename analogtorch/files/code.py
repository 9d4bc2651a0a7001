"""A class or function of the user's, named in a text: importing it runs its code."""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from sysconfig import get_path
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


def digests_of(name: str) -> dict[str, str]:
    """Return the SHA-256 of each source file of code that is loaded already.

    The first is that of the file that ``name`` names, "" if it has none. Those of modules follow,
    by their names, which it imports as it is loaded, and which those import. What is installed and
    what functions import is left out.
    """
    source = name.rpartition(":")[0]
    if (file := _file_of(source)) is None:
        return {name: ""}
    found, left = {name: digest_of(file)}, [(source, file)]
    while left:
        for module in _imports(*left.pop()):
            own = None if module in found else _file_of(module)
            if own is not None and own != file and not _is_installed(module, own):
                found[module] = digest_of(own)
                left.append((module, own))
    return found


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file_of(source: str) -> Path | None:
    """Return the file of a loaded module, or the file of that path, if there is one."""
    of_module = getattr(sys.modules.get(source), "__file__", None)
    path = source if source.endswith(".py") else of_module
    file = Path(path).expanduser() if path else None
    return file if file is not None and file.is_file() else None


def _is_installed(module: str, file: Path) -> bool:
    """Return whether a module is Python's, of this package, or of another that is installed."""
    folders = {Path(get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return module.partition(".")[0] == "analogtorch" or not folders.isdisjoint(file.parents)


def _imports(module: str, file: Path) -> Iterator[str]:
    """Return the names of what a module imports as it is loaded, modules and others."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    left: list[ast.AST] = [ast.parse(file.read_bytes())] if file.suffix == ".py" else []
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            names = []
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            left.extend(ast.iter_child_nodes(node))


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
