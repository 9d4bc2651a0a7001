"""A report with everything in it, made in a second, whose names try to break out of the page."""

import io
import wave

import torch
from torch import nn

import analogtorch as at
from analogtorch.evaluate import Sweep
from analogtorch.report import Heard, Misheard, RangeChoice, Result

HOSTILE = "<script>alert('1')</script>\" onload=\"x & | _"
TIMES = ("0 s", "1 day", "1 year")
SEEDS = (1, 2)


def sweep(mean: float) -> Sweep:
    values = torch.tensor(
        [[mean, mean - 0.01, mean - 0.02], [mean + 0.02, mean, mean - 0.04]], dtype=torch.float64
    )
    return Sweep(times=TIMES, values=values, seeds=SEEDS)


def network(layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    hidden = [nn.Linear(40, 40) for _ in range(layers - 1)]
    model = nn.Sequential(*hidden, nn.ReLU())
    model.add_module(HOSTILE.replace(".", ""), nn.Linear(40, 3))
    return model


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(bytes(3200))
    return file.getvalue()


def heard(classes: tuple[str, ...]) -> Heard:
    torch.manual_seed(0)
    labels = torch.arange(60) % len(classes)
    digital = labels.where(torch.rand(60) > 0.1, (labels + 1) % len(classes))
    chips = digital.where(torch.rand(2, 60) > 0.3, 0)
    clip = Misheard(
        index=4, name=f"clips/{HOSTILE}.wav", said=classes[1], digital=classes[1],
        chips=(classes[0], classes[1]), wav=wav(),
    )  # fmt: skip
    return Heard(
        classes=classes, labels=labels, digital=digital, chips=chips, seeds=SEEDS, time="1 day",
        misheard=(clip,),
    )  # fmt: skip


def result(classes: int = 3, layers: int = 2) -> Result:
    """Return a result that has every section."""
    model, chip = network(layers), at.chips.hermes64()
    x = torch.randn(30, 40)
    y = model(x).argmax(-1)
    at.calibrate(at.convert(model, chip), [x], effort="ranges")
    given = {"num_chips": 2, "time": "1 day"}

    def accuracy(view: nn.Module) -> float:
        return at.accuracy(view, [(x, y)])

    mapping = at.map_to_chip(model, x[:1], num_chips=None)
    names = (HOSTILE, *(f"word{i}" for i in range(1, classes)))
    return Result(
        digital=0.92, direct=sweep(0.85), hwa=sweep(0.91), chip="hermes64", tiles=1, seed=3,
        seconds=61.23, data={"source": "folder", "train": 10, "val": 2, "test": 60},
        versions={"torch": "2.14"}, notes=(f"A note on {HOSTILE}",),
        heard=heard(names), mapping=mapping, cost=at.cost(mapping), windows_per_second=4.0,
        sensitivity=at.sensitivity(model, accuracy, **given),
        budget=at.budget(model, accuracy, growth=None, names=["programming_noise", "adc"], **given),
        levels={1.0: sweep(0.9), 1.5: sweep(0.91)}, level=1.5,
        ranges={HOSTILE: RangeChoice(learnt=sweep(0.93), new=sweep(0.9), margin=0.01)},
        ablation={f"without {HOSTILE}": sweep(0.88)},
        config={"seed": 3, "data": {"folder": {"root": f"/data/{HOSTILE}"}}, "times": list(TIMES)},
        command=f"analogtorch kws --config config.json --out '{HOSTILE}'",
    )  # fmt: skip
