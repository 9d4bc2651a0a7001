"""What a refusal says: which condition failed, what was measured, and what would mend it."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from analogtorch.devices import Scaled
from analogtorch.solver.chip import MOST_BITS, InverseCircuit, SolverChip
from analogtorch.solver.convergence import failed, invertible
from analogtorch.solver.errors import Condition, NotSolvedError
from analogtorch.solver.multiply import fixed_point
from analogtorch.solver.refine import Refined, norms, residual
from analogtorch.solver.system import System, order_of, programmed_system, scales

_COMBINED = "chip.replace(corrections='combined'), which may converge where added ones do not"

_GOOD = 0.8
"""Spectral radius that is worth naming: 2^-24 takes at most 75 passes."""
_HALVINGS = 8
"""Halvings of a noise that are tried."""
_RIDGES = (1e-3, 1e-2, 0.1, 1.0)
"""Ridges that are tried, in units of the largest element."""
_SHOWN = 2
"""Changes that a message names."""


def not_convergent(
    system: System,
    refused: Mapping[Condition, Tensor],
    b: Tensor | None = None,
    tolerance: float = math.inf,
) -> NotSolvedError:
    """Return the error of systems that are refused before the first pass; see ``failed``.

    What mends a singular one is tried with right-hand sides ``b``, if it is to be solved.
    """
    condition, which = next(iter(refused.items()))
    first, found = int(which.nonzero()[0]), system.convergence
    measured, describe = {
        "singular": (found.condition, _singular),
        "unstable": (found.slowest, _unstable),
        "diverging": (found.spectral_radius, _diverging),
    }[condition]
    value = float(measured[first])
    right = torch.zeros_like(system.a[:, :, :1]) if b is None else b
    mends = _mends(system, right, first, tolerance)
    if condition == "diverging":
        mends.append(_COMBINED)
    every = torch.stack([*refused.values()]).any(0)
    return _error(condition, first, value, every, describe(value, system.chip), mends)


def stalled(
    system: System, b: Tensor, found: Refined, left: Tensor, which: Tensor, tolerance: float
) -> NotSolvedError:
    """Return the error of systems whose residuals ``left``, (B,), are above the tolerance."""
    first = int(which.nonzero()[0])
    value = float(left[first])
    text, mends = _limit(system, b, found, first, value, tolerance)
    radius = float(system.convergence.spectral_radius[first])
    if not mends and radius < _GOOD and (mends := _steadier(system, b, first, tolerance)):
        text = (
            f": errors of cells change counts in some of the passes, which else converge: the "
            f"spectral radius of I - inv(A0) A is {radius:.3g}"
        )
    if not mends:
        text = (
            f": the rough inverse is too coarse, with a spectral radius of I - inv(A0) A of "
            f"{radius:.3g}; the arrays of A0 hold {_levels(system.chip)}"
        )
        mends = _mends(system, b, first, tolerance)
        if system.chip.corrections == "added":
            mends.append(_COMBINED)
    text = (
        f"the residual stays at {value:.3g} after {int(found.passes[first])} passes, above the "
        f"tolerance of {tolerance:.3g}{text}"
    )
    return _error("stalled", first, value, which, text, mends)


def beyond_range(x: Tensor, which: Tensor) -> NotSolvedError:
    """Return the error of solutions (B, n, k) that are too large or too small for their type."""
    first = int(which.nonzero()[0])
    mends = ["A or b times a power of ten"]
    if x.dtype in (torch.float32, torch.complex64):
        mends.append("float64")
    text = f"the solution is beyond the range of {x.dtype}"
    return _error("range", first, float(x[first].detach().abs().max()), which, text, mends)


def _error(
    condition: Condition, first: int, value: float, which: Tensor, text: str, mends: list[str]
) -> NotSolvedError:
    systems = tuple(which.nonzero().flatten().tolist())
    one = "" if len(which) == 1 else f" of system {first} ({len(systems)} of {len(which)} fail)"
    said = f"solve{one}: {text}. What mends it: {'; or '.join(mends)}"
    if len(systems) < len(which):
        said += ". strict=False solves the others"
    return NotSolvedError(condition, first, value, systems, said)


def _singular(value: float, chip: SolverChip) -> str:
    if math.isinf(value):
        return (
            "the matrix in the arrays has no inverse: its condition number is infinite in float64"
        )
    return (
        f"a block of the matrix has no inverse in the arrays, which hold {_levels(chip)}; the "
        f"condition number of the matrix is {value:.3g}"
    )


def _unstable(value: float, _: SolverChip) -> str:
    return (
        f"an inverse circuit does not settle: the smallest real part of its eigenvalues is "
        f"{value:.3g}, and must be above 0"
    )


def _diverging(value: float, chip: SolverChip) -> str:
    return (
        f"the passes do not converge: the spectral radius of I - inv(A0) A is {value:.3g}, and "
        f"must be below 1; the arrays of A0 hold {_levels(chip)}"
    )


def _levels(chip: SolverChip) -> str:
    inverse = chip.inverse
    return "it exactly" if inverse.bits is None else f"{inverse.bits * inverse.slices} bits of it"


def _mends(system: System, b: Tensor, first: int, tolerance: float) -> list[str]:
    """Return changes with which the passes converge well, found by trying them."""
    a = system.order.back(system.a)[first : first + 1]
    rows, columns = scales(a)
    if not bool(invertible(rows * a * columns)):
        return [_ridge(system, b, first, tolerance)]
    found: list[str] = []
    for changes in _changes(system.chip, system.scaling, bool(invertible(a))):
        for text, other, scaled in changes:
            tried = programmed_system(a, other, system.seed, scaled).convergence
            if not failed(tried) and float(tried.spectral_radius) < _GOOD:
                found.append(f"{text} (spectral radius {float(tried.spectral_radius):.2g})")
            if len(found) == _SHOWN:
                return found
        if found:
            return found
    condition = float(torch.linalg.cond(a[0]))
    return [f"a better conditioned matrix: its condition number is {condition:.3g}"]


def _ridge(system: System, b: Tensor, first: int, tolerance: float) -> str:
    """Return the least of some ridges with which a system is solved, found by trying them."""
    a, b = system.order.back(system.a), system.order.back(b)
    diagonal, largest = a[first].diagonal(), a[first].abs().max()
    if not bool(largest):
        return "a matrix with an inverse, such as A + I (ridge)"
    # a ridge of the other sign leads eigenvalues across zero
    away = -1 if float(diagonal.sum()) < 0 else 1
    ridge = away * largest * torch.ones_like(diagonal).diag()
    for share in _RIDGES:
        other = dataclasses.replace(system, a=a + share * ridge, order=order_of(a, False))
        if _solved(other, b, first, system.chip, tolerance):
            return (
                f"a matrix with an inverse, such as A {'-' if away < 0 else '+'} {share:g} m I "
                "(ridge), with its largest magnitude m"
            )
    return (
        f"a matrix with an inverse; ridges of up to {_RIDGES[-1]:g} times its largest magnitude "
        "are not enough alone"
    )


Change = tuple[str, SolverChip, bool]
"""How a change is written, the chip, and whether the matrix is scaled."""


def _changes(chip: SolverChip, scaling: bool, without: bool) -> Iterator[Iterable[Change]]:
    """Yield changes that might mend a system, those that change least first.

    A matrix that has no inverse ``without`` scaling is scaled in all of them.
    """
    if scaling:
        yield _of_chip(chip, True)
        return
    scaled = ((f"scaling=True and {text}", c, True) for text, c, _ in _of_chip(chip, True))
    first = [("scaling=True", chip, True)]
    if without:
        yield itertools.chain(first, _of_chip(chip, False))
        yield scaled
    else:
        yield itertools.chain(first, scaled)


def _of_chip(chip: SolverChip, scaling: bool) -> Iterator[Change]:
    bits, now = chip.inverse.bits, chip.inverse.slices
    counts = [now] if bits is None else [s for s in range(now, now + 4) if bits * s <= 24]
    for circuit in dict.fromkeys((chip.inverse.circuit, "least_squares")):
        for longer, slices in itertools.product((1, 10, 100), counts):
            if change := _change(chip.inverse, circuit, slices, longer):
                other = chip.replace(inverse=change)
                yield f"chip.replace(inverse={change})", other, scaling
    finer = _finer(chip)
    for slices in counts:
        change = _change(chip.inverse, "least_squares", slices, 100)
        text = f"cells with a quarter of their spread and chip.replace(inverse={change})"
        yield text, finer.replace(inverse=change), scaling


def _finer(chip: SolverChip) -> SolverChip:
    """Return the chip with cells of a quarter of their spread."""
    device = Scaled(device=chip.cell.device, programming_scale=0.25)
    return chip.replace(cell=dataclasses.replace(chip.cell, device=device))  # type: ignore[type-var]


def _change(inverse: InverseCircuit, circuit: str, slices: int, longer: int) -> dict[str, Any]:
    """Return the fields of an inverse circuit that are to change; empty if there are none."""
    found: dict[str, Any] = {}
    if slices != inverse.slices:
        found["slices"] = slices
    if circuit != inverse.circuit:
        found["circuit"] = circuit
    if longer > 1:
        if inverse.settling_time is None:
            return {}
        found["settling_time"] = float(f"{longer * inverse.settling_time:.6g}")
    return found


def _limit(
    system: System, b: Tensor, found: Refined, first: int, left: float, tolerance: float
) -> tuple[str, list[str]]:
    """Return which part of the MVMs keeps a residual above the tolerance, and what mends it.

    Both are empty where none does: then the rough inverse is what is too coarse.
    """
    mvm, which = system.chip.mvm, slice(first, first + 1)
    passes = int(found.passes[first])
    shares = _shares(system, b[which], found.x[which], which, passes)
    name = max(shares, key=shares.__getitem__)
    if not shares[name] > left / 8:
        return "", []
    if name == "noise":
        # counts are whole: noise far above 1 is as good as 1
        halves = (min(mvm.noise, 1.0) / 2**k for k in range(1, _HALVINGS + 1))
        less = ({"noise": float(f"{noise:.3g}")} for noise in (*halves, 0.0))
        none = "chip.replace(mvm={'noise': 0.0}), which is not enough alone"
        mend = _mend(system, b, first, tolerance, less) or none
        text = f": the noise of the counts, {mvm.noise:g}, changes them, by {shares[name]:.3g}"
        return text, [f"less noise, {mend}"]
    if name == "rows":
        text = f": errors of cells change counts, by {shares[name]:.3g}"
        closer = (
            "cells that lie closer to their levels; a quarter of their spread is not enough alone"
        )
        return text, _steadier(system, b, first, tolerance) or [closer]
    text = f": registers of {mvm.input_bits} bits leave up to {shares[name]:.3g}"
    if name == "bits":
        text = f": {mvm.bits} bits of the matrix leave {shares[name]:.3g}"
    shares[name] = max(shares[name], left)
    return text, _more_bits(system, b, first, tolerance, shares)


def _more_bits(
    system: System, b: Tensor, first: int, tolerance: float, shares: Mapping[str, float]
) -> list[str]:
    """Return what mends a system whose MVMs have too few bits, by what they leave; tried."""
    found, change = list[str](), dict[str, Any]()
    if not system.scaling and _solved(system, b, first, system.chip, tolerance, scaling=True):
        found.append("scaling=True")
    for part in ("bits", "input_bits"):
        # a quarter of the tolerance is left to each
        more = 2 + math.ceil(math.log2(max(shares[part] / tolerance, 0.25)))
        bits = min(getattr(system.chip.mvm, part) + more, MOST_BITS)
        if bits > getattr(system.chip.mvm, part):
            change[part] = bits
    if mend := change and _mend(system, b, first, tolerance, [change]):
        return [*found, f"more bits, {mend}"]
    if found:
        return found
    if not change or max(change.values()) == MOST_BITS:
        return [f"a larger tolerance: no part of the MVMs has more than {MOST_BITS} bits"]
    return [f"more bits, chip.replace(mvm={change}), which are not enough alone"]


def _steadier(system: System, b: Tensor, first: int, tolerance: float) -> list[str]:
    """Return changes with which errors of cells change no counts, if trying them finds any."""
    mvm, found = system.chip.mvm, list[str]()
    halves = itertools.takewhile(bool, (mvm.rows >> k for k in itertools.count(1)))
    if mend := _mend(system, b, first, tolerance, ({"rows": rows} for rows in halves)):
        found.append(f"fewer rows, {mend}")
    if _solved(system, b, first, _finer(system.chip), tolerance):
        found.append("cells with a quarter of their spread")
    if len(found) < _SHOWN:
        fewer = ({"bits_per_slice": bits} for bits in range(mvm.bits_per_slice - 1, 0, -1))
        if mend := _mend(system, b, first, tolerance, fewer):
            found.append(f"levels farther apart, {mend}")
    return found


def _mend(
    system: System, b: Tensor, first: int, tolerance: float, changes: Iterable[dict[str, Any]]
) -> str:
    """Return the first of some changes of the MVMs that solves a system; empty if none does."""
    for change in changes:
        if _solved(system, b, first, system.chip.replace(mvm=change), tolerance):
            return f"chip.replace(mvm={change})"
    return ""


def _solved(
    system: System,
    b: Tensor,
    first: int,
    chip: SolverChip,
    tolerance: float,
    scaling: bool = False,
) -> bool:
    """Return whether another chip solves the system ``first``, or ``scaling`` does, by trying."""
    # errors of cells depend on the number of a system
    a, b = (system.order.back(t)[: first + 1] for t in (system.a, b))
    pairs = system.complex and not scaling
    other = programmed_system(a, chip, system.seed, system.scaling or scaling, pairs)
    able, b = torch.arange(first + 1, device=a.device) == first, other.order.of(b)
    left = b - other.a @ other.refined(b, tolerance, None, able).x
    if not float(residual(left, norms(b))[first]) <= tolerance:
        return False
    refused = failed(other.convergence, claimed=chip.corrections == "added")
    return not any(bool(which[first]) for which in refused.values())


def _shares(system: System, b: Tensor, x: Tensor, which: slice, products: int) -> dict[str, float]:
    """Return what each part of the MVMs adds to the residual of the one system ``which``.

    Noise adds the most that it does in this many products.
    """
    mvm, size = system.chip.mvm, norms(b)
    if mvm.bits is None:
        return {"bits": 0.0}
    rows, columns, matrix = system.rows[which], system.columns[which], system.slices.of(which)
    y, scaled = x / columns.mT, rows * system.a[which] * columns
    held = fixed_point(scaled, mvm.bits)
    unit = y.abs().amax(1, keepdim=True) * 2.0**-mvm.input_bits
    counted = dataclasses.replace(matrix, mvm=dataclasses.replace(mvm, noise=0.0)).times(y, 0)
    errors = {
        "bits": (scaled - held) @ y,
        "input_bits": held.abs() @ unit.expand_as(y),
        "rows": counted - held @ matrix.stored(y),
    }
    shares = {name: float(residual(error / rows, size)) for name, error in errors.items()}
    if mvm.noise:
        noise = (matrix.times(y, number) - counted for number in range(products))
        found = (float(residual(error / rows, size)) for error in noise)
        shares["noise"] = max(found, default=0.0)
    return shares
