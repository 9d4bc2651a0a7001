"""Patterns for names: a glob, or a regular expression after ``re:``, against a full name."""

import fnmatch
import re
from collections.abc import Iterable


class Pattern:
    """A pattern that a user wrote; call it with a name to know whether it matches.

    Args:
        text: the pattern.
        caller: the function whose argument it is, for the error.

    Raises:
        TypeError: ``text`` is no text.
        ValueError: the text after ``re:`` is no regular expression.
    """

    def __init__(self, text: str, caller: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"{caller}: a pattern must be text, such as 'encoder.*', got {text!r}")
        self.text = text
        try:
            self.regex = re.compile(text[3:] if text.startswith("re:") else fnmatch.translate(text))
        except re.error as error:
            raise ValueError(f"{caller}: {text!r} is no regular expression: {error}") from error

    def __call__(self, name: str) -> bool:
        return self.regex.fullmatch(name) is not None

    def of(self, names: Iterable[str]) -> list[str]:
        """Return the names that it matches; a name that equals the text comes alone."""
        names = list(names)
        return [self.text] if self.text in names else [name for name in names if self(name)]
