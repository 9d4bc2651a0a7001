"""Patterns for names: a glob, or a regular expression after ``re:``, against a full name."""

import fnmatch
import re
from collections.abc import Iterable


class Pattern:
    """A pattern that a user wrote; call it with a name to know whether it matches.

    Args:
        text: the pattern.
        caller: the function whose argument it is, for the error.
        names: the names that there are; a text that is one of them means that one alone, though
            it may hold ``[``, ``*`` or ``?``.

    Raises:
        TypeError: ``text`` is no text.
        ValueError: the text after ``re:`` is no regular expression.
    """

    def __init__(self, text: str, caller: str, names: Iterable[str] = ()) -> None:
        if not isinstance(text, str):
            raise TypeError(f"{caller}: a pattern must be text, such as 'encoder.*', got {text!r}")
        self.text = text
        regex = text[3:] if text.startswith("re:") else fnmatch.translate(text)
        try:
            self.regex = re.compile(re.escape(text) if text in names else regex)
        except re.error as error:
            raise ValueError(f"{caller}: {text!r} is no regular expression: {error}") from error

    def __call__(self, name: str) -> bool:
        return self.regex.fullmatch(name) is not None
