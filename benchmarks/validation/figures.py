"""The figures of the validation: lines of the library, dots of the references."""

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import analogtorch as at
from analogtorch.devices import seconds
from analogtorch.files.figures import new_figure
from benchmarks.validation import devices, mvm, published
from benchmarks.validation.published import HOUR, MONTH, YEAR

DPI = 80
COLOURS = 48
"""Colours of a PNG, which keep its file small."""
SHOWN = ("pcm_like()", "hermes_one_device()", "hermes_two_device()", "rram_wan()", "pcm_afm()")
"""The devices of the first figure."""
DOTS = 1500
"""Outputs of the scatter."""


def device_figure() -> Any:
    """Return programming error over conductance, and the mean drift."""
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    shares = [i / 50 for i in range(51)]
    fine = published.Reference({str(r): r for r in shares}, "Joshi 2020")
    for call in SHOWN:
        (line,) = left.plot(shares, devices.spread(call, fine), linewidth=1, label=f"{call}")
        known = published.PROGRAMMING[call]
        _dots(left, [float(r) for r in known.values], known.numbers, line)
    left.set(xlabel="target, units of the largest conductance", ylabel="programming error, %")
    times = [HOUR * (YEAR / HOUR) ** (i / 50) for i in range(51)]
    for call, known in published.DRIFT.items():
        (line,) = right.plot(times, devices.drift_factors(call, times), linewidth=1, label=call)
        _dots(right, [published.SECONDS[t] for t in known.values], known.numbers, line)
    right.set(xscale="log", ylabel="mean drift factor")
    right.set_xticks([HOUR, published.DAY, MONTH, YEAR], ["1 h", "1 day", "1 month", "1 year"])
    return _finished(figure)


def mvm_figure() -> Any:
    """Return the MVM error over time, and outputs on a chip against exact ones."""
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    # the axis is logarithmic: 0 s is drawn at 10 s
    times = [max(seconds(t) or 0.0, 10.0) for t in published.TIMES]
    for device in ("pcm_like", "two_device"):
        for compensation, errors in mvm.over_time(device).items():
            style = {"none": "-", "global": "--", "column": ":"}[compensation]
            label = f"{device}, {compensation}"
            colour = "tab:red" if device == "pcm_like" else "tab:blue"
            (line,) = left.plot(times, errors, style, color=colour, linewidth=1, label=label)
            known = published.MVM.get((device, compensation))
            if known is not None:
                _dots(left, times, known.numbers, line)
    left.set(xscale="log", ylabel="MVM error, %")
    left.set_xticks(times, published.TIMES, rotation=30)
    exact, found = _scatter()
    right.plot(exact, found, ".", markersize=1.5, color="tab:blue", label="two_device, 1 day")
    ends = [min(exact), max(exact)]
    right.plot(ends, ends, color="black", linewidth=0.8, label="exact")
    right.set(xlabel="exact output", ylabel="output on the chip")
    return _finished(figure)


def _scatter() -> tuple[list[float], list[float]]:
    generator = torch.Generator().manual_seed(0)
    x, layer = mvm.sparse_inputs(generator), nn.Linear(512, 512, bias=False)
    layer.weight.data = mvm.sparse_weights(generator)
    y = (x @ layer.weight.detach().T).flatten()[:DOTS]
    physical = at.program(at.convert(layer, mvm.plain_chip()), seed=0)
    return y.tolist(), physical.at("1 day", compensation="global")(x).flatten()[:DOTS].tolist()


FIGURES: dict[str, Callable[[], Any]] = {
    "validation_devices.png": device_figure,
    "validation_mvm.png": mvm_figure,
}
"""What draws each file of docs/."""


def png(figure: Any) -> bytes:
    """Return the figure as a PNG of few colours."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()


def _dots(axes: Any, x: Any, y: Any, line: Any) -> None:
    axes.plot(x, y, "o", markersize=3.5, color=line.get_color())


def _finished(figure: Any) -> Any:
    for axes in figure.axes:
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
