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
_NEVER = re.compile(r"(\w+\.)?TYPE_CHECKING|__name__ == '__main__'|'__main__' == __name__")
"""Conditions that do not hold in a module that is imported, as ``ast.unparse`` writes them."""


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
        ValueError: it has another form, the file or module has no such name, or a module that lies
            beside the file has the name of another that is imported already.
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


def _imports(module: str, file: Path, *, never: bool = True) -> Iterator[str]:
    """Return the names of what a module imports as it is loaded, modules and others.

    Args:
        module: its name.
        file: its file.
        never: if True, with what only a type checker or a script imports.
    """
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    left: list[ast.AST] = []
    if file.suffix == ".py":
        left.append(ast.parse(file.read_bytes(), str(file)))
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
        if isinstance(node, ast.If) and not never and _NEVER.fullmatch(ast.unparse(node.test)):
            left.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
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
            _refuse_taken(name, path, where)
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _refuse_taken(name: str, path: Path, where: str) -> None:
    """Raise ValueError if code would get a module of another folder for one that lies beside it.

    Python keeps the first module of a name, such as the helper of a front end for that of a
    network. Installed ones come first anyway.

    Args:
        name: name of the module.
        path: its file, whose folder is ``importable``.
        where: the caller's name for it, for messages.
    """
    left, seen = [(name, path)], {name}
    while left:
        for module in _imports(*left.pop(), never=False):
            if module in seen or (own := _beside(path.parent, module)) is None:
                continue
            seen.add(module)
            found = _found(module)
            if found is not None and found.samefile(own):
                left.append((module, own))
            elif found is not None and not _is_installed(module, found):
                raise ValueError(
                    f"{where}: {path} imports {module}, which is {found} in this process, and not "
                    f"{own}: Python keeps one module of a name; rename one of the two files"
                )


def _beside(folder: Path, module: str) -> Path | None:
    """Return the file of a module in a folder, if it is there."""
    *above, last = module.split(".")
    inside = folder.joinpath(*above)
    files = inside / last / "__init__.py", inside / f"{last}.py"
    return next((file for file in files if last and file.is_file()), None)


def _found(module: str) -> Path | None:
    """Return the file that Python imports for a module, if there is one; none is imported."""
    if module in sys.modules:
        return _file_of(module)
    top, _, below = module.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was made by hand, without files
        return None
    if spec is None:
        return None
    if below:
        places = map(Path, spec.submodule_search_locations or ())
        return next((file for place in places if (file := _beside(place, below))), None)
    return Path(spec.origin) if spec.has_location and spec.origin else None


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Find modules in ``folder``, after installed ones of the same name."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
