"""What a chip does to a metric: Monte Carlo over chips and times, and the scan for the layer that
costs most.
"""

from analogtorch.evaluate.losses import LayerLoss, Loss, Sensitivity
from analogtorch.evaluate.sensitivity import sensitivity
from analogtorch.evaluate.suggestion import Suggestion
from analogtorch.evaluate.sweep import TIMES, Sweep, accuracy, sweep

__all__ = [
    "TIMES",
    "LayerLoss",
    "Loss",
    "Sensitivity",
    "Suggestion",
    "Sweep",
    "accuracy",
    "sensitivity",
    "sweep",
]
