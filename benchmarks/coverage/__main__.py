"""Which layers of common models become analog, and which steps work on them, in one table.

    python -m benchmarks.coverage                        # all of them: tens of minutes on one core
    python -m benchmarks.coverage --models "*GPT-2" "*vit*"

Every model goes through convert, guard, calibrate, map_to_chip, cost, program, generate (language
models, with their cache), save and load, and to_digital, whose result must be bit-equal to the
model before. The table is printed and written as Markdown and JSON into the output folder, with the
rows of earlier runs of other models; progress goes to the error stream of the terminal.
"""

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from analogtorch.conversion.pattern import Pattern
from analogtorch.files import write_atomically
from benchmarks.coverage.nets import nets
from benchmarks.coverage.steps import Row, cover
from benchmarks.tables import as_markdown

NOTES = [
    "Random weights. Analog: the share of the weights that multiply, in matrices of all modules, "
    "which is on the chip.",
    "Digital: number of modules x reason (their share). Tiles: of hermes64, as `map_to_chip` packs "
    "them.",
    "Steps: convert, guard, calibrate, map, cost, program and run after a day, generate (language "
    "models), save and load, restore. Restored models are bit-equal to what they were.",
]


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return header and rows."""
    found = [
        [
            "model",
            "what stays digital, and why",
            "weights",
            "analog layers",
            "analog",
            "tiles",
            "steps",
        ]
    ]
    for row in rows:
        failed = [f"**{step}**: {_short(error)}" for step, error in row.failed.items()]
        skipped = f"without {', '.join(row.skipped)}" if row.skipped else "all"
        digital = "; ".join(row.digital) or "nothing"
        numbers = [
            f"{row.weights:,}",
            f"{row.layers:,}",
            row.share,
            f"{row.tiles:,}" if row.tiles else "-",
        ]
        found.append([row.name, digital.replace("|", "/"), *numbers, "; ".join(failed) or skipped])
    return found


def _short(error: str) -> str:
    line = error.partition("\n")[0].replace("|", "/")
    return line if len(line) <= 160 else f"{line[:157]}..."


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; return 1 if a step failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--models", nargs="+", help="patterns of names; all models if left out")
    parser.add_argument(
        "--largest", type=float, default=4e6, help="weights of a model that is programmed, at most"
    )
    parser.add_argument(
        "--values", type=float, default=60e6, help="weights that are there; a larger one is on meta"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/coverage"), help="folder for coverage.md and .json"
    )
    options = parser.parse_args(arguments)
    known = nets()
    wanted = [
        name
        for text in options.models or ["*"]
        for name in filter(Pattern(text, "benchmarks.coverage", known), known)
    ]
    if not wanted:
        parser.error(
            f"--models matches none of {len(known)} models: {', '.join(list(known)[:3])}, ..."
        )
    rows = _earlier(options.out / "coverage.json")
    for i, name in enumerate(dict.fromkeys(wanted)):
        print(f"{i + 1} of {len(wanted)}: {name}", end=" ", file=sys.stderr, flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows[name] = cover(name, known[name], options.largest, options.values)
        print(
            "; ".join(f"{step} {error}" for step, error in rows[name].failed.items()) or "ok",
            file=sys.stderr,
        )
        _write(options.out, [rows[name] for name in known if name in rows])
    print((options.out / "coverage.md").read_text())
    return int(any(rows[name].failed for name in wanted))


def _earlier(path: Path) -> dict[str, Row]:
    """Return the rows of an earlier run, by name."""
    return (
        {row["name"]: Row(**row) for row in json.loads(path.read_text())} if path.exists() else {}
    )


def _write(folder: Path, rows: Sequence[Row]) -> None:
    text = as_markdown(table(rows), "What becomes analog", [*NOTES, f"torch {torch.__version__}."])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "coverage.md", text)
    write_atomically(
        folder / "coverage.json", json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
    )


if __name__ == "__main__":
    sys.exit(main())
