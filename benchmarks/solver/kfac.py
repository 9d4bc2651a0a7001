"""K-FAC, a second-order optimiser, whose inverses run on a solver chip.

For each layer with inputs ``a`` (and 1 for the bias) and gradients ``g`` of its outputs, the Fisher
matrix is taken as the Kronecker product of ``A = E[a a^T]`` and ``G = E[g g^T]``, and a step is
``inv(G + damping) dW inv(A + damping)`` (Martens and Grosse, ICML 2015, with labels drawn from the
model, and the damping shared between the factors by their traces).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.solver import SolverChip

Solve = Callable[[Tensor, Tensor], Tensor]
DAMPING, DECAY, RATE = 0.1, 0.9, 0.3


def digital(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve digitally."""
    return torch.linalg.solve(matrix, right)


@dataclass
class OnChip:
    """Solves on a chip, to a tolerance or after some passes, and counts them."""

    chip: SolverChip
    tolerance: float = 2.0**-10
    passes: int | None = None
    taken: int = 0
    solved: int = 0

    def __call__(self, matrix: Tensor, right: Tensor) -> Tensor:
        found = at.solve(
            matrix, right, self.chip, tolerance=self.tolerance, passes=self.passes, seed=self.solved
        )
        self.taken += int(found.passes)
        self.solved += 1
        return found.x


class KFAC:
    """Steps of K-FAC of the linear layers of a model."""

    def __init__(self, model: nn.Module, solve: Solve) -> None:
        self.layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        self.solve = solve
        self.factors: list[tuple[Tensor, Tensor]] = []
        self.inputs: dict[nn.Module, Tensor] = {}
        self.gradients: dict[nn.Module, Tensor] = {}
        for layer in self.layers:
            layer.register_forward_hook(self._see)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        a = inputs[0].detach().double()
        self.inputs[layer] = torch.cat((a, a.new_ones(len(a), 1)), 1)
        if output.requires_grad:
            output.register_hook(lambda g: self.gradients.update({layer: g.double()}))

    def observe(self) -> None:
        """Take the factors from the last backward, of the mean loss over a batch."""
        now = []
        for layer in self.layers:
            a, g = self.inputs[layer], self.gradients[layer] * len(self.inputs[layer])
            now.append((a.mT @ a / len(a), g.mT @ g / len(g)))
        old = self.factors or now
        self.factors = [
            (DECAY * oa + (1 - DECAY) * a, DECAY * og + (1 - DECAY) * g)
            for (oa, og), (a, g) in zip(old, now, strict=True)
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters against their gradients."""
        for layer, (a, g) in zip(self.layers, self.factors, strict=True):
            assert layer.weight.grad is not None
            share = float(((a.trace() / len(a)) / (g.trace() / len(g)).clamp_min(1e-12)).sqrt())
            damped_a, damped_g = _damped(a, DAMPING**0.5 * share), _damped(g, DAMPING**0.5 / share)
            gradient = torch.cat((layer.weight.grad, layer.bias.grad.unsqueeze(1)), 1).double()
            change = self.solve(damped_a, self.solve(damped_g, gradient).mT).mT
            layer.weight -= RATE * change[:, :-1].to(layer.weight.dtype)
            layer.bias -= RATE * change[:, -1].to(layer.bias.dtype)


def _damped(matrix: Tensor, by: float) -> Tensor:
    return matrix + by * torch.eye(len(matrix), dtype=matrix.dtype)


def network(inputs: int, classes: int, seed: int) -> nn.Module:
    """Return a small net."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, classes))


def trained(x: Tensor, y: Tensor, seed: int, solve: Solve | None, steps: int) -> tuple:
    """Train a net on batches of 128, with K-FAC, or with SGD and momentum if ``solve`` is None.

    Returns:
        The net, and the loss of all of ``x`` after each fifth step, and before the first.
    """
    model = network(x.shape[1], int(y.max()) + 1, seed)
    second = None if solve is None else KFAC(model, solve)
    first = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    g, losses = torch.Generator().manual_seed(seed), []
    for step in range(steps + 1):
        if step % 5 == 0:
            with torch.no_grad():
                losses.append(float(nn.functional.cross_entropy(model(x), y)))
        batch = torch.randint(len(x), (128,), generator=g)
        if second is not None:
            scores = model(x[batch])
            drawn = torch.multinomial(scores.detach().softmax(1), 1, generator=g).squeeze(1)
            nn.functional.cross_entropy(scores, drawn).backward()
            second.observe()
        first.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        (first if second is None else second).step()
    return model, losses
