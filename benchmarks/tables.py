"""Tables of text for a terminal and as Markdown, and options, for all commands."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def as_text(table: Sequence[Sequence[str]], left: int = 0) -> str:
    """Return the table for a terminal, with the first ``left`` columns flush left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def as_markdown(
    table: Sequence[Sequence[str]], title: str, remarks: Sequence[str], left: int = 2
) -> str:
    """Return heading, table with its first ``left`` columns flush left, and notes."""
    header, *rows = [f"| {' | '.join(row)} |" for row in table]
    rule = "|---" * left + "|---:" * (len(table[0]) - left) + "|"
    listed = [f"- {remark}" for remark in remarks]
    return "\n".join([f"# {title}", "", header, rule, *rows, "", *listed, ""])


def add_data(parser: argparse.ArgumentParser, what: str = "data folder") -> None:
    """Add the option of the data folder, by default ``ANALOGTORCH_DATA`` or ``../shared/data``."""
    data = Path(os.environ.get("ANALOGTORCH_DATA") or Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument(
        "--data", type=Path, default=data, help=f"{what}; also the variable ANALOGTORCH_DATA"
    )


def positive(text: str) -> int:
    """Return an option as an integer >= 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {value}")
    return value
