"""``analogtorch compare``: a keyword spotter of a run, or any model, on several chips."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

import analogtorch as at
from analogtorch.chips import Chip
from analogtorch.chips.file import in_file
from analogtorch.chips.unit_cells import checked_cells, enlarged
from analogtorch.cli.map import chip_named, on_model
from analogtorch.cli.options import CommandParser, add_outputs, write_outputs
from analogtorch.evaluate.times import checked_times
from analogtorch.files import expanded
from analogtorch.files.figures import checked_path
from analogtorch.values import checks

logger = logging.getLogger("analogtorch")

_OF_RUN = ("network", "times", "num_chips", "folder", "processes", "allow_code")
_OF_MODEL = ("input",)
"""Options that have an effect on a run alone, and with ``--model`` alone."""


def run(arguments: Sequence[str]) -> at.Comparison:
    """Compare as the command line describes and write the files that it names.

    Raises:
        ValueError: an option is wrong, the folder has no finished run, or a chip cannot take the
            model.
        OSError: a file is missing or cannot be written.
        ImportError: a package is missing.
    """
    given = _parser().parse_args(arguments)
    checked_path(given.plot)  # before hours of measuring
    if (given.run is None) == (given.model is None):
        raise ValueError(
            "compare takes the folder of a run of analogtorch kws, such as runs/kws, or --model; "
            "give one of them"
        )
    chips = _named(given.chips)
    for name in _OF_MODEL if given.model is None else _OF_RUN:
        value = getattr(given, name)
        if value is not None and value is not False:
            raise ValueError(
                f"--{name.replace('_', '-')} has no effect "
                f"{'on a run' if given.model is None else 'with --model'}; leave it out"
            )
    if given.cells is not None:
        checked_cells("--cells", given.cells)
    found = _of_model(given, chips) if given.run is None else _of_run(given, chips)
    write_outputs(found, given)
    return found


def _named(given: Sequence[str]) -> dict[str, Chip]:
    """Return the chips by name: presets and files by theirs, or as given where two have one name.

    Raises:
        ValueError: a chip is given twice, there is no such preset, or a file holds no chip.
        OSError: a file cannot be read.
    """
    given = [name for text in given for name in _separated(text)]
    files = {text: expanded(text).resolve() if in_file(text) else text for text in given}
    if len(set(files.values())) < len(given):
        raise ValueError(f"--chips: each chip once, got {' '.join(given)}")
    stems = [Path(text).stem for text in given]
    names = stems if len(set(stems)) == len(given) else given
    chips = (chip_named(text, option="--chips") for text in given)
    return dict(zip(names, chips, strict=True))


def _separated(text: str) -> list[str]:
    """Return the chips in a text, which commas separate; a file may have them in its name."""
    if "," not in text or Path(text).exists():
        return [text]
    return [name for part in text.split(",") if (name := part.strip())] or [text]


def _of_model(given: argparse.Namespace, chips: dict[str, Chip]) -> at.Comparison:
    """Compare what a model with random weights costs, which no accuracy is known of."""
    return on_model(
        given.model,
        given.input,
        lambda model, example: at.compare(model, chips, example=example, cells=given.cells),
    )


def _of_run(given: argparse.Namespace, chips: dict[str, Chip]) -> at.Comparison:
    """Compare the accuracy and the cost of a network that ``analogtorch kws`` has trained."""
    from analogtorch.cli.finished import finished  # they need the extra speech
    from analogtorch.speech import kws
    from analogtorch.speech.on_chips import calibrated, recovery
    from analogtorch.speech.run_journal import JOURNAL

    above = [] if given.folder is None else [given.folder, *given.folder.resolve().parents]
    if any((folder / JOURNAL).exists() for folder in above):
        raise ValueError(
            f"--folder: {given.folder} is in the folder of a run, which has measurements of its "
            "own; give another one, such as runs/compared"
        )
    if given.times is not None:  # before all clips are read
        checked_times("--times", given.times)
    for name in ("num_chips", "processes"):
        if (value := getattr(given, name)) is not None:
            checks.count(f"--{name.replace('_', '-')}", value)
    config, task, network = finished(
        "compare",
        given.run,
        given.network or "hwa",
        allow_code=given.allow_code,
        others=["digital"],
    )
    asked = {name: getattr(given, name) for name in ("times", "num_chips", "folder", "processes")}
    options: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    reference = None
    if (file := given.run / "digital.pt").is_file():
        reference = kws.saved(config, task.classes, task.val[0][:2], given.run, "digital")
    else:
        logger.warning(
            "compare: %s is missing: the digital accuracy is that of the network's own weights "
            "without converters; copy that file of the run too",
            file,
        )
    training, state = config.chip.training, network.state_dict()
    own = enlarged(config.chip.build(), config.chip.cells).replace(training=training)

    def prepare(model: nn.Module) -> None:
        """Calibrate, but on the chip of the run take what the run has measured."""
        used = [layer.chip for _, layer in at.analog_layers(model)]
        # the noise of the run's training is no part of the chips that it was measured on
        if all(chip.replace(training=training) == own for chip in used):
            model.load_state_dict(state)
            return
        logger.info("%s: calibrated for it, as it is not the chip of the run", used[0].name)
        calibrated(config, model, task.calibration)

    return at.compare(
        network,
        chips,
        at.metrics.accuracy(task.test_batches()),
        example=task.calibration[0][:1],
        prepare=prepare,
        reference=reference,
        seed=config.sweep.seed,
        compensation=config.chip.compensation,
        method=config.chip.method,
        defects=config.chip.defects,
        recovery=recovery(config, task.calibration),
        cells=given.cells or config.chip.cells,
        progress=sys.stderr.isatty(),
        **options,
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="analogtorch compare",
        description="One model on several chips: accuracy, energy, latency and area side by side.",
        epilog="With --model, the model's module is imported and its code runs: name only modules "
        "that you trust.",
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder that analogtorch kws has written")
    parser.add_argument(
        "--model",
        help="instead of a run, the name of what builds a model, as analogtorch map takes it: "
        "costs alone, as its weights are random",
    )
    parser.add_argument(
        "--input",
        action="append",
        metavar="SHAPE[:DTYPE]",
        help="with --model: shape of an input, once per input",
    )
    parser.add_argument(
        "--chips",
        nargs="+",
        default=["hermes64", "ibm_speech34", "neurram48"],
        help=f"chips to compare: {', '.join(at.chips.names())}, or files such as my_chip.yaml "
        "(default: hermes64 ibm_speech34 neurram48)",
    )
    parser.add_argument(
        "--cells",
        type=int,
        help="unit cells of each chip that hold one weight (default: those of the run, or 1)",
    )
    parser.add_argument(
        "--network",
        choices=("hwa", "digital"),
        help="of a run: trained for its chip, or digitally (default: hwa)",
    )
    parser.add_argument(
        "--times", nargs="+", help=f"times after programming (default: {', '.join(at.TIMES)})"
    )
    parser.add_argument(
        "--num-chips",
        type=int,
        help="number of simulated chips of each kind (default: 10)",
    )
    parser.add_argument(
        "--folder", type=Path, help="folder that keeps each measurement, to go on with later"
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="number of processes that measure chips at the same time (default: 1)",
    )
    parser.add_argument("--csv", type=Path, help="file for one line per chip and figure")
    add_outputs(parser)
    return parser
