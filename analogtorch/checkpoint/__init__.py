"""Converted models and programmed chips on disk: weights as safetensors, everything else as
versioned JSON. No pickle.

A checkpoint is a folder of two files. ``weights.safetensors`` has the keys of the digital model and
loads into it by any tool; ``analog.json`` says what of the model is analog and how, and which
weights file it belongs to.
"""

from analogtorch.checkpoint.description import Checkpoint, read
from analogtorch.checkpoint.loading import load
from analogtorch.checkpoint.saving import save

__all__ = ["Checkpoint", "load", "read", "save"]
