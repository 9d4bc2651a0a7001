"""IR drop against a tile solved node by node: 256x256 cells of 0 to 20 uS behind 0.35 ohm."""

from collections.abc import Iterator

import torch

from analogtorch.chips import Wires
from analogtorch.ops import ir_drop
from analogtorch.simulate import nodal
from benchmarks.validation.published import WIRES, Reference
from benchmarks.validation.row import Bar, Row

UNIT = 20e-6
"""Largest conductance, S."""


def tile(
    rows: int, columns: int, *, signed: bool = False, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """Return uniform conductances, S, and inputs, V; of both signs in turn, or positive."""
    generator = torch.Generator().manual_seed(seed)
    g = UNIT * torch.rand(rows, columns, dtype=torch.float64, generator=generator)
    v = 0.2 * torch.rand(rows, dtype=torch.float64, generator=generator)
    if signed:
        v[::2] *= -1
    return g, v


def drop_and_error(wires: Wires, *, signed: bool) -> tuple[float, float]:
    """Return the IR drop and its error in closed form, both as a share of the ideal output."""
    g, v = tile(256, 256, signed=signed)
    exact, ideal = nodal.solve(g, v, wires), v @ g
    closed = v @ (UNIT * ir_drop.effective(g.T / UNIT, wires=wires, unit=UNIT).T)
    return ((exact - ideal).norm() / ideal.norm()).item(), (
        (closed - exact).norm() / ideal.norm()
    ).item()


def rows() -> Iterator[Row]:
    """Yield the error of the closed form, in percent of the output without a drop."""
    for ends in (1, 2):
        for signed, bound in WIRES.items():
            wires = Wires(
                row_resistance=0.35, column_resistance=0.35, row_ends=ends, column_ends=ends
            )
            inputs = "both signs" if signed else "one sign"
            yield Row(
                quantity=f"error, % of the output: lines with {ends} end{'s' * (ends - 1)}, inputs "
                f"of {inputs}",
                reference=Reference({"256x256": 0.0}, "Kirchhoff"),
                found=lambda w=wires, s=signed: [100 * drop_and_error(w, signed=s)[1]],
                bar=Bar(limit=100 * bound, relative=False, unit=" points"),
            )
