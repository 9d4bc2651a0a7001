"""What the cases do with a model: evaluate it, take gradients, calibrate and program it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import api

Found = Iterator[tuple[str, Any]]
Case = Callable[[], Found]
Inputs = Sequence[Tensor]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call the model as the ``forward`` of ``calibrate`` does."""
    return model(*inputs)


@torch.no_grad()
def evaluated(model: nn.Module, inputs: Inputs) -> Any:
    """Return the outputs in evaluation mode."""
    return model.eval()(*inputs)


def stepped(model: nn.Module, inputs: Inputs, step: int = 3) -> dict[str, Any]:
    """Return outputs in training mode, and gradients of the inputs and of every Parameter."""
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    model.train().zero_grad()
    with api.noise(1, step=step):
        outputs = model(*leaves)
    loss = torch.zeros((), dtype=torch.float64)
    for t in _tensors(outputs):
        loss = loss + (t.double() * torch.arange(t.numel()).view_as(t).cos()).sum()
    loss.backward()
    found: dict[str, Any] = {"outputs": outputs}
    found["of inputs"] = [x.grad for x in leaves if x.requires_grad]
    found["of parameters"] = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    model.eval()
    return found


def programmed(model: nn.Module, inputs: Inputs, time: str = "1 day", **options: Any) -> Any:
    """Return what a programmed chip holds, and its outputs for the same inputs, run twice."""
    return run_twice(api.program(model, seed=7).at(time, **options), inputs)


def run_twice(view: nn.Module, inputs: Inputs) -> list[Any]:
    """Return what a view of a programmed chip holds, and its outputs for the same inputs, twice."""
    return [api.held(view), *(evaluated(view, inputs) for _ in range(2))]


def calibrated(model: nn.Module, samples: Sequence[Inputs], **options: Any) -> nn.Module:
    """Return the model after calibration."""
    return api.calibrate(model, list(samples), forward=call, **options)


def everything(model: nn.Module, make: Callable[[int], Inputs]) -> Found:
    """Yield a converted model before and after calibration, trained and programmed.

    Args:
        model: a converted model.
        make: a function from a seed to its inputs.
    """
    inputs = make(0)
    yield "uncalibrated", evaluated(model, inputs)
    yield "uncalibrated, training", stepped(model, inputs)
    if any(x.is_floating_point() for x in inputs):
        calibrated(model, [make(seed) for seed in (1, 2)])
        yield "calibrated ranges", api.ranges(model)
        yield "calibrated", evaluated(model, inputs)
        yield "calibrated, training", stepped(model, inputs)
        calibrated(model, [make(seed) for seed in (1, 2)], method="percentile", percentile=98.0)
        # which learns: the measured one may be a range per vector
        yield "a range, training", stepped(model, inputs)
    yield "programmed", programmed(model, inputs)
    yield "programmed, a year", programmed(model, inputs, "1 year", compensation="global")


def by_tile(model: nn.Module, make: Callable[[int], Inputs]) -> Found:
    """Run with a DAC range per row block, and an ADC range per column if there is an ADC."""
    inputs, chips = make(0), {layer.chip for _, layer in api.analog_layers(model)}
    adc = {"adc": "mse", "adc_per": "column"} if all(map(api.has_adc, chips)) else {}
    calibrated(model, [make(seed) for seed in (1, 2)], method="absmax", per="tile", **adc)
    yield "ranges", api.ranges(model)
    yield "evaluation", evaluated(model, inputs)
    yield "training", stepped(model, inputs)
    yield "programmed", programmed(model, inputs)


def in_plain_torch(case: Case) -> Case:
    """Return the case without the CPU kernels."""

    def run() -> Found:
        with api.in_plain_torch():
            yield from case()

    return run


@contextlib.contextmanager
def one_thread(threads: int = 1) -> Iterator[None]:
    """Let torch and the kernels use this many threads while the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        for each in value or ():
            yield from _tensors(each)
