"""Keywords in recordings of any length: sliding windows, detections, false alarms and misses."""

from analogtorch.speech.streaming import plot  # noqa: F401  it draws the values
from analogtorch.speech.streaming.detect import Detection, Detector, Stream, listen
from analogtorch.speech.streaming.errors import Errors, StreamTest
from analogtorch.speech.streaming.mixture import Mixture, Spoken, mixed

__all__ = [
    "Detection", "Detector", "Errors", "Mixture", "Spoken", "Stream", "StreamTest", "listen",
    "mixed",
]  # fmt: skip
