"""The tables: the nets, their rows over time, and what adapting gains."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.evaluate.interval import interval
from benchmarks.subject import decimals, factor

Rows = Mapping[tuple[str, str], list[dict[str, Any]]]
"""The seeds of each net and row."""
Nets = Mapping[str, dict[str, Any]]
"""Score and hardware of each net."""


def of_nets(nets: Nets, rows: Rows, times: Sequence[str]) -> list[list[str]]:
    """Return header and rows: a net with its scores, means over chips and seeds, and its hardware.

    A cell of scores has that behind the converters and those of the chips at each time.
    """
    measured = list(dict.fromkeys(row for _, row in rows))
    scores = (f"{row}: {' / '.join(['8-bit I/O', *times])}" for row in measured)
    hardware = ["chips", "tiles", "energy, uJ", "of it digital", "latency, ms"]
    table = [["net", "score", "chip", "digital", "ideal", *scores, *hardware]]
    for net, found in nets.items():
        measure = found["measure"]
        table.append([
            net,
            f"{measure}{', lower is better' if found['lower is better'] else ''}",
            ", ".join(["hermes64", *(f"{k}={v}" for k, v in found["options"].items())]),
            _number(found["digital"], measure),
            _number(found["ideal"], measure),
            *(_means(rows.get((net, row), []), measure) for row in measured),
            str(found["chips"]),
            str(found["tiles"]),
            _short(1e6 * found["energy"]),
            _short(1e6 * found["digital energy"]),
            _short(1e3 * found["latency"]),
        ])  # fmt: skip
    return table


def of_rows(rows: Rows, nets: Nets, times: Sequence[str]) -> list[list[str]]:
    """Return header and rows: the score behind the converters, and of the chips at each time."""
    table = [["net", "row", "8-bit I/O", *times, "s"]]
    for (net, row), seeds in rows.items():
        measure = nets[net]["measure"]
        io = _number(sum(found["io"] for found in seeds) / len(seeds), measure)
        seconds = f"{max(found['seconds'] for found in seeds):.0f}"
        for name, key in ((row, "chips"), (f"{row}, columns corrected", "corrected")):
            if key in seeds[0]:
                chips = torch.tensor([found[key] for found in seeds])  # (seeds, chips, times)
                spreads = (_spread(values, measure) for values in chips.flatten(0, 1).T)
                table.append([net, name, io, *spreads, seconds])
    return table


def gains(rows: Rows, nets: Nets, times: Sequence[str]) -> list[list[str]]:
    """Return header and rows: the paired differences between the adapted nets and other rows."""
    table = [["net", "adapted minus", *times]]
    for (net, other), seeds in rows.items():
        if other == "adapted" or (net, "adapted") not in rows:
            continue
        of = [torch.tensor([r["chips"] for r in each]) for each in (rows[net, "adapted"], seeds)]
        measure = nets[net]["measure"]
        # the means over chips of each seed; a row that does not learn has one seed
        paired = factor(measure) * (of[0] - of[1]).mean(1)
        digits = decimals(measure) + 1
        spans = [interval(paired[:, i].tolist()) for i in range(len(times))]
        signed = ("+" * (span.mean >= 0) + span.shown(digits) for span in spans)
        table.append([net, other, *signed])
    return table


def _means(seeds: list[dict[str, Any]], measure: str) -> str:
    """Return the score behind the converters and at each time; empty if nothing was measured."""
    if not seeds:
        return ""
    chips = torch.tensor([found["chips"] for found in seeds])  # (seeds, chips, times)
    io = sum(found["io"] for found in seeds) / len(seeds)
    return " / ".join(_number(v, measure) for v in (io, *chips.mean((0, 1)).tolist()))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _number(value: float, measure: str) -> str:
    return f"{factor(measure) * value:.{decimals(measure)}f}"


def _spread(values: Tensor, measure: str) -> str:
    mean = _number(values.mean().item(), measure)
    return mean if len(values) == 1 else f"{mean} ± {_number(values.std().item(), measure)}"
