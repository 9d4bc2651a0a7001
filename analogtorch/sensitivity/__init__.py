"""Which layer costs the metric, and what to change: a scan, its table and plot, a suggestion."""

from analogtorch.sensitivity.losses import LayerLoss, Loss, Sensitivity
from analogtorch.sensitivity.scan import sensitivity
from analogtorch.sensitivity.suggestion import Suggestion

__all__ = ["LayerLoss", "Loss", "Sensitivity", "Suggestion", "sensitivity"]
