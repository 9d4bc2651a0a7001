"""Sources of the numbers in a description, by the name of the field."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from analogtorch.values import checks


@dataclass(frozen=True, init=False, repr=False)
class Sources(Mapping[str, str]):
    """An immutable, hashable mapping from the name of a field to a text about its source.

    Example:
        >>> sources = Sources(gain_std="Khaddam-Aljameh et al., JSSC 57, 1027 (2022)")
        >>> sources["gain_std"]
        'Khaddam-Aljameh et al., JSSC 57, 1027 (2022)'
    """

    texts: tuple[tuple[str, str], ...] = field(init=False)
    """Pairs of name and text, sorted by name."""

    def __init__(self, **texts: str) -> None:
        for name, text in texts.items():
            checks.text(f"Sources: {name}", text, "ASSUMED: as on similar chips")
        checks.settle(self, "texts", tuple(sorted(texts.items())))

    def __getitem__(self, name: str) -> str:
        """Return the text about a field.

        Raises:
            KeyError: the field has none.
        """
        return dict(self.texts)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Sources({', '.join(f'{name}={text!r}' for name, text in self.texts)})"


def check_sources(owner: Any) -> None:
    """Check the field ``sources`` of a frozen dataclass that is being made.

    A plain mapping becomes ``Sources``.

    Raises:
        ValueError: it is no mapping, holds something other than texts, or names what is no field;
            the nearest field is named.
    """
    kind, given = type(owner).__name__, owner.sources
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{kind}.sources must be Sources(field='text', ...), got {checks.shown(given)}"
        )
    known = [each.name for each in fields(owner) if each.name != "sources"]
    for name in given:
        if name not in known:
            raise ValueError(
                f"{kind}.sources: {kind} has no field {name!r}{checks.nearest(name, known)}; "
                f"fields: {known}"
            )
    if not isinstance(given, Sources):
        checks.settle(owner, "sources", Sources(**given))
