"""The command line: a wrong input is exit code 2 and one line on stderr that names it."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from analogtorch.__main__ import main
from tests.battery.calls import Bad
from tests.battery.files import written


class Refused(Exception):
    """What the command wrote on stderr, with exit code 2."""


def run(*argv: str) -> None:
    """The command; raises ``Refused`` where it ends as a wrong input must."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(argv))
        except SystemExit as end:  # of argparse
            code = end.code
    text = err.getvalue().strip()
    last = text.splitlines()[-1] if text else ""  # progress may come before
    if (
        code == 2
        and last.startswith("analogtorch: ")
        and text.count("analogtorch: ") == 1
        and "Traceback" not in text
    ):
        raise Refused(last)
    raise AssertionError(f"exit code {code}: {text[:200]!r}")


def calls() -> Iterator[Bad]:
    """All of them."""
    yield from (
        Bad(" ".join(argv) or "nothing", lambda argv=argv: run(*argv), Refused, message)
        for argv, message in _lines()
    )


def _lines() -> Iterator[tuple[tuple[str, ...], str]]:
    yield ("kwz",), "unknown command 'kwz'.*info, kws, .*, map, compare or fit"
    yield ("",), "unknown command"
    yield ("--nope",), "unknown command '--nope'"
    yield ("info", "now"), "info takes no option but --chips"
    yield from _map()
    yield from _kws()


def _map() -> Iterator[tuple[tuple[str, ...], str]]:
    model = ("map", "--model", "torch.nn.Identity")
    yield ("map",), "--model"
    yield ("map", "--nope"), "--nope|--model"
    yield ("map", "--model"), "--model"
    yield ("map", "--model", "", "--input", "1,3"), "model"
    yield ("map", "--model", "nope.Net", "--input", "1,3"), "nope"
    yield ("map", "--model", "torch.nope", "--input", "1,3"), "nope"
    yield ("map", "--model", "torch", "--input", "1,3"), "torch"
    yield ("map", "--model", "torch.nn.Linear", "--input", "1,3"), "Linear"
    yield ("map", "--model", "os.getcwd", "--input", "1,3"), "os.getcwd|Module"
    yield (*model,), "--input|input"
    for shape in ("", "a", "1,,3", "-1,3", "1,3:nope", "1.5", "1,3:"):
        yield (*model, "--input", shape), "input|shape"
    for chips in ("0", "-1", "x", "1.5", ""):
        yield (*model, "--input", "1,3", "--chips", chips), "chips"
    for chip in ("hermes", "", "nope.yaml", "nope.json", "/"):
        yield (*model, "--input", "1,3", "--chip", chip), "chip|nope"
    for again in ("0", "0=x", "=2", "0=-1", "0=1.5"):
        yield (*model, "--input", "1,3", "--duplicate", again), "duplicate"
    yield (*model, "--input", "1,3"), "nothing to place"
    yield (*model, "--input", "1,3", "--chip", str(written("c.json", "{}"))), r"c\.json"


def _kws() -> Iterator[tuple[tuple[str, ...], str]]:
    out = ("kws", "--out", str(Path(tempfile.mkdtemp()) / "run"))
    yield ("kws", "--nope"), "nope"
    yield ("kws", "--config", "/nope.yaml"), r"nope\.yaml"
    yield ("kws", "--config", str(written("k.yaml", "a: ["))), r"k\.yaml"
    yield ("kws", "--config", str(written("k.yaml", "typo: 3"))), "typo"
    for option, values in {
        "--seed": ("x",),
        "--threads": ("0",),
        "--data.source": ("nope",),
        "--model.name": ("nope",),
        "--digital.epochs": ("0", "x"),
        "--digital.learning_rate": ("nan",),
        "--hwa.warmup": ("2",),
        "--typo": ("1",),
    }.items():
        for value in values:
            yield (*out, option, value), option.strip("-").split(".")[-1]
