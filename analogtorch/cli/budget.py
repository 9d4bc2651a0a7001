"""``analogtorch budget``: the cost of each non-ideality for a trained keyword spotter."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import analogtorch as at
from analogtorch.cli.finished import finished
from analogtorch.cli.options import CommandParser, Defaults, add_outputs, write_outputs
from analogtorch.devices import seconds
from analogtorch.evaluate.shares import Budget
from analogtorch.files.figures import checked_path
from analogtorch.speech.on_chips import conditions_of, recovery
from analogtorch.values import checks


def run(arguments: Sequence[str]) -> Budget:
    """Measure as the command line describes and write the files that it names.

    Raises:
        ValueError: an option is wrong, or the folder has no finished run.
        OSError: a file is missing or cannot be written.
        ImportError: a package of the extra ``speech`` or ``report`` is missing.
    """
    given = _parser().parse_args(arguments)
    checked_path(given.plot)  # before hours of measuring
    seconds(given.time)
    checks.count("--num-chips", given.num_chips)
    remedy = "it is the share of the accuracy to lose, such as 0.01"
    checks.number("--growth", given.growth, least=0, below=1, remedy=remedy)
    config, task, network = finished(
        "budget", given.run, given.network, allow_code=given.allow_code
    )
    growth = given.growth if given.growth else None
    found = at.budget(
        network,
        lambda view: at.accuracy(view, task.test_batches()),
        time=given.time,
        num_chips=given.num_chips,
        seed=config.sweep.seed,
        compensation=config.chip.compensation,
        method=config.chip.method,
        defects=config.chip.defects,
        recovery=recovery(config, task.calibration),
        growth=growth,
        folder=given.folder,
        progress=sys.stderr.isatty(),
    )
    # with chip.drift_aware, which budget itself takes for a property of the chip
    found = replace(found, conditions=tuple(conditions_of(config).values()))
    write_outputs(found, given)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="analogtorch budget",
        description="What each non-ideality of the chip costs the accuracy of a keyword spotter.",
        formatter_class=Defaults,
    )
    parser.add_argument("run", type=Path, help="folder that analogtorch kws has written")
    parser.add_argument(
        "--network",
        choices=("hwa", "digital"),
        default="hwa",
        help="trained for the chip, or digitally and mapped directly",
    )
    parser.add_argument("--time", default="1 day", help="time after programming")
    parser.add_argument("--num-chips", type=int, default=5, help="number of simulated chips")
    parser.add_argument(
        "--growth",
        type=float,
        default=0.0,
        help="share of the accuracy, such as 0.01, for which to find by which factor each "
        "non-ideality may grow; it takes most of the time. 0: not at all",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="stores each measurement as soon as it is made; the same command goes on from there",
    )
    add_outputs(parser)
    return parser
