"""What a sweep over chips and times costs beside as many digital evaluations, and where it goes.

    python -m benchmarks.sweep
    python -m benchmarks.sweep --chips 10 --rounds 3 --processes 2
    python -m benchmarks.sweep --batch 64 256 512
    python -m benchmarks.sweep --table before

The nets classify the 1,118 test clips of Speech Commands in batches of ``--batch``: ``conv`` is the
residual net of ``analogtorch.speech.models`` with random weights, which decide no time, and DNN_L
Arm's trained one. A round is a sweep of ``--chips`` chips of ``hermes64`` at 5 times and as many
digital evaluations; with other chips it is repeated, so that a busy moment burdens both. Everything
runs on one thread, and times are those of the processor.

sweep: its time over that of the digital evaluations, the median of the rounds. programming, reading
and forward are the parts of it, in the same unit: making the chips; drift, read noise and
compensation at each time; and the evaluations themselves. With ``--processes`` also, of a sweep in
this many processes beside one in one: speedup, by the wall clock, which says something on a quiet
machine only; and work, the processor's time of all of them.

``--table before`` has what digital layers before the first analog one take, which are the same for
all chips and times: for each network of ``configs/kws``, on its chip, with random weights and
inputs, the processor's time of a batch of 64 on a chip, the share of it that passes before the
first analog layer, its share of a sweep of 1,118 clips, and the time of a batch where `analogtorch
kws` computes it once.
"""

import argparse
import copy
import csv
import itertools
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.cli.kws import parse
from analogtorch.speech.features import LogMel
from analogtorch.speech.folder import Folder
from analogtorch.speech.models.conv import ConvNet
from analogtorch.speech.on_chips import converted
from analogtorch.speech.once import Once
from analogtorch.speech.pretrained import MANIFEST, load_pretrained
from benchmarks.networks import CONFIGS
from benchmarks.record.runs import one_thread
from benchmarks.tables import add_data, as_text, positive

BATCH, CLIPS = 64, 1118
HEADER = ("net", "weights", "batch", "digital", "sweep", "programming", "reading", "forward")
BEFORE = ("net", "batch on a chip", "before the first analog layer", "of a sweep", "computed once")
Batches = list[tuple[Tensor, Tensor]]


@torch.no_grad()
def conv(data: Path, batch: int) -> tuple[nn.Module, Batches]:
    """Return the convolutional net and the test clips."""
    clips, features = Folder(root=str(data / "gsc_v2_test12")).load()["test"], LogMel()
    torch.manual_seed(0)
    parts = torch.arange(len(clips)).split(batch)
    return ConvNet().eval(), [(features(clips.floats(p)), clips.labels[p]) for p in parts]


def dnn(data: Path, batch: int) -> tuple[nn.Module, Batches]:
    """Return Arm's DNN_L and the test clips."""
    net = load_pretrained("DNN_L", data)
    with (data / MANIFEST).open(newline="", encoding="utf-8") as file:
        test = torch.tensor([row["split"] == "test" for row in csv.DictReader(file)])
    parts = net.features[test].split(batch), net.labels[test].split(batch)
    return net.model, list(zip(*parts, strict=True))


NETS = {"conv": conv, "DNN_L": dnn}


def timed(run: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    """Return the seconds that a call takes."""
    start = clock()
    run()
    return clock() - start


def on_chip(net: nn.Module, batches: Batches) -> nn.Module:
    """Return a copy of the net on the chip, calibrated."""
    model = at.convert(copy.deepcopy(net), at.chips.hermes64())
    return at.calibrate(model, [x for x, _ in batches[:2]], effort="ranges", progress=False)


def costs(net: nn.Module, batches: Batches, chips: int, rounds: int) -> list[float]:
    """Return the milliseconds of a digital evaluation, and a sweep and its parts in units of it."""
    model, evaluations = on_chip(net, batches), chips * len(at.TIMES)
    forward: list[float] = []

    def accuracy(view: nn.Module) -> float:
        forward.append(timed(lambda: at.accuracy(view, batches)))
        return 0.0

    def digital() -> None:
        for _ in range(evaluations):
            at.accuracy(net, batches)

    def programming(seed: int) -> None:
        for i in range(chips):
            at.program(model, seed=seed + i)

    found = []
    for number in range(rounds + 1):
        forward.clear()
        whole = timed(partial(at.sweep, model, accuracy, num_chips=chips, seed=number))
        unit, making = timed(digital), timed(partial(programming, number * chips))
        parts = whole, making, whole - making - sum(forward), sum(forward)
        found.append([1e3 * unit / evaluations, *(part / unit for part in parts)])
    return [statistics.median(each) for each in zip(*found[1:], strict=True)]  # one warms up


def shared(
    net: nn.Module, batches: Batches, chips: int, rounds: int, processes: int
) -> list[float]:
    """Return speedup and work of a sweep in several processes beside one."""
    model = on_chip(net, batches)

    def used() -> float:
        each = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(sum(resource.getrusage(who)[:2]) for who in each)

    def swept(number: int, processes: int) -> tuple[float, float]:
        sweep = partial(at.sweep, model, num_chips=chips, seed=number, processes=processes)
        before = used()
        wall = timed(lambda: sweep(lambda view: at.accuracy(view, batches)), time.perf_counter)
        return wall, used() - before

    found = []
    for number in range(rounds):
        (alone, one), (together, all_) = swept(number, 1), swept(number, processes)
        found.append((alone / together, all_ / one))
    return [statistics.median(each) for each in zip(*found, strict=True)]


@torch.no_grad()
def before(file: Path, rounds: int) -> list[str]:
    """Return the row of a configuration: what passes before the first analog layer."""
    config = parse([f"--config={file}"]).config
    shape = tuple(config.features.build()(torch.zeros(1, 16_000)).shape[1:])
    torch.manual_seed(0)
    net, x = config.model.build(input_shape=shape).eval(), torch.randn(BATCH, *shape)
    model = at.calibrate(converted(config, net), [x[:16]], effort="ranges", progress=False)
    physical = at.program(model, seed=0)
    making, reading = (
        statistics.median(timed(run) for _ in range(3))
        for run in (lambda: at.program(model, seed=1), lambda: physical.at("1 month"))
    )
    view = physical.at("1 day")
    first: list[float] = []
    for module in view.modules():
        if type(module).__module__.startswith(f"{at.nn.__name__}."):
            module.register_forward_pre_hook(lambda *_: first.append(time.thread_time()))
    whole, share, once, spared = [], [], Once([x]), []
    for _ in range(rounds + 1):  # one warms up
        first.clear()
        start = time.thread_time()
        view(x)
        whole.append(time.thread_time() - start)
        share.append((first[0] - start) / whole[-1])
        with once.on(view):
            spared.append(timed(lambda: view(x)))
    forward, early, rest = (statistics.median(each[1:]) for each in (whole, share, spared))
    cell = making / len(at.TIMES) + reading + forward * CLIPS / BATCH
    saved = early * forward * CLIPS / BATCH / cell
    shares = f"{early:.1%}", f"{saved:.1%}"
    return [config.model.name, f"{1e3 * forward:.1f} ms", *shares, f"{1e3 * rest:.1f} ms"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__.split("\n")[0]
    )
    add_data(parser)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--table", choices=("sweep", "before"), default="sweep")
    parser.add_argument("--batch", nargs="+", type=positive, default=[BATCH], help="clips at once")
    parser.add_argument("--chips", type=positive, default=5, help="chips of a round")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--processes", type=positive, default=1, help="also in this many processes")
    given = parser.parse_args(arguments)
    if given.table == "before":
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of untrained nets, whose outputs nobody reads
            files = {parse([f"--config={f}"]).config.model.name: f for f in CONFIGS.glob("*.yaml")}
            rows = [before(files[name], given.rounds) for name in sorted(files)]
        print(as_text([BEFORE, *rows], left=1))
        return
    header = HEADER + (("speedup", "work") if given.processes > 1 else ())
    table: list[Sequence[str]] = [header]
    with one_thread():
        for name, batch in itertools.product(given.nets, given.batch):
            net, batches = NETS[name](given.data, batch)
            weights = sum(p.numel() for p in net.parameters() if p.dim() > 1)
            digital, *shares = costs(net, batches, given.chips, given.rounds)
            row = [
                name,
                f"{weights:,}",
                f"{batch}",
                f"{digital:.0f} ms",
                *(f"{x:.2f}" for x in shares),
            ]
            if given.processes > 1:
                beside = shared(net, batches, given.chips, given.rounds, given.processes)
                row += [f"{x:.2f}" for x in beside]
            table.append(row)
    print(as_text(table, left=1))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"\n{given.rounds} rounds of {given.chips} chips; load {load} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
