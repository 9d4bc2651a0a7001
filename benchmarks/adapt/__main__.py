"""Pretrained nets on ``hermes64`` over a year: mapped, calibrated, and adapted without labels.

    python -m benchmarks.adapt [--nets DNN_L ...] [--seeds 0 1 2] [--steps 1000]

Every net learns, without labels, from other inputs than those that it is measured on. The rows of a
net are the model mapped as it is, calibrated by default and by search, the adapted one, and a
control: the same steps and distillation without noise and clipping. All are measured on the same
chips, so that differences are paired. Each finished run is kept in the output folder, and an
interrupted one goes on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analogtorch.files import write_atomically
from analogtorch.values.listed import counted
from benchmarks.adapt.report import gains, of_nets, of_rows
from benchmarks.adapt.runs import CALIBRATED, NOISES, RECIPES, Runs
from benchmarks.adapt.subjects import SUBJECTS
from benchmarks.tables import add_data, as_markdown, as_text, positive

ROWS = (*CALIBRATED, *RECIPES)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapt",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    parser.add_argument(
        "--nets",
        nargs="+",
        choices=SUBJECTS,
        default=list(SUBJECTS),
        metavar="NET",
        help="; ".join(SUBJECTS),
    )
    parser.add_argument(
        "--rows",
        nargs="*",
        choices=ROWS,
        default=list(ROWS),
        metavar="ROW",
        help=f"{', '.join(ROWS)}; none: digital scores and hardware alone",
    )
    parser.add_argument("--noise", choices=NOISES, default="default", help="training noise")
    parser.add_argument(
        "--attention", type=float, metavar="WEIGHT", help="of the attention maps (default: none)"
    )
    parser.add_argument(
        "--learning-rate", type=float, metavar="RATE", help="None: as at.hwa.Recipe has it"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the training")
    parser.add_argument("--steps", type=positive, default=1000, help="most training steps")
    parser.add_argument("--minutes", type=float, help="time of each training; None: all steps")
    parser.add_argument(
        "--correct",
        type=positive,
        metavar="BATCHES",
        help="also correct the columns of each chip at each time, with this many batches",
    )
    parser.add_argument(
        "--correct-steps",
        type=positive,
        metavar="STEPS",
        help="in which columns learn from these batches; None: as at.Recovery does by default",
    )
    parser.add_argument("--chips", type=positive, default=10, help="chips measured")
    parser.add_argument(
        "--cells", type=positive, default=1, help="unit cells that hold each weight"
    )
    parser.add_argument("--every", type=positive, default=1, help="measure every n-th input only")
    parser.add_argument(
        "--times",
        nargs="+",
        default=["0 s", "1 day", "1 month", "1 year"],
        help="after programming",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/adapt"), help="folder of the rows")
    options = parser.parse_args(argv)
    if options.correct_steps and not options.correct:
        parser.error("--correct-steps says how columns learn from the batches of --correct")
    return options


Found = tuple[dict[tuple[str, str], list[dict[str, Any]]], dict[str, dict[str, Any]], list[str]]
"""The seeds of each net and row; score and hardware of each net; nets that are missing, and why."""


def run(options: argparse.Namespace) -> Found:
    """Return what was measured; the reports of the trainings are printed."""
    rows, nets, missing = {}, {}, []
    for net in options.nets:
        runs = Runs(net, options)
        try:
            nets[net] = runs.hardware()
        except ImportError as error:
            missing.append(f"Not measured: {net}. {error}")
            continue
        for row in options.rows:
            seeds = options.seeds[:1] if row in CALIBRATED else options.seeds
            rows[net, row] = [runs.row(row, seed) for seed in seeds]
            if report := rows[net, row][0]["report"]:
                print(report, flush=True)
    return rows, nets, missing


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write them."""
    options = parse(argv)
    try:
        rows, nets, missing = run(options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.adapt: {error}") from error
    if not nets:
        raise SystemExit(f"benchmarks.adapt: {' '.join(missing)}")
    rate = "" if options.learning_rate is None else f", learning rate {options.learning_rate:g}"
    limit = f", as many as fit into {options.minutes:g} minutes" if options.minutes else ""
    notes = [
        "Accuracy and agreement (with the digital decision; for silero-vad the mean of frames with "
        "and without speech) in %; Spearman: rank correlation of the cosines of all pairs with the "
        "digital ones. Mean ± standard "
        f"deviation over {options.chips} chips and {len(options.seeds)} seeds of the training, on "
        "inputs that no row has seen, of hermes64 with two devices per polarity and "
        f"{counted(options.cells, 'unit cell')} per weight.",
        "8-bit I/O: behind the converters alone. s: time of the longest training. Energy and "
        "latency: of one inference, with its digital operations and ports.",
        f"{options.steps} steps without labels at most{limit}; training noise {options.noise}"
        f"{rate}.",
        *missing,
    ]
    tables = [
        ("Nets", of_nets(nets, rows, options.times), 3),
        ("Scores", of_rows(rows, nets, options.times), 2),
        ("Gains of adapting", gains(rows, nets, options.times), 2),
    ]
    tables = [each for each in tables if len(each[1]) > 1]
    print("\n\n".join([*(as_text(table, left) for _, table, left in tables), "\n".join(notes)]))
    pages = [
        as_markdown(table, title, notes if title == tables[-1][0] else [], left)
        for title, table, left in tables
    ]
    write_atomically(options.out / "adapt.md", "\n".join(pages))


if __name__ == "__main__":
    main()
