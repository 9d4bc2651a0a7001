"""The options of ``analogtorch transcribe``, made from the fields of ``TranscribeConfig``."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from analogtorch.cli.config_file import (
    ConfigFile,
    check_out,
    files_first,
    read_chip_again,
    refuse_nulls,
    refuse_repeats,
)
from analogtorch.speech.rundir import named
from analogtorch.speech.transcription.config import TranscribeConfig


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A parsed command line."""

    config: TranscribeConfig
    out: Path
    resume: bool
    overwrite: bool
    progress: bool


@functools.cache
def parser() -> ArgumentParser:
    """Return the parser of options and configuration files."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    new = ArgumentParser(
        prog="analogtorch transcribe",
        usage="analogtorch transcribe [AUDIO] [options]",
        exit_on_error=False,
        allow_abbrev=False,
        description="Speech to text on a chip: write down an audio file, or all of a folder, with "
        "Whisper, digitally and on programmed chips over time, with the word error rate where "
        "references are known, and a report. AUDIO is --data.audio.",
    )
    new.add_argument(
        "--config",
        action=ConfigFile,
        help="YAML file with any of these options; flags win over it",
    )
    new.add_argument(
        "--out", type=str, default="runs/transcribe", help="folder of everything that is written"
    )
    for name, what in (
        ("resume", "continue the run in --out, with the same results"),
        ("overwrite", "replace the run in --out: remove the files it wrote"),
        ("debug", "show the traceback of an error"),
    ):
        new.add_argument(f"--{name}", action="store_true", help=what)
    new.add_argument(
        "--progress",
        type=bool | None,
        default=None,
        help="show progress bars; null: in a terminal only",
    )
    new.add_class_arguments(TranscribeConfig, as_group=False)
    return new


def parse(arguments: Sequence[str]) -> Arguments:
    """Return the run that the arguments describe.

    Raises:
        ValueError: an option is unknown, or a value has the wrong type or is out of range.
        SystemExit: --help or --print_config (code 0).
    """
    given = parser()
    files, rest = files_first(arguments)
    audio, options = _apart(given, rest)
    if len(audio) > 1:
        raise ValueError(
            f"transcribe takes one recording or folder, got {len(audio)}: {', '.join(audio[:5])}; "
            "put them into one folder"
        )
    given_too = [o for o in options if o.split("=")[0] == "--data.audio"]
    if audio and given_too:
        raise ValueError(
            f"transcribe takes one recording or folder, got {audio[0]} and --data.audio; leave one "
            "of them out"
        )
    try:
        refuse_repeats(arguments)
        options += [f"--data.audio={one}" for one in audio]
        values = given.parse_args([*files, *options])
        refuse_nulls(given, values)
        values = read_chip_again(given, values, files, options)
        values = given.instantiate(values)
    except ArgumentError as error:
        raise ValueError(f"{error}; see analogtorch transcribe --help") from error
    check_out(given, values, files, options)
    return Arguments(
        config=TranscribeConfig(
            **{f.name: values[f.name] for f in dataclasses.fields(TranscribeConfig)}
        ),
        out=named(values["out"]),
        resume=bool(values["resume"]),
        overwrite=bool(values["overwrite"]),
        progress=sys.stderr.isatty() if values["progress"] is None else values["progress"],
    )


def _apart(given: ArgumentParser, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments that are no option nor the value of one, and the others."""
    alone = {name for a in given._actions if a.nargs in (0, "?") for name in a.option_strings}
    names, options, left = [], [], iter(arguments)
    for argument in left:
        if not argument.startswith("-"):
            names.append(argument)
            continue
        options.append(argument)
        if argument not in alone and "=" not in argument:
            options += itertools.islice(left, 1)
    return names, options
