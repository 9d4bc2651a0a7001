"""What every kind of layer must survive: copies, checkpoints, compilers, replays."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import analogtorch as at
from tests.crossbar import crossbar

SMALL = crossbar(array={"rows": 24, "columns": 7})
"""Several row and column blocks of the layers here."""


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


def same(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    pairs = list(zip(flat(a), flat(b), strict=True))
    return all(x.shape == y.shape and torch.allclose(x, y, atol=tolerance) for x, y in pairs)


def converted(digital: nn.Module, x: Tensor, **options: Any) -> nn.Module:
    """Return the layer on ``SMALL``, with ranges for ``x``."""
    model = at.convert(copy.deepcopy(digital), SMALL, **options)
    for _, layer in at.analog_layers(model):
        if layer.takes_range:
            layer.set_input_range(2.5)
    return model


def check_copies(digital: nn.Module, x: Tensor, **options: Any) -> None:
    """State dict, deepcopy, pickle, and the way back."""
    model = converted(digital, x, **options)
    assert list(model.state_dict()) == list(digital.state_dict())
    model.load_state_dict(digital.state_dict(), strict=True)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with at.noise(1):
            expected = model(x)
        with at.noise(1):
            assert same(other(x), expected, 0.0)
    view = at.program(model, seed=1).at("1 day")
    assert same(copy.deepcopy(view)(x), view(x), 0.0)
    parameters = list(model.parameters())
    back = at.to_digital(model)
    assert [type(m) for m in back.modules()] == [type(m) for m in digital.modules()]
    assert all(any(p is q for q in parameters) for p in back.parameters())
    assert list(back.state_dict()) == list(digital.state_dict())
    assert same(back(x), digital(x), 0.0)


def check_checkpoint(digital: nn.Module, x: Tensor, folder: Path, **options: Any) -> None:
    """``save`` and ``load`` into a digital model, into one on meta, and of a programmed chip."""
    model = converted(digital, x, **options).eval()
    at.save(model, folder)
    fresh, empty = copy.deepcopy(digital), copy.deepcopy(digital).to("meta")
    with torch.no_grad():
        for p in fresh.parameters():
            p.zero_()
    for other in (fresh, empty):
        loaded = at.load(folder, other).eval()
        assert same(loaded(x), model(x), 0.0)
        assert [type(m) for m in loaded.modules()] == [type(m) for m in model.modules()]
        ranges = [
            [layer.input_range.item() for _, layer in at.analog_layers(m)] for m in (loaded, model)
        ]
        assert ranges[0] == ranges[1]
    physical = at.program(model, seed=4)
    at.save(physical, folder)
    assert same(at.load(folder, fresh).at("1 h")(x), physical.at("1 h")(x), 0.0)


def check_replay(digital: nn.Module, x: Tensor, **options: Any) -> None:
    """Noise by seed and step, and the same in batches of any size, in training and on a chip."""
    model = converted(digital, x, **options)

    def run(step: int, first: int = 0, x: Tensor = x) -> Any:
        with at.noise(5, step=step, first_sample=first):
            return model(x)

    whole = run(3)
    assert same(run(3), whole, 0.0)
    assert not same(run(4), whole)
    assert same(
        run(3, 1, x[1:]), [t[1:] for t in flat(whole)] if isinstance(whole, tuple) else whole[1:]
    )
    physical = at.program(model, seed=2)
    view, parts = physical.at("1 day"), physical.at("1 day")
    first = view(x)
    joined = [
        torch.cat(pieces) for pieces in zip(flat(parts(x[:1])), flat(parts(x[1:])), strict=True)
    ]
    assert same(joined, flat(first))
    assert not same(view(x), first)


def check_compilers(digital: nn.Module, x: Tensor, **options: Any) -> None:
    """Check one graph in training and on a chip, with eager's numbers and gradients.

    ``torch.export`` is checked too.
    """
    torch._dynamo.reset()
    model = converted(digital, x, **options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    def step(run: Callable[..., Any]) -> list[Tensor]:
        model.zero_grad()
        with at.noise(3):
            outputs = flat(run(x))
        torch.stack([t.square().sum() for t in outputs]).sum().backward()
        return [
            *(t.detach() for t in outputs),
            *(p.grad for p in model.parameters() if p.grad is not None),
        ]

    assert same(step(compiled), step(model))
    model.eval()
    with torch.no_grad():
        assert same(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
        assert same(torch.export.export(model, (x,)).module()(x), model(x))
        physical = at.program(model, seed=7)
        eager, view = physical.at("1 day"), physical.at("1 day")
        exported = torch.export.export(view, (x,)).module()
        for _ in range(2):  # the second time, the inputs count on
            assert same(exported(x), eager(x))


def check_reports(digital: nn.Module, x: Tensor, names: list[str], **options: Any) -> None:
    """Summary and guard list every layer, and nothing is left out."""
    model = converted(digital, x, **options)
    summary = at.summary(model)
    assert [row.name for row in summary.layers] == names
    assert not summary.skipped
    report = at.guard(model, x)
    assert [(row.name, row.runs) for row in report.layers] == [(name, 1) for name in names]
    assert str(summary)
    assert repr(model)
