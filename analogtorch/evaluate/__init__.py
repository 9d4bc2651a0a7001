"""What a chip does to a metric: sweeps over chips and times, and the loss that each layer adds."""

from analogtorch.evaluate.accuracy import accuracy
from analogtorch.evaluate.budget import budget
from analogtorch.evaluate.interval import Interval, interval
from analogtorch.evaluate.lifetime import Lifetime, lifetime
from analogtorch.evaluate.losses import LayerLoss, Loss, Sensitivity
from analogtorch.evaluate.sensitivity import sensitivity
from analogtorch.evaluate.shares import Budget, Share
from analogtorch.evaluate.suggestion import Suggestion
from analogtorch.evaluate.sweep import TIMES, Sweep, sweep

__all__ = [
    "TIMES",
    "Budget",
    "Interval",
    "LayerLoss",
    "Lifetime",
    "Loss",
    "Sensitivity",
    "Share",
    "Suggestion",
    "Sweep",
    "accuracy",
    "budget",
    "interval",
    "lifetime",
    "sensitivity",
    "sweep",
]
