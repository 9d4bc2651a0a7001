"""Kernel ridge regression on two analog chips: random features on HERMES, the system on a solver.

Random Fourier features (Rahimi and Recht, NIPS 2007) of a Gaussian kernel are the cosines of one
MVM. The weights solve ``(F^T F + ridge I) w = F^T y``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import analogtorch as at
from analogtorch.solver import SolverChip

FEATURES, RIDGE = 128, 0.5
SETS = ("digits", "breast_cancer")


@dataclass(frozen=True)
class Data:
    """Standardised rows of a set of scikit-learn, split 70 to 30, float64, and their classes."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def load(name: str) -> Data:
    """Return a set of ``SETS``."""
    from sklearn import datasets, model_selection

    whole = getattr(datasets, f"load_{name}")()
    parts = model_selection.train_test_split(
        whole.data, whole.target, test_size=0.3, random_state=0, stratify=whole.target
    )
    x, test_x, y, test_y = map(torch.as_tensor, parts)
    mean, std = x.mean(0), x.std(0).clamp_min(1e-9)
    return Data((x - mean) / std, y, (test_x - mean) / std, test_y)


def features(data: Data, seed: int, chip: at.Chip | None) -> Callable[[Tensor], Tensor]:
    """Return the random features of rows: digital, or of a chip a day after programming."""
    inputs = data.x.shape[1]
    g = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(inputs, FEATURES)
    with torch.no_grad():
        # kernel exp(-|x - y|^2 / (4 inputs))
        layer.weight.copy_(torch.randn(FEATURES, inputs, generator=g) / (2 * inputs) ** 0.5)
        layer.bias.copy_(2 * math.pi * torch.rand(FEATURES, generator=g))
    model: torch.nn.Module = torch.nn.Sequential(layer)
    if chip is not None:
        at.calibrate(at.convert(model, chip), [data.x[:256].float()])
        model = at.program(model, seed=seed).at("1 day")
    return lambda x: (2 / FEATURES) ** 0.5 * model(x.float()).detach().double().cos()


def fitted(f: Tensor, y: Tensor, chip: SolverChip | None, seed: int) -> tuple[Tensor, int]:
    """Return the weights of ridge regression on classes, and the passes they took."""
    matrix = f.mT @ f + RIDGE * torch.eye(f.shape[1], dtype=f.dtype)
    right = f.mT @ (2.0 * torch.nn.functional.one_hot(y).double() - 1)
    if chip is None:
        return torch.linalg.solve(matrix, right), 0
    found = at.solve(matrix, right, chip, seed=seed)
    return found.x, int(found.passes)


def accuracy(f: Tensor, w: Tensor, y: Tensor) -> float:
    """Return the share of rows whose class is found."""
    return float(((f @ w).argmax(1) == y).double().mean())
