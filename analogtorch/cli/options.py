"""What the parsers of several commands have in common."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

_FILES = ("html", "json", "csv", "plot")
"""Options that name a file to write."""


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        absent = action.default is None or action.default is False
        return action.help if absent else super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """A parser that raises ValueError where argparse would end the process.

    Two options must not name one file to write.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        # main takes it out of the arguments of every command
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Return the options."""
        given = super().parse_args(*args, **kwargs)
        named: dict[Path, str] = {}
        for option in _FILES:
            path = getattr(given, option, None)
            if path is not None and (other := named.setdefault(path, option)) != option:
                self.error(f"--{other} and --{option} both name {path}; give each a file")
        return given

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with the message, and where to read more."""
        raise ValueError(f"{message}; see {self.prog} --help")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that measure the network of a run: files, and how it is read."""
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--plot", type=Path, help="file for the plot: .png, .svg or .pdf")
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="run the code that the run's configuration names as network or front end",
    )
