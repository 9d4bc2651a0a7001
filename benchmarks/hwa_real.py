"""What HWA training saves on real speech, with confidence intervals over training seeds.

    python -m benchmarks.hwa_real

For each seed, on the 4,890 recordings of gsc_v2_test12 (our split by speaker): a digital net is
trained; from it a digital control (the same further epochs and distillation, without noise,
quantisation and clipping) and an HWA net; then both are measured on the same chips over time, with
the control mapped directly. Seeds are compared in pairs. A stopped run continues: finished seeds
are kept, the others resume from their checkpoints.
"""

import argparse
import copy
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import analogtorch as at
from analogtorch.cli import kws as cli
from analogtorch.evaluate import interval
from analogtorch.files import write_atomically
from analogtorch.speech import kws
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.data import fingerprint
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.task import prepare
from benchmarks.tables import add_data, as_markdown, as_text

CONFIG = Path(__file__).parents[1] / "configs" / "kws" / "real.yaml"
CONTROL, RESULT = "checkpoints/control.ckpt", "result.json"
BARS = {
    "digital accuracy": (">=", 89.0),
    "HWA loss at 1 day": ("<=", 0.7),
    "HWA loss at 1 year": ("<=", 2.0),
    "HWA minus control on chip at 1 year": (">", 0.0),
}
"""The bars of the numbers, in percent and points."""


def one_seed(config: KWSConfig, out: Path) -> dict[str, Any]:
    """Train and measure one seed, or read its earlier result."""
    with RunFolder.open(out, config, resume=True) as folder:
        if folder.resume and (found := _measured(out / RESULT, config)) is not None:
            return found
        result = _train_and_measure(config, folder)
        write_atomically(folder.file(RESULT), json.dumps(result, indent=2) + "\n")
        folder.finish()
        return result


def _measured(file: Path, config: KWSConfig) -> dict[str, Any] | None:
    """Return the result in the file, if it has all chips and times of the configuration."""
    if not file.is_file():
        return None
    result = json.loads(file.read_text())
    counts = {_num_chips(row) for row in result["hwa_on_chip"].values()}
    complete = counts == {config.sweep.num_chips} and set(result["hwa_on_chip"]) >= set(
        config.sweep.times
    )
    return result if complete else None


def _num_chips(row: dict[str, Any]) -> int:
    """Return the number of chips of a time; older results call it ``chips``."""
    return row["num_chips"] if "num_chips" in row else row["chips"]


def _train_and_measure(config: KWSConfig, folder: RunFolder) -> dict[str, Any]:
    start = time.perf_counter()
    torch.set_num_threads(config.threads)
    splits = config.data.selected.load()
    features = config.features.build()
    task = prepare(splits, config.augment, seed=config.seed, features=features)
    folder.begin(
        fingerprint(splits, *task.augmenter.noise.recordings),
        planned=(*kws.OUTPUTS, CONTROL, RESULT),
    )
    digital = kws.train_digital(config, task, folder)
    control = copy.deepcopy(digital)
    phase = dataclasses.replace(config.hwa, clip_sigma=None)
    kws.train_phase(config, task, folder, control, phase, "control", teacher=digital)
    hwa = kws.train_hwa(config, task, folder, digital)
    return {
        "seed": config.seed,
        "digital": at.accuracy(digital, task.test_batches()),
        "control": at.accuracy(control, task.test_batches()),
        "control_on_chip": kws.measure(config, task, kws.to_chip(config, task, control)).to_dict(),
        "hwa_on_chip": kws.measure(config, task, hwa).to_dict(),
        "tiles": at.summary(hwa).tiles,
        "seconds": round(time.perf_counter() - start, 1),
    }


def differences(results: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Return accuracies and their paired differences per seed and time, in percent and points."""
    found = {
        "digital accuracy": [100 * r["digital"] for r in results],
        "control's digital accuracy": [100 * r["control"] for r in results],
    }
    for when in results[0]["hwa_on_chip"]:
        on_chip = [
            (r["control"], r["control_on_chip"][when]["mean"], r["hwa_on_chip"][when]["mean"])
            for r in results
        ]
        found[f"control's loss at {when}, mapped directly"] = [
            100 * (c - direct) for c, direct, _ in on_chip
        ]
        found[f"HWA loss at {when}"] = [100 * (c - hwa) for c, _, hwa in on_chip]
        found[f"HWA minus control on chip at {when}"] = [
            100 * (hwa - direct) for _, direct, hwa in on_chip
        ]
    return found


def rows(found: dict[str, list[float]]) -> list[list[str]]:
    """Return the table: quantity, mean with its 95 % interval, each seed, and the bar."""
    table = [["quantity, % or points", "mean, 95 % interval", "each seed", "bar"]]
    for name, values in found.items():
        mean, half = _mean_and_half(values)
        sign, bar = BARS.get(name, ("", 0.0))
        met = {"<=": mean <= bar, ">=": mean >= bar, ">": mean > bar, "": True}[sign]
        verdict = f"{sign} {bar:g}: {'met' if met else 'MISSED'}" if sign else ""
        table.append(
            [name, f"{mean:.2f} ± {half:.2f}", " ".join(f"{v:.2f}" for v in values), verdict]
        )
    return table


def notes(results: Sequence[dict[str, Any]], config: KWSConfig, seconds: float) -> list[str]:
    """Return the caveats that a reader needs to judge the numbers."""
    chips = _num_chips(next(iter(results[0]["hwa_on_chip"].values())))
    return [
        f"{len(results)} training seeds; {chips} chips, the same for all nets; chip "
        f"{config.chip.build().name}, {results[0]['tiles']} tiles, compensation "
        f"{config.chip.compensation}.",
        "Loss: below the control's digital accuracy. The control has the epochs and the teacher of "
        "the HWA net.",
        "Intervals are over seeds, on one test part of 1,118 clips by people who are not in the "
        "training part.",
        f"{seconds:.0f} s, of which training and measuring one seed took "
        f"{statistics.fmean(r['seconds'] for r in results):.0f} s of one process.",
    ]


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, KWSConfig]:
    """Return the options of this command and the configuration.

    The configuration comes from these options and those of `analogtorch kws`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hwa_real",
        description="Hardware-aware training against a digital control on real speech, "
        "over training seeds.",
        epilog="Further options are those of `analogtorch kws`; "
        "the configuration is configs/kws/real.yaml.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    parser.add_argument("--seeds", type=int, default=6, help="training seeds, 0 to this - 1")
    parser.add_argument("--chips", type=int, default=10, help="chips programmed for each net")
    parser.add_argument(
        "--jobs", type=int, default=2, help="seeds that are trained side by side, one thread each"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/hwa_real"), help="folder of reports and checkpoints"
    )
    options, more = parser.parse_known_args(argv)
    if options.seeds < 1 or options.jobs < 1:
        parser.error(f"--seeds {options.seeds} --jobs {options.jobs}: use at least 1 of each")
    given = [
        f"--config={CONFIG}",
        f"--data.folder.root={options.data / 'gsc_v2_test12'}",
        "--workers=0",
    ]
    return options, cli.parse([*given, f"--sweep.num_chips={options.chips}", *more]).config


def run(options: argparse.Namespace, config: KWSConfig) -> list[dict[str, Any]]:
    """Run all seeds in order; a line is printed for each finished one."""
    jobs = [
        (dataclasses.replace(config, seed=n), options.out / f"seed-{n}")
        for n in range(options.seeds)
    ]
    if options.jobs == 1:
        return [_printed(one_seed(*job)) for job in jobs]
    # spawned, because torch's threads do not survive a fork
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(one_seed, *job) for job in jobs]
        for future in as_completed(running):
            _printed(future.result())
        return [future.result() for future in running]


def _printed(result: dict[str, Any]) -> dict[str, Any]:
    *_, (when, last) = result["hwa_on_chip"].items()
    accuracies = (
        f"digital {result['digital']:.2%}, control {result['control']:.2%}, "
        f"HWA at {when} {last['mean']:.2%}"
    )
    print(f"seed {result['seed']}: {accuracies} ({result['seconds']:.0f} s)", flush=True)
    return result


def _mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    found = interval(values)
    return found.mean, found.half_width


def _summary(values: list[float]) -> dict[str, Any]:
    mean, half = _mean_and_half(values)
    return {"mean": mean, "half_width": half if math.isfinite(half) else None, "seeds": values}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print the table and write the reports."""
    start = time.perf_counter()
    try:
        options, config = parse(argv)
        results = run(options, config)
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.hwa_real: {error}") from error
    found = differences(results)
    remarks = notes(results, config, time.perf_counter() - start)
    table = rows(found)
    print("\n".join(["", as_text(table, left=len(table[0])), "", *remarks]))
    report = {
        "results": results,
        "differences": {name: _summary(values) for name, values in found.items()},
        "bars": BARS,
        "notes": remarks,
        "config": dataclasses.asdict(config),
        "versions": kws.versions(),
    }
    write_atomically(
        options.out / "hwa_real.md",
        as_markdown(table, "Hardware-aware training on real speech", remarks, left=len(table[0])),
    )
    path = write_atomically(options.out / "hwa_real.json", json.dumps(report, indent=2) + "\n")
    print(f"Reports in {path.parent}")


if __name__ == "__main__":
    main()
