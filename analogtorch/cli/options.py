"""What the parsers of several commands have in common."""

import argparse
from pathlib import Path
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """A parser that raises ValueError where argparse would end the process."""

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
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
