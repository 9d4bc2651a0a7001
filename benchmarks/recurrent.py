"""The cost of analog recurrent layers as ratios to torch.nn's.

    python -m benchmarks.recurrent [--threads 1] [--rounds 25] [--one-by-one]

Layers on ``hermes64``, calibrated by default. train: a step with gradients of input and Parameters,
with the default training noise. eval: a forward behind the converters. chip: a forward on a
programmed chip after a day. Times are medians, measured in turns on one machine. All steps run in
one operator, unless they are to run one by one, as where something looks at each product.
"""

import argparse
import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import analogtorch as at
from benchmarks.mvm import medians, turns
from benchmarks.tables import as_text, positive

LAYERS: dict[str, tuple[type[nn.RNNBase], tuple[int, int], tuple[int, int]]] = {
    "GRU, Hello Edge": (nn.GRU, (10, 154), (49, 100)),
    "LSTM, Hello Edge": (nn.LSTM, (10, 118), (49, 100)),
    "LSTM, 2 row blocks": (nn.LSTM, (80, 512), (100, 8)),
    "LSTM, one sample": (nn.LSTM, (80, 128), (100, 1)),
}
"""Kind of each layer, its inputs and states, and the steps and samples of a batch."""


def step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a training step, whose gradients are then dropped."""
    x, g = x.clone().requires_grad_(), torch.ones(*x.shape[:2], model[0].hidden_size)

    def run() -> None:
        model(x)[0].backward(g)
        x.grad = None
        model.zero_grad()

    return run


def forward(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a forward without gradients."""

    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def row(name: str, rounds: int, one_by_one: bool) -> list[str]:
    """Return name, shape, torch.nn's times in ms, and the ratios of a layer.

    With ``one_by_one`` something looks at each product, and does nothing.
    """
    kind, sizes, batch = LAYERS[name]
    torch.manual_seed(0)
    digital, x = nn.Sequential(kind(*sizes)), torch.randn(*batch, sizes[0])
    analog = at.convert(copy.deepcopy(digital), at.chips.hermes64())
    at.calibrate(analog, [x], progress=False)
    quiet, still = copy.deepcopy(digital).eval(), copy.deepcopy(analog).eval()
    chip = at.program(analog, seed=0).at("1 day")
    runs = {
        "train": step(digital, x),
        "analog train": step(analog.train(), x),
        "eval": forward(quiet, x),
        "analog eval": forward(still, x),
        "chip": forward(chip, x),
    }
    look = at.nn.Tap(product=lambda *_: None)
    seen = (analog, still, chip) if one_by_one else ()
    with at.nn.tapped({layer: look for model in seen for _, layer in at.analog_layers(model)}):
        ms = medians(turns(runs, rounds))
    ratios = [
        ms["analog train"] / ms["train"],
        ms["analog eval"] / ms["eval"],
        ms["chip"] / ms["eval"],
    ]
    shape = f"{batch[0]} x {batch[1]} x {sizes[0]} -> {sizes[1]}"
    return [
        name,
        shape,
        f"{ms['train']:.1f}",
        f"{ms['eval']:.1f}",
        *(f"{ratio:.2f}" for ratio in ratios),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recurrent",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--threads", type=positive, default=1, help="of torch")
    parser.add_argument("--rounds", type=positive, default=25, help="of each measurement")
    parser.add_argument(
        "--layers", nargs="+", choices=LAYERS, default=list(LAYERS), metavar="LAYER"
    )
    parser.add_argument(
        "--one-by-one", action="store_true", help="look at each product, so that steps run so"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    header = ["layer", "steps x samples", "torch.nn train, ms", "eval, ms"]
    table = [[*header, "train", "eval", "chip"]]
    table += [row(name, options.rounds, options.one_by_one) for name in options.layers]
    print(as_text(table, left=2))


if __name__ == "__main__":
    main()
