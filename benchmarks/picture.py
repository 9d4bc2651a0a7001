"""The picture of the README: accuracy over time of a net on simulated chips, and its floorplan.

    python -m benchmarks.picture [--out docs/accuracy_and_floorplan.png] [--chips 10]

The net is a ResNet on scikit-learn's real handwritten digits, of which every third is held out. It
is trained digitally, then for further epochs once digitally and once hardware-aware (HWA); both are
mapped onto the same ``hermes64`` chips, with a weight scale per column. This takes two minutes of
one core, and repeats bit by bit on one machine.
"""

import argparse
import copy
import io
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch.files import write_atomically
from analogtorch.report import Result, plot
from benchmarks.convert.digits import Digits, digits, trained
from benchmarks.tables import positive

OUT = Path(__file__).parents[1] / "docs" / "accuracy_and_floorplan.png"
EPOCHS, FURTHER = 8, 10
DPI = 150
FLOORPLAN = 8.0
"""Width of the floorplan, in inches: a smaller one has larger letters."""


def train(
    model: nn.Module, data: Digits, *, rate: float = 1e-3, clip: float | None = None
) -> nn.Module:
    """Train for the further epochs, with the noise of the model's layers.

    ``clip`` is the number of sigma to which weights are clipped.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    if clip is not None:
        at.hwa.clip_after_step(optimizer, model, sigma=clip)
    batches = len(data.train) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=FURTHER * batches)
    for _ in range(FURTHER):
        for rows in torch.randperm(len(data.train))[: 64 * batches].split(64):
            loss = F.cross_entropy(model.train()(data.train[rows]), data.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def measure(num_chips: int) -> tuple[Result, at.ChipMapping]:
    """Train, map and measure; the result is the same each time on one machine."""
    begun, data, chip = time.monotonic(), digits(16), at.chips.hermes64(weight_scale="column")
    test, inputs = [(data.test, data.test_labels)], list(data.train.split(256))

    def on_chips(model: nn.Module) -> at.Sweep:
        return at.sweep(
            at.calibrate(model, inputs, effort="ranges"),
            lambda view: at.accuracy(view, test),
            num_chips=num_chips,
        )

    begin = trained(data, epochs=EPOCHS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        digital = train(copy.deepcopy(begin), data)
        torch.manual_seed(0)
        aware = train(
            at.calibrate(at.convert(begin, chip), inputs, effort="ranges"), data, clip=2.5
        )
    direct = at.convert(copy.deepcopy(digital), chip)
    mapping = at.map_to_chip(direct, data.test[:1])
    result = Result(
        digital=at.accuracy(digital, test),
        direct=on_chips(direct),
        hwa=on_chips(aware),
        chip=chip.name,
        tiles=mapping.tiles_used,
        data={
            "source": "scikit-learn's handwritten digits",
            "train": len(data.train),
            "test": len(data.test),
        },
        seed=0,
        seconds=time.monotonic() - begun,
        versions={
            "analogtorch": version("analogtorch"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )
    return result, mapping


def picture(result: Result, mapping: at.ChipMapping) -> bytes:
    """Return the package's two plots, side by side, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    left, right = imread(io.BytesIO(plot(result))), mapping.plot()
    for axes in right.axes[1:]:  # the floorplan alone, without utilisation and energy
        axes.remove()
    right.axes[0].set_subplotspec(right.add_gridspec(1, 1)[0])
    right.axes[0].set_title(
        f"{mapping.tiles_used} of the {mapping.chip.array.tiles} tiles of {mapping.chip.name}"
    )
    height, width, _ = left.shape
    right.set_size_inches(FLOORPLAN, FLOORPLAN * height / width)
    drawn = imread(_png(right, width / FLOORPLAN))
    whole = Figure(figsize=(2 * width / DPI, height / DPI), dpi=DPI, facecolor="white")
    whole.figimage(left, 0, 0, origin="upper")
    whole.figimage(drawn, width, 0, origin="upper")
    return _png(whole, DPI).getvalue()


def _png(figure: Any, dpi: float) -> io.BytesIO:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    buffer.seek(0)
    return buffer


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.picture", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help=f"the PNG to write (default: docs/{OUT.name})"
    )
    parser.add_argument(
        "--chips", type=positive, default=10, help="chips to measure on (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    result, mapping = measure(options.chips)
    print(f"digital        {result.digital:.4f}")
    print(f"mapped directly\n{result.direct}\nhardware-aware training\n{result.hwa}")
    print(write_atomically(options.out, picture(result, mapping)))


if __name__ == "__main__":
    main()
