"""A document as Markdown, with the same figures as the page of HTML."""

from collections.abc import Iterable
from functools import singledispatch

from analogtorch.report.page.parts import (
    Cell,
    Clips,
    Code,
    Document,
    Drawing,
    Facts,
    Part,
    Table,
    Text,
)

_SPECIAL = {c: f"\\{c}" for c in "\\|_`*"} | {"<": "&lt;", "](": "]\\("}


def render(document: Document) -> str:
    """Return the document as Markdown."""
    blocks = [f"# {_escaped(document.title)}", _escaped(document.about)]
    blocks += [f"> **{_escaped(note)}**" for note in document.notes]
    blocks += ["## Key figures"]
    notes = [f" ({_escaped(key.note)})" if key.note else "" for key in document.keys]
    keys = [
        f"- {_escaped(key.label)}: **{_escaped(key.value)}**{note}"
        for key, note in zip(document.keys, notes, strict=True)
    ]
    blocks.append("\n".join(keys))
    for section in document.sections:
        blocks.append(f"## {_escaped(section.title)}")
        blocks += filter(None, map(_part, section.parts))
    return "\n\n".join(blocks) + "\n"


@singledispatch
def _part(part: Part) -> str:
    raise TypeError(f"no Markdown for {type(part).__name__}")


@_part.register
def _text(part: Text) -> str:
    return _escaped(part.text)


@_part.register
def _facts(part: Facts) -> str:
    return _list(f"{name}: {text}" for name, text in part.rows)


@_part.register
def _table(part: Table) -> str:
    texts = ("---" if i == 0 or i in part.words else "---:" for i in range(len(part.header)))
    rows = [part.header, *part.rows]
    header, *body = (f"| {' | '.join(map(_cell, row))} |" for row in rows)
    return "\n".join([f"{_escaped(part.caption)}:", "", header, f"|{'|'.join(texts)}|", *body])


@_part.register
def _drawing(part: Drawing) -> str:
    picture = f"![{_escaped(part.caption)}]({part.file})" if part.file else _escaped(part.caption)
    return "\n\n".join(filter(None, [picture, _list(text for _, text in part.legend)]))


@_part.register
def _clips(part: Clips) -> str:
    return _list(clip.text for clip in part.clips)


@_part.register
def _code(part: Code) -> str:
    fence = "```"
    while fence in part.text:
        fence += "`"
    return f"{_escaped(part.caption)}:\n\n{fence}text\n{part.text}\n{fence}"


def _list(texts: Iterable[str]) -> str:
    return "\n".join(f"- {_escaped(text)}" for text in texts)


def _cell(given: str | Cell) -> str:
    return _escaped(given if isinstance(given, str) else given.text)


def _escaped(text: str) -> str:
    for found, instead in _SPECIAL.items():
        text = text.replace(found, instead)
    return " ".join(text.split())
