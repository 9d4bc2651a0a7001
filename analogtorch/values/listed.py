"""Names in messages."""

from collections.abc import Iterable


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the first ``most`` names, separated by commas, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
