"""Uses of a solver chip: kernel ridge regression and a second-order optimiser."""

from collections.abc import Iterator
from pathlib import Path

import torch

import analogtorch as at
from analogtorch.solver import rram_solver
from benchmarks.solver import kfac
from benchmarks.solver.ridge import FEATURES, SETS, accuracy, features, fitted, load

Table = list[list[str]]
Found = Iterator[tuple[str, Table, list[str]]]
CORRECTION = {"multiplies": "correction"}


def ridge(count: int, _: Path | None) -> Found:
    """Accuracy of kernel ridge regression, digitally and on two chips."""
    chip = rram_solver(slices=2).replace(mvm=CORRECTION)
    seeds = range(max(count // 20, 1))
    table = [["set", "digital", "features on hermes64", "and solved on the chip", "passes"]]
    for name in SETS:
        data, rows, taken = load(name), [], []
        for seed in seeds:
            row = []
            for where, solver in ((None, None), (at.chips.hermes64(), None), (None, chip)):
                if solver is None:
                    make = features(data, seed, where)
                    f, test = make(data.x), make(data.test_x)
                w, passes = fitted(f, data.y, solver, seed)
                row.append(100 * accuracy(test, w, data.test_y))
            taken.append(passes)
            rows.append(row)
        means = torch.tensor(rows).mean(0).tolist()
        table.append([name, *[f"{m:.2f} %" for m in means], f"{sum(taken) / len(taken):.0f}"])
    notes = [
        f"accuracy on the held-out 30 %, mean of {len(seeds)} chips with features of their own; "
        f"{FEATURES} random features, hermes64 a day after programming",
        "solver: 6 bits for the inverse (ASSUMED), to 2^-24",
    ]
    yield "Kernel ridge regression", table, notes


def second_order(count: int, _: Path | None) -> Found:
    """Training with K-FAC, whose inverses run on the chip."""
    chip, data = rram_solver(slices=2).replace(mvm=CORRECTION), load("digits")
    solvers = {
        "SGD with momentum": lambda: None,
        "K-FAC, digital": lambda: kfac.digital,
        "K-FAC, chip to 2^-10": lambda: kfac.OnChip(chip),
        "K-FAC, chip, one pass": lambda: kfac.OnChip(chip, passes=1),
    }
    seeds, steps = range(max(count // 33, 1)), 40 if count >= 10 else 5
    table = [["digits", "loss after 10 steps", f"after {steps}", "accuracy", "passes of a solve"]]
    for name, make in solvers.items():
        losses, right, taken = [], [], []
        for seed in seeds:
            solve = make()
            model, loss = kfac.trained(data.x.float(), data.y, seed, solve, steps)
            losses.append(loss)
            right.append(100 * accuracy(model(data.test_x.float()), torch.eye(10), data.test_y))
            taken.append(solve.taken / solve.solved if isinstance(solve, kfac.OnChip) else 0.0)
        mean = torch.tensor(losses).mean(0)
        row = [
            f"{mean[min(2, len(mean) - 1)]:.3f}",
            f"{mean[-1]:.3f}",
            f"{sum(right) / len(right):.2f} %",
        ]
        table.append([name, *row, f"{sum(taken) / len(taken):.1f}" if any(taken) else ""])
    notes = [
        f"64-32-10 net, batches of 128, mean of {len(seeds)} seeds; 6 bits for the inverse "
        "(ASSUMED)",
    ]
    yield "A second-order optimiser", table, notes
