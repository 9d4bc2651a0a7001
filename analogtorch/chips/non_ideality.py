"""Non-idealities as metadata of the fields of a part."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any

_KEY = "non_ideality"


@dataclass(frozen=True, kw_only=True)
class NonIdeality:
    """The effect of a field on an MVM beside computing it."""

    name: str
    """Name to list it and to switch it off; several fields may share one."""
    absent: Any
    """Value of the field that switches the effect off."""
    behind: str | None
    """Name of another non-ideality; switching that off switches this off too."""


def non_ideality(name: str, *, absent: Any, behind: str | None = None) -> dict[str, NonIdeality]:
    """Return metadata for a field of a part, or of a unit cell of your own.

    ``Chip.non_idealities`` lists ``name`` unless the field is ``absent``. ``Chip.without(name)``
    sets the field to ``absent``, and so does ``Chip.without(behind)``.

    Example:
        >>> noise: float = field(default=0.0, metadata=non_ideality("output_noise", absent=0.0))
    """
    return {_KEY: NonIdeality(name=name, absent=absent, behind=behind)}


def declared(part: Any) -> Iterator[tuple[Field[Any], NonIdeality]]:
    """Yield the fields of a part that are non-idealities, in their order."""
    for field in fields(part) if is_dataclass(part) else ():
        if _KEY in field.metadata:
            yield field, field.metadata[_KEY]
