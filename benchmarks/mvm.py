"""What an analog layer costs beside the digital one: ratios of medians, measured in turns on the same machine.

    python -m benchmarks.mvm [--threads 2] [--rounds 40] [--shapes linear_512 ...] [--out runs/mvm]

Setting of every row: 8-bit DAC with a learned range, additive weight noise redrawn in every forward, 8-bit ADC and
512-row tiles, unless the row says otherwise. ``floor`` is the digital layer's matrix products alone, without autograd.
"""

import argparse
import copy
import csv
import dataclasses
import io
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.ops import native
from analogtorch.report.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Shape:
    """One row of the table."""

    layer: Callable[[], nn.Module]
    input: tuple[int, ...]
    adc: bool = True
    rows: int = 512


SHAPES = {
    "linear_512": Shape(lambda: nn.Linear(512, 512), (128, 512)),
    "linear_1024": Shape(lambda: nn.Linear(1024, 1024), (256, 1024)),
    "linear_2048": Shape(lambda: nn.Linear(2048, 2048), (64, 2048)),
    "linear_1024_no_adc": Shape(lambda: nn.Linear(1024, 1024), (256, 1024), adc=False),
    # 288 rows: two blocks of 32 of the 64 input channels
    "conv2d_64_128": Shape(lambda: nn.Conv2d(64, 128, 3, padding=1), (32, 64, 32, 32), rows=288),
}


def chip(shape: Shape) -> at.Chip:
    """A chip with this shape's tiles, Gaussian weight noise and no output noise."""
    return dataclasses.replace(
        at.chips.hermes64(),
        rows=shape.rows,
        cols=512,
        output_noise=0.0,
        output_bits=8 if shape.adc else None,
        training=at.TrainingNoise(weight="gaussian", scale=0.05),
    )


def analog(layer: nn.Module, shape: Shape, x: Tensor) -> nn.Module:
    """The layer on that chip, its range set so that nothing clips."""
    converted = at.convert(copy.deepcopy(layer), chip(shape))
    converted.set_input_range(x.abs().max().item())
    return converted


def train_step(module: nn.Module, x: Tensor, g: Tensor) -> Callable[[], None]:
    """Forward and backward, gradients of input and weight."""
    x = x.clone().requires_grad_()

    def run() -> None:
        x.grad = None
        for p in module.parameters():
            p.grad = None
        module(x).backward(g)

    return run


def evaluate(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward in evaluation mode."""

    def run() -> None:
        with torch.no_grad():
            module(x)

    return run


def products(module: nn.Module, x: Tensor, g: Tensor, backward: bool) -> Callable[[], None]:
    """The matrix products of the digital layer alone."""
    w = module.weight.detach()

    def linear() -> None:
        x @ w.T
        if backward:
            _ = g @ w, g.T @ x

    def convolution() -> None:
        y = torch.nn.functional.conv2d(x, w, None, module.stride, module.padding)
        if backward:
            torch.ops.aten.convolution_backward(
                torch.ones_like(y),
                x,
                w,
                None,
                module.stride,
                module.padding,
                (1, 1),
                False,
                (0, 0),
                1,
                [True] * 2 + [False],
            )

    return linear if isinstance(module, nn.Linear) else convolution


def medians(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median time of each in milliseconds, taken in turns so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i >= 3:  # the first rounds warm up
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: sorted(t)[len(t) // 2] for name, t in times.items()}


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that a forward keeps for its backward beyond parameters and input."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()} | {x.untyped_storage().data_ptr()}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(x.requires_grad_())
    return sum(kept.values())


def measure(name: str, shape: Shape, rounds: int) -> dict[str, object]:
    """One row."""
    torch.manual_seed(0)
    layer, x = shape.layer(), torch.randn(*shape.input)
    g = torch.randn_like(layer(x))
    ours = analog(layer, shape, x)
    row: dict[str, object] = {"shape": name}
    step = {"digital": train_step(layer, x, g), "analog": train_step(ours, x, g), "floor": products(layer, x, g, True)}
    t = medians(step, rounds)
    row |= {
        "train_ms": t["analog"],
        "train_ratio": t["analog"] / t["digital"],
        "train_floor": t["floor"] / t["digital"],
    }
    row |= {"saved_digital": saved_bytes(layer, x), "saved_analog": saved_bytes(ours, x)}
    ours.eval()
    x = x.detach()
    step = {"digital": evaluate(layer, x), "analog": evaluate(ours, x), "floor": products(layer, x, g, False)}
    t = medians(step, rounds)
    row |= {"eval_ms": t["analog"], "eval_ratio": t["analog"] / t["digital"], "eval_floor": t["floor"] / t["digital"]}
    return row


def facts() -> str:
    """The machine and the versions, in a line."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    threads, kernels = torch.get_num_threads(), "CPU kernels" if native.available() else "plain torch"
    return f"{model}, {threads} threads, torch {torch.__version__}, analogtorch {at.__version__}, {kernels}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def normals(rounds: int) -> dict[str, float]:
    """A million position-keyed normals beside torch.randn, ms."""
    rows = torch.arange(1024)
    key = at.ops.fold(at.ops.seed_tensor(1), 2)
    out = torch.empty(1024, 1024)
    return medians(
        {
            "torch.randn": lambda: torch.randn(1024, 1024, out=out),
            "normal": lambda: at.ops.normal(key, rows, rows * 0, 1024),
        },
        rounds,
    )


def main() -> None:
    """Print the table, and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=Path("runs/mvm"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(facts())
    t = normals(options.rounds)
    print(f"1,048,576 normals: torch.randn {t['torch.randn']:.2f} ms, position-keyed {t['normal']:.2f} ms")
    print("times as ratios to torch.nn; last, the bytes that a forward saves for its backward, torch.nn's and ours")
    print(f"{'shape':<20} {'train':>6} {'floor':>6} {'eval':>6} {'floor':>6}")
    rows = []
    for name in options.shapes:
        row = measure(name, SHAPES[name], options.rounds)
        rows.append(row)
        ratios = " ".join(f"{row[k]:>6.2f}" for k in ("train_ratio", "train_floor", "eval_ratio", "eval_floor"))
        print(f"{name:<20} {ratios}   {row['saved_digital']:,} -> {row['saved_analog']:,}", flush=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "mvm.csv", text.getvalue())


if __name__ == "__main__":
    main()
