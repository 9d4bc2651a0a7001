"""Keyword spotting: data, features, networks and the pipeline that trains and evaluates them."""

__all__ = [
    "audio", "augment", "data", "espeak", "features", "folder", "kws", "labels", "models", "noise",
    "pretrained", "speech_commands", "synthetic", "task",
]  # fmt: skip
