"""The parts of a document. They hold plain texts: each renderer escapes what it writes."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table that shows more than its text."""

    text: str
    bar: float | None = None
    """Length of a bar beside the text, 0..1."""
    shade: float | None = None
    """Depth of the background, 0..1."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One of the figures that a reader wants first."""

    label: str
    value: str
    note: str = ""
    """What the value rests on."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar = "text"


@dataclass(frozen=True)
class Facts:
    """Names and their texts."""

    rows: tuple[tuple[str, str], ...]
    kind: ClassVar = "facts"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names the rows."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    words: tuple[int, ...] = ()
    """Columns of words, besides the first; the others hold numbers."""
    matrix: bool = False
    """Whether all columns are alike and narrow, with headings that are written upwards."""
    folded: bool = False
    """Whether only the caption is shown until a reader opens the table."""
    kind: ClassVar = "table"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A drawing, with its legend."""

    svg: str
    """An ``<svg>`` element, whose texts are escaped."""
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    """Colours of CSS and what they stand for."""
    legend_title: str = ""
    file: str = ""
    """Name of a file beside the report that shows the same, for Markdown."""
    kind: ClassVar = "drawing"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A recording to listen to."""

    text: str
    wav: bytes


@dataclass(frozen=True)
class Clips:
    """Recordings to listen to; Markdown has their texts."""

    clips: tuple[Clip, ...]
    kind: ClassVar = "clips"


@dataclass(frozen=True, kw_only=True)
class Code:
    """A command, or the contents of a file."""

    caption: str
    text: str
    folded: bool = False
    kind: ClassVar = "code"


Part = Text | Facts | Table | Drawing | Clips | Code


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report."""

    title: str
    about: str
    """What it is about, in one line."""
    notes: tuple[str, ...] = ()
    """Caveats that a reader needs to judge the figures."""
    keys: tuple[Key, ...]
    sections: tuple[Section, ...]
