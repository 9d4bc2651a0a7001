"""The cost of an analog layer as a ratio to the digital one.

Times are medians, measured in turns on one machine.

    python -m benchmarks.mvm [--threads 2] [--rounds 40] [--shapes linear_512 ...]
                             [--out runs/mvm] [--check]

Every row has an 8-bit DAC with a learned range, additive weight noise redrawn in every forward, an
8-bit ADC and 512-row tiles, unless ``benchmarks.registry`` states otherwise. The peers of
``benchmarks.peers`` take turns with torch.nn and AnalogTorch if they are installed: ``make
bench-peers``.

train, eval: time of forward + backward, and of the forward in evaluation mode, as ratios to
torch.nn's of the same run. floor: such a ratio for the digital layer's matrix products alone,
without autograd. saved: what a forward keeps for its backward beyond parameters and input,
torch.nn's -> ours. peak: resident memory at the height of a step above that between steps, in a
separate process, torch.nn's -> ours. The CSV has the times too, and the bytes that must move, by a
model: a training step reads x, w, y and the gradient of y once and writes the gradients of x and w
once; a forward moves x, w and y once. They are given as GB/s at the time of our step.
"""

import argparse
import contextlib
import csv
import ctypes
import io
import itertools
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.files import write_atomically
from analogtorch.ops import native
from benchmarks.peers import INSTALL, OURS, PEERS, Library, OtherSetting, verify
from benchmarks.registry import SHAPES, Shape

ROOT = Path(__file__).parents[1]
LONGEST = 20.0
"""Seconds after which a measurement takes fewer rounds: a peer's convolution takes many times
torch.nn's."""
LEAST_ROUNDS = 10
"""Smallest number of rounds."""

COLUMNS = (
    "shape",
    *(f"{mode}_{column}" for mode in ("train", "eval") for column in ("ratio", "bar", "floor")),
    *(
        f"{mode}_{column}"
        for mode in ("train", "eval")
        for column in ("rounds", "digital_ms", "ms", "bytes", "gb_s")
    ),
    *(f"{what}_{whose}" for what in ("saved", "peak") for whose in ("digital", "analog")),
    *(
        f"{peer}_{column}"
        for peer in PEERS
        for column in ("train_ratio", "eval_ratio", "saved", "note")
    ),
    "facts",
)
"""Columns of the CSV. An empty cell was not measured, for the peer's reason in ``note`` if it is
installed."""

Row = dict[str, Any]


def make(shape: Shape) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a row's digital layer, its input and the gradient of its output."""
    torch.manual_seed(0)
    layer, x = shape.layer(), torch.randn(*shape.input)
    with torch.no_grad(), autocast(shape):
        return layer, x, torch.randn_like(layer(x))


def analog(library: Library, layer: nn.Module, shape: Shape, x: Tensor) -> nn.Module:
    """Return a library's twin of the layer, with a range at which nothing clips.

    Raises:
        OtherSetting: it computes something else.
    """
    module = library.build(layer, shape, x.abs().max().item())
    with torch.no_grad(), autocast(shape):
        expected, y = layer(x), module.eval()(x)
        # the 8-bit ADC's own error of these layers is under a tenth
        if not (y - expected).std() < 0.3 * expected.std():
            raise OtherSetting(f"not so: {library.package} computes the product, roughly")
    return module.train()


def autocast(shape: Shape) -> contextlib.AbstractContextManager[Any]:
    """Return the row's autocast, or an empty context."""
    return (
        torch.autocast("cpu", dtype=shape.autocast) if shape.autocast else contextlib.nullcontext()
    )


def train_step(module: nn.Module, shape: Shape, x: Tensor, g: Tensor) -> Callable[[], None]:
    """Run forward and backward with gradients of input and weight, which are then dropped."""
    x = x.clone().requires_grad_()
    parameters = list(module.parameters())
    with torch.no_grad(), autocast(shape):
        g = g.to(module(x).dtype)  # a peer's output may not have the type of torch.nn's

    def run() -> None:
        with autocast(shape):
            y = module(x)
        y.backward(g)
        x.grad = None
        for p in parameters:
            p.grad = None

    return run


def evaluate(module: nn.Module, shape: Shape, x: Tensor) -> Callable[[], None]:
    """Run the forward in evaluation mode."""

    def run() -> None:
        with torch.no_grad(), autocast(shape):
            module(x)

    return run


def products(module: Any, shape: Shape, x: Tensor, g: Tensor, backward: bool) -> Callable[[], None]:
    """Run the matrix products of the digital layer alone."""
    w = module.weight.detach()
    if shape.autocast:
        x, w, g = (t.to(shape.autocast) for t in (x, w, g))

    def linear() -> None:
        x @ w.T
        if backward:
            _ = g @ w, g.T @ x

    def convolution() -> None:
        sizes = (
            module.stride,
            module.padding,
            module.dilation,
            False,
            module.output_padding,
            module.groups,
        )
        torch.ops.aten.convolution(x, w, None, *sizes)
        if backward:
            torch.ops.aten.convolution_backward(g, x, w, None, *sizes, [True, True, False])

    return linear if isinstance(module, nn.Linear) else convolution


def turns(runs: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return times of each in milliseconds, taken in turns so that a busy moment affects all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    begin = time.perf_counter()
    for i in range(rounds + 3):
        shuffle(order)  # so that nobody always finds the caches as the same other left them
        for name in order:
            start = time.perf_counter()
            runs[name]()
            if i >= 3:  # the first rounds warm up
                times[name].append((time.perf_counter() - start) * 1e3)
        if i >= 3 + LEAST_ROUNDS and time.perf_counter() - begin > LONGEST:
            break
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each."""
    return {name: statistics.median(t) for name, t in times.items()}


def saved_bytes(module: nn.Module, shape: Shape, x: Tensor) -> int:
    """Return the bytes that a forward keeps for its backward beyond parameters and input."""
    x = x.detach().requires_grad_()
    kept: dict[int, int] = {}
    own = set()
    for t in (x, *module.parameters()):
        # a parameter of aihwkit that only stands for its tiles, which follow
        with contextlib.suppress(RuntimeError):
            own.add(t.untyped_storage().data_ptr())

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), autocast(shape):
        module(x)
    return sum(kept.values())


def measure(name: str, shape: Shape, rounds: int, peers: Iterable[str] = ()) -> Row:
    """Return one row without the peaks of memory."""
    layer, x, g = make(shape)
    row: Row = dict.fromkeys(COLUMNS) | {
        "shape": name,
        "train_bar": shape.train_bar,
        "eval_bar": shape.eval_bar,
    }
    modules = {"digital": layer, "analog": analog(OURS, layer, shape, x)}
    for peer in peers:
        if shape.ours_alone:
            row[f"{peer}_note"] = "has no such setting"
            continue
        try:
            modules[peer] = analog(PEERS[peer], layer, shape, x)
            if shape.train:
                train_step(modules[peer], shape, x, g)()
        except Exception as error:  # whatever a peer raises at a layer that it does not take
            modules.pop(peer, None)
            row[f"{peer}_note"] = f"{type(error).__name__}: {error}"
    moved = {"eval": _bytes(x, layer.weight, g), "train": 2 * _bytes(x, layer.weight, g)}
    for mode in ("train", "eval") if shape.train else ("eval",):
        training = mode == "train"
        if shape.on_chip and not training:
            modules["analog"] = at.program(modules["analog"], seed=0).at("programmed")
        runs = {"floor": products(layer, shape, x, g, backward=training)}
        for key, module in modules.items():
            module.train(training)
            runs[key] = train_step(module, shape, x, g) if training else evaluate(module, shape, x)
        taken = turns(runs, rounds)
        times = medians(taken)
        ratios = {key: t / times["digital"] for key, t in times.items()}
        row |= {f"{mode}_ratio": ratios["analog"], f"{mode}_floor": ratios["floor"]}
        row |= {f"{mode}_digital_ms": times["digital"], f"{mode}_ms": times["analog"]}
        row |= {
            f"{mode}_rounds": len(taken["digital"]),
            f"{mode}_bytes": moved[mode],
            f"{mode}_gb_s": moved[mode] / times["analog"] / 1e6,
        }
        row |= {f"{peer}_{mode}_ratio": ratios[peer] for peer in PEERS if peer in modules}
        if training:
            saved = {key: saved_bytes(module, shape, x) for key, module in modules.items()}
            row |= {
                f"{key}_saved" if key in PEERS else f"saved_{key}": n for key, n in saved.items()
            }
    return row


def _bytes(*tensors: Any) -> int:
    return sum(t.nbytes for t in tensors)


def peaks(name: str, threads: int) -> Row:
    """Return the peak memory of a step of torch.nn and of ours, each in a fresh process."""

    def one(key: str) -> tuple[str, int | None]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.mvm",
            "--threads",
            str(threads),
            "--peak",
            name,
            key,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(
                f"the process that measures the memory of {name}, {key} failed:\n{done.stderr}"
            )
        printed = done.stdout.strip()
        return f"peak_{key}", None if printed == "None" else int(printed)

    with ThreadPoolExecutor(2) as pool:  # nothing is timed meanwhile
        return dict(pool.map(one, ("digital", "analog")))


def step_peak(shape: Shape, key: str) -> int | None:
    """Return the bytes of resident memory at the height of a step above those before.

    The step is an evaluation if the row has no training. Weights, input and the output's gradient
    exist before the step; the gradients that it makes do not. Code and workspaces exist too, which
    the first steps have loaded. None: the system cannot tell (not Linux).
    """
    layer, x, g = make(shape)
    module = layer if key == "digital" else analog(OURS, layer, shape, x)
    run = train_step(module, shape, x, g) if shape.train else evaluate(module.eval(), shape, x)
    for _ in range(3):
        run()
    with contextlib.suppress(OSError, AttributeError):
        _libc().malloc_trim(0)  # the holes that imports have left would take the first tensors
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    except OSError:
        return None
    before = _resident("VmHWM")
    run()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _libc() -> Any:
    return ctypes.CDLL(None)


def _give_back_at_once() -> None:
    # glibc otherwise keeps freed tensors, more of them the longer it runs, and the next step's
    # would not show
    with contextlib.suppress(OSError, AttributeError):
        trim, threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        _libc().mallopt(threshold, 1 << 16)
        _libc().mallopt(trim, 1 << 16)


def missed(rows: Iterable[Row]) -> list[str]:
    """Return the bars that these rows miss, at two decimals, in words."""
    found = []
    for row, mode in itertools.product(rows, ("train", "eval")):
        ratio, bar = row[f"{mode}_ratio"], row[f"{mode}_bar"]
        if bar is not None and (ratio is None or round(ratio, 2) > bar):
            value = "not measured" if ratio is None else f"{ratio:.2f}"
            found.append(f"{row['shape']} {mode}: {value}, bar {bar:.2f}")
    return found


def facts(peers: Sequence[str], rounds: int) -> str:
    """Return the machine and the versions, in a line."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.processor(),
    )
    threads, kernels = (
        torch.get_num_threads(),
        "CPU kernels" if native.available() else "plain torch",
    )
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    libraries = {PEERS[p].package: PEERS[p].version for p in peers}  # aihwkit is two peers
    versions = "".join(f", {package} {version}" for package, version in libraries.items())
    return (
        f"{model}, {platform.system()}, {os.cpu_count()} cores, {threads} threads, {rounds} "
        f"rounds{load}; Python {platform.python_version()}, torch {torch.__version__}, analogtorch "
        f"{at.__version__} ({kernels}){versions}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def normals(rounds: int) -> dict[str, float]:
    """Return the time of a million position-keyed normals beside torch.randn, ms."""
    rows = torch.arange(1024)
    key = at.ops.fold(at.ops.seed_tensor(1), 2)
    out = torch.empty(1024, 1024)
    runs = {
        "torch.randn": lambda: torch.randn(1024, 1024, out=out),
        "normal": lambda: at.ops.normal(key, rows, rows * 0, 1024),
    }
    return medians(turns(runs, rounds))


def usable(shapes: Iterable[Shape]) -> list[str]:
    """Return the peers that are installed and fit the setting; print why others are left out."""
    settings = list({(s.adc, s.rows): s for s in shapes if not s.ours_alone}.values())
    for shape in settings:
        verify(OURS, shape)
    found = []
    for name, peer in PEERS.items():
        if not peer.installed:
            print(f"{name} is not installed: {INSTALL}")
            continue
        try:
            for shape in settings:
                verify(peer, shape)
        except Exception as error:  # an installed peer may be broken in any way
            print(f"{name} {peer.version} is left out: {type(error).__name__}: {error}")
            continue
        found.append(name)
    return found


def header(peers: Iterable[str]) -> str:
    """Return the table's first line."""
    columns = "".join(f"  {peer:>17}" for peer in peers)
    ratios = f"{'train':>6} {'bar':>5} {'floor':>5}  {'eval':>6} {'bar':>5} {'floor':>5}"
    return f"{'shape':<26} {ratios}  {'saved, MB':>16}  {'peak, MB':>16}{columns}"


def line(row: Row, peers: Iterable[str]) -> str:
    """Return a row of the table."""

    def ratio(column: str, width: int) -> str:
        return f"{'-' if row[column] is None else format(row[column], '.2f'):>{width}}"

    def megabytes(what: str) -> str:
        pair = (row[f"{what}_{whose}"] for whose in ("digital", "analog"))
        return " -> ".join(f"{'-' if n is None else format(n / 1e6, '.2f'):>6}" for n in pair)

    modes = (
        f"{ratio(f'{m}_ratio', 6)} {ratio(f'{m}_bar', 5)} {ratio(f'{m}_floor', 5)}"
        for m in ("train", "eval")
    )
    columns = "".join(
        f"  {ratio(f'{p}_train_ratio', 7) + ' / ' + ratio(f'{p}_eval_ratio', 7)}" for p in peers
    )
    return (
        f"{row['shape']:<26} {'  '.join(modes)}  {megabytes('saved')}  {megabytes('peak')}{columns}"
    )


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and write it as CSV; return 1 if ``--check`` finds a missed bar."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mvm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rounds",
        type=int,
        default=40,
        help="of which the medians are; fewer where they take long",
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=Path("runs/mvm"), help="folder of mvm.csv")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)  # what ``peaks`` calls
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.peak:
        _give_back_at_once()
        print(step_peak(SHAPES[options.peak[0]], options.peak[1]))
        return 0
    start = time.perf_counter()
    peers = usable(SHAPES[name] for name in options.shapes)
    described = facts(peers, options.rounds)
    t = normals(options.rounds)
    print(described)
    print(
        f"1,048,576 normals: torch.randn {t['torch.randn']:.2f} ms, position-keyed "
        f"{t['normal']:.2f} ms"
    )
    print(
        "times as ratios to torch.nn, of the peers train / eval; memory of a training step, "
        "torch.nn's -> ours"
    )
    print(header(peers), flush=True)
    rows = []
    for i, name in enumerate(options.shapes, 1):
        seconds = time.perf_counter() - start
        print(
            f"[{i}/{len(options.shapes)}] {name}, {seconds:.0f} s so far",
            file=sys.stderr,
            flush=True,
        )
        row = measure(name, SHAPES[name], options.rounds, peers) | {"facts": described}
        row |= peaks(name, options.threads)
        print(line(row, peers), flush=True)
        rows.append(row)
        # after every row: a run that is stopped leaves what it has
        write(rows, options.out / "mvm.csv")
    for row, peer in itertools.product(rows, peers):
        if row[f"{peer}_note"]:
            print(f"{peer} does not run {row['shape']}: {row[f'{peer}_note']}")
    over = missed(rows)
    print("\n".join(["bars missed:", *over]) if over else "every bar is met")
    return 1 if options.check and over else 0


if __name__ == "__main__":
    sys.exit(main())
