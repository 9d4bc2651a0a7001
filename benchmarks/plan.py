"""Which layers of a net that others trained to keep digital: accuracy, energy and latency.

    python -m benchmarks.plan

measures the plans of ``at.plan`` and prints their Pareto front; the plans and a plot go to the
output folder, where an interrupted run goes on.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from torch import nn

import analogtorch as at
from analogtorch.chips.periphery import WeightScale
from analogtorch.evaluate import FloorNotReached
from analogtorch.evaluate.hardware import Cheapest
from analogtorch.files import write_atomically
from analogtorch.speech.pretrained import load_pretrained, names
from benchmarks.adapt.subjects import SUBJECTS
from benchmarks.pretrained import BATCH, calibration_clips, thinned
from benchmarks.subject import Subject
from benchmarks.tables import add_data, positive

CALIBRATION = 4
"""Batches that calibrate a net that is no keyword spotter."""


def run(options: argparse.Namespace) -> at.HardwarePlan:
    """Return what ``at.plan`` finds, below the floor too."""
    if options.net in names():
        subject, effort = keywords(options), "ranges"
        calibration = subject.calibration
    else:
        subject, effort = SUBJECTS[options.net](options.data, options.every), "default"
        calibration = subject.calibration[:CALIBRATION]
    scale = options.weight_scale or subject.chip.get("weight_scale", "block")
    chip = at.chips.hermes64(phases=options.phases, weight_scale=scale)

    def calibrated(model: nn.Module) -> nn.Module:
        return at.calibrate(model, calibration, forward=subject.forward, effort=effort)

    recovery = None
    if options.correct:
        correcting = subject.calibration[: options.correct]
        recovery = at.Recovery(batches=correcting, forward=subject.forward)
    try:
        return at.plan(
            calibrated(at.convert(subject.model, chip, where=subject.where)),
            lambda view: subject.scored(view),  # without a name, as in folders of before
            options.floor,
            cheapest=options.cheapest,
            also=options.also,
            example=subject.one(),
            prepare=calibrated,
            times=options.times,
            num_chips=options.chips,
            confirm=options.confirm,
            seed=options.seed,
            recovery=recovery,
            higher_is_better=not subject.lower_is_better,
            max_plans=options.plans,
            folder=options.out / "measured",
            progress=True,
        )
    except FloorNotReached as error:
        print(error)
        return error.plan


def keywords(options: argparse.Namespace) -> Subject:
    """Return a pretrained keyword spotter, which is measured on every n-th clip."""
    net = load_pretrained(options.net, options.data)
    clips = thinned(net, options.every)
    return Subject(
        name=net.name,
        measure="accuracy",
        model=net.model,
        calibration=calibration_clips(net),
        batches=list(clips.features.split(BATCH)),
        score=lambda y: (y.argmax(1) == clips.labels).double().mean().item(),
        example=net.features[:1],
    )


def report(found: at.HardwarePlan) -> str:
    """Return the table, and the best by each thing that can be cheap."""
    lines = [str(found), ""]
    analog = next(p for p in found.points if not (p.digital or p.devices))
    for cheapest in get_args(Cheapest):
        best = dataclasses.replace(found, cheapest=cheapest).best
        if best is None:
            continue
        further = "not measured on further chips"
        if best.confirmed is not None:
            further = f"{best.confirmed.metric} on {len(best.confirmed.values)} further chips"
        lines.append(
            f"least {cheapest}: {best.name}; {best.metric}, {further}, "
            f"{best.cost.digital_macs / best.cost.macs:.1%} of the MACs digital, "
            f"{best.cost.energy * 1e6:.3g} uJ: {best.cost.energy / analog.cost.energy:.3g} of all "
            f"analog, {best.cost.energy / found.digital_cost.energy:.3g} of all digital int8"
        )
    return "\n".join(lines)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan",
        description="Which layers of a net that others trained to keep digital on hermes64.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    nets = tuple(dict.fromkeys((*names(), *SUBJECTS)))
    parser.add_argument("--net", choices=nets, default="DS-CNN", help="net that others trained")
    parser.add_argument("--floor", type=float, default=0.99, help="share of the digital accuracy")
    parser.add_argument(
        "--cheapest",
        choices=get_args(Cheapest),
        default="energy",
        help="what the best has least of",
    )
    parser.add_argument(
        "--also",
        nargs="*",
        default=[],
        metavar="PATTERN",
        help="further plans: layers that each keeps digital, such as 'dw*'",
    )
    parser.add_argument("--times", nargs="+", default=["1 day"], help="times after programming")
    parser.add_argument("--chips", type=positive, default=5, help="simulated chips")
    parser.add_argument(
        "--confirm",
        type=int,
        default=10,
        help="further chips, on which the best must keep the floor too",
    )
    parser.add_argument("--phases", type=int, choices=(1, 4), default=4, help="of hermes64")
    parser.add_argument(
        "--weight-scale",
        choices=get_args(WeightScale),
        help="of hermes64; by default that of the net in benchmarks.adapt, mostly block",
    )
    parser.add_argument(
        "--every", type=positive, default=8, help="measure on every n-th input only, to save time"
    )
    parser.add_argument(
        "--correct",
        type=positive,
        metavar="BATCHES",
        help="correct the columns of each chip at each time, with this many batches",
    )
    parser.add_argument("--plans", type=positive, default=48, help="about how many to measure")
    parser.add_argument("--seed", type=int, default=0, help="which chips")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of measurements and reports; by default one of runs/plan/ by net, chip, clips "
        "and seed",
    )
    options = parser.parse_args(argv)
    if options.out is None:  # a folder keeps the measurements of one metric on one chip
        scale = options.weight_scale or "block"
        kept = (options.net, options.phases, scale, options.every, options.seed)
        corrected = [f"corrected-{options.correct}"] if options.correct else []
        name = "-".join([*map(str, kept), *corrected]).replace(", ", "-").replace(" ", "-")
        options.out = Path("runs", "plan", name)
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the reports."""
    options, start = parse(argv), time.perf_counter()
    try:
        found = run(options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.plan: {error}") from error
    text = report(found)
    print(text)
    write_atomically(options.out / f"{options.cheapest}.txt", text + "\n")
    write_atomically(
        options.out / f"{options.cheapest}.json", json.dumps(found.to_dict(), indent=2) + "\n"
    )
    found.to_csv(options.out / f"{options.cheapest}.csv")
    found.plot(options.out / f"{options.cheapest}.png")
    print(f"\n{time.perf_counter() - start:.0f} s; reports in {options.out}")


if __name__ == "__main__":
    main()
