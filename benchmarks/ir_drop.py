"""What HWA training against IR drop gains beside Gaussian noise alone, on real speech.

    python -m benchmarks.ir_drop

For each seed, a digital net is trained for the chip twice, with the same clips, distillation and
weight noise: once on ideal wires, as by ``benchmarks.hwa``, and once behind the resistance of the
columns. Both nets, and the digital one mapped directly, are then measured on
the same chips with resistive columns. Whether training against the drop beats noise alone is the
question that arXiv:2506.00004 leaves open.
"""

import argparse
import copy
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

import analogtorch as at
from analogtorch.chips import Chip
from analogtorch.evaluate import interval
from analogtorch.files import write_atomically
from analogtorch.speech import kws
from analogtorch.speech.config import KWSConfig, SweepConfig
from analogtorch.speech.on_chips import measure
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.task import Task
from benchmarks.bars import by_seed, paired, percent
from benchmarks.hwa.__main__ import parse
from benchmarks.hwa.seeds import Result, Seed
from benchmarks.tables import as_markdown, as_text

NETS = {
    "direct": "digital net, mapped directly",
    "noise": "HWA, weight noise",
    "drop": "HWA, weight noise and IR drop",
}
SWEEP = SweepConfig(num_chips=5, times=("0 s", "1 day"))
"""The chips and times of this measurement."""


def one_seed(config: KWSConfig, out: Path, ohm: float) -> Result:
    """Train the net of one seed against the drop, and measure all three; or read the result."""
    with RunFolder.open(out, config, resume=True) as folder:
        return _Seed(config, folder).result(ohm)


class _Seed(Seed):
    def result(self, ohm: float) -> Result:
        checkpoint, name = f"behind_{ohm:g}_ohm", f"ir_drop_{ohm:g}_ohm"
        self.begin(f"checkpoints/{checkpoint}.ckpt", f"{name}.json")
        make = functools.partial(self._measured, ohm, checkpoint)
        found = self.kept(name, make, lambda _: True)
        self.run.finish()
        return found

    def _measured(self, ohm: float, checkpoint: str, _: Result) -> Result:
        config, task, digital = self.config, self.task, self.digital
        chip = config.chip.build().replace(wires={"column_resistance": ohm})
        drop = on_chip(digital, chip, task)
        kws.train_phase(config, task, self.run, drop, config.hwa, checkpoint, teacher=digital)
        nets = {"direct": digital, "noise": self.trained, "drop": drop}
        found: Result = {"seed": config.seed, "ohm": ohm}
        measured = dataclasses.replace(config, sweep=SWEEP)
        for name, net in nets.items():
            found[name] = measure(measured, task, on_chip(net, chip, task)).to_dict()
        return found


def on_chip(net: nn.Module, chip: Chip, task: Task) -> nn.Module:
    """Return a copy of the net on ``chip``, calibrated."""
    net = at.to_digital(copy.deepcopy(net))
    return at.calibrate(at.convert(net, chip), task.calibration, effort="ranges")


def rows(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the table: net and time, mean accuracy with its 95 % interval, each seed."""
    table = [["accuracy, %, and difference, points", "mean, 95 % interval", "each seed"]]
    for when in results[0]["drop"]:
        by_net = {name: [percent(r[name][when]["mean"]) for r in results] for name in NETS}
        found = {f"{NETS[name]}, {when}": values for name, values in by_net.items()}
        gains = paired(by_net["drop"], by_net["noise"])
        found[f"IR drop in training gains, {when}"] = gains
        table += [[name, interval(v).shown(2), by_seed(v)] for name, v in found.items()]
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print the table and write the reports."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--ohm", type=float, default=8.0, help="column, from one row to the next")
    arguments = sys.argv[1:] if argv is None else argv
    try:
        options, config = parse(
            ["--out=runs/ir_drop", *arguments],
            prog="python -m benchmarks.ir_drop",
            description="Hardware-aware training against IR drop on real speech, over seeds.",
            parents=[own],
        )
        results = []
        for n in range(options.seeds):
            seed = dataclasses.replace(config, seed=n)
            results.append(one_seed(seed, options.out / f"seed-{n}", options.ohm))
            print(f"seed {n} done", flush=True)
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.ir_drop: {error}") from error
    table = rows(results)
    remarks = [
        f"{len(results)} seeds, the same {SWEEP.num_chips} chips for all nets; chip "
        f"{config.chip.build().name} with {options.ohm:g} ohm of column from one row to the next.",
    ]
    print("\n".join(["", as_text(table, left=1), "", *remarks]))
    title = "HWA training against IR drop"
    write_atomically(options.out / "ir_drop.md", as_markdown(table, title, remarks, left=1))


if __name__ == "__main__":
    main()
