"""Converted models and programmed chips on disk.

A checkpoint is a folder of two files, without pickle. ``weights.safetensors`` has the keys of the
digital model, and any tool loads it into that model. ``analog.json`` describes which layers are
analog and how, and which weights file it belongs to; its form has a version.
"""

from analogtorch.checkpoint.description import Checkpoint, read
from analogtorch.checkpoint.loading import load
from analogtorch.checkpoint.saving import save

__all__ = ["Checkpoint", "load", "read", "save"]
