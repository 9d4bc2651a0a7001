"""Tables of text for a terminal and as Markdown, and a type of option, for all commands."""

import argparse
from collections.abc import Sequence


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


def positive(text: str) -> int:
    """Return an option as an integer >= 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {value}")
    return value
