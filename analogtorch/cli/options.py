"""What the parsers of several commands have in common."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from analogtorch.cli.inputs import read_from
from analogtorch.files import check_writable, write_atomically
from analogtorch.speech.run_journal import JOURNAL, read

_FILES = ("out", "html", "json", "csv", "plot")
"""Options that name a file to write."""


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        absent = action.default is None or action.default is False
        return action.help if absent else super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """A parser that raises ValueError where argparse would end the process.

    Two options must not name one file to write, and each such file is one that can be written, and
    that the command does not read.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        # main takes it out of the arguments of every command
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Return the options.

        Raises:
            ValueError: an option is wrong, or names a file of a run, or one that the command reads,
                as a file to write.
            OSError: a file cannot be written.
        """
        given, left = self.parse_known_args(*args, **kwargs)
        if left:  # argparse takes an optional argument for absent once an option follows the first
            given = self.parse_intermixed_args(*args, **kwargs)
        named: dict[Path, str] = {}
        for option in _FILES:
            path = getattr(given, option, None)
            if not isinstance(path, Path):  # not given, or the text that fit takes for a plot
                continue
            other = named.setdefault(path.resolve(), option)  # also by another spelling, or a link
            if other != option:
                self.error(f"--{other} and --{option} both name {path}; give each a file")
        for option in named.values():  # before hours of measuring
            check_output(option, getattr(given, option), given)
        return given

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with the message, and where to read more."""
        raise ValueError(f"{message}; see {self.prog} --help")


def check_output(option: str, path: Path, given: argparse.Namespace) -> None:
    """Check that the file that an option names can be written, and that nothing is lost by it.

    Args:
        option: the option.
        path: the file.
        given: all options of the command.

    Raises:
        ValueError: it is a file of a run, which would lose it, or one that the command reads.
        OSError: it cannot be written.
    """
    if (run := _run_of(path.resolve())) is not None:
        raise ValueError(f"--{option}: {path} is a file of the run in {run}: name another file")
    others = {name: value for name, value in vars(given).items() if name not in _FILES}
    if (found := read_from(path, others)) is not None:
        place, source = found
        ending = {"plot": ".png", "out": ".yaml"}.get(option, f".{option}")
        raise ValueError(
            f"--{option}: {path} would replace what the command reads ({place}: {source}); name "
            f"another file, such as {path.with_name(f'{path.stem}_result{ending}')}"
        )
    try:
        check_writable(path)
    except OSError as error:
        raise OSError(error.errno, f"--{option}: {error.strerror}") from error


def _run_of(path: Path) -> Path | None:
    """Return the folder of the run whose journal lists a file, or is it; None: there is none."""
    for folder in path.parents:
        try:
            found = read(folder)
        except (OSError, ValueError):  # another program may call a file so
            continue
        name = path.relative_to(folder).as_posix()
        if found is not None and name in (JOURNAL, *found["files"]):
            return folder
    return None


@contextlib.contextmanager
def shown_if_unwritten(text: object) -> Iterator[list[Path]]:
    """Print a result if the files of the context cannot be written: nothing else keeps it then.

    The context adds those that it has written to the list, and an error of a later one names them.
    """
    written: list[Path] = []
    try:
        yield written
    except OSError as error:
        print(text)
        if not written:
            raise
        raise OSError(
            error.errno, f"{error.strerror or error}; written is {', '.join(map(str, written))}"
        ) from error
    except Exception:
        print(text)
        raise


def write_outputs(found: Any, given: argparse.Namespace) -> None:
    """Write a result to the files that ``--json``, ``--csv`` and ``--plot`` name.

    Raises:
        ImportError: matplotlib is missing.
        OSError: a file cannot be written.
    """
    with shown_if_unwritten(found) as written:
        if given.json:
            written.append(
                write_atomically(given.json, json.dumps(found.to_dict(), indent=2) + "\n")
            )
        if getattr(given, "csv", None):
            found.to_csv(given.csv)
            written.append(given.csv)
        if given.plot:
            found.plot(given.plot)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that measure the network of a run: files, and how it is read."""
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--plot", type=Path, help="file for the plot: .png, .svg or .pdf")
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="run the code that the run's configuration names as network or front end",
    )
