"""The twelve classes of the keyword-spotting task, in the order that everything uses."""

SILENCE = "_silence_"
UNKNOWN = "_unknown_"
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")

LABELS = (SILENCE, UNKNOWN, *KEYWORDS)
"""The classes of the task of P. Warden, "Speech Commands", arXiv:1804.03209, section 7."""

UNKNOWN_WORDS = (
    "backward", "bed", "bird", "cat", "dog", "eight", "five", "follow", "forward", "four", "happy",
    "house", "learn", "marvin", "nine", "one", "seven", "sheila", "six", "three", "tree", "two",
    "visual", "wow", "zero",
)  # fmt: skip
"""The other 25 words of Speech Commands v0.02: together they are the class `_unknown_`."""


def label_index(name: str, *, where: str) -> int:
    """Return the class number of `name`; `where` names the file or row in the error.

    Raises:
        ValueError: `name` is not one of `LABELS`.
    """
    try:
        return LABELS.index(name)
    except ValueError:
        raise ValueError(
            f"{where}: unknown class {name!r}; allowed are {', '.join(LABELS)}. "
            f"A word outside the ten keywords belongs to the class {UNKNOWN!r}."
        ) from None
