"""Detections over time, and misses against false alarms, as figures."""

from typing import Any

from analogtorch.files.figures import new_figure
from analogtorch.speech.labels import SILENCE, UNKNOWN
from analogtorch.speech.streaming.detect import Stream
from analogtorch.speech.streaming.errors import StreamTest
from analogtorch.speech.streaming.mixture import Spoken
from analogtorch.values.shown import as_figure

_MINUTE = 60.0


@as_figure.register
def draw_stream(stream: Stream) -> Any:
    """Return a figure of the scores over time, with the detections marked."""
    figure = new_figure(10, 3.5)
    _draw_time(figure.subplots(), stream, _last(stream), ())
    return figure


@as_figure.register
def draw_test(test: StreamTest) -> Any:
    """Return a figure of the first minute, and of misses against false alarms."""
    figure = new_figure(10, 7)
    above, below = figure.subplots(2)
    _draw_time(above, test.stream, min(_last(test.stream), _MINUTE), test.spoken)
    labels: dict[tuple[float, float], list[str]] = {}
    for errors in test.curve():
        if (rate := errors.miss_rate) is not None:  # without keywords nothing can be missed
            place = errors.false_alarms_per_hour, 100 * rate
            labels.setdefault(place, []).append(f"{errors.threshold:g}")
    below.plot([x for x, _ in labels], [y for _, y in labels], marker="o")
    for place, thresholds in labels.items():  # several thresholds may have the same errors
        below.annotate(", ".join(thresholds), place, (4, 4), textcoords="offset points")
    top = 1.15 * max((place[1] for place in labels), default=0)
    below.set(xlabel="false alarms per hour", ylabel="missed keywords, %", ylim=(0, max(top, 1)))
    below.set_title("errors by threshold", loc="left")
    return figure


def _last(stream: Stream) -> float:
    """Return when the last window ends, s: after the end of a short recording."""
    return stream.detector.end(len(stream.scores) - 1)


def _draw_time(axes: Any, stream: Stream, seconds: float, spoken: tuple[Spoken, ...]) -> None:
    smooth = stream.detector.smooth(stream.scores)
    ends = [stream.detector.end(row) for row in range(len(smooth))]
    shown = [row for row, end in enumerate(ends) if end <= seconds]
    for column, word in enumerate(stream.classes):
        scores = smooth[shown, column]
        if word not in (SILENCE, UNKNOWN) and float(scores.max()) > 0.1:  # others lie on the axis
            axes.plot([ends[row] for row in shown], scores, linewidth=1, label=word)
    for found in stream.detections:
        if found.time <= seconds:
            axes.plot(found.time, found.score, "kv")
            axes.annotate(found.word, (found.time, found.score), (0, 5), ha="center",
                          textcoords="offset points")  # fmt: skip
    for said in spoken:
        if said.end <= seconds:
            axes.axvspan(said.start, said.end, color="0.9", zorder=0)
            axes.annotate(said.word, (said.start, -0.12), color="0.4", fontsize="small")
    axes.axhline(stream.detector.threshold, color="0.6", linestyle="--", linewidth=1)
    axes.set(xlabel="time, s", ylabel="average probability", ylim=(-0.15, 1.15), xlim=(0, seconds))
    axes.set_title("detections (marks) over time; shaded: what is said", loc="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=6, fontsize="small")
