"""The accuracy over time as a PNG."""

import io
from typing import Any

from analogtorch.evaluate import Sweep
from analogtorch.report.result import ISO, Result
from analogtorch.report.sweep import ordered, time_axis


def plot(result: Result) -> bytes:
    """Return a PNG of the accuracy over the logarithm of time.

    It shows the net mapped directly and after HWA training, with their spread over chips, and the
    digital accuracy.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # not pyplot, which keeps figures and picks a backend for the whole process
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(100 * result.digital, color="black", linewidth=1, label="digital")
    axes.axhline(
        100 * result.iso,
        color="black",
        linewidth=1,
        linestyle=":",
        label=f"{100 * ISO:.0f} % of digital",
    )
    _band(axes, result.direct, "tab:red", "mapped directly")
    _band(axes, result.hwa, "tab:blue", "hardware-aware training")
    time_axis(axes, result.hwa)
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"{result.chip}, {result.tiles} tiles; {result.data['source']}")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _band(axes: Any, sweep: Sweep, colour: str, label: str) -> None:
    order, x = ordered(sweep)
    chips = len(sweep.seeds)
    over = f"± std over {chips} chips" if chips > 1 else "one chip"
    mean, std = (100 * v[order] for v in (sweep.mean, sweep.std))
    axes.plot(
        x,
        mean.tolist(),
        color=colour,
        marker="o",
        label=f"{label} ({over})",
    )
    axes.fill_between(
        x, (mean - std).tolist(), (mean + std).tolist(), color=colour, alpha=0.2, linewidth=0
    )
