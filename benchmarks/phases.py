"""Error and time of phases, or passes of one sign, with ADC outputs of their own, and of two reads.

    python -m benchmarks.phases [--chips 4] [--vectors 1000] [--rounds 30] [--weights uniform]

256x256 weights from a normal (or uniform) distribution, inputs uniform in [-1, 1], calibrated with
method="absmax". error: norm of what an MVM errs by over that of the exact one, over all vectors;
with exact devices, behind converters and output noise, and on programmed chips after a day with
default compensation, their mean. "1, balanced" is that with ``ADC.asymmetry_balance``. time: of a
forward pass of eval() as it is run (phases run in plain torch, where one ADC output has kernels;
balance does nothing there), as the ratio of medians.
"""

import argparse
import dataclasses
import statistics
import time

import torch
from torch import Tensor, nn

import analogtorch as at
from benchmarks.tables import as_text, positive

SIZE = 256
WEIGHTS = {
    "normal": nn.init.normal_,
    "uniform": lambda w, generator: nn.init.uniform_(w, -1, 1, generator=generator),
}
CHIPS = {"hermes64": at.chips.hermes64, "ibm_speech34": at.chips.ibm_speech34}


def layer(chip: at.Chip, x: Tensor, weights: str) -> nn.Module:
    """Return the layer on a chip, with ``weights`` of WEIGHTS, calibrated on ``x``."""
    digital = nn.Linear(SIZE, SIZE, bias=False)
    WEIGHTS[weights](digital.weight, generator=torch.Generator().manual_seed(1))
    model = at.convert(
        nn.Sequential(digital), dataclasses.replace(chip, training=at.TrainingNoise(weight="none"))
    )
    return at.calibrate(model, [x], method="absmax", progress=False)


def error(y: Tensor, exact: Tensor) -> float:
    """Return ``||y - exact|| / ||exact||``."""
    return ((y - exact).norm() / exact.norm()).item()


def errors(model: nn.Module, x: Tensor, chips: int) -> tuple[float, float]:
    """Return the errors with exact devices, and of programmed chips after a day."""
    exact = x @ model[0].weight.detach().T
    with torch.no_grad(), at.noise(1):
        behind = error(model.train()(x), exact)
        model.eval()
        aged = [error(at.program(model, seed=seed).at("1 day")(x), exact) for seed in range(chips)]
    return behind, statistics.mean(aged)


def seconds(models: list[nn.Module], x: Tensor, rounds: int) -> list[float]:
    """Return the median time of a forward pass of each, in turns."""
    times: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(rounds):
            for model, spent in zip(models, times, strict=True):
                start = time.perf_counter()
                model(x)
                spent.append(time.perf_counter() - start)
    return [statistics.median(spent) for spent in times]


def table(chips: int, vectors: int, rounds: int, weights: str) -> list[list[str]]:
    """Return rows of text, the header first."""
    x = torch.rand(vectors, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = [
        ["chip", "ADC outputs", "error, exact devices", "error after a day", "time of a forward"]
    ]
    for name, make in CHIPS.items():
        changes = ({}, {"separate_phases": True}, {"asymmetry_balance": True})
        variants = [make().replace(adc=change) for change in changes]
        models = [layer(chip, x, weights) for chip in variants]
        found = [errors(model, x, chips) for model in models]
        times = seconds(models, x, rounds)
        for chip, (behind, aged), spent in zip(variants, found, times, strict=True):
            outputs = f"{chip.phases}{', balanced' if chip.adc.asymmetry_balance else ''}"
            cells = [f"{behind:.2%}", f"{aged:.2%}", f"{spent / times[0]:.1f}"]
            rows.append([name, outputs, *cells])
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.phases",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, default in (("chips", 4), ("vectors", 1000), ("rounds", 30)):
        parser.add_argument(f"--{option}", type=positive, default=default)
    parser.add_argument("--weights", choices=WEIGHTS, default="normal")
    print(as_text(table(**vars(parser.parse_args())), left=1))
