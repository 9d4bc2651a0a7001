"""``--config`` of commands whose options are the fields of a configuration."""

import itertools
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile

from analogtorch.chips.file import in_file
from analogtorch.files import GivenTwice, parse_yaml, yaml_text
from analogtorch.speech.own_chip import of_file
from analogtorch.speech.run_journal import JOURNAL
from analogtorch.speech.run_settings import effective, renamed
from analogtorch.values import checks

_NOT_IN_FILES = ("help", "config", "print_config", "print_shtab", "allow_code")


class ConfigFile(ActionConfigFile):
    """Reads a configuration within the limits of ``parse_yaml``.

    It accepts the earlier names of fields.
    """

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        path = Path(str(values)).expanduser()
        if path.is_file():  # the rest is refused by the class above
            try:
                text = path.read_bytes().decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not in UTF-8; save it in that encoding") from error
            try:
                given = parse_yaml(text)
                present = renamed(given)
                if (path.parent / JOURNAL).is_file():
                    present = _of_run(present)
                if isinstance(present, dict) and "allow_code" in present:
                    if present["allow_code"] is not False:  # as --print_config writes it
                        raise ValueError(
                            "no file can allow code; leave allow_code out, and write --allow-code "
                            "on the command line if you trust the file"
                        )
                    present = {k: value for k, value in present.items() if k != "allow_code"}
                names = [action.dest for action in parser._actions]
                _check(present, [name for name in names if name not in _NOT_IN_FILES])
                _check_flags(present, [a.dest for a in parser._actions if a.nargs == 0])
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            if present is not given:
                values = yaml_text(present)  # in its order, which is that of a report's rows
        super().__call__(parser, cfg, values, option_string)


def _of_run(config: Any) -> Any:
    """Return the configuration of a run; one that does not state ``chip.correct`` had none."""
    config = effective(config)
    chip = config.get("chip") if isinstance(config, dict) else None
    if not isinstance(chip, dict) or "correct" in chip:
        return config
    return config | {"chip": {"correct": False} | chip}


def _check(given: Any, known: Sequence[str], group: str = "") -> None:
    """Raise ValueError unless all keys are options, and all groups of options hold options.

    Args:
        given: what a file gives for ``group``.
        known: the options by name, those of a group after its name and a point.
        group: the name of the group, and a point.
    """
    below = [name.removeprefix(group) for name in known if name.startswith(group)]
    own = list(dict.fromkeys(name.split(".")[0] for name in below))
    if not isinstance(given, dict):
        what = f"{group[:-1]} is a group of options" if group else "a configuration holds options"
        raise ValueError(f"{what}, such as {group}{own[0]}, got {checks.shown(given)}")
    for key, value in given.items():
        name = f"{group}{key}"
        if any(other.startswith(f"{name}.") for other in known):
            _check(value, known, f"{name}.")
        elif name not in known:
            near = checks.nearest(key, own)
            raise ValueError(f"{name} is no option{near}; there are {', '.join(own)}")


def _check_flags(given: dict[str, Any], flags: Sequence[str]) -> None:
    """Raise ValueError if an option that takes no value on the command line is no boolean."""
    for name in flags:
        if not isinstance(value := given.get(name, False), bool):
            raise ValueError(
                f"{name} must be true or false, without quotes, got {checks.shown(value)}"
            )


def refuse_nulls(parser: Any, values: Any) -> None:
    """Raise ValueError if an option is null that has no such value.

    jsonargparse takes null for every option that may be left out.

    Args:
        parser: the parser of the command.
        values: what it has parsed.
    """
    for action in parser._actions:
        kind = getattr(action, "_typehint", action.type)
        optional = type(None) in typing.get_args(kind)
        if action.default is None or optional or action.dest in _NOT_IN_FILES:
            continue
        if values.get(action.dest, action.default) is None:
            raise ValueError(
                f"{action.dest} is null or empty; give a value, or leave it out, which is "
                f"{action.default!r}"
            )


def refuse_repeats(arguments: Sequence[str]) -> None:
    """Raise ValueError if an argument is YAML that gives a key twice.

    jsonargparse keeps the last of them, and refuses what is no YAML itself.

    Args:
        arguments: the command line.
    """
    for before, argument in itertools.pairwise(["", *arguments]):
        option, _, text = argument.partition("=") if argument[:1] == "-" else (before, "", argument)
        if text.lstrip().startswith(("{", "[")):
            try:
                parse_yaml(text)
            except GivenTwice as error:
                raise ValueError(f"{option}: {error}") from error
            except ValueError:
                continue


def read_chip_again(parser: Any, values: Any, files: Sequence[str], rest: Sequence[str]) -> Any:
    """Return the values without ``chip.options`` of files, where the command line names the chip.

    A configuration holds what is in the file of its own chip, or what was in it at that time: it
    is no part of a preset, and the file is read again. Options on the command line stay.

    Args:
        parser: the parser of the command.
        values: what it has found.
        files: ``--config`` with its files, as ``files_first`` gives them.
        rest: the other options.
    """
    named = "chip.name" in parser.parse_args(rest, defaults=False)
    if named and (in_file(values["chip.name"]) or of_file(values["chip.options"])):
        return parser.parse_args([*files, "--chip.options={}", *rest])
    return values


def check_out(parser: Any, values: Any, files: Sequence[str], rest: Sequence[str]) -> None:
    """Raise ValueError if --config is that of a run, and nobody has named the folder to resume.

    Args:
        parser: the parser of the command.
        values: what it has found.
        files: ``--config`` with its files, as ``files_first`` gives them.
        rest: the other options.
    """
    default = values["out"] == parser.get_default("out")
    if not values["resume"] or not default or any(w.partition("=")[0] == "--out" for w in rest):
        return
    for name in (word.removeprefix("--config=") for word in files if word != "--config"):
        folder = Path(name).expanduser().parent
        if (folder / JOURNAL).is_file():
            raise ValueError(
                f"--config is that of the run in {folder}, and --resume continues the one in "
                f"--out, which is another by default: write --out {folder}"
            )


def files_first(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return ``--config`` with its file, and the other arguments, which win over it."""
    files: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--config":
            files += [argument, *itertools.islice(left, 1)]
        else:
            (files if argument.startswith("--config=") else rest).append(argument)
    return files, rest
