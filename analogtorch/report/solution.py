"""Solutions of systems on a solver chip, as a table for the terminal and as curves."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from analogtorch.files.figures import new_figure
from analogtorch.report import chip as chips
from analogtorch.report.columns import aligned, ruled
from analogtorch.solver import Solution, SolveCost, SolverChip
from analogtorch.values.listed import counted
from analogtorch.values.shown import as_figure, as_text

_ROWS = 16
"""Passes of a table."""
_CURVES = 32
"""Systems of a batch that are drawn."""


@as_text.register
def chip_table(chip: SolverChip) -> str:
    """Return the chip for a terminal: its fields part by part, with values and sources."""
    return chips.described(chip)


@as_text.register
def table(found: Solution) -> str:
    """Return the residual after each pass, and time and energy beside a digital LU."""
    solved = found.solved
    if not solved.any():
        return "\n".join(_refused(found))
    left = found.residuals[: int(found.passes[solved].max()) + 1, solved]
    rows = [("pass", "residual found by the chip", "bits", "largest")]
    step = -(-len(left) // _ROWS)
    for number in sorted({*range(0, len(left), step), len(left) - 1}):
        each = left[number]
        middle = each.median()
        rows.append((str(number), f"{middle:.3g}", _bits(middle), f"{each.max():.3g}"))
    many = left.shape[1]
    lines = ruled(rows if many > 1 else [row[:3] for row in rows], left=())
    notes = [
        f"{found.chip}: {counted(many, 'system')}, condition number up to "
        f"{found.condition[solved].max():.3g}, spectral radius up to "
        f"{found.spectral_radius[solved].max():.3g}, bound {found.bound[solved].max():.3g}",
        f"residual computed digitally: at most {found.residual[solved].max():.3g} "
        f"(2^{found.residual[solved].max().log2():.1f})",
        *_refused(found),
    ]
    cost = [] if found.cost is None else list(_costs(found.cost))
    return "\n".join([*lines, *notes, *cost])


@as_figure.register
def plot(found: Solution) -> Any:
    """Draw the residual of each system, as the chip finds it, over the passes."""
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot()
    left, passes = found.residuals[:, found.solved][:, :_CURVES], found.passes[found.solved]
    for system in range(left.shape[1]):
        end = int(passes[system]) + 1
        axes.semilogy(left[:end, system].tolist(), marker="o", markersize=3, linewidth=1)
    if found.tolerance is not None:
        axes.axhline(found.tolerance, color="black", linestyle=":", label="tolerance")
        axes.legend()
    axes.set_xlabel("passes")
    axes.set_ylabel("||b - A x|| / ||b||")
    axes.grid(alpha=0.3)
    return figure


def _refused(found: Solution) -> Iterator[str]:
    if found.refused:
        each = ", ".join(f"{int(which.sum())} {name}" for name, which in found.refused.items())
        many, all_ = int((~found.solved).sum()), found.solved.numel()
        yield f"{many} of {all_} systems refused: {each}"


def _costs(cost: SolveCost) -> Iterator[str]:
    yield ""
    rows = [
        ("modelled, of one system", "time, us", "energy, nJ"),
        ("inverse circuits", f"{1e6 * cost.inverse_time:.3g}", f"{1e9 * cost.inverse_energy:.3g}"),
        ("MVMs of the residual", f"{1e6 * cost.mvm_time:.3g}", f"{1e9 * cost.mvm_energy:.3g}"),
        (
            "scaling and combining",
            f"{1e6 * cost.corrections_time:.3g}",
            f"{1e9 * cost.corrections_energy:.3g}",
        ),
        ("digital check", "", f"{1e9 * cost.check_energy:.3g}"),
        ("solution", f"{1e6 * cost.time:.3g}", f"{1e9 * cost.energy:.3g}"),
        ("setup of the matrix", f"{1e6 * cost.setup_time:.3g}", f"{1e9 * cost.setup_energy:.3g}"),
        ("digital LU", f"{1e6 * cost.lu_time:.3g}", f"{1e9 * cost.lu_energy:.3g}"),
    ]
    yield from aligned(rows)
    yield "every figure is modelled, from assumptions that print(chip) names; without programming"


def _bits(value: Tensor) -> str:
    return f"{0 - value.log2():.1f}"
