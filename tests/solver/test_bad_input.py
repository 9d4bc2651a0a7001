"""Bad input of ``solve`` and of solver chips ends in errors that say what to write instead."""

import dataclasses
import math
import re
from typing import Any

import pytest
import torch

import analogtorch as at
from analogtorch.solver import InverseCircuit, MatrixSolver, SlicedMVM

CHIP = at.solver.rram_solver()
A, B = torch.eye(3), torch.ones(3)


@pytest.mark.parametrize(
    ("a", "b", "chip", "error", "said"),
    [
        ([[1.0]], B, CHIP, TypeError, "A must be a tensor"),
        (A.int(), B, CHIP, TypeError, "write A.double()"),
        (A.half(), B.half(), CHIP, TypeError, "write A.double()"),
        (A, B.double(), CHIP, TypeError, "write b.to(A)"),
        (A, None, CHIP, TypeError, "b must be a tensor"),
        (A.to_sparse(), B, CHIP, TypeError, "A must be a dense tensor"),
        (A, B.to("meta"), CHIP, TypeError, "b must be a dense tensor with values"),
        (torch.ones(3, 2), B, CHIP, ValueError, "for least squares solve A.mT @ A"),
        (torch.ones(0, 0), B, CHIP, ValueError, "n >= 1"),
        (B, B, CHIP, ValueError, "A must be square"),
        (torch.ones(0, 3, 3), B, CHIP, ValueError, "A holds no system, got (0, 3, 3)"),
        (A * math.nan, B, CHIP, ValueError, "A has 9 of 9 elements that are NaN"),
        (A, B * math.inf, CHIP, ValueError, "b has 3 of 3 elements that are NaN or infinite"),
        (A, torch.ones(4), CHIP, ValueError, "b must be (3,), or broadcast with (3, 'k')"),
        (A.expand(2, 3, 3), torch.ones(5, 3, 1), CHIP, ValueError, "broadcast with (2, 3, 'k')"),
        (A, torch.ones(3, 0), CHIP, ValueError, "b must be (3,), or broadcast with (3, 'k')"),
        (A, B, at.chips.hermes64(), TypeError, "at.solver.rram_solver()"),
        (A, B, None, TypeError, "at.solver.rram_solver()"),
        (torch.eye(300), torch.ones(300), CHIP, ValueError, "chip.replace(cells=None)"),
    ],
)
def test_arguments(a: Any, b: Any, chip: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        at.solve(a, b, chip)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"tolerance": "small"}, "tolerance"),
        ({"passes": 0}, "passes"),
        ({"passes": 1.5}, "passes"),
        ({"scaling": 1}, "scaling must be True or False"),
        ({"strict": None}, "strict must be True or False"),
    ],
)
def test_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        at.solve(A, B, CHIP, **options)


def test_transforms() -> None:
    with pytest.raises(NotImplementedError, match="one batch that holds all systems"):
        torch.func.vmap(lambda a: at.solve(a, B, CHIP).x)(A.expand(2, 3, 3))
    with pytest.raises(NotImplementedError, match=r"torch.autograd.grad"):
        torch.func.grad(lambda b: at.solve(A, b, CHIP).x.sum())(B)


@pytest.mark.parametrize("seed", [1.5, True, "1", None])
def test_seeds(seed: Any) -> None:
    with pytest.raises(TypeError, match="seed must be an integer"):
        MatrixSolver(A, CHIP, seed=seed)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (InverseCircuit(), "size", 0),
        (InverseCircuit(), "bits", 9),
        (InverseCircuit(), "slices", 9),
        (InverseCircuit(), "circuit", "inv"),
        (InverseCircuit(), "input_bits", 1),
        (InverseCircuit(), "output_bits", 17),
        (InverseCircuit(), "bandwidth", 0.0),
        (InverseCircuit(), "settling_time", -1.0),
        (SlicedMVM(), "bits", 49),
        (SlicedMVM(), "bits_per_slice", 0),
        (SlicedMVM(), "bits_per_pulse", 9),
        (SlicedMVM(), "input_bits", 0),
        (SlicedMVM(), "rows", 0),
        (SlicedMVM(), "noise", math.nan),
        (CHIP, "corrections", "subtracted"),
        (CHIP, "cells", 0),
        (CHIP, "name", ""),
    ],
)
def test_fields_of_chips(part: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{type(part).__name__}.{name}"):
        dataclasses.replace(part, **{name: value})


def test_parts_of_chips() -> None:
    with pytest.raises(ValueError, match="did you mean 'slices'"):
        CHIP.replace(inverse={"slice": 2})
    with pytest.raises(TypeError, match=r"SolverChip.mvm must be a SlicedMVM"):
        CHIP.replace(mvm=3)
    cell = at.devices.SingleEndedCell(device=at.devices.ideal_device())
    with pytest.raises(ValueError, match="holds no negative matrix elements"):
        CHIP.replace(cell=cell)
    for bad in ({"spread": -1.0}, {"bits": 45}, {"slices": 0}, {"circuit": None}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            at.solver.rram_solver(**bad)
