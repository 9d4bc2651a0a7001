"""Speech on chips: from recordings to the report of a run.

Keyword spotting has its data, features, networks and pipeline (``kws``) here; ``training`` trains
networks and ``streaming`` hears keywords in a stream. ``recognition`` learns to write down
utterances, and ``transcription`` measures a Whisper on chips.
"""

__all__ = [
    "audio", "augment", "data", "espeak", "features", "folder", "kws", "labels", "models", "noise",
    "pretrained", "recognition", "speech_commands", "streaming", "synthetic", "task", "training",
    "transcription",
]  # fmt: skip
