"""What a page of HTML says, read with the standard library."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "br", "img", "input", "hr"}
_DRAWN = {"rect", "line", "path", "circle", "polygon", "polyline"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: "list[Element]" = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    def all(self, *tags: str) -> "list[Element]":
        """Return all elements of these tags inside, in their order."""
        found = [self] if self.tag in tags else []
        return found + [e for child in self.children for e in child.all(*tags)]

    @property
    def text(self) -> str:
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> list[str]:
        parts = list(self.own)
        for child in self.children:
            parts += child._texts()
        return parts

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name) or ""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("document", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {tag} {names}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _DRAWN, f"<{tag}/> does not close itself in HTML"
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].own.append(data)


def read(page: str) -> Element:
    """Return the page as a tree; each element must be closed where it should."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [reader.root], f"not closed: {[e.tag for e in reader.open[1:]]}"
    return reader.root


def rows(page: Element, caption: str) -> dict[str, list[str]]:
    """Return the cells of the one table whose caption contains a text, by the name of the row."""
    (table,) = [t for t in page.all("table") if caption in t.all("caption")[0].text]
    found = {}
    for row in table.all("tbody")[0].all("tr"):
        name, *cells = (cell.text for cell in row.all("th", "td"))
        found[name] = cells
    return found


def facts(page: Element) -> dict[str, str]:
    """Return names and texts of all key figures and lists of facts."""
    return {e.text: "".join(d.text for d in group.all("dd")[:1])
            for group in page.all("div") for e in group.all("dt")}  # fmt: skip
