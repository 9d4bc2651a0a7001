"""What a simulated solver chip does: residuals, refusals, time, energy, and bit error rates.

    python -m benchmarks.solver
    python -m benchmarks.solver --table errors --plots docs

Chips are simulated, and times and energies are modelled from the assumptions that
``print(at.solver.rram_solver())`` names. The time of the simulation is that of this machine.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import analogtorch as at
from analogtorch.files.figures import new_figure, write_figure
from analogtorch.solver import MatrixSolver, SolverChip, rram_solver
from benchmarks.solver.mimo import bit_errors, digital, equations, receive
from benchmarks.solver.uses import CORRECTION, Found, ridge, second_order
from benchmarks.tables import as_markdown, positive

SIZES = (8, 16, 32, 64, 128)
DETECTORS = {"3 bits, added": (3, 4), "3 bits": (2, 3, 4), "6 bits": (2, 3)}
"""Passes of each of ``chips``."""
SYSTEMS = {"16x4": (16, 4), "128x8": (128, 8)}
DECIBELS = {
    ("16x4", 64): (10, 14, 18, 20),
    ("16x4", 256): (16, 20, 24, 26),
    ("128x8", 64): (2, 6, 10, 11),
    ("128x8", 256): (8, 12, 16, 17),
}


def covariance(n: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return covariance matrices of 4 n normal vectors, and normal right-hand sides."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4 * n, n, generator=g, dtype=torch.float64)
    return x.mT @ x / (4 * n), torch.randn(count, n, generator=g, dtype=torch.float64)


def near_identity(n: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return identity plus normals of the spectral norm 0.6, and normal right-hand sides."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, n, n, generator=g, dtype=torch.float64) * (0.3 / n**0.5)
    identity = torch.eye(n, dtype=torch.float64)
    return x + identity, torch.randn(count, n, generator=g, dtype=torch.float64)


def chips() -> dict[str, SolverChip]:
    """Return chips by the bits of the inverse and by what becomes of corrections."""
    return {
        "3 bits, added": rram_solver().replace(corrections="added"),
        "3 bits": rram_solver(),
        "6 bits, added": rram_solver(slices=2).replace(corrections="added"),
        "6 bits": rram_solver(slices=2),
    }


MATRICES = {"near identity": near_identity, "covariance": covariance}


def residuals(count: int, plots: Path | None) -> Found:
    """Residuals after each pass: 16x16."""
    passes = (1, 2, 3, 5, 8, 11)
    table = [["16x16 matrices, inverse, corrections", *map(str, passes), "bits a pass"]]
    curves = {}
    for name, make in MATRICES.items():
        a, b = make(16, count)
        for label, chip in chips().items():
            left = MatrixSolver(a, chip).solve(b, passes=11).residuals
            middle = left.median(1).values
            curves[f"{name}, {label}"] = middle.tolist()
            rate = -(middle[5] / middle[0]).log2() / 5
            each = [f"{middle[p]:.1e}" for p in passes]
            table.append([f"{name}, {label}", *each, f"{rate:.1f}"])
    if plots:
        _draw(plots / "solver_residual.png", curves, "passes", "||b - A x|| / ||b||, median")
    yield "Residual after each pass", table, [f"median of {count} systems, as the chip finds it"]


def refusals(count: int, _: Path | None) -> Found:
    """How many random systems are solved, by condition number, bits and corrections."""
    table = [["symmetric 16x16, condition number", *chips()]]
    for condition in (3, 10, 30, 100):
        a, b = _conditioned(16, condition, count)
        row = [str(condition)]
        for chip in chips().values():
            found = at.solve(a, b, chip, strict=False)
            took = found.passes[found.solved].double()
            mean = f", {took.mean():.0f} passes" if len(took) else ""
            row.append(f"{100 * len(took) / count:.0f} %{mean}")
        table.append(row)
    note = f"share of {count} systems solved to 2^-24, others are refused; mean passes of these"
    yield "What is solved", table, [note]


def errors(count: int, _: Path | None) -> Found:
    """What errors of cells do: to the passes, and to the counts of the MVMs."""
    table = [["spread of a cell, uS", "spectral radius", "solved to 2^-24", "residual reached"]]
    a, b = (t.expand(count, *t.shape[1:]) for t in near_identity(16, 1))
    for spread in (0.0, 0.1, 0.2, 0.3, 0.5, 1.0):
        solver = MatrixSolver(a, rram_solver(spread=spread))
        left = solver.solve(b, passes=15).residual.median()
        solved = solver.solve(b, strict=False).solved.double().mean()
        radius = solver.spectral_radius.median()
        table.append([f"{spread:g}", f"{radius:.2f}", f"{100 * solved:.0f} %", f"{left:.1e}"])
    notes = [
        f"{count} chips, one 16x16 system near the identity; levels are 4.9 uS apart",
        "residual reached: median after 15 passes, computed digitally",
    ]
    yield "Errors of cells", table, notes


def costs(count: int, _: Path | None) -> Found:
    """Time and energy beside a digital LU."""
    header = "n", "passes", "time, us", "correction", "LU", "energy, nJ", "correction", "LU"
    table = [[*header, "combining, nJ", "setup, nJ", "analog"]]
    for n in SIZES:
        a, b = near_identity(n, max(count // n, 1))
        found = []
        for mvm, inverse in (({}, {}), (CORRECTION, {"schur": "analog"})):
            chip = rram_solver().replace(mvm=mvm, inverse=inverse, cells=None)
            cost = at.solve(a, b, chip).cost
            assert cost is not None
            found.append(cost)
        whole, part = found
        times = [1e6 * t for t in (whole.time, part.time, whole.lu_time)]
        energies = [1e9 * e for e in (whole.energy, part.energy, whole.lu_energy)]
        rest = whole.corrections_energy, whole.setup_energy, part.setup_energy
        numbers = *times, *energies, *[1e9 * e for e in rest]
        cells = [f"{v:,.3g}" if v < 1000 else f"{v:,.0f}" for v in numbers]
        passes = f"{whole.passes:.0f} / {part.passes:.0f}"
        table.append([str(n), passes, *cells])
    notes = [
        "modelled, one system near the identity with one right-hand side, without programming",
        "correction, second passes: MVMs multiply the last correction alone, and circuits find "
        "the Schur complements (mvm={'multiplies': 'correction'}, inverse={'schur': 'analog'})",
        "LU: one digital unit of 1 ns and 12.89 pJ per multiplication and addition of 32 bits",
        "combining: digital work on corrections, in the energies of both",
        "setup: Schur complements, once for a matrix, digitally or by the circuits",
    ]
    yield "Time and energy", table, notes


def speed(count: int, _: Path | None) -> Found:
    """Seconds of the simulation."""
    table = [["systems", "s", "largest residual"]]
    for n, systems in ((16, 1000), (64, 20)):
        a, b = near_identity(n, systems)
        start = time.perf_counter()
        found = at.solve(a, b, rram_solver())
        taken = time.perf_counter() - start
        table.append([f"{systems:,} of {n}x{n}", f"{taken:.1f}", f"{found.residual.max():.1e}"])
    yield "Time of the simulation", table, [f"{torch.get_num_threads()} threads"]


def detection(count: int, plots: Path | None) -> Found:
    """Bit error rates of zero-forcing detection."""
    labels = [f"{name}: {p}" for name, passes in DETECTORS.items() for p in passes]
    table = [["antennas x users", "QAM", "dB", "float32", *labels]]
    figure = new_figure(9, 3.6)
    for number, ((name, order), decibels) in enumerate(DECIBELS.items()):
        rows = [_detected(*SYSTEMS[name], order, db, 20 * count) for db in decibels]
        for db, row in zip(decibels, rows, strict=True):
            table.append([name, str(order), str(db), *[f"{rate:.1e}" for rate in row]])
        if order == 256:
            axes = figure.add_subplot(1, 2, 1 + number // 2)
            for rates, label in zip(zip(*rows, strict=True), ["float32", *labels], strict=True):
                style = "black" if label == "float32" else None
                axes.semilogy(decibels, rates, marker="o", markersize=3, color=style, label=label)
            axes.set_title(f"{name}, {order}-QAM", fontsize=9)
            axes.set_xlabel("signal-to-noise ratio, dB")
            axes.set_ylabel("bit error rate")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    if plots:
        write_figure(figure, plots / "solver_ber.png")
    notes = [
        f"{20 * count:,} channels a row, the same for all columns; columns: passes",
        "3 bits: the published arrays; 6 bits: two arrays for the inverse (ASSUMED); added: as "
        "published, others combine corrections",
    ]
    yield "Bit error rate of zero-forcing detection", table, notes


def _detected(antennas: int, users: int, order: int, decibels: float, count: int) -> list[float]:
    given = receive(antennas, users, order, decibels, count, seed=1)
    a, b = equations(given)
    found = [bit_errors(given, digital(given)).mean()]
    for name, passes in DETECTORS.items():
        solver = MatrixSolver(a, chips()[name])
        found += [bit_errors(given, solver.solve(b, passes=p).x).mean() for p in passes]
    return [float(rate) for rate in found]


def _conditioned(n: int, condition: float, count: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(count, n, n, generator=g, dtype=torch.float64)).Q
    s = torch.logspace(0, -1, n, base=condition, dtype=torch.float64)
    return (q * s) @ q.mT, torch.randn(count, n, generator=g, dtype=torch.float64)


def _draw(path: Path, curves: dict[str, list[float]], x: str, y: str) -> None:
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot()
    for label, values in curves.items():
        axes.semilogy(values, marker="o", markersize=3, label=label)
    axes.axhline(2.0**-24, color="black", linestyle=":", label="2^-24")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write_figure(figure, path)


TABLES: dict[str, Callable[[int, Path | None], Found]] = {
    "residuals": residuals,
    "refusals": refusals,
    "errors": errors,
    "costs": costs,
    "speed": speed,
    "detection": detection,
    "ridge": ridge,
    "second_order": second_order,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solver")
    parser.add_argument("--table", choices=TABLES, help="one table; all by default")
    parser.add_argument("--count", type=positive, default=100, help="systems or chips of a figure")
    parser.add_argument("--plots", type=Path, help="folder of the plots; none by default")
    options = parser.parse_args(argv)
    for name, make in TABLES.items():
        if options.table in (None, name):
            for title, table, notes in make(options.count, options.plots):
                print(as_markdown(table, title, notes, left=1), flush=True)


if __name__ == "__main__":
    main()
