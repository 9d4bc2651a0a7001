"""One rule for names: a glob, or a regular expression after ``re:``, against a whole name."""

import fnmatch
import re
from collections.abc import Iterable


class Pattern:
    """A pattern that somebody wrote; called with a name, whether it matches.

    Args:
        text: the pattern.
        caller: whose argument it is, for the error.

    Raises:
        TypeError: it is no text.
        ValueError: what stands after ``re:`` is no regular expression.
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
        """Those of the names that it matches, or which it is, letter by letter."""
        names = list(names)
        return [self.text] if self.text in names else [name for name in names if self(name)]
