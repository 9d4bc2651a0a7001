"""False alarms and misses of detections in a recording of which it is known what is said."""

from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analogtorch.evaluate.interval import Interval, rate, share
from analogtorch.files import comma_separated
from analogtorch.files.figures import draw
from analogtorch.speech.labels import UNKNOWN
from analogtorch.speech.streaming.detect import Detection, Stream
from analogtorch.speech.streaming.mixture import Spoken
from analogtorch.values import checks
from analogtorch.values.listed import counted

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
"""The thresholds of a table of errors, beside that of the detector."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors at one threshold."""

    threshold: float
    """Average probability that detects a word."""
    words: int
    """Keywords that were said."""
    recordings: int
    """Different recordings that they are from."""
    misses: int
    """Keywords that were not detected, or as another word."""
    false_alarms: int
    """Detections that are no keyword that was said then."""
    hours: float
    """Length of the recording, h."""

    @property
    def miss_rate(self) -> float | None:
        """Share of the keywords that were missed, 0 to 1; None without keywords."""
        return self.misses / self.words if self.words else None

    @property
    def false_alarms_per_hour(self) -> float:
        """False alarms in an hour."""
        return self.false_alarms / self.hours

    @property
    def miss_interval(self) -> Interval | None:
        """The miss rate with its 95 % interval (``share``); None without keywords.

        It takes keywords as independent, and is too narrow where they are of fewer ``recordings``.
        """
        return share(self.misses, self.words) if self.words else None

    @property
    def false_alarm_interval(self) -> Interval:
        """False alarms in an hour with their 95 % interval, if they come independently."""
        return rate(self.false_alarms, self.hours)


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamTest:
    """What a network heard in a recording, and what was said in it.

    A detection is right if its word was said and it comes between the start of that clip and `late`
    after its end. Each clip makes one detection right.
    """

    stream: Stream
    """What was heard."""
    spoken: tuple[Spoken, ...]
    """What was said."""
    late: float = 0.8
    """Time after the end of a clip until which a detection is right, s, >= 0."""

    def __post_init__(self) -> None:
        checks.numbers(self, "late", least=0)

    def errors(self, threshold: float | None = None) -> Errors:
        """Return the errors at a threshold, by default that of the stream's detector."""
        stream = self.stream
        if threshold is not None:
            stream = stream.with_detector(threshold=threshold)
        words = [s for s in self.spoken if s.word in stream.classes and s.word != UNKNOWN]
        detections = stream.detections
        right = self._right(detections, words)
        return Errors(
            threshold=stream.detector.threshold,
            words=len(words),
            recordings=len({said.name for said in words}),
            misses=len(words) - right,
            false_alarms=len(detections) - right,
            hours=stream.seconds / 3600,
        )

    def curve(self, thresholds: tuple[float, ...] | None = None) -> tuple[Errors, ...]:
        """Return the errors at each of the thresholds.

        None: those of ``THRESHOLDS`` and of the stream's detector, in order.
        """
        if thresholds is None:
            thresholds = tuple(sorted({*THRESHOLDS, self.stream.detector.threshold}))
        return tuple(self.errors(threshold) for threshold in thresholds)

    def _right(self, detections: tuple[Detection, ...], words: list[Spoken]) -> int:
        """Return how many detections are right, each of the first clip that is still without."""
        waiting: dict[str, deque[Spoken]] = defaultdict(deque)
        for said in sorted(words, key=lambda said: said.start):
            waiting[said.word].append(said)
        right = 0
        for found in detections:  # in the order of time: what is too early for one is for the next
            clips = waiting[found.word]
            while clips and clips[0].end + self.late < found.time:
                clips.popleft()
            if clips and clips[0].start <= found.time:
                clips.popleft()
                right += 1
        return right

    def __str__(self) -> str:
        rows = ((f"{e.threshold:g}", *_shown(e)) for e in self.curve())
        lines = [
            f"{threshold:>9}  {missed:>19}  {alarms:>20}"
            for threshold, missed, alarms in (("threshold", "missed, %", "false alarms / h"), *rows)
        ]
        one = self.errors()
        repeated = "; recordings repeat, so that they are too narrow" * (one.recordings < one.words)
        return "\n".join(
            [
                *lines,
                f"{one.words} keywords, from {counted(one.recordings, 'recording')}, among "
                f"{len(self.spoken)} clips in {one.hours:.2f} h",
                f"in brackets: 95 % intervals, if errors come independently{repeated}",
                *self.stream.remarks(),
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the errors at all thresholds, what was said, and the stream, for JSON."""
        return {
            "errors": [_dict(errors) for errors in self.curve()],
            "late": self.late,
            "spoken": [vars(said) | {"end": said.end} for said in self.spoken],
            "stream": self.stream.to_dict(),
        }

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return a line for each threshold, and write it to ``path``."""
        header = ("threshold", "keywords", "misses", "false_alarms", "hours")
        rows = [(e.threshold, e.words, e.misses, e.false_alarms, e.hours) for e in self.curve()]
        return comma_separated([header, *rows], path)

    def plot(self, path: str | Path | None = None) -> Any:
        """Return a figure of the first minute and of the errors, and write it to ``path``.

        Raises:
            ValueError: ``path`` does not end in .png, .svg or .pdf.
            ImportError: matplotlib is not installed.
        """
        return draw(self, path)


def _shown(errors: Errors) -> tuple[str, str]:
    """Return misses and false alarms with their intervals, as text."""
    missed, alarms = errors.miss_interval, errors.false_alarm_interval
    percent = "-"
    if missed is not None:
        percent = f"{100 * missed.mean:.1f} [{100 * missed.low:.1f}, {100 * missed.high:.1f}]"
    return (
        percent,
        f"{alarms.mean:.1f} [{alarms.low:.1f}, {alarms.high:.1f}]",
    )


def _dict(errors: Errors) -> dict[str, Any]:
    """Return the errors at one threshold, for JSON."""
    missed = errors.miss_interval
    return {
        **vars(errors),
        "miss_rate": errors.miss_rate,
        "miss_interval": None if missed is None else missed.ends,
        "false_alarms_per_hour": errors.false_alarms_per_hour,
        "false_alarm_interval": errors.false_alarm_interval.ends,
    }
