"""A row for each labelled clip: from a manifest, or from its folders and its name."""

import csv
import io
import re
from pathlib import PurePosixPath

from analogtorch.speech.clip_files import COLUMNS, MANIFEST, ClipFiles, Row
from analogtorch.speech.data import SPLITS
from analogtorch.speech.labels import SILENCE
from analogtorch.speech.named import option
from analogtorch.values import checks

_OTHER_SPLITS = {*SPLITS, "training", "valid", "validation", "dev", "testing", "eval", "evaluation"}
"""What the folders of splits are called elsewhere, in small letters."""
_QUOTES = "close each quotation mark in its line; inside a cell double it, or leave it out"
_CORPUS = "^(.+)_nohash_"  # how file names of Speech Commands name the speaker


def read_manifest(source: str, data: bytes) -> list[Row]:
    """Return the rows of a manifest with these contents; ``source`` names it in messages.

    Spaces around a cell, of the first line too, do not count.

    Raises:
        ValueError: it is no CSV file in UTF-8, lacks a column or has it twice, or a row cannot be
            used.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a CSV file in UTF-8 ({error})") from error
    reader = table_of(source, text)
    reader.fieldnames = _columns(source, [name.strip() for name in reader.fieldnames or ()])
    return [_row(f"{source}:{reader.line_num}", cells) for cells in reader]


def table_of(source: str, text: str, *, skipinitialspace: bool = False) -> csv.DictReader:
    """Return the reader of a table, each row of which is a line.

    Args:
        source: the file, for messages.
        text: its text.
        skipinitialspace: as ``csv.reader`` takes it.

    Raises:
        ValueError: a quotation mark is not closed in its line, so that it takes those behind it.
    """
    lines = io.StringIO(text, newline="")
    reader, line = csv.reader(lines, skipinitialspace=skipinitialspace, strict=True), 0
    try:
        for _ in reader:
            if reader.line_num > line + 1:
                raise ValueError(f"{source}:{line + 1}: a cell goes on in the next line; {_QUOTES}")
            line = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{source}:{line + 1}: {_QUOTES} ({error})") from error
    return csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=skipinitialspace)


def _columns(source: str, given: list[str]) -> list[str]:
    """Return the columns of a manifest, each of ``COLUMNS`` once."""
    what = f"(its first line: {', '.join(given) or 'none'}); a manifest needs {', '.join(COLUMNS)}"
    for column in COLUMNS:
        if given.count(column) > 1:
            raise ValueError(f"{source}: the column {column!r} is there twice {what}, each once")
        if column not in given:
            how = "separated by commas, not by semicolons or tabs"
            if column in map(str.casefold, given):
                how = "in small letters"
            raise ValueError(f"{source}: no column {column!r} {what}, {how}")
    return given


def _row(where: str, cells: dict[str, str | None]) -> Row:
    given = (cells[column] for column in COLUMNS)
    path, label, speaker, split = (cell if cell is None else cell.strip() for cell in given)
    if not path or not label or speaker is None or split is None:
        raise ValueError(
            f"{where}: the row has an empty path or label, or too few cells, which commas "
            f"separate: {list(cells.values())}"
        )
    if split not in SPLITS:
        raise ValueError(f"{where}: unknown split {split!r}; allowed are {', '.join(SPLITS)}")
    if "\0" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(
            f"{where}: the path {path!r} leaves the folder; write it relative to root, without '..'"
        )
    return Row(where, str(PurePosixPath(path)), label, speaker, split)


def walked(files: ClipFiles, speaker: str | None) -> list[Row]:
    """Return a row for each clip, with what its folders and its name say."""
    paths = files.clips()
    parts = {path: PurePosixPath(path).parts for path in paths}
    while _wrapped(list(parts.values())):
        parts = {path: p[1:] for path, p in parts.items()}
    _check_splits(list(parts.values()), str(files.root))
    return [_placed(path, parts[path], str(files.root), speaker) for path in paths]


def _wrapped(paths: list[tuple[str, ...]]) -> bool:
    """Return whether one folder, which says nothing then, is around everything."""
    first = {parts[0] for parts in paths}
    return len(first) == 1 and not first & set(SPLITS) and min(map(len, paths)) > 2


def _check_splits(paths: list[tuple[str, ...]], root: str) -> None:
    """Raise ValueError if the folders on top are splits by other names, and no words."""
    first = {parts[0] for parts in paths}
    known = all(name.casefold() in _OTHER_SPLITS for name in first)
    if len(first) > 1 and known and not first <= set(SPLITS) and min(map(len, paths)) > 2:
        raise ValueError(
            f"{root}: the folders {', '.join(sorted(first))} are splits and no words, as it seems; "
            f"call them {', '.join(SPLITS)}"
        )


def _placed(path: str, parts: tuple[str, ...], root: str, speaker: str | None) -> Row:
    split = parts[0] if parts[0] in SPLITS else ""
    below = parts[bool(split) :]
    if len(below) < 2:
        raise ValueError(
            f"{root}: {path} lies in no folder of a word; put it into one, as low/{parts[-1]}, or "
            f"add a manifest ({MANIFEST}) with the columns {', '.join(COLUMNS)}"
        )
    label, *inner, name = below
    pattern = speaker_pattern(speaker or _CORPUS)
    found = pattern.search("/".join((*inner, name)) if speaker else name)
    if speaker and not found and label != SILENCE:
        raise ValueError(
            f"{root}: the pattern speaker={speaker!r} does not match {'/'.join((*inner, name))!r} "
            f"of {path}; correct the pattern or the name"
        )
    if not found and len(inner) > 1 and label != SILENCE:
        raise ValueError(
            f"{root}: {path} lies in {len(inner)} folders below its word, and one of them is the "
            f"speaker: say which by {option('speaker', '^([^/]+)/')} for {inner[0]!r}, or "
            f"{option('speaker', '^[^/]+/([^/]+)/')} for {inner[1]!r}"
        )
    who = found.group(1) or "" if found else "/".join(inner)
    return Row(path, path, label, who, split)


def speaker_pattern(text: str) -> re.Pattern[str]:
    """Return the compiled pattern of speakers.

    Raises:
        ValueError: it is no regular expression with a group.
    """
    try:
        pattern = re.compile(checks.text("Folder.speaker", text, "^([^_]+)_"))
    except re.error as error:
        raise ValueError(f"Folder.speaker={text!r} is no regular expression: {error}") from error
    if not pattern.groups:
        raise ValueError(
            f"Folder.speaker={text!r} has no group; put parentheses around the speaker, such as "
            "'^([^_]+)_'"
        )
    return pattern
