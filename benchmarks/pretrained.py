"""What the 64-tile PCM chip does to third-party keyword spotters, mapped directly.

    python -m benchmarks.pretrained

prints one table and leaves it as Markdown, CSV and JSON in the output folder. The nets are Arm's
and MLPerf Tiny's (see analogtorch/speech/pretrained.py), the speech is the 4,890 clips of the
Speech Commands v2 test set.
"""

import argparse
import copy
import dataclasses
import json
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

import analogtorch as at
from analogtorch.files import comma_separated, write_atomically
from analogtorch.report.columns import with_spread
from analogtorch.simulate.compensation import Compensation
from analogtorch.speech.pretrained import PretrainedKWS, load_pretrained, names
from benchmarks.tables import add_data, as_markdown, as_text, positive

CALIBRATE_EVERY = 19  # the manifest is sorted by class: the first clips are all silence
VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "as published": {},
    "IBM's ADC range, 12": {"adc": {"range": 12.0}},
    "output noise 0.04": {"adc": {"noise": 0.04}},
    "no ADC gain spread": {"adc": {"gain_std": 0.0}},
    "columns not calibrated": {"periphery": {"column_calibration": False}},
    "a weight scale per column": {"periphery": {"weight_scale": "column"}},
    "targets that allow for drift": {},
    "both": {"periphery": {"weight_scale": "column"}},
    "columns corrected at each time": {},
    "both, columns corrected": {"periphery": {"weight_scale": "column"}},
    "groups block diagonal": {"array": {"grouped": "block_diagonal"}},
}
"""Chips of the table by name: the fields in which they differ from hermes64."""
AWARE = ("targets that allow for drift", "both", "both, columns corrected")
"""Those with targets that allow for drift."""
CORRECTED = ("columns corrected at each time", "both, columns corrected")
"""Those that correct gain and offset of their columns when they are looked at."""
CORRECTING = 4
"""Batches that they take for it."""
BATCH = 64  # the noise of one batch then stays in the CPU's caches: twice as fast as 512


@dataclass(frozen=True, kw_only=True)
class Row:
    """One net on one chip description. Accuracies are 0..1, all on the same clips."""

    net: str
    chip: str
    """One of ``VARIANTS``."""
    on_chip: float
    """Share of the net's weights, 0..1, that the chip holds; biases and normalisation are
    digital."""
    tiles: int
    """Blocks, one per tile."""
    digital: float
    ideal: float
    """Accuracy on a chip without imperfections."""
    quantised: float
    """8-bit DAC and ADC, exact weights and no noise."""
    aged: at.Sweep
    """Accuracy on programmed chips, over time."""


def thinned(net: PretrainedKWS, every: int) -> PretrainedKWS:
    """Return the net with each ``every``-th of its clips."""
    return dataclasses.replace(net, features=net.features[::every], labels=net.labels[::every])


def calibration_clips(net: PretrainedKWS) -> list[Tensor]:
    """Return batches of the clips that calibrate, without their labels."""
    return list(net.features[::CALIBRATE_EVERY].split(BATCH))


def correcting_clips(net: PretrainedKWS, batches: int = 1) -> list[Tensor]:
    """Return batches of the clips that calibrate, each with clips of all classes."""
    clips = net.features[::CALIBRATE_EVERY]
    stride = max(batches, len(clips) // BATCH)
    return [clips[i::stride][:BATCH] for i in range(batches)]


def measure(
    net: PretrainedKWS, variant: str, options: argparse.Namespace, step: Callable[[], object]
) -> Row:
    """Return one row of the table; ``step`` is called after each evaluation."""
    clips = thinned(net, options.every).batches(BATCH)

    def accuracy(model: nn.Module) -> float:
        value = at.accuracy(model, clips)
        step()
        return value

    chip = at.chips.hermes64().replace(**VARIANTS[variant])
    chip = chip.drift_aware() if variant in AWARE else chip
    matrices = sum(p.numel() for p in net.model.parameters() if p.dim() > 1)
    model = at.convert(copy.deepcopy(net.model), chip)
    calibration = calibration_clips(net)
    recovery = None
    if variant in CORRECTED:
        recovery = at.Recovery(batches=correcting_clips(net, CORRECTING))
    if options.percentile is None:
        at.calibrate(model, calibration, effort="ranges")  # the table names the scale
    else:
        at.calibrate(model, calibration, method="percentile", percentile=options.percentile)
    return Row(
        net=net.name,
        chip=variant,
        on_chip=sum(layer.weight.numel() for _, layer in at.analog_layers(model)) / matrices,
        tiles=at.summary(model).tiles,
        digital=accuracy(net.model),
        ideal=accuracy(at.convert(copy.deepcopy(net.model), at.chips.ideal())),
        quantised=accuracy(model),
        aged=at.sweep(
            model,
            accuracy,
            num_chips=options.chips,
            seed=options.seed,
            compensation=options.compensation,
            recovery=recovery,
        ),
    )


def run(options: argparse.Namespace) -> list[Row]:
    """Return all rows, under one progress bar; as many run at a time as torch has threads."""
    nets = [load_pretrained(name, options.data) for name in options.nets]
    jobs = [
        (n, v)
        for n in nets
        for v in options.variants
        if "grouped" not in VARIANTS[v] or _grouped(n.model)
    ]
    # A thread has a row to itself: a programmed chip counts its reads, so two threads on one would
    # draw other noise. torch's own threads meet after every small operation, which a busy machine
    # makes five times slower.
    workers, stopped = torch.get_num_threads(), Event()
    torch.set_num_threads(1)
    with tqdm(total=len(jobs) * (3 + options.chips * len(at.TIMES)), unit="evaluation") as bar:

        def step() -> None:
            if stopped.is_set():
                raise RuntimeError("another row failed, or the run was interrupted")
            bar.update()

        pool = ThreadPoolExecutor(workers)
        try:
            rows = [pool.submit(measure, net, variant, options, step) for net, variant in jobs]
            return [row.result() for row in rows]
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(workers)


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return header and rows of the table."""
    table = [["net", "chip", "on chip", "tiles", "digital", "ideal", "quantised I/O", *at.TIMES]]
    for row in rows:
        once = [f"{100 * value:.2f}" for value in (row.digital, row.ideal, row.quantised)]
        aged = [
            with_spread(100 * mean, 100 * std, "z.1f")
            for mean, std in zip(row.aged.mean.tolist(), row.aged.std.tolist(), strict=True)
        ]
        table.append(
            [row.net, row.chip, f"{100 * row.on_chip:.0f} %", str(row.tiles), *once, *aged]
        )
    return table


def notes(options: argparse.Namespace, clips: int) -> list[str]:
    """Return the caveats that a reader needs to judge the numbers."""
    ranges = (
        "by at.calibrate from"
        if options.percentile is None
        else f"{options.percentile:g}th percentile on"
    )
    which = (
        "all"
        if options.every == 1
        else f"{-(-clips // options.every):,} (every {_ordinal(options.every)}) of the"
    )
    return [
        f"Accuracy in % on {which} {clips:,} clips of the Speech Commands v2 test set; over time: "
        f"mean ± standard deviation of {options.chips} chips, two-device HERMES model, drift "
        f"compensation {options.compensation!r}, no retraining.",
        f"DAC ranges: {ranges} every {_ordinal(CALIBRATE_EVERY)} clip, without labels; they are "
        "part of the test set.",
        "Quantised I/O: 8-bit DAC, the ADC's 422 steps of either sign, 8-bit outputs; exact "
        "weights, no noise. Tiles: one block per tile.",
        f"Columns are corrected from {CORRECTING} batches of {BATCH} of the clips that calibrate.",
        "On chip: share of the weight matrices; biases, normalisations and the gates of an LSTM "
        "are digital.",
    ]


def as_json(
    rows: Sequence[Row], options: argparse.Namespace, remarks: Sequence[str], taken: float
) -> str:
    """Return every number at full precision, with what it takes to get it again."""
    report = {
        "chip": "hermes64",
        "nets": [
            {
                **{f.name: getattr(row, f.name) for f in dataclasses.fields(row)},
                "aged": row.aged.to_dict(),
            }
            for row in rows
        ],
        "notes": remarks,
        "num_chips": options.chips,
        **{key: getattr(options, key) for key in ("compensation", "every", "percentile", "seed")},
        "seconds": round(taken, 1),
        "versions": {
            "analogtorch": at.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    return json.dumps(report, indent=2) + "\n"


def _grouped(model: nn.Module) -> bool:
    return any(getattr(module, "groups", 1) > 1 for module in model.modules())


def _ordinal(n: int) -> str:
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrained",
        description="Accuracy of pretrained keyword spotters on hermes64, mapped directly, "
        "without retraining.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    nets = ["DNN_L", "CNN_L", "LSTM_L", "DS-CNN"]
    add_data(parser)
    parser.add_argument(
        "--nets", nargs="+", choices=names(), default=nets, metavar="NET", help=", ".join(names())
    )
    parser.add_argument("--chips", type=positive, default=10, help="chips programmed for each net")
    parser.add_argument(
        "--every", type=positive, default=1, help="measure on every n-th clip only, to save time"
    )
    parser.add_argument(
        "--percentile",
        type=float,
        help="of the input magnitudes, instead of at.calibrate's default",
    )
    parser.add_argument(
        "--compensation",
        choices=get_args(Compensation),
        default="least_squares",
        help="of the drift",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar="CHIP",
        help="chips",
    )
    parser.add_argument("--seed", type=int, default=0, help="which chips")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/pretrained"), help="folder of the reports"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the reports."""
    options, start = parse(argv), time.perf_counter()
    try:
        rows = run(options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.pretrained: {error}") from error
    clips = len(load_pretrained(options.nets[0], options.data).labels)
    table, remarks = cells(rows), notes(options, clips)
    print("\n".join([as_text(table), "", *remarks]))
    taken = time.perf_counter() - start
    write_atomically(
        options.out / "pretrained.md",
        as_markdown(table, "Pretrained keyword spotters on hermes64", remarks),
    )
    comma_separated(table, options.out / "pretrained.csv")
    path = write_atomically(options.out / "pretrained.json", as_json(rows, options, remarks, taken))
    print(f"\n{taken:.0f} s; reports in {path.parent}")


if __name__ == "__main__":
    main()
