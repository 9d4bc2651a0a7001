"""What a chip does to a metric, which layers and non-idealities cost it, and what keeps it."""

from analogtorch.evaluate import metrics
from analogtorch.evaluate.accuracy import accuracy
from analogtorch.evaluate.budget import budget
from analogtorch.evaluate.compare import compare
from analogtorch.evaluate.comparison import ComparedChip, Comparison
from analogtorch.evaluate.hardware import FloorNotReached, HardwarePlan, HardwarePoint
from analogtorch.evaluate.interval import Interval, interval, share
from analogtorch.evaluate.lifetime import Lifetime, lifetime
from analogtorch.evaluate.losses import LayerLoss, Loss, Sensitivity
from analogtorch.evaluate.metric import Metric
from analogtorch.evaluate.plan import plan
from analogtorch.evaluate.plan_cost import PlanCost
from analogtorch.evaluate.recalibration_interval import (
    RecalibrationInterval,
    recalibration_interval,
)
from analogtorch.evaluate.sensitivity import sensitivity
from analogtorch.evaluate.shares import Budget, Share
from analogtorch.evaluate.suggestion import Suggestion
from analogtorch.evaluate.sweep import TIMES, sweep
from analogtorch.evaluate.swept import Sweep, Verdict
from analogtorch.evaluate.task_metric import TaskMetric

__all__ = [
    "TIMES",
    "Budget",
    "ComparedChip",
    "Comparison",
    "FloorNotReached",
    "HardwarePlan",
    "HardwarePoint",
    "Interval",
    "LayerLoss",
    "Lifetime",
    "Loss",
    "Metric",
    "PlanCost",
    "RecalibrationInterval",
    "Sensitivity",
    "Share",
    "Suggestion",
    "Sweep",
    "TaskMetric",
    "Verdict",
    "accuracy",
    "budget",
    "compare",
    "interval",
    "lifetime",
    "metrics",
    "plan",
    "recalibration_interval",
    "sensitivity",
    "share",
    "sweep",
]
