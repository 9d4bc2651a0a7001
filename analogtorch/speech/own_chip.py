"""A chip by its name: a preset with its options, or one in a file of the user; its cells."""

import json
from typing import Any

from analogtorch import chips
from analogtorch.chips.file import in_file
from analogtorch.files import expanded


def chip_options(name: str, options: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the options of a preset; of the file of a chip what is in it, unless that is given.

    A run keeps them: it stays that of the chip of its beginning, whatever becomes of the file.

    Raises:
        ValueError: the file holds no chip.
        OSError: it cannot be read.
    """
    if options or not in_file(name):
        return options
    return json.loads(json.dumps(chips.to_dict(chips.load(expanded(name)))))


def of_file(options: dict[str, Any] | None) -> bool:
    """Return whether options are those of a file, which state the version of its form."""
    return options is not None and "version" in options


def chip_of(name: str, options: dict[str, Any]) -> chips.Chip:
    """Return a preset with its options, or the chip that ``chip_options`` has found in a file.

    Raises:
        ValueError: there is no such preset or option, the options are no chip, or they state the
            noise of training.
    """
    if not in_file(name):
        if of_file(options):
            raise ValueError(
                f"chip.options are all that is in the file of a chip, and {name} is a preset: give "
                "its own options beside chip.name, or none, which is --chip.options '{}'"
            )
        if options.get("training") is not None:
            raise ValueError(
                "chip.options has training, which is no option here: leave it out; kws takes the "
                "noise of training beside them, such as --chip.training.weight=none, and "
                "transcribe trains nothing"
            )
        return chips.get(name, **options)
    try:
        return chips.from_dict(options)
    except ValueError as error:
        raise ValueError(
            f"chip.options: {error}. Those of a file, {name}, are all that is in it: leave them "
            "out, and change the file"
        ) from error


def cells_condition(cells: int) -> dict[str, str]:
    """Return that weights have several unit cells, in words, by option; empty: they have one."""
    return {"cells": f"{cells} unit cells hold each weight"} if cells > 1 else {}
