"""Names and counts in messages."""

from collections.abc import Iterable


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the first ``most`` names, separated by commas, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, name: str) -> str:
    """Return a number of things, such as ``1 chip`` and ``2 chips``."""
    return f"{number} {name}{'s' * (number != 1)}"
