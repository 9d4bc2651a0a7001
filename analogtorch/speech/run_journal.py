"""The journal of a run: what the run was begun with, and the files that it wrote."""

from pathlib import Path, PurePosixPath
from typing import Any

from analogtorch.files import checked, parse_json
from analogtorch.speech.labels import classes_of

CONFIG = "config.json"
"""The configuration of the run, usable as ``--config``."""
JOURNAL = "journal.json"
"""The file that marks a folder of a run: its first configuration, its recordings, and the files it
wrote."""

FORMAT = {"format": "analogtorch.run", "version": 1}
FIELDS = {*FORMAT, "config", "recordings", "classes", "code", "files", "digests", "finished"}


def read(path: Path) -> dict[str, Any] | None:
    """Return the journal of the run in a folder; None if it has none.

    Raises:
        ValueError: it is damaged, or of another form.
    """
    file = path / JOURNAL
    if not file.exists():
        return None
    try:
        found = checked(parse_json(file.read_bytes()))
        if not isinstance(found, dict) or {name: found.get(name) for name in FORMAT} != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found.setdefault("code", {})  # older runs have none
        found.setdefault("classes", [])
        found.setdefault("digests", {})
        if found.keys() != FIELDS:
            raise ValueError(f"its fields are {sorted(found)}")
        for name in found["files"]:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"it lists {name!r}, which is not inside the folder")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error
    return found


def check_given(
    path: Path,
    found: dict[str, Any],
    config: dict[str, Any],
    recordings: str | None,
    code: dict[str, str],
    classes: tuple[str, ...] = (),
) -> None:
    """Raise ValueError unless a journal names these recordings, this code and these classes.

    Args:
        path: the folder of the run.
        found: the journal.
        config: the configuration that there is now.
        recordings: the ``fingerprint`` of the data that there is now; None if none are used.
        code: SHA-256 of each file of code that the configuration names, by its name.
        classes: those that there are now; empty if they are not known.
    """
    before = found["classes"] or _stated_classes(found["config"])
    if classes and before and tuple(before) != classes:
        raise ValueError(
            f"the run in {path} was begun with the classes {', '.join(before)}, and there are "
            f"{', '.join(classes)}{_data_changes(found, config)}: give those"
        )
    if recordings is not None and found["recordings"] != recordings:
        raise ValueError(
            f"the run in {path} was begun with other recordings{_data_changes(found, config)}: "
            "give those"
        )
    for name in other_code(found, code):
        raise ValueError(f"the run in {path} was begun with another version of {name}: give that")


def other_code(found: dict[str, Any], code: dict[str, str]) -> list[str]:
    """Return the names of the code of which a run, as its journal has it, had another version."""
    # older runs name no imported modules
    return [name for name, digest in code.items() if found["code"].get(name, digest) != digest]


def _stated_classes(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the classes that a configuration lists; empty if it leaves them to the recordings."""
    data = config["data"]
    labels = data.get(data.get("source"), {}).get("labels")
    return () if labels is None else classes_of("labels", labels)


def _data_changes(found: dict[str, Any], config: dict[str, Any]) -> str:
    before, after = dict(flat(found["config"]["data"])), dict(flat(config["data"]))
    changed = [
        f"data.{key} was {before.get(key)!r} and is {after[key]!r}"
        for key in after
        if before.get(key) != after[key]
    ]
    return f" ({'; '.join(changed[:5])})" if changed else ""


def flat(tree: Any, prefix: str = "") -> Any:
    """Yield the name of each setting, such as ``hwa.epochs``, and its value."""
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from flat(value, f"{prefix}.{key}" if prefix else key)
