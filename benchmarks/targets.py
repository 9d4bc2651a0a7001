"""Error of an MVM over time, with targets of the devices that allow for drift and without.

    python -m benchmarks.targets [--chips 4]

One tile of ``hermes64`` with 256x256 weights from a normal distribution, inputs uniform in [-1, 1].
Norm of what the outputs err by over that of the exact ones in %, mean of the chips, with default
compensation. Rows: the time for which targets are chosen (``Chip.drift_aware``); "at once" are
those that a chip has by default. The mean target, in units of the largest, says how much more
current flows.
"""

import argparse
import statistics

import torch
from torch import nn

import analogtorch as at
from analogtorch.devices.drift_aware import as_written
from benchmarks.tables import as_text, positive

SIZE = 256
TIMES = ("0 s", "1 h", "1 day", "1 month", "1 year", "10 years")
TARGETS = (None, "1 h", "1 day", "1 week", "1 month", "1 year")


def errors(model: nn.Module, chips: int) -> list[float]:
    """Return the error at each time, in %."""
    x = torch.rand(256, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = x @ model[0].weight.T
    programmed = [at.program(model, seed=seed) for seed in range(chips)]
    return [
        100
        * statistics.mean(((p.at(t)(x) - exact).norm() / exact.norm()).item() for p in programmed)
        for t in TIMES
    ]


@torch.no_grad()
def table(chips: int) -> list[list[str]]:
    """Return rows of text, the header first."""
    rows = [["weight scale per", "targets for", "mean target", *TIMES]]
    for scale in ("block", "column"):
        for time in TARGETS:
            chip = at.chips.hermes64(weight_scale=scale)
            chip = chip if time is None else chip.drift_aware(time)
            digital = nn.Linear(SIZE, SIZE, bias=False)
            w = nn.init.normal_(digital.weight, generator=torch.Generator().manual_seed(1))
            largest = w.abs().amax(None if scale == "block" else 1, keepdim=True)
            model = at.convert(nn.Sequential(digital), chip)
            cell = chip.cell
            g = as_written(cell.device, cell.targets(w / largest)).sum(0) / cell.g_total
            found = [f"{value:.1f}" for value in errors(model, chips)]
            rows.append([scale, time or "at once", f"{g.mean().item():.3f}", *found])
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.targets", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--chips", type=positive, default=4, help="chips of each row")
    print(as_text(table(parser.parse_args().chips), 2))


if __name__ == "__main__":
    main()
