"""Text that a person or another program wrote: JSON and YAML in limits, paths with variables."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analogtorch.values import checks

LARGEST = 1_000_000
"""The most values that a YAML document may hold; an alias counts each time it is used."""
DEEPEST = 50
"""The most levels of nesting that a document may have."""

_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
"""A number with an exponent as in JSON and YAML 1.2, such as ``1e-7``. PyYAML follows YAML 1.1,
where it is text unless it has a point and the exponent a sign."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: it is no JSON in UTF-8, gives a key twice, or is nested more than `DEEPEST`
            levels deep.
    """
    try:
        tree = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise _too_deep() from None
    except GivenTwice:
        raise
    except ValueError as error:
        raise ValueError(f"is not JSON in UTF-8, it may be truncated: {error}") from error
    _measure(tree, {})
    return tree


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file of this library holds.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds {checks.shown(found)}")
    return found


def parse_yaml(text: str | bytes) -> Any:
    """Parse a YAML document without running code in it.

    An alias of YAML is one object at several positions. It costs nothing until somebody walks
    through it: a few lines can hold billions of values. They are counted here without walking.

    Raises:
        ValueError: it is no YAML that can be loaded safely, gives a key twice, is nested more than
            `DEEPEST` levels deep, or holds more than `LARGEST` values once its aliases are
            expanded.
        ImportError: PyYAML is not installed.
    """
    yaml = _yaml_package()

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            _once((key.value, value) for key, value in node.value if isinstance(key.value, str))
            return node

    _add_floats(Loader)
    try:
        tree = yaml.load(text, Loader)  # a SafeLoader
    except RecursionError:
        raise _too_deep() from None
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML that can be loaded safely: {_at(error)}") from error
    total, _ = _measure(tree, {})
    if total > LARGEST:
        raise ValueError(
            f"holds {total:,} values once its aliases are expanded; at most {LARGEST:,} are read"
        )
    return tree


def _at(error: Any) -> str:
    """Return what is wrong with a document in one line, and where."""
    mark = getattr(error, "problem_mark", None)
    if mark is None or not error.problem:
        return " ".join(str(error).split())
    return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"


def yaml_text(data: Any) -> str:
    """Return a YAML document that ``parse_yaml`` reads as ``data``.

    Raises:
        ImportError: PyYAML is not installed.
    """
    yaml = _yaml_package()

    class Dumper(yaml.SafeDumper):  # type: ignore[name-defined]
        """Puts texts such as ``1e5`` in quotes."""

    _add_floats(Dumper)
    return str(yaml.dump(data, Dumper=Dumper, sort_keys=False, width=100, allow_unicode=True))


def _add_floats(kind: Any) -> None:
    """Let a loader or dumper of PyYAML take numbers as ``_FLOAT`` has them for floats."""
    kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _yaml_package() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            'YAML needs PyYAML; run: pip install "analogtorch[yaml]", or use a .json file'
        ) from error
    return yaml


def _measure(tree: Any, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """Return how many values ``tree`` holds and how many levels; ``known`` caches containers."""
    if not isinstance(tree, list | dict):
        return 1, 0
    if id(tree) not in known:
        if depth > DEEPEST:  # also where a container holds itself
            raise _too_deep()
        values = tree.values() if isinstance(tree, dict) else tree
        inner = [
            _measure(value, known, depth + 1) for value in values if isinstance(value, list | dict)
        ]
        levels = 1 + max((levels for _, levels in inner), default=0)
        known[id(tree)] = 1 + len(tree) - len(inner) + sum(size for size, _ in inner), levels
        if levels > DEEPEST:
            raise _too_deep()
    return known[id(tree)]


class GivenTwice(ValueError):
    """A key that a document gives twice in one place."""


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dictionary; of two values for one key none would be known as meant."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise GivenTwice(f"gives {key!r} twice; leave one of them out")
        found[key] = value
    return found


def expanded(path: str) -> Path:
    """Return ``path`` with ``~``, ``${NAME}`` and ``${NAME:-default}`` replaced as in a shell.

    Raises:
        ValueError: ``path`` is empty, holds a zero byte, or names a variable that is not set and
            has no default.
    """
    if not path.strip() or "\0" in path:
        raise ValueError(f"{path!r} names no folder; write '.' for the current one")

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        given = os.environ.get(name) or default
        if given is None:
            raise ValueError(
                f"{path!r}: the variable {name} is not set; set it, or write ${{{name}:-a default}}"
            )
        return given

    try:
        return Path(_VARIABLE.sub(value, path)).expanduser()
    except RuntimeError as error:  # of a user who has no home
        raise ValueError(f"{path!r}: {error} Write the whole path") from error


def variables(text: str) -> dict[str, str]:
    """Return the variables that ``expanded`` would replace in a text and that are set."""
    names = (found[1] for found in _VARIABLE.finditer(text))
    return {name: value for name in names if (value := os.environ.get(name))}


def _too_deep() -> ValueError:
    return ValueError(f"is nested more than {DEEPEST} levels deep")
