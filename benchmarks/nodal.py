"""Seconds that a tile solved node by node takes: 512x512 cells of 0 to 20 uS.

python -m benchmarks.nodal [--cells 512] [--ohm 0.35]
"""

import argparse
import time
from collections.abc import Sequence

import torch

from analogtorch.chips import Wires
from analogtorch.simulate import nodal
from benchmarks.tables import as_text


def seconds(cells: int, wires: Wires) -> tuple[float, float]:
    """Return the time of one input, s, and its IR drop as a share of the output."""
    generator = torch.Generator().manual_seed(0)
    g = 20e-6 * torch.rand(cells, cells, dtype=torch.float64, generator=generator)
    v = 0.2 * torch.rand(cells, dtype=torch.float64, generator=generator)
    start = time.perf_counter()
    y = nodal.solve(g, v, wires)
    took = time.perf_counter() - start
    return took, ((y - v @ g).norm() / (v @ g).norm()).item()


def main(argv: Sequence[str] | None = None) -> None:
    """Solve, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodal")
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--ohm", type=float, default=0.35)
    options = parser.parse_args(argv)
    table = [["resistance of", "ends", "s", "IR drop, %"]]
    for name, lines in (("columns", (False, True)), ("rows and columns", (True, True))):
        for ends in (1, 2):
            row, column = (options.ohm * each for each in lines)
            wires = Wires(
                row_resistance=row, column_resistance=column, row_ends=ends, column_ends=ends
            )
            took, drop = seconds(options.cells, wires)
            table.append([name, str(ends), f"{took:.2f}", f"{100 * drop:.1f}"])
    print(f"{options.cells}x{options.cells} cells behind {options.ohm:g} ohm a segment")
    print(as_text(table, left=1))


if __name__ == "__main__":
    main()
