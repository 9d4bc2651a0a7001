"""Systems for tests of the solver."""

import torch
from torch import Tensor


def system(n: int, *batch: int, seed: int = 0, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return matrices near the identity, of condition numbers around 2, and right-hand sides."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(*batch, n, n, generator=g, dtype=torch.float64) * (noise / n**0.5)
    b = torch.randn(*batch, n, generator=g, dtype=torch.float64)
    return a + torch.eye(n, dtype=torch.float64), b


def conditioned(n: int, condition: float, seed: int, symmetric: bool = False) -> Tensor:
    """Return a random matrix (n, n) whose singular values fall from 1 to ``1 / condition``."""
    g = torch.Generator().manual_seed(seed)
    u, v = torch.linalg.qr(torch.randn(2, n, n, generator=g, dtype=torch.float64)).Q
    s = torch.logspace(0, -1, n, base=condition, dtype=torch.float64)
    return (u * s) @ (u.mT if symmetric else v)
