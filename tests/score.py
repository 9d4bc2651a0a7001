"""A network whose forward computes gradients."""

import torch
from torch import Tensor, nn


class Score(nn.Module):
    """The gradient of an energy, which a network has of each sample."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x)[0]  # the gradient
