"""A recurrent transducer of 45 million weights on five speech chips: room, time, memory, energy.

    python -m benchmarks.rnnt [--seconds 10] [--balance] [--expansion 1]

The net has the shape of MLPerf's RNN-T, which Ambrogio et al. (2023) ran on five chips, and random
weights: it says nothing about error rates, but as much about room, time and energy as a trained
one. As on those chips, matrices have four or two PCM devices per weight, and the joint net is
digital.
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.chips import Chip
from analogtorch.files import write_atomically
from benchmarks.tables import as_markdown, as_text, positive

NUM_CHIPS = 5
BLANK, SYMBOLS = 28, 29
STACK = 2
"""Frames that the second half of the encoder takes at once."""
FRAMES_PER_SECOND = 1000 / 30
"""Frames of 240 numbers in a second: three of 80, 10 ms apart, as MLPerf has it."""
SYMBOLS_PER_SECOND = 14
"""Letters of a second of read speech, with spaces: some 170 words a minute."""
SENSITIVE = ["before.*"]
"""Matrices that get four devices first: those that hear the features."""
SOFTWARE, ON_CHIP, ON_CHIP_AFTER_A_WEEK = 7.452, 9.475, 9.894
"""Word error rates, %, of the paper, without weight expansion; the last is that of more than a
week."""
EXPANDED = 9.258
"""That of its chips with weight expansion of the first layer."""
PUBLISHED = {"tile": 20.0, "chip": 12.4, "system": 6.94}
"""TOPS/W of the paper; with weight expansion the system has 6.704."""


class RNNT(nn.Module):
    """Encoder, prediction and joint net with the sizes of MLPerf's RNN-T: 45.3 M weights."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LSTM(240, 1024, 2)
        self.after = nn.LSTM(2048, 1024, 3)
        self.embedding = nn.Embedding(SYMBOLS, 320)
        self.prediction = nn.LSTM(320, 320, 2)
        self.joint = nn.Sequential(nn.Linear(1344, 512), nn.ReLU(), nn.Linear(512, SYMBOLS))

    def encode(self, frames: Tensor) -> Tensor:
        """Return codes (frames / 2, B, 1024) of frames (frames, B, 240)."""
        x = self.before(frames)[0].unflatten(0, (-1, STACK)).transpose(1, 2).flatten(2)
        codes: Tensor = self.after(x)[0]
        return codes

    def forward(self, frames: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (codes, tokens, B, symbols): the lattice that ``rnnt_loss`` takes."""
        x, y = self.encode(frames), self.prediction(self.embedding(tokens))[0]
        return self.joint(
            torch.cat(
                [x[:, None].expand(-1, len(y), -1, -1), y[None].expand(len(x), -1, -1, -1)], -1
            )
        )

    @torch.no_grad()
    def greedy(self, frames: Tensor, most: int = 30) -> list[int]:
        """Return the likeliest symbols of one utterance, frames (frames, 1, 240).

        Args:
            frames: an even number of frames.
            most: symbols of one code at most.
        """
        found: list[int] = []
        # the prediction net begins with zeros
        y, state = self.prediction(frames.new_zeros(1, 1, 320))
        for code in self.encode(frames):
            for _ in range(most):
                symbol = int(self.joint(torch.cat([code, y[0]], -1)).argmax())
                if symbol == BLANK:
                    break
                found.append(symbol)
                y, state = self.prediction(self.embedding(torch.tensor([[symbol]])), state)
        return found


class Decoded(nn.Module):
    """What ``greedy`` computes for known symbols: the joint net once a code and once a symbol."""

    def __init__(self, net: RNNT) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (codes + tokens, B, symbols)."""
        x, y = self.net.encode(frames), self.net.prediction(self.net.embedding(tokens))[0]
        steps = len(x) + len(y)
        at_code = torch.linspace(0, len(x) - 1, steps).long()
        at_token = torch.linspace(0, len(y) - 1, steps).long()
        logits: Tensor = self.net.joint(torch.cat([x[at_code], y[at_token]], -1))
        return logits


def example(seconds: float) -> tuple[Tensor, Tensor]:
    """Return frames and symbols of an utterance."""
    frames = STACK * round(seconds * FRAMES_PER_SECOND / STACK)
    symbols = max(1, round(seconds * SYMBOLS_PER_SECOND))
    return torch.zeros(frames, 1, 240), torch.zeros(symbols, 1, dtype=torch.long)


def chips(balance: bool = False, expansion: float | None = None) -> tuple[Chip, Chip]:
    """Return the chip with four devices per weight, and that with two."""
    four, two = (
        at.chips.ibm_speech34(pcm_per_weight=n, asymmetry_balance=balance).replace(
            expansion={"factor": expansion}
        )
        for n in (4, 2)
    )
    return four, two


def mapped(seconds: float, four: Chip, two: Chip) -> list[at.ChipMapping]:
    """Return the mappings of the matrices with four and with two devices per weight.

    A third one has all with four devices, on more chips than there are.
    """
    with torch.device("meta"):
        model = Decoded(RNNT())
    digital = ["net.joint.*"]
    given = example(seconds)
    whole = at.map_to_chip(model, given, chip=four, num_chips=None, exclude=digital)
    sizes = {m.name: m.weights for m in whole.matrices}
    first = [f"net.{name}" for name in SENSITIVE]
    plan = at.mapping.plan_devices(sizes, four, two, NUM_CHIPS, first=first)
    dense = {name: two for name in sizes if plan[name] == two.cell.devices}
    at.convert(model, four, exclude=digital, per_layer=dense)
    return [*at.mapping.map_by_chip(model, given), whole]


def efficiencies(mappings: Sequence[at.ChipMapping]) -> tuple[list[list[str]], str]:
    """Return energy and efficiency at each scope, with what an utterance takes.

    Inputs of an LSTM have signs, for which the chip's cost takes a second pass; what one pass would
    take stands beside it.
    """
    rows = [["scope", "energy, mJ", "TOPS/W", "in one pass", "published"]]
    passes: list[list[str] | None] = [None, []]
    costs = [[at.cost(m, signed_inputs=signed) for m in mappings] for signed in passes]
    operations = costs[0][2].operations
    energy, once = (at.cost_model.total_energy(parts[:2]) for parts in costs)
    for scope in PUBLISHED:
        joules = [getattr(split, scope) for split in (energy, once)]
        efficiency = [f"{operations / joule / 1e12:.3g}" for joule in joules]
        rows.append([scope, f"{1e3 * joules[0]:.3f}", *efficiency, f"{PUBLISHED[scope]:g}"])
    latency, in_one = (1e3 * parts[2].latency for parts in costs)
    return rows, (
        f"{operations / 1e9:.1f} G analog operations; {latency:.2f} ms ({in_one:.2f} ms in one "
        "pass) if all matrices have four devices"
    )


def run(seconds: float, mappings: Sequence[at.ChipMapping], seed: int = 0) -> list[str]:
    """Return what running an utterance on programmed chips takes, and how far it is off."""
    torch.manual_seed(seed)
    model = RNNT().eval()
    given = torch.randn(len(example(seconds)[0]), 1, 240)
    with torch.no_grad():
        exact = model.encode(given)
    four, two = (mapping.chip for mapping in mappings[:2])
    dense = {m.name.removeprefix("net."): two for m in mappings[1].matrices}
    at.convert(model, four, exclude=["joint.*"], per_layer=dense)
    start = time.perf_counter()
    physical = at.program(model, seed=1)
    programmed = time.perf_counter() - start
    lines = []
    for age in ("0 s", "7 days"):
        view = physical.at(age)
        start = time.perf_counter()
        symbols = view.greedy(given, most=1)
        took = time.perf_counter() - start
        with torch.no_grad():
            error = (view.encode(given) - exact).norm() / exact.norm()
        lines.append(
            f"{age}: {seconds:g} s of frames and {len(symbols)} symbols in {took:.1f} s; codes are "
            f"off by {100 * error:.1f} %"
        )
        del view
    return [f"programmed in {programmed:.1f} s", *lines]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rnnt",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seconds", type=positive, default=10, help="length of the utterance")
    parser.add_argument(
        "--balance", action="store_true", help="read each MVM twice, with exchanged polarities"
    )
    parser.add_argument(
        "--expansion",
        type=float,
        metavar="FACTOR",
        help="expand all matrices to this many times their rows, from 1",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/rnnt"))
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None,
    runs: Callable[[float, Sequence[at.ChipMapping]], list[str]] = run,
) -> None:
    """Map, run, print the figures and write them."""
    options = parse(argv)
    start = time.perf_counter()
    four, two = chips(options.balance, options.expansion)
    mappings = mapped(options.seconds, four, two)
    took = time.perf_counter() - start
    weights = mappings[2].weights
    devices = sum(m.cells * m.chip.cell.devices for m in mappings[:2])
    kinds = " and ".join(
        f"{m.num_chips} with {m.chip.cell.devices} ({m.tiles_used} tiles)" for m in mappings[:2]
    )
    notes = [
        f"{weights:,} weights, {devices / 1e6:.0f} M devices, on chips by devices per weight: "
        f"{kinds}; mapped in {took:.1f} s",
    ]
    table, work = efficiencies(mappings)
    notes += [f"an utterance of {options.seconds} s: {work}", *runs(options.seconds, mappings)]
    # ru_maxrss is in KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    iso = 100 - 0.99 * (100 - SOFTWARE)
    notes += [
        f"peak memory {peak:.1f} GiB",
        f"published (Ambrogio et al. 2023): word error rate {SOFTWARE} % in software, "
        f"{ON_CHIP} % on chips ({EXPANDED} % with weight expansion), {ON_CHIP_AFTER_A_WEEK} % "
        "after more than a week; the iso-accuracy "
        f"limit 100 - 0.99 (100 - {SOFTWARE}) is {iso:.3f} %",
        "energies and times are modelled; random weights",
    ]
    print("\n".join([as_text(table, 1), "", *notes]))
    write_atomically(options.out / "rnnt.md", as_markdown(table, "RNN-T on chips", notes, left=1))


if __name__ == "__main__":
    main()
