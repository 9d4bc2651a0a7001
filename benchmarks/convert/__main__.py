"""What conversion loses, in one table.

    python -m benchmarks.convert                  # trained weights, on programmed chips after a day
    python -m benchmarks.convert --table vision   # whole networks, 8-bit converters alone
    python -m benchmarks.convert --table efforts  # what each effort of calibrate keeps
    python -m benchmarks.convert --table language # designs of SmolLM2 on the chip, with adapters

The table is printed and written as Markdown and JSON into the output folder; progress goes to the
error stream of the terminal.
"""

import argparse
import dataclasses
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import analogtorch as at
from analogtorch.files import write_atomically
from benchmarks.convert import chip, efforts, io, language
from benchmarks.subject import factor
from benchmarks.tables import add_data, as_markdown, as_text, positive

Table = tuple[str, list[list[str]], list[str], list[dict[str, Any]]]
"""Title, header and rows, notes, and the rows at full precision."""


def chip_table(options: argparse.Namespace) -> Table:
    """Trained weights on programmed chips."""
    rows = []
    known = chip.subjects(options.epochs)
    for name in options.models or ("minilm", "digits"):
        _say(f"{name}: making it ready")
        rows += chip.measure(known[name](), options.chips, options.seed, _say)
    table = [["model", "how", "measure", "score", "cosine", "chips"]]
    for row in rows:
        label = row.label.rpartition("\n")[2]
        numbers = [
            _spread(row.scores, factor(row.measure)),
            _spread(row.cosines),
        ]
        chips = (
            str(len(row.scores))
            if row.label in {s.label for s in chip.ON_CHIP} or "\n" in row.label
            else "-"
        )
        table.append([row.model, label, row.measure, *numbers, chips])
    notes = [
        f"hermes64, weights of {', '.join(dict.fromkeys(r.model for r in rows))}; the chips were "
        f"programmed {chip.TIME} before; mean ± standard deviation. Compensation of the drift: "
        "least squares, or as stated.",
        "Cosine: of the output with the digital one, the mean digital output over the inputs "
        "subtracted from both, mean over the inputs.",
        "MiniLM: all-MiniLM-L6-v2, mean of the last hidden states. Spearman's rank correlation, "
        "digital and analog, of the cosines of all pairs of 200 sentences from Python's language "
        "reference and scikit-learn's data notes.",
        f"Digits: a ResNet-18 of a quarter of the width, trained here in {options.epochs} epochs; "
        "accuracy in % on the 599 pictures held out.",
        "SmolLM2: SmolLM2-135M-Instruct, perplexity on 256 tokens of Python's language reference, "
        "lower is better.",
        "A + row is the row without + above it, corrected on the inputs of the calibration. An ADC "
        "range per layer is a deviation from the chip.",
    ]
    return "Trained weights on hermes64", table, notes, [row.to_dict() for row in rows]


def io_table(options: argparse.Namespace) -> Table:
    """Whole networks behind 8-bit converters."""
    rows = []
    known = io.nets(options.size, options.inputs, options.epochs)
    for name in options.models or known:
        _say(name)
        row = io.measure(known[name]())
        found = (
            f"{setting} {_number(row.cosines[setting], row.plain.get(setting))}"
            for setting in row.cosines
        )
        _say(f"  {', '.join(found) or row.guard}")  # the table comes last, after half an hour
        rows.append(row)
    times = ("convert", "calibrate", "digital", "analog")
    table = [["net", "guard", "layers", "on chip", *io.SETTINGS, *(f"{name}, s" for name in times)]]
    for row in rows:
        cosines = [_number(row.cosines.get(name), row.plain.get(name)) for name in io.SETTINGS]
        seconds = [f"{row.seconds[name]:.2f}" if name in row.seconds else "-" for name in times]
        short = row.guard.partition("\n")[0][:60]
        table.append(
            [row.net, short, str(row.layers), f"{100 * row.share:.1f} %", *cosines, *seconds]
        )
    notes = [
        "Cosine of the outputs with the digital ones, exact weights and no noise, mean over the "
        "inputs; the mean digital output over the inputs is subtracted from both. In brackets: "
        "nothing subtracted.",
        "8-bit: as hermes64 is, each vector or sample sets its DAC range. Calibrated: a range per "
        "layer (mse). And ADC: its bound as well, 99.99th percentile. Column scales too: a weight "
        "scale per column. ADC by column: an ADC bound for each column of a tile (mse), DAC ranges "
        "as in 8-bit. DAC alone: no ADC, ranges as in 8-bit. 12-bit: the same as ADC by column.",
        "torchvision's nets: random weights that depend on the inputs, "
        f"{options.size}x{options.size} crops of two photographs; _digits: trained here on 1,198 "
        f"digits of 64x64 in {options.epochs} epochs. EfficientNet-Lite0: weights trained on "
        "ImageNet, the same crops. nn.Transformer and the LSTM: random weights. MiniLM: trained "
        "weights, 50 sentences.",
        "On chip: share of the weights of linear, convolutional, recurrent and attention layers. "
        "Seconds to convert, to calibrate the DACs, and for one evaluation of the inputs, digital "
        "and analog.",
    ]
    return (
        "Whole networks behind 8-bit converters",
        table,
        notes,
        [dataclasses.asdict(row) for row in rows],
    )


def efforts_table(options: argparse.Namespace) -> Table:
    """The efforts of ``calibrate`` on trained nets."""
    table, rows = [["net", "measure", "digital", "effort", "converters", "a day later", "s"]], []
    known = efforts.nets(options.epochs, options.data)
    for name in options.models or known:
        _say(f"{name}: making it ready")
        for row in efforts.measure(
            known[name](), options.efforts, options.chips, options.seed, _say
        ):
            times = factor(row.measure)
            scores = [_spread(each, times) for each in ([row.converters], row.on_chip)]
            digital = _spread([row.digital], times)
            _say(f"  {', '.join(scores)}, {row.seconds:.0f} s")  # the table comes last
            table.append([row.net, row.measure, digital, row.effort, *scores, f"{row.seconds:.0f}"])
            rows.append(dataclasses.asdict(row))
    notes = [
        "hermes64. Converters: exact weights, no noise. A day later: mean ± standard deviation of "
        f"{options.chips} chips, the same for every effort. s: time that the calibration took.",
        "Accuracy in % of 489 clips of the Speech Commands v2 test set, calibrated on 489 others; "
        "of 599 digits held out. MiniLM: Spearman's correlation as in --table chip, calibrated on "
        "100 other sentences.",
    ]
    return "Efforts of calibrate on hermes64", table, notes, rows


def language_table(options: argparse.Namespace) -> Table:
    """A language model over a month."""
    model, text = language.smollm2_text(options.tokens, options.steps)
    on = at.chips.hermes64(weight_scale="column")
    found = language.measure(model, text, on, options, _say)
    header = ["SmolLM2-135M, perplexity", "converters", "drawn, 1 day", *options.times]
    table = [[*header, "1 day, columns corrected"]]
    table.append(["digital", *[f"{found.digital:.2f}"], *["-"] * len(table[0][2:])])
    for kind, value in found.kinds.items():
        table.append([f"{kind} alone", "-", f"{value:.2f}", *["-"] * len(table[0][3:])])
    for row in found.rows:
        values = [row.converters, row.drawn]
        values += [row.times.get(when, math.nan) for when in options.times] + [row.corrected]
        table.append([row.design, *("-" if math.isnan(x) else f"{x:.2f}" for x in values)])
    rows = [dataclasses.asdict(found)]
    return "A language model on hermes64", table, language_notes(found, options), rows


def language_notes(found: language.Found, options: argparse.Namespace) -> list[str]:
    """Return the notes of the table of a language model."""
    curve = ", ".join(
        f"{point['steps']:.0f} steps ({point['seconds']:.0f} s) {point['perplexity']:.2f}"
        for point in found.curve
    )
    spent = [
        f"{row.design}: "
        + ", ".join(f"{step} {value:.1f} s" for step, value in row.seconds.items())
        + f", {row.memory:.2f} GB"
        for row in found.rows
    ]
    return [
        f"SmolLM2-135M-Instruct on hermes64 with a weight scale per column, one chip (seed "
        f"{options.seed}); perplexity on {options.tokens} tokens of Python's language reference, "
        "in sequences of 256, lower is better. Calibrated on 512 other tokens.",
        "Drawn: devices programmed, drifted for a day and read, with the gain of each column that "
        "fits and without the errors of ADC gains. Columns corrected: gain and offset of each, on "
        f"{128 * language.CORRECTION} tokens, those of the calibration among them.",
        f"Time, and largest memory until then: {'; '.join(spent) or '-'}.",
        f"Adapters: low-rank, in all projections, {100 * found.share:.1f} % of the parameters. "
        f"They learn beside the chip, {language.LEARNT_AT} after it was programmed, by "
        f"distillation from the digital model on {128 * options.steps} other tokens, 128 a step.",
        f"Perplexity at {language.LEARNT_AT} while they learn: {curve or '-'}.",
    ]


TABLES = {
    "chip": chip_table,
    "vision": io_table,
    "efforts": efforts_table,
    "language": language_table,
}


def _say(text: str) -> None:
    print(f"{time.perf_counter() - _START:6.0f} s  {text}", file=sys.stderr, flush=True)


_START = time.perf_counter()


def _spread(values: list[float], times: float = 1) -> str:
    digits = 1 if times == 100 else 3
    mean = f"{times * sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {times * chip.std(values):.{digits}f}"


def _number(value: float | str | None, plain: float | None) -> str:
    return (
        "-"
        if value is None
        else f"{value:.4f} ({plain:.4f})"
        if isinstance(value, float)
        else "fails"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convert",
        description="What conversion loses, in one table.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--table",
        choices=TABLES,
        default="chip",
        help="programmed chips, whole networks, efforts of calibrate, or a language model",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="only these; None: all of the table that the test packages bring",
    )
    parser.add_argument(
        "--efforts",
        nargs="+",
        choices=efforts.EFFORTS,
        default=list(efforts.EFFORTS),
        metavar="EFFORT",
        help=f"rows of --table efforts: {', '.join(efforts.EFFORTS)}",
    )
    parser.add_argument("--chips", type=positive, default=3, help="chips programmed for each row")
    parser.add_argument("--seed", type=int, default=0, help="of the first chip; the others follow")
    parser.add_argument("--epochs", type=positive, default=10, help="to train on the digits")
    add_data(parser, "folder of the speech, for --table efforts")
    parser.add_argument(
        "--size", type=positive, default=224, help="of the pictures, for torchvision's nets"
    )
    parser.add_argument(
        "--inputs", type=positive, default=16, help="pictures, for torchvision's nets"
    )
    language.add_options(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/convert"), help="folder of the reports"
    )
    options = parser.parse_args(argv)
    known = {
        "chip": lambda: chip.subjects(1),
        "vision": lambda: io.nets(1, 1),
        "efforts": lambda: efforts.nets(1, options.data),
        "language": lambda: ("smollm2",),
    }[options.table]()
    if unknown := [name for name in options.models or () if name not in known]:
        parser.error(
            f"--models of --table {options.table} are {', '.join(known)}, got {unknown[0]}"
        )
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the reports."""
    options, start = parse(argv), time.perf_counter()
    try:
        title, table, notes, rows = TABLES[options.table](options)
    except (ImportError, OSError) as error:
        raise SystemExit(f"benchmarks.convert: {error}") from error
    print("\n".join([as_text(table, left=2), "", *notes]))
    taken = time.perf_counter() - start
    report = {
        "rows": rows,
        "notes": notes,
        **{key: value for key, value in vars(options).items() if key not in ("out", "data")},
        "seconds": round(taken, 1),
        "versions": {
            "analogtorch": at.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    write_atomically(options.out / f"{options.table}.md", as_markdown(table, title, notes))
    path = write_atomically(
        options.out / f"{options.table}.json", json.dumps(report, indent=2) + "\n"
    )
    print(f"\n{taken:.0f} s; reports in {path.parent}")


if __name__ == "__main__":
    main()
