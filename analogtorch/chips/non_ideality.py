"""How a field of a part says that it is a non-ideality."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any

_KEY = "non_ideality"


@dataclass(frozen=True, kw_only=True)
class NonIdeality:
    """What a field does to an MVM beside computing it."""

    name: str
    """How it is listed and switched off; fields may share one."""
    absent: Any
    """The field's value where there is none."""
    behind: str | None
    """Name of the one without which there is none either."""


def non_ideality(name: str, *, absent: Any, behind: str | None = None) -> dict[str, NonIdeality]:
    """Metadata of a field of a part, or of a unit cell of your own.

    ``Chip.non_idealities`` then lists ``name`` where the field is not ``absent``, and
    ``Chip.without(name)`` makes it so, as does ``Chip.without(behind)``.

    Example:
        >>> noise: float = field(default=0.0, metadata=non_ideality("output_noise", absent=0.0))
    """
    return {_KEY: NonIdeality(name=name, absent=absent, behind=behind)}


def declared(part: Any) -> Iterator[tuple[Field[Any], NonIdeality]]:
    """The fields of a part that are one, in their order."""
    for field in fields(part) if is_dataclass(part) else ():
        if _KEY in field.metadata:
            yield field, field.metadata[_KEY]
