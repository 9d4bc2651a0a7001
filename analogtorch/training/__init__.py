"""Training with Lightning: phases that can be replayed step by step, interrupted and resumed bit for bit."""

from analogtorch.training.batches import Batches
from analogtorch.training.callbacks import NoiseRamp, StepSeed, WeightClip
from analogtorch.training.checkpoint import AtomicCheckpoint
from analogtorch.training.fit import fit
from analogtorch.training.module import Classifier
from analogtorch.training.phase import Phase

__all__ = ["AtomicCheckpoint", "Batches", "Classifier", "NoiseRamp", "Phase", "StepSeed", "WeightClip", "fit"]
