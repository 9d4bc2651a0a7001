"""IR drop against a tile solved node by node: 256x256 cells of 0 to 20 uS behind 0.35 ohm."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from analogtorch.chips import Wires
from analogtorch.chips.wires import WireModel
from analogtorch.ops import Operands, Plan, input_drop, ir_drop
from analogtorch.simulate import nodal
from benchmarks.validation.published import WIRES, WIRES_BY_MODEL, Reference
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
    """Return the IR drop and the error of ladders, both as a share of the ideal output."""
    g, v = tile(256, 256, signed=signed)
    exact, ideal = nodal.solve(g, v, wires), v @ g
    closed = v @ (UNIT * ir_drop.effective(g.T / UNIT, wires=wires, unit=UNIT).T)
    return ((exact - ideal).norm() / ideal.norm()).item(), (
        (closed - exact).norm() / ideal.norm()
    ).item()


WIDTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform in [0, 1]": lambda z: torch.special.ndtr(z),
    "uniform in [-1, 1]": lambda z: 2 * torch.special.ndtr(z) - 1,
    "normal, standard deviation 0.3": lambda z: (0.3 * z).clamp(-1, 1),
    "normal, standard deviation 0.1, negative ones 0": lambda z: (0.1 * z).clamp(0, 1),
}
"""Widths of pulses in units of the longest, of standard normals."""


@functools.cache
def pulsed(
    widths: str, pairs: bool, ohm: float, rows: int, columns: int, ends: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, (columns, rows), one input, and the outputs of the tile at every time.

    Weights are uniform in [0, 1], or in [-1, 1] and those of a pair of columns. Outputs are in
    units of a full weight.
    """
    g, _ = tile(rows, columns)
    w = (2 * g - UNIT if pairs else g) / UNIT
    z = torch.randn(1, rows, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x, wires = WIDTHS[widths](z), Wires(column_resistance=ohm, column_ends=ends)
    currents = nodal.solve_pulses(UNIT * torch.cat(polarities(w), 1), x, wires)
    plus, minus = currents.chunk(2, 1)
    return w.T, x, (plus - minus) / UNIT


def polarities(w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two polarities of weights, >= 0."""
    return w.clamp_min(0), (-w).clamp_min(0)


def pulse_error(
    model: WireModel,
    widths: str,
    *,
    pairs: bool = False,
    ohm: float = 0.35,
    rows: int = 256,
    columns: int = 16,
    ends: int = 1,
) -> tuple[float, float]:
    """Return the IR drop of pulses and the error of a model, as shares of the ideal output."""
    wires = Wires(column_resistance=ohm, model=model, column_ends=ends)
    w, x, exact = pulsed(widths, pairs, ohm, rows, columns, ends)
    plus, minus = (ir_drop.effective(g, wires=wires, unit=UNIT) for g in polarities(w))
    ideal, behind = x @ w.T, plus - minus
    if model == "ladder":
        found = x @ behind.T
    else:
        block = ir_drop.Block(slice(0, columns), slice(0, rows))
        lost = w - behind if model == "pulses" else input_drop.parabola(w, [block])
        drop = input_drop.InputDrop(model, lost, load=UNIT * ohm)
        operands = Operands(x, x.new_ones(1), w, scale=x.new_ones(1, columns))
        found = ideal - input_drop.drops(operands, Plan(bounds=(0, rows)), drop)[0, 0]
    size = ideal.norm()
    return ((exact - ideal).norm() / size).item(), ((found - exact).norm() / size).item()


def rows() -> Iterator[Row]:
    """Yield the errors of the models, in percent of the output without a drop."""
    for pairs, bounds in WIRES_BY_MODEL.items():
        for model, bound in bounds.items():
            kind = "pulses and pairs" if pairs else "pulses"
            yield Row(
                quantity=f"{kind}, error of `Wires.model={model!r}`, % of the output",
                reference=Reference(dict.fromkeys(WIDTHS, 0.0), "Kirchhoff"),
                found=lambda m=model, p=pairs: [
                    100 * pulse_error(m, widths, pairs=p)[1] for widths in WIDTHS
                ],
                bar=Bar(limit=100 * bound, relative=False, unit=" points"),
            )
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
