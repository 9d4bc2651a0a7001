"""Non-idealities as metadata of the fields of a part."""

import math
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any

_KEY = "non_ideality"


@dataclass(frozen=True, kw_only=True)
class NonIdeality:
    """The effect of a field on an MVM that an exact one does not have."""

    name: str
    """Name to list it and to switch it off; several fields may share one."""
    absent: Any
    """Value of the field that switches the effect off."""
    behind: str | None
    """Name of another non-ideality; switching that off switches this off too."""
    grown: Callable[[Any, float], Any]
    """Function of the field's value and a factor > 0 that returns the value with the effect times
    the factor."""


def _times(value: Any, factor: float) -> Any:
    return value * factor


def unchanged(value: Any, factor: float) -> Any:
    """Return the value: the field has no size of its own beside the others of its name."""
    return value


def fewer_bits(bits: int, factor: float) -> int:
    """Return the bits of a converter whose step is ``factor`` times as large.

    Raises:
        ValueError: the factor is no power of two, or leaves no bits.
    """
    halvings = math.log2(factor)
    if halvings != round(halvings):
        raise ValueError(f"a converter of {bits} bits takes a power of two, got {factor:g}")
    if not 2 <= bits - halvings <= 16:
        raise ValueError(f"a step {factor:g} times that of {bits} bits needs other than 2..16 bits")
    return bits - round(halvings)


def fewer_steps(steps: int, factor: float) -> int:
    """Return the steps of a converter whose step is about ``factor`` times as large; at least 1."""
    return max(1, round(steps / factor))


def non_ideality(
    name: str,
    *,
    absent: Any,
    behind: str | None = None,
    grown: Callable[[Any, float], Any] = _times,
) -> dict[str, NonIdeality]:
    """Return metadata for a field of a part, or of your own unit cell.

    ``Chip.non_idealities`` lists ``name`` unless the field is ``absent``. ``Chip.without(name)``
    sets the field to ``absent``, and so does ``Chip.without(behind)``. ``Chip.scaled`` sets it to
    ``grown(value, factor)``, by default their product.

    Example:
        >>> noise: float = field(default=0.0, metadata=non_ideality("output_noise", absent=0.0))
    """
    return {_KEY: NonIdeality(name=name, absent=absent, behind=behind, grown=grown)}


def declared(part: Any) -> Iterator[tuple[Field[Any], NonIdeality]]:
    """Yield the fields of a part that are non-idealities, in their order."""
    for field in fields(part) if is_dataclass(part) else ():
        if _KEY in field.metadata:
            yield field, field.metadata[_KEY]
