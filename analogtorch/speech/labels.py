"""The classes of keyword-spotting tasks: presets, and any words of yours."""

import unicodedata
from typing import Any, Literal, get_args

from analogtorch.speech.named import option
from analogtorch.values import checks

SILENCE = "_silence_"
UNKNOWN = "_unknown_"
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")

LABELS = (SILENCE, UNKNOWN, *KEYWORDS)
"""The classes of the 12-word task of P. Warden, "Speech Commands", arXiv:1804.03209, section 7."""

UNKNOWN_WORDS = (
    "backward", "bed", "bird", "cat", "dog", "eight", "five", "follow", "forward", "four", "happy",
    "house", "learn", "marvin", "nine", "one", "seven", "sheila", "six", "three", "tree", "two",
    "visual", "wow", "zero",
)  # fmt: skip
"""The other 25 words of Speech Commands v0.02: together they are the class `_unknown_`."""
WORDS = tuple(sorted((*KEYWORDS, *UNKNOWN_WORDS)))
"""The 35 words of Speech Commands v0.02, each a class of its own in the 35-word task."""

Preset = Literal["speech_commands_12", "speech_commands_35"]
"""Names of the published sets of classes."""
PRESETS: dict[str, tuple[str, ...]] = {"speech_commands_12": LABELS, "speech_commands_35": WORDS}


def classes_of(name: str, given: Any) -> tuple[str, ...]:
    """Return the classes that a preset names, or the given list of them.

    Args:
        name: the caller's name for the value, for messages.
        given: a name in `PRESETS`, or two or more different texts.

    Raises:
        ValueError: the preset is unknown, or the list has fewer than two texts, an empty one, or
            one twice.
        TypeError: it is neither a text nor a list.
    """
    if isinstance(given, str):
        return PRESETS[checks.choice(name, given, get_args(Preset))]
    classes = checks.items(name, given, "('low', 'high')")
    for label in classes:
        checks.text(name, label, "low")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(
            f"{name} must hold two or more different words such as ('low', 'high'), got "
            f"{checks.shown(classes)}"
        )
    return classes


def settle_labels(owner: Any) -> None:
    """Check the field ``labels`` of a frozen dataclass, and make a list of words a tuple.

    Raises:
        ValueError: `classes_of` refuses it.
        TypeError: it is neither a text nor a list.
    """
    classes = classes_of(f"{type(owner).__name__}.labels", owner.labels)
    if not isinstance(owner.labels, str):
        checks.settle(owner, "labels", classes)


def label_index(name: str, *, where: str, classes: tuple[str, ...] = LABELS) -> int:
    """Return the number of the class `name`; `where` names the file or row in the error.

    It is the class itself, or else the one that differs from it in the encoding of accents alone.

    Raises:
        ValueError: `name` is not one of the classes.
    """
    if name in classes:
        return classes.index(name)
    if isinstance(name, str):
        same = [i for i, label in enumerate(classes) if composed(label) == composed(name)]
        if len(same) == 1:
            return same[0]
    remedy = (
        f" A word outside the keywords belongs to the class {UNKNOWN!r}."
        if UNKNOWN in classes
        else ""
    )
    raise ValueError(
        f"{where}: unknown class {name!r}; allowed are {', '.join(classes)}"
        f"{checks.nearest(name, classes) or '.'}{remedy} Other words need other labels, such "
        f"as {option('labels', ('low', 'high'))}."
    )


def composed(word: str) -> str:
    """Return a word in one encoding of its accents (NFC).

    They are parts of letters on some systems, and letters of their own on others, such as macOS.
    """
    return unicodedata.normalize("NFC", word)


def alike(name: str) -> str:
    """Return what names have in common that differ in case, accents' encoding or spaces alone."""
    return composed(name).strip().casefold()
