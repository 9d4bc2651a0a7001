"""The options of ``analogtorch kws``, made from the fields of ``KWSConfig``."""

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from analogtorch.cli.config_file import (
    ConfigFile,
    check_out,
    files_first,
    read_chip_again,
    refuse_nulls,
    refuse_repeats,
)
from analogtorch.files import is_code
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.rundir import named
from analogtorch.values.checks import nearest


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A parsed command line."""

    config: KWSConfig
    out: Path
    resume: bool
    overwrite: bool
    progress: bool


@functools.cache
def parser() -> ArgumentParser:
    """Return the parser of options and configuration files.

    ``--config FILE`` is read first; flags override it.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    new = ArgumentParser(
        prog="analogtorch kws",
        exit_on_error=False,
        allow_abbrev=False,
        description="Speech to accuracy on a chip: train a digital net, map it directly, "
        "train it for the chip, measure both over chips and time, and write a report.",
    )
    new.add_argument(
        "--config", action=ConfigFile, help="YAML file with any of these options; flags win over it"
    )
    new.add_argument(
        "--out", type=str, default="runs/kws", help="folder of everything that the run writes"
    )
    new.add_argument(
        "--resume", action="store_true", help="continue the run in --out, with the same results"
    )
    new.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the run in --out: remove the files it wrote",
    )
    new.add_argument(
        "--progress",
        type=bool | None,
        default=None,
        help="show progress bars; null: in a terminal only",
    )
    new.add_argument(
        "--allow-code",
        action="store_true",
        help="run the code that a file of options names as network or front end; the command line "
        "may name it instead",
    )
    new.add_argument("--debug", action="store_true", help="show the traceback of an error")
    new.add_class_arguments(KWSConfig, as_group=False)
    for option in new._actions:
        if option.default is not None:
            option.required = False  # of a source that another option chooses; help would say so
    return new


def parse(arguments: Sequence[str]) -> Arguments:
    """Return the run that the arguments describe.

    Raises:
        ValueError: an option is unknown, a value has the wrong type or is out of range, or a file
            names code that the command line does not.
        SystemExit: --help or --print_config (code 0).
    """
    given = parser()
    try:
        files, flags = files_first(arguments)
        refuse_repeats(arguments)
        values = given.parse_args([*files, *flags])
        refuse_nulls(given, values)
        values = read_chip_again(given, values, files, flags)
        _check_code(values, arguments)
        try:
            values = given.instantiate(values)
        except ValueError as error:
            raise ValueError(f"{error}{_of_another(str(error), given, flags)}") from error
    except ArgumentError as error:
        why = _unquoted(str(error)) or _no_list(str(error)) or f"{error}{_meant(str(error), given)}"
        raise ValueError(f"{why}; see analogtorch kws --help") from error
    fields = {f.name: values[f.name] for f in dataclasses.fields(KWSConfig)}
    check_out(given, values, files, flags)
    return Arguments(
        config=KWSConfig(**fields),
        out=named(values["out"]),
        resume=bool(values["resume"]),
        overwrite=bool(values["overwrite"]),
        progress=sys.stderr.isatty() if values["progress"] is None else values["progress"],
    )


def _meant(message: str, parser: ArgumentParser) -> str:
    """Return the option that an unknown one of a message is near to, as a question, if any."""
    found = re.fullmatch(r"unrecognized arguments: (--[\w.-]+).*", message, re.DOTALL)
    return nearest(found[1], parser._option_string_actions) if found else ""


def _no_list(message: str) -> str | None:
    """Return what is wrong with a single value where a list belongs, else None."""
    wrong = r"""Parser key "([\w.]+)":\s+Expected a <class '(?:tuple|list)'>. Got value: (.*)"""
    found = re.fullmatch(wrong, message)
    return found and f"{found[1]} takes a list: --{found[1]} '{json.dumps([found[2]])}'"


def _unquoted(message: str) -> str | None:
    """Return what is wrong with a list of words that YAML reads as other values, else None."""
    found = re.search(r'Parser key "([\w.]+\.labels)".*Given value: (\[.*\]);?', message, re.DOTALL)
    return found and (
        f"{found[1]} holds values that are no words, {found[2]}: YAML reads yes, no, on and off as "
        "booleans, and digits as numbers. Quote the words, as in "
        f"""--{found[1]} '["no", "yes"]'"""
    )


def _of_another(message: str, parser: ArgumentParser, flags: Sequence[str]) -> str:
    """Return advice where options of a file meet a network or front end that a flag names."""
    given = parser.parse_args(list(flags), defaults=False)
    for kind in ("model", "features"):
        named = f"{kind}.name" in given and f"{kind}.options" not in given
        if named and message.startswith(f"{kind}.options"):
            return (
                f". They are those of --config, beside --{kind}.name: add --{kind}.options '{{}}' "
                "to leave them out"
            )
    return ""


def _check_code(values: Any, arguments: Sequence[str]) -> None:
    """Raise ValueError if a file of options, and not the command line, names code to run."""
    for field in ("features.name", "model.name"):
        name = values[field]
        named = any(part in (name, f"--{field}={name}") for part in arguments)
        # not what was parsed, of which files are a part
        if is_code(name) and not named and "--allow-code" not in arguments:
            raise ValueError(
                f"a file names code to run, {field}={name!r}: add --allow-code, if you trust it"
            )
