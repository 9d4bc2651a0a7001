"""A document as one HTML page: no scripts, no requests, one design for screens and paper.

A policy in the page forbids browsers to load or run anything, whatever a name in it may contain.
"""

import base64
from pathlib import Path
from typing import Any

from analogtorch.report.page.parts import Document

_HERE = Path(__file__).parent


def render(document: Document) -> str:
    """Return the document as HTML.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ImportError(
            'a page of HTML needs jinja2; run: pip install "analogtorch[report]"'
        ) from error
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_text("page.html"))
    return template.render(
        document=document, style=_text("page.css"), audio=_audio, cell=_cell, slug=_slug
    )


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _audio(wav: bytes) -> str:
    """Return a recording as an address that holds all of it."""
    return f"data:audio/wav;base64,{base64.b64encode(wav).decode()}"


def _cell(given: Any) -> Any:
    """Return a cell with the fields of ``Cell``, also where only a text is given."""
    return {"text": given} if isinstance(given, str) else given


def _slug(title: str) -> str:
    """Return the id of a section."""
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())
