"""A mapping as a table for the terminal."""

from collections import defaultdict
from typing import Any

from analogtorch.mapping import ChipMapping
from analogtorch.report.columns import ruled
from analogtorch.values.shown import as_text

HEADER = ("matrix", "rows x cols", "groups", "copies", "blocks", "tiles", "utilisation", "vectors")


@as_text.register
def table(mapping: ChipMapping) -> str:
    """Return one row per matrix, then totals and what stays digital."""
    lines = ruled([HEADER, *layer_rows(mapping)])
    facts = [f"{name}: {text}" for name, text in summary(mapping)]
    return "\n".join([*lines, "", *facts])


def layer_rows(mapping: ChipMapping) -> list[tuple[str, ...]]:
    """Return the cells of the table below the header."""
    return [
        (
            row["matrix"],
            f"{row['rows']} x {row['cols']}",
            *(str(row[name]) for name in HEADER[2:6]),
            f"{row['utilisation']:.0%}",
            f"{row['vectors']:,}",
        )
        for row in _matrices(mapping)
    ]


def plain(mapping: ChipMapping) -> dict[str, Any]:
    """Return the figures that reports show of a mapping, as JSON takes them."""
    return {
        "num_chips": mapping.num_chips,
        "tiles": mapping.tiles_used,
        "weights": mapping.weights,
        "utilisation": mapping.utilisation,
        "matrices": _matrices(mapping),
        "digital operations": [
            {"name": op.name, "kind": op.kind, "numbers": op.elements, "operations": op.operations}
            for op in mapping.digital
        ],
        "digital weights": dict(mapping.digital_weights),
    }


def _matrices(mapping: ChipMapping) -> list[dict[str, Any]]:
    """Return the figures of each matrix; utilisation is that of all tiles with a part of it."""
    used, vectors, copies = mapping.tile_utilisation, mapping.vectors, mapping.copies
    rows: list[dict[str, Any]] = []
    for matrix in mapping.matrices:
        listed = mapping.matrix_blocks(matrix.name)
        tiles = {(p.chip, p.tile) for p in listed}
        rows.append(
            {
                "matrix": matrix.name,
                "rows": matrix.rows,
                "cols": matrix.cols,
                "groups": matrix.groups,
                "copies": copies[matrix.name],
                "blocks": len(listed),
                "tiles": len(tiles),
                "utilisation": sum(used[t] for t in tiles) / len(tiles),
                "vectors": vectors[matrix.name],
            }
        )
    return rows


def summary(mapping: ChipMapping) -> list[tuple[str, str]]:
    """Return the totals, each as a name and its text."""
    chip = mapping.chip
    area = chip.array.rows * chip.array.columns
    each = chip.slices.slicing.columns
    taken = sum(each * m.rows * m.cols * mapping.copies[m.name] for m in mapping.matrices)
    wasted = mapping.cells - taken
    zeros = f" ({wasted:,} of them zeros of block-diagonal matrices)" if wasted else ""
    rest = sum(count for _, count in mapping.digital_weights)
    retired = len(mapping.retired), len(mapping.retired_columns)
    facts = [
        (
            "model",
            f"{mapping.model}, {mapping.weights:,} weights on the chip in {mapping.cells:,} "
            f"cells{zeros}",
        ),
        (
            "chip",
            f"{chip.name}: {mapping.num_chips} used, each with {chip.array.tiles} tiles of "
            f"{chip.array.rows}x{chip.array.columns}",
        ),
        (
            "tiles",
            f"{mapping.tiles_used} used, at least {mapping.tiles_lower_bound} needed ("
            f"{mapping.cells:,} cells / {area:,}); {mapping.utilisation:.1%} of their cells are "
            "taken",
        ),
        ("an inference", f"one run of {', '.join(mapping.example) or 'the example'}"),
        ("digital operations", _counts(mapping)),
        ("digital weights", f"{rest:,} in {len(mapping.digital_weights)} parameters"),
    ]
    if any(retired):
        facts.insert(3, ("retired", f"{retired[0]} tiles, {retired[1]} columns"))
    return facts


def _counts(mapping: ChipMapping) -> str:
    totals: dict[str, int] = defaultdict(int)
    for op in mapping.digital:
        totals[op.kind] += op.operations
    ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    by_kind = ", ".join(f"{kind} {count:,}" for kind, count in ordered)
    return f"{sum(totals.values()):,} per inference ({by_kind})" if by_kind else "none"
