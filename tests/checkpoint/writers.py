"""A program that saves and loads one checkpoint: ``python writers.py FOLDER SECONDS``.

Each saver and loader is a process. Every save writes weights and a DAC range of one number; a
load that finds two numbers is a mix. The program prints how many saves and loads there were and how
many loads were refused, and ends with code 1 after a mix or a crash.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import analogtorch as at

SAVERS, LOADERS = 2, 2


def net(value: float) -> nn.Module:
    layer = nn.Linear(64, 64)
    nn.init.constant_(layer.weight, value)
    return layer


def save(folder: Path, turn: int) -> str:
    value = float(1 + turn % 7)
    layer = at.convert(net(value), at.chips.ideal())
    layer.set_input_range(value)
    at.save(layer, folder)
    return "saves"


def load(folder: Path, turn: int) -> str:
    with torch.device("meta"):
        model = net(0.0)  # gets the tensors of the file themselves
    try:
        layer = at.load(folder, model)
    except (ValueError, OSError) as error:
        return "refused" if str(folder) in str(error) else f"an error without a name: {error}"
    values = {layer.input_range.item(), *layer.weight.unique().tolist()}
    if len(values) != 1:
        os.write(sys.stdout.fileno(), f"a mix: {values}\n".encode())
        os._exit(1)
    return "loads"


def repeat(act: Callable[[Path, int], str], folder: Path, seconds: float, number: int) -> None:
    counts: dict[str, int] = {}
    end = time.monotonic() + seconds
    turn = number
    # on a slow machine until there are enough of them
    while time.monotonic() < end or turn - number <= 10:
        did = act(folder, turn)
        counts[did] = counts.get(did, 0) + 1
        turn += 1
    said = "".join(f"{did} {count}\n" for did, count in counts.items())
    # one write for each process: lines of several, printed in pieces, would mix
    os.write(sys.stdout.fileno(), said.encode())


def main(folder: Path, seconds: float) -> int:
    save(folder, 0)
    children = []
    for number, act in enumerate([save] * SAVERS + [load] * LOADERS):
        child = os.fork()
        if not child:
            repeat(act, folder, seconds, number)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print("codes", *codes)
    return int(any(codes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
