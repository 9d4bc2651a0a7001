"""Every wrong call ends in an error that names what is wrong, never in silence.

Nor does it end in Python's own words.
"""

import re
from collections.abc import Callable, Iterator

import pytest

from tests.battery import audio, command, files, functions, values
from tests.battery.calls import Bad


def check(calls: Callable[[], Iterator[Bad]], least: int) -> None:
    """Run all calls and report those that do not end as they must.

    They are too many and too short for a test each.
    """
    wrong, count = [], 0
    for bad in calls():
        count += 1
        try:
            result = bad.call()
        except bad.error as error:
            if not re.search(bad.message, str(error)):
                wrong.append(
                    f"{bad.name}: {type(error).__name__} says {str(error)[:200]!r}, not "
                    f"{bad.message!r}"
                )
        else:
            wrong.append(f"{bad.name}: nothing refused it, got {str(result)[:80]!r}")
    assert not wrong, "\n".join(wrong)
    assert count >= least


def test_fields() -> None:
    check(values.calls, 600)


def test_functions() -> None:
    check(functions.calls, 600)


def test_files() -> None:
    check(files.calls, 100)


def test_audio() -> None:
    check(audio.calls, 250)


def test_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    check(command.calls, 30)
