"""Threads that share a programmed chip's view: every MVM has other noise, and none is lost."""

import contextlib
import copy
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import eval_frame

import analogtorch as at
from analogtorch.calibration.judge import Judge
from analogtorch.conversion.restored import same_random
from analogtorch.conversion.watch import eager
from analogtorch.nn import AnalogLayer
from analogtorch.ops.scope import noise_in_turn

CHIP = at.chips.hermes64().replace(adc={"noise": 0.04}, periphery={"output_bits": None})
THREADS, CALLS = 4, 24


@pytest.fixture(autouse=True)
def _slow_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave time between reading and increasing the count, so that threads overlap there."""

    def slow(layer: AnalogLayer, vectors: int) -> Tensor:
        first = layer.vectors_read.clone()
        time.sleep(1e-3)
        layer.vectors_read.copy_(first + vectors)
        return first

    monkeypatch.setattr(AnalogLayer, "_counted_on", slow)


def _run(view: nn.Module, x: Tensor) -> float:
    y = view(x, x, x) if isinstance(view, nn.MultiheadAttention) else view(x)
    return (y if isinstance(y, Tensor) else y[0]).sum().item()


@pytest.mark.parametrize("kind", [nn.Linear, nn.LSTM, nn.MultiheadAttention])
def test_a_view_shared_by_threads_counts_every_multiply(kind: type) -> None:
    torch.manual_seed(0)
    physical, x = at.program(at.convert(kind(8, 8), CHIP), seed=1), torch.randn(1, 1, 8)
    shared, alone = physical.at("0 s"), physical.at("0 s")
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: _run(shared, x), range(CALLS)))
    for _ in range(CALLS):
        _run(alone, x)
    counts = [
        {name: layer.vectors_read.item() for name, layer in at.analog_layers(v)}
        for v in (shared, alone)
    ]
    assert counts[0] == counts[1]


def test_the_outputs_of_one_layer_are_those_of_one_thread_in_some_order() -> None:
    torch.manual_seed(0)
    physical, x = at.program(at.convert(nn.Linear(8, 8), CHIP), seed=1), torch.randn(1, 8)
    shared, alone = physical.at("0 s"), physical.at("0 s")
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda _: _run(shared, x), range(CALLS)))
    expected = [_run(alone, x) for _ in range(CALLS)]
    assert len(set(expected)) == CALLS
    assert sorted(found) == pytest.approx(sorted(expected), abs=1e-5)


def test_random_states_that_a_thread_puts_back_leave_the_noise_of_another() -> None:
    entered, inside, left = Event(), Event(), Event()

    def restoring() -> None:
        with same_random():
            entered.set()
            inside.wait(60)
        left.set()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(restoring)
        entered.wait(60)
        with noise_in_turn(5):
            inside.set()
            left.wait(0.2)
            drawn = torch.rand(4)
        done.result()
    with noise_in_turn(5):
        assert torch.equal(drawn, torch.rand(4))


def test_random_states_that_a_thread_puts_back_are_not_of_the_noise_of_another() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    entered, inside, outside = Event(), Event(), Event()

    def restoring() -> None:
        inside.wait(60)
        with same_random():
            entered.set()
            outside.wait(60)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(restoring)
        with noise_in_turn(5):
            inside.set()
            entered.wait(0.2)
        outside.set()
        done.result()
    assert torch.equal(state, torch.get_rng_state())


def test_what_a_thread_draws_is_not_taken_for_what_another_s_model_draws() -> None:
    running, drawn = Event(), Event()

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        running.set()
        drawn.wait(0.05)
        out: Tensor = model(x)
        return out

    def drawing() -> None:
        running.wait(60)
        with noise_in_turn(5):
            torch.rand(4)
            drawn.set()
            time.sleep(0.2)

    model = at.convert(nn.Linear(8, 4), CHIP)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(drawing)
        assert not Judge(model, [torch.randn(4, 8)], forward).draws
        done.result()


def test_threads_calibrate_as_one_does() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    model = at.convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), CHIP)
    first, *others = (copy.deepcopy(model.eval()) for _ in range(4))
    at.calibrate(first, [x] * 4)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda each: at.calibrate(each, [x] * 4), others))
    expected = first(x)
    assert all(torch.equal(each(x), expected) for each in others)


def test_a_reestimate_may_run_inside_another() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), torch.randn(16, 8)
    net(x)
    physical = at.program(at.convert(net.eval(), CHIP), seed=1)

    def forward(view: nn.Module, batch: Tensor) -> Tensor:
        at.reestimate_batch_norm(physical.at("2 days"), [x])
        out: Tensor = view(batch)
        return out

    assert at.reestimate_batch_norm(physical.at("1 day"), [x], forward=forward) == ["1"]


def test_models_are_compiled_again_after_threads_that_ran_them_as_written() -> None:
    """The first thread leaves its context while the second is in one."""
    before = eval_frame._stance
    first, second = eager(), eager()
    with contextlib.ExitStack() as rest:
        with contextlib.ExitStack() as stack:
            stack.enter_context(first)
            rest.enter_context(second)
        assert eval_frame._stance.stance == "force_eager"
    assert eval_frame._stance == before
