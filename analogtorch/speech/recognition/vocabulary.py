"""The tokens of a recogniser: whole words, or letters."""

import string
from collections.abc import Iterable
from dataclasses import dataclass

from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens that a recogniser writes. The blank of CTC and of a transducer comes after them.

    Raises:
        ValueError: there are fewer than two tokens, or one is empty or there twice.
        TypeError: ``tokens`` is no list of texts.
    """

    tokens: tuple[str, ...]
    """Words, or single letters."""
    separator: str = " "
    """What stands between two tokens of a text: a space between words, nothing between letters."""

    def __post_init__(self) -> None:
        tokens = checks.items("Vocabulary.tokens", self.tokens, "('yes', 'no')")
        if any(not isinstance(token, str) for token in tokens):
            raise TypeError(f"Vocabulary.tokens must be texts, got {checks.shown(tokens)}")
        if len(tokens) < 2 or len(set(tokens)) < len(tokens) or "" in tokens:
            raise ValueError(
                "Vocabulary.tokens must hold two or more different texts such as ('yes', 'no'), "
                f"got {checks.shown(tokens)}"
            )
        checks.settle(self, "tokens", tokens)

    @property
    def blank(self) -> int:
        """Number of the blank: that of tokens."""
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of the tokens of a text.

        Raises:
            ValueError: it holds something else.
        """
        number = {token: i for i, token in enumerate(self.tokens)}
        found = text.split(self.separator) if self.separator else list(text)
        if unknown := [token for token in found if token not in number]:
            raise ValueError(f"{text!r} holds {unknown[0]!r}, which is no token of {self.tokens}")
        return [number[token] for token in found]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of numbers of tokens."""
        return self.separator.join(self.tokens[i] for i in numbers)


LETTERS = Vocabulary(tokens=(" ", *string.ascii_lowercase, "'"), separator="")
"""The letters of English: 28, as MLPerf's transducer has them."""
