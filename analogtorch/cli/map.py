"""``analogtorch map``: map a model, given by the name of what builds it, onto a chip.

The result is a table, JSON and HTML.
"""

import functools
import importlib
import inspect
import random
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from analogtorch import chips
from analogtorch.chips.file import in_file
from analogtorch.chips.unit_cells import checked_cells, enlarged
from analogtorch.cli.options import CommandParser, shown_if_unwritten
from analogtorch.conversion import convert
from analogtorch.conversion.restored import same_random
from analogtorch.cost_model.cost import CostReport, cost
from analogtorch.files import expanded, importable, is_code, load_code, write_atomically
from analogtorch.files.description import SUFFIXES
from analogtorch.graph.trace import ACCEPTED, ValuesNeeded
from analogtorch.mapping.map import map_to_chip
from analogtorch.mapping.mapping import ChipMapping

T = TypeVar("T")

_VISION = "torchvision.models."
_DEFAULT_INPUT = "1,3,224,224"
_SHAPES = (
    "give the shape of each input that the model takes, such as --input 1,3,224,224, once per input"
)
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".onnx")
"""Ends of files that hold weights or graphs, and no code."""


def run(arguments: Sequence[str]) -> tuple[ChipMapping, CostReport | None]:
    """Map as the command line describes and write the files that it names.

    Returns:
        The mapping, and its cost if the chip has one.

    Raises:
        ValueError: an option is wrong, or the model does not fit.
        ImportError: the model's module is not installed, or the extra ``report`` is missing for
            ``--html``.
        OSError: a file cannot be written.
    """
    given = _parser().parse_args(arguments)
    chip = chip_named(given.chip, option="--chip")
    cells = checked_cells("--cells", given.cells)
    map_it = functools.partial(
        _mapped,
        cells=cells,
        chip=chip,
        num_chips=_num_chips(given.chips),
        duplicate=_duplicate(given.duplicate),
        exclude=given.exclude,
        spread=given.spread,
        progress=sys.stderr.isatty(),
    )
    try:
        mapping = on_model(given.model, given.input, map_it)
    except ValueError as error:
        raise ValueError(_with_options(str(error))) from error
    report = None if chip.cost is None else cost(mapping)
    command = shlex.join(["analogtorch", "map", *arguments])
    page = None
    if given.html:  # before anything is written
        page = mapping.to_html(cost=report, command=command)
    with shown_if_unwritten(shown(mapping, report)) as written:
        if given.json:
            written.append(write_atomically(given.json, mapping.to_json()))
        if page is not None:
            write_atomically(given.html, page)
    return mapping, report


def _mapped(
    model: nn.Module, example: tuple[torch.Tensor, ...], *, chip: chips.Chip, cells: int, **how: Any
) -> ChipMapping:
    """Map a model, each of whose weights takes as many unit cells."""
    if cells > 1:
        model = convert(model, enlarged(chip, cells, "--cells "))
    return map_to_chip(model, example, chip=chip, **how)


def shown(mapping: ChipMapping, report: CostReport | None) -> str:
    """Return a mapping and its cost as a table for the terminal."""
    return "\n\n".join(str(found) for found in (mapping, report) if found is not None)


def on_model(
    name: str,
    shapes: Sequence[str] | None,
    use: Callable[[nn.Module, tuple[torch.Tensor, ...]], T],
) -> T:
    """Return what ``use`` makes of a model and its example.

    The model is on the meta device, without memory for its weights, unless its code needs their
    values: they are random. What torch, numpy and Python draw is the same in every call.

    Args:
        name: ``--model``, the name of the callable that builds it.
        shapes: ``--input``, what describes the example; None: a picture, for torchvision's.
        use: a function of both.

    Raises:
        ValueError: ``name`` names no callable, or the callable returns no module; the model's input
            is not known, or a text describes no tensor; or ``use`` raises it.
        ImportError: its module cannot be imported.
    """
    with same_random():
        model = _built(name, "meta")
        example = _inputs(name, shapes)
        try:
            return use(model, example)
        except ValueError as error:
            if not any(isinstance(e, ValuesNeeded) for e in (error, error.__cause__)):
                raise
        return use(_built(name, "cpu"), example)


def _built(name: str, device: str) -> nn.Module:
    make = load_code(name, where="--model") if is_code(name) else _dotted(name)
    options: dict[str, Any] = {}

    def made(device: str) -> Any:
        # what is decided by values, or drawn, is the same in every run
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        with torch.device(device):
            return make(**options)

    try:
        names = inspect.signature(make).parameters
        # None as weights avoids a download
        options |= {n: None for n in names if n == "weights" or n.startswith("weights_")}
        model = made(device)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--model {name}: it must build without arguments: {error}; write a function without "
            "arguments that returns the model into a file, and name it: my_net.py:make"
        ) from error
    except RuntimeError:
        if device != "meta":
            raise
        model = made("cpu")  # it reads values while it is built
    if not isinstance(model, nn.Module):
        raise ValueError(f"--model {name}: returns a {type(model).__name__}, not a torch.nn.Module")
    return model


def _dotted(name: str) -> Any:
    if "/" in name or Path(name).suffix in (*_WEIGHTS, ".py"):
        raise ValueError(
            f"--model {name}: a file does not build a model; name a function or class that does, "
            "such as my_net.py:Net. Weights change no tile, no time and no energy: none are needed"
        )
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(
            f"--model takes a dotted name such as {_VISION}resnet18, or my_net.py:Net, got {name!r}"
        )
    try:
        with importable(Path.cwd()):
            make = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        remedy = '; run: pip install "analogtorch[vision]"' if name.startswith(_VISION) else ""
        raise ImportError(f"--model {name}: no module {error.name}{remedy}") from error
    if not callable(make):
        raise ValueError(f"--model {name}: {module} has no function or class {attribute!r}")
    return make


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="analogtorch map",
        description="Map a model onto a chip: tiles, time, energy and floorplan.",
        epilog="The model's module is imported and its code runs: "
        "name only modules that you trust.",
    )
    parser.add_argument(
        "--model",
        required=True,
        help=f"what builds it: {_VISION}resnet18, or my_net.py:Net, a class or function of a file; "
        "weights are random",
    )
    parser.add_argument(
        "--chip",
        default="hermes64",
        help=f"one of {', '.join(chips.names())}, or a file such as my_chip.yaml "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--chips", default="1", help="number of chips, or auto for as many as needed (default: 1)"
    )
    parser.add_argument(
        "--input",
        action="append",
        metavar="SHAPE[:DTYPE]",
        help=f"shape of an input, once per input (default for {_VISION}*: {_DEFAULT_INPUT}); "
        "1,128:int64 for tokens",
    )
    parser.add_argument(
        "--duplicate",
        action="append",
        default=[],
        metavar="GLOB=N",
        help="place matching matrices N times",
    )
    parser.add_argument(
        "--cells",
        type=int,
        default=1,
        help="unit cells that hold each weight, over which errors average (default: 1)",
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave matching ones digital"
    )
    parser.add_argument(
        "--spread", action="store_true", help="use empty tiles for blocks that share one"
    )
    parser.add_argument("--html", type=Path, help="write a page with floorplan and tables")
    parser.add_argument(
        "--json", type=Path, help="write the mapping; ChipMapping.from_json reads it"
    )
    return parser


def chip_named(text: str, *, option: str) -> chips.Chip:
    """Return a preset by its name, or the chip in a file.

    Raises:
        ValueError: there is no such preset, or the file holds no chip; the message begins with the
            ``option``.
        OSError: the file cannot be read.
    """
    if in_file(text):
        return chips.load(expanded(text))
    try:
        return chips.get(text)
    except ValueError as error:
        raise ValueError(
            f"{option}: {error}. Your own chip is a path that ends in {', '.join(SUFFIXES)}"
        ) from error


def _inputs(model: str, given: Sequence[str] | None) -> tuple[torch.Tensor, ...]:
    if not given and not model.startswith(_VISION):
        raise ValueError(
            f"--model {model}: its input is not known; add --input with its shape, such as "
            "--input 1,40"
        )
    return tuple(_tensor(text) for text in given or [_DEFAULT_INPUT])


def _tensor(text: str) -> torch.Tensor:
    shape, colon, kind = text.partition(":")
    dtype = getattr(torch, kind if colon else "float32", None)
    sizes = shape.split(",")
    if not isinstance(dtype, torch.dtype) or not all(s.strip().isdecimal() for s in sizes):
        raise ValueError(
            f"--input takes sizes and a type such as 1,3,224,224 or 1,128:int64, got {text!r}"
        )
    return torch.zeros([int(s) for s in sizes], dtype=dtype, device="meta")


def _with_options(message: str) -> str:
    """Return a message of ``map_to_chip`` with options in place of the arguments that it names."""
    message = message.replace("num_chips=None", "--chips auto").replace("num_chips=", "--chips ")
    message = message.replace("copies in duplicate", "copies in --duplicate")
    message = message.replace(ACCEPTED, _SHAPES)
    return re.sub(r"exclude=\[('.*?')\]", _excluded, message)


def _excluded(names: re.Match[str]) -> str:
    given = names[1].split(", ")
    return " ".join("..." if name == "'...'" else f"--exclude {name}" for name in given)


def _num_chips(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"--chips takes a number >= 1, or auto for as many as needed; got {text!r}"
        )
    return int(text)


def _duplicate(texts: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        pattern, count = _copies(text)
        if pattern in found:
            raise ValueError(
                f"--duplicate names {pattern!r} twice, with {found[pattern]} and {count} copies; "
                "leave one of them out"
            )
        found[pattern] = count
    return found


def _copies(text: str) -> tuple[str, int]:
    pattern, _, count = text.rpartition("=")
    if not pattern or not count.isdecimal():
        raise ValueError(f"--duplicate takes GLOB=N such as 'layer1.*=2', got {text!r}")
    return pattern, int(count)
