"""Check the models against published figures, and write docs/validation.md with its figures.

    python -m benchmarks.validation [--out docs] [--check]

15 s of one core. The numbers repeat on one machine; another may differ in the last
digit. With --check nothing is written, and the exit code is 1 if a row misses its bar.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from analogtorch.files import write_atomically
from benchmarks.validation.figures import FIGURES, png
from benchmarks.validation.page import GROUPS, page, summary

DOCS = Path(__file__).parents[2] / "docs"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validation", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, default=DOCS, help="folder of the page and figures (default: docs)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if a row misses its bar"
    )
    options = parser.parse_args(arguments)
    rows = [list(group.rows()) for group in GROUPS]
    with tqdm(total=sum(map(len, rows)), desc="rows", unit="row") as bar:
        outcomes = []
        for group in rows:
            outcomes.append([])
            for row in group:
                bar.set_postfix_str(row.quantity[:50])
                outcomes[-1].append(row.run())
                bar.update()
    flat = [each for group in outcomes for each in group]
    print(summary(flat))
    if options.check:
        return int(not all(each.meets for each in flat))
    print(write_atomically(options.out / "validation.md", page(outcomes)))
    for name, draw in FIGURES.items():
        print(write_atomically(options.out / name, png(draw())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
