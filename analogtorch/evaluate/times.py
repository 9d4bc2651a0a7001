"""The times at which chips are measured, and their names in tables."""

from collections.abc import Iterable, Sequence

from analogtorch.devices import seconds


def checked_times(caller: str, times: Sequence[str | float]) -> dict[float | None, str]:
    """Return the times in seconds, each with its name in tables.

    Raises:
        ValueError: they are no list, there is none, two are the same, or one is no time.
    """
    if isinstance(times, str | int | float) or not isinstance(times, Iterable):
        raise ValueError(
            f"{caller}: times must be a list such as ['0 s', '1 day'], got {times!r}; write "
            f"[{times!r}]"
        )
    given = tuple(times)
    if not given:
        raise ValueError(f"{caller}: times is empty; give at least one, such as ['1 day']")
    found: dict[float | None, str] = {}
    for time in given:
        after = seconds(time)
        if after in found:
            raise ValueError(
                f"{caller}: times must differ, but {found[after]!r} and {label(time)!r} are the "
                "same; leave out one of them"
            )
        found[after] = label(time)
    return found


def label(time: str | float) -> str:
    """Return the name of a time in tables: a text as it is, a number, also as text, as seconds."""
    try:
        number = float(time)
    except ValueError:
        return str(time)
    return f"{int(number) if number == int(number) else number} s"
