"""A camera that computes its first convolution: accuracy against light, and energy.

    python -m benchmarks.sensor

scikit-learn's digits, 8x8 pixels from 0 to 1, fall on ``photodiode_sensor``, whose networks compute
the first convolution of a small net; ``hermes64`` computes the rest. The camera beside it converts
each pixel (8 bits), sends it to the chip, and ``hermes64`` computes all layers. Everything is
simulated; light, electrons, dark current and energies are assumptions of the presets.
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.files.figures import new_figure, write_figure
from benchmarks.tables import as_markdown, positive

LUX = (0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 100.0, 1000.0)
FILTERS = 7
PIXEL = 1.667e-12
"""J of one 8-bit conversion, as in the preset: ISAAC, Shafiee et al., ISCA 2016, 32 nm."""


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images (N, 1, 8, 8) from 0 to 1 and classes, of training and of test."""
    from sklearn import datasets, model_selection

    whole = datasets.load_digits()
    x, test_x, y, test_y = model_selection.train_test_split(
        whole.images / 16, whole.target, test_size=0.3, random_state=0, stratify=whole.target
    )
    images = [torch.as_tensor(t).float().unsqueeze(1) for t in (x, test_x)]
    return images[0], torch.as_tensor(y), images[1], torch.as_tensor(test_y)


def network() -> nn.Module:
    """Return a net whose first convolution has as many filters as the sensor of the paper ran."""
    first = nn.Conv2d(1, FILTERS, 3, bias=False)
    hidden = nn.Linear(FILTERS * 36, 64)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), hidden, nn.ReLU(), nn.Linear(64, 10))


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float, seed: int) -> nn.Module:
    """Train in place, with the noise of the chips that the model is on."""
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model.eval()


def on_chips(model: nn.Module, x: Tensor, lux: float) -> nn.Module:
    """Return a copy with its first convolution in a sensor at this light, the rest on hermes64."""
    sensor = "0", at.chips.photodiode_sensor(illuminance=lux)
    copied = at.convert(copy.deepcopy(model), at.chips.hermes64(), sensor=sensor)
    return at.calibrate(copied, [x[:256]], effort="ranges")


def measured(model: nn.Module, x: Tensor, y: Tensor, chips: int) -> float:
    """Return the mean accuracy of some programmed chips, %."""
    found = [at.accuracy(at.program(model, seed=s).at("0 s"), [(x, y)]) for s in range(chips)]
    return 100 * sum(found) / chips


def accuracies(epochs: int, chips: int, plots: Path | None) -> tuple[list[list[str]], list[str]]:
    """Return the table of accuracy against light."""
    x, y, test_x, test_y = digits()
    torch.manual_seed(0)
    digital = train(network(), x, y, epochs, 3e-3, seed=0)
    whole = 100 * at.accuracy(digital, [(test_x, test_y)])
    table = [
        ["lux on the sensor", "electrons of white", "mapped directly", "trained at this light"]
    ]
    curves: dict[str, list[float]] = {"mapped directly": [], "trained at this light": []}
    for lux in LUX:
        direct = on_chips(digital, x, lux)
        trained = train(on_chips(digital, x, lux), x, y, max(epochs // 2, 1), 1e-3, seed=1)
        full = direct[0].chip.light.full
        pair = [measured(model, test_x, test_y, chips) for model in (direct, trained)]
        for curve, value in zip(curves.values(), pair, strict=True):
            curve.append(value)
        table.append([f"{lux:g}", f"{full:,.0f}", *[f"{value:.1f} %" for value in pair]])
    if plots:
        figure = new_figure(6, 3.4)
        axes = figure.add_subplot()
        for name, curve in curves.items():
            axes.semilogx(LUX, curve, marker="o", markersize=3, label=name)
        axes.axhline(whole, color="black", label="digital")
        axes.axhline(0.95 * whole, color="black", linestyle=":", label="95 % of digital")
        axes.set_xlabel("lux on the sensor, 1 ms")
        axes.set_ylabel("accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        write_figure(figure, plots / "sensor_light.png")
    notes = [
        f"digital {whole:.1f} %; mean of {chips} chips right after programming, 1 ms exposures"
    ]
    return table, notes


def energies() -> tuple[list[list[str]], list[str]]:
    """Return the table of energy of one image, with the sensor and with a camera."""
    x, chip = torch.rand(1, 1, 8, 8), at.chips.hermes64()
    all_layers = at.cost(at.map_to_chip(network(), x, chip=chip)).energy.system
    parts = at.mapping.map_by_chip(at.convert(network(), chip, sensor="0"), x)
    costs = [at.cost(part) for part in parts]
    first, behind = (cost.energy.system for cost in costs)
    both = at.cost_model.total_energy(costs).system
    pixels = x.numel() * PIXEL
    table = [
        ["nJ of one image", "camera and hermes64", "sensor and hermes64"],
        ["pixels converted", f"{1e9 * pixels:.3f}", "0"],
        ["outputs of the sensor converted", "0", f"{1e9 * first:.3f}"],
        ["hermes64", f"{1e9 * all_layers:.1f}", f"{1e9 * behind:.1f}"],
        ["all", f"{1e9 * (pixels + all_layers):.1f}", f"{1e9 * both:.1f}"],
    ]
    notes = [
        "modelled; transfers to hermes64 are in its row: 64 pixels, or 252 outputs of the sensor"
    ]
    return table, notes


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sensor")
    parser.add_argument("--epochs", type=positive, default=30, help="of the digital training")
    parser.add_argument("--chips", type=positive, default=5)
    parser.add_argument("--plots", type=Path, help="folder of the plot; none by default")
    options = parser.parse_args(argv)
    table, notes = accuracies(options.epochs, options.chips, options.plots)
    print(as_markdown(table, "Accuracy against light", notes, left=0), flush=True)
    table, notes = energies()
    print(as_markdown(table, "Energy", notes, left=1))


if __name__ == "__main__":
    main()
