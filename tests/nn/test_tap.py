"""Taps: what looks at a layer while it computes, or lets it compute otherwise for a while."""

import contextlib
import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.conversion.unread import quiet
from analogtorch.nn import Tap, tapped
from analogtorch.nn.execution import Exact
from analogtorch.nn.programmed import OnChip
from analogtorch.nn.tap import hooked
from analogtorch.ops import product
from tests.crossbar import crossbar

X = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))
SMALL = crossbar(array={"rows": 8, "columns": 6})


def _layer() -> at.nn.AnalogLinear:
    torch.manual_seed(0)
    return at.nn.AnalogLinear(20, 7, chip=SMALL).eval()


def test_a_tap_gets_input_operands_plan_outputs_and_result() -> None:
    layer, inputs, products = _layer(), [], []
    expected = layer(X)
    tap = Tap(input=inputs.append, product=lambda *seen: products.append(seen))
    with tapped({layer: tap}):
        assert torch.equal(layer(X), expected)
    assert inputs[0] is X
    ((operands, plan, outputs, y),) = products
    assert (plan, outputs) == (layer.execution.plans[0], slice(0, 7))
    assert torch.equal(y, expected)
    assert torch.equal(product(operands, plan), expected)


def test_two_taps_are_called_in_order_and_one_outlives_the_other() -> None:
    layer, calls = _layer(), []
    first, second = (
        Tap(input=lambda x, n=n: calls.append(n), product=lambda *_, n=n: calls.append(-n))
        for n in (1, 2)
    )
    with tapped({layer: first}):
        with tapped({layer: second}):
            layer(X)
        assert calls == [1, 2, -1, -2]
        layer(X)
        assert calls == [1, 2, -1, -2, 1, -1]
        with tapped({layer: first}):
            layer(X)
        assert calls[6:] == [1, 1, -1, -1]
        assert layer.taps == (first,)
    assert "taps" not in vars(layer)


def test_nothing_is_left_behind_by_an_exception() -> None:
    layer, other = _layer(), _layer()

    @contextlib.contextmanager
    def running() -> Iterator[None]:
        calls.append("in")
        try:
            yield
        finally:
            calls.append("out")

    def fails(*_: object) -> None:
        raise KeyError("mine")

    calls: list[str] = []
    for tap in (Tap(running=running, input=fails), Tap(running=running, product=fails)):
        with pytest.raises(KeyError, match="mine"), tapped({layer: tap, other: tap}):
            layer(X)
        assert not layer.taps
        assert not other.taps
    assert calls == ["in", "out"] * 2
    assert "taps" not in vars(layer)


def test_another_execution_is_used_while_the_tap_is_open() -> None:
    layer = _layer()
    quantised, digital = layer(X), nn.functional.linear(X, layer.weight, layer.bias)
    exact = layer.executions_on(at.chips.ideal()).evaluation
    assert isinstance(exact, Exact)
    with tapped({layer: Tap(execution=exact)}):
        assert torch.equal(layer(X), digital)
        with tapped({layer: Tap(execution=layer.executions.evaluation)}):  # the last decides
            assert torch.equal(layer(X), quantised)
        with tapped({layer: Tap(input=lambda _: None)}):
            assert torch.equal(layer(X), digital)
    assert torch.equal(layer(X), quantised)


def test_a_programmed_chip_that_computes_exactly_counts_nothing() -> None:
    view = at.program(_layer(), seed=1).at("1 day")
    assert isinstance(view.execution, OnChip)
    exact = Tap(execution=view.executions_on(at.chips.ideal()).evaluation)
    with tapped({view: exact}), quiet():  # nobody is warned that it has not run
        view(X)
    assert view.vectors_read.item() == 0
    assert not view.has_run
    view(X)
    assert view.has_run


def test_executions_are_shared_by_copies_and_travel_with_pickles() -> None:
    layer = _layer().train()
    assert copy.deepcopy(layer).execution is layer.execution
    again = pickle.loads(pickle.dumps(layer))
    with at.noise(3):
        expected = layer(X)
    with at.noise(3):
        assert torch.equal(again(X), expected)


def test_a_changed_name_keys_other_noise_once_the_executions_are_made_anew() -> None:
    layer = _layer().train()
    streams = layer.execution.streams
    layer.layer_name = "other"
    layer.replan()
    assert set(layer.execution.streams).isdisjoint(streams)


def test_hooks_of_digital_modules_are_removed_in_the_same_way() -> None:
    digital, calls = nn.Linear(20, 7), []
    with (
        pytest.raises(KeyError),
        hooked([digital], before=lambda m, x: calls.append(x), after=lambda *_: fails()),
    ):
        digital(X)
    assert calls == [(X,)]
    assert not digital._forward_hooks
    assert not digital._forward_pre_hooks


def fails() -> None:
    raise KeyError
