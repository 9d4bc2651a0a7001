"""The networks of ``configs/kws`` as they lie on their chips, without training any.

    python -m benchmarks.networks
    python -m benchmarks.networks --out runs/networks
    python -m benchmarks.networks --cells 2

A row for each configuration: parameters, weights and multiplications on the chip, tiles, and what
an inference of one clip takes by the chip's cost model, where it has one. One that keeps layers
digital has a second row, with all on the chip. Nothing is random but the weights, which decide none
of it.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

import analogtorch as at
from analogtorch.cli.kws import parse
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.on_chips import converted
from benchmarks.tables import as_text, positive

CONFIGS = Path(__file__).parents[1] / "configs/kws"
HEADER = (
    "configuration", "network", "features", "parameters", "weights", "MACs", "chip", "tiles", "uJ",
    "us",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it if ``--out`` names a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="folder for networks.txt")
    parser.add_argument(
        "--cells", type=positive, default=1, help="unit cells that hold each weight (default: 1)"
    )
    given = parser.parse_args(arguments)
    files = sorted(CONFIGS.glob("*.yaml"))
    rows = [each for file in files for each in rows_of(file, given.cells)]
    text = as_text([HEADER, *rows], left=3)
    print(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "networks.txt").write_text(text + "\n")


def rows_of(file: Path, cells: int = 1) -> list[tuple[str, ...]]:
    """Return the rows of a configuration, with as many unit cells for each weight."""
    config = parse([f"--config={file}", f"--chip.cells={cells}"]).config
    found = [row(config, file.stem)]
    if config.chip.digital:
        chip = dataclasses.replace(config.chip, digital=())
        found.append(row(dataclasses.replace(config, chip=chip), f"{file.stem}, all analog"))
    return found


@torch.no_grad()
def row(config: KWSConfig, name: str) -> tuple[str, ...]:
    """Return one row."""
    example = config.features.build()(torch.zeros(1, 16_000))
    shape = tuple(example.shape[1:])
    torch.manual_seed(0)
    network = config.model.build(input_shape=shape).eval()
    parameters = sum(p.numel() for p in network.parameters())
    chip = config.chip.build()
    mapping = at.map_to_chip(converted(config, network), example, chip=chip)
    cost = None if chip.cost is None else at.cost(mapping)
    return (
        name,
        config.model.name,
        f"{config.features.name} {'x'.join(map(str, shape))}",
        f"{parameters:,}",
        f"{mapping.weights:,}",
        "-" if cost is None else f"{cost.macs:,}",
        chip.name,
        f"{mapping.tiles_used}",
        "-" if cost is None else f"{1e6 * cost.energy.system:.3g}",
        "-" if cost is None else f"{1e6 * cost.latency:.4g}",
    )


if __name__ == "__main__":
    main()
