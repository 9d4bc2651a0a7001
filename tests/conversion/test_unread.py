import copy
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

import analogtorch as at

CHIP = at.chips.hermes64()
X = torch.randn(4, 8)


class Sometimes(nn.Module):
    """A layer for large inputs, and one whose weight is used without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.large, self.direct = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x) @ self.direct.weight
        return self.large(x) if x.abs().max() > 1e3 else x


@pytest.fixture
def mamba() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "state_size": 4, "time_step_rank": 4, "num_hidden_layers": 2}
    return at.convert(MambaForCausalLM(MambaConfig(vocab_size=32, **sizes)).eval(), CHIP)


def test_layers_that_a_mamba_computes_with_digitally_are_named(mamba: nn.Module) -> None:
    view = at.program(mamba, seed=0).at("1 day")
    with pytest.warns(
        UserWarning, match=r"4 of 11 analog layers .* did not run: .*0\.mixer\.conv1d.*guard"
    ) as caught:
        view(input_ids=torch.arange(8)[None])
    assert [Path(warning.filename).name for warning in caught] == ["test_unread.py"]
    assert not view._forward_hooks


def test_a_converted_model_names_them_after_its_first_run() -> None:
    model = at.convert(Sometimes(), CHIP)
    copied = pickle.loads(pickle.dumps(model))
    for each in (model, copied):
        with pytest.warns(
            UserWarning,
            match=r"2 of 3 analog layers of this Sometimes did not run: 'large', 'direct'.*rest",
        ) as caught:
            each(X)
        assert [Path(warning.filename).name for warning in caught] == ["test_unread.py"]
        each(X)
    physical = at.program(model, seed=0)
    with pytest.warns(UserWarning, match="2 of 3 analog layers of this programmed chip did not"):
        physical.at("1 day")(X)
    physical.at("1 h")(X)  # they are known
    at.program(model, seed=1).at("1 day")(X)
    with pytest.raises(ValueError, match="'direct'"):
        at.convert(Sometimes(), CHIP, example=X)


def test_only_a_model_that_was_not_watched_is_asked() -> None:
    for how in ("example", "calibrated", "digital"):
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        model = at.convert(model, CHIP, example=X if how == "example" else None)
        if how == "calibrated":
            at.calibrate(model, [X])
        if how == "digital":
            at.to_digital(model)
        model(X)
        assert not model._forward_hooks


def test_a_calibration_that_fails_leaves_the_warning_to_the_first_run() -> None:
    model = at.convert(Sometimes(), CHIP)
    with pytest.raises(ValueError, match="has NaN"):
        at.calibrate(model, [X, X * torch.nan], allow_unused=True)
    with pytest.warns(UserWarning, match="2 of 3 analog layers .* did not run"):
        model(X)


def test_they_are_named_once_for_all_chips_and_times_of_a_model() -> None:
    model = at.convert(Sometimes(), CHIP)
    physical = at.program(model, seed=0)
    with pytest.warns(
        UserWarning,
        match="2 of 3 analog layers .* did not run: 'large', 'direct'. Either this input",
    ):
        physical.at("1 day")(X)
    physical.at("1 h")(X)
    at.sweep(model, lambda view: view(X).mean().item(), num_chips=2)
    with pytest.warns(UserWarning, match="'large', 'direct'"):
        at.program(copy.deepcopy(model), seed=0).at("0 s")(X)


def test_a_sweep_names_them() -> None:
    with pytest.warns(UserWarning, match="2 of 3 analog layers .* did not run") as caught:
        at.sweep(at.convert(Sometimes(), CHIP), lambda view: view(X).mean().item(), num_chips=2)
    assert len(caught) == 1


def test_nothing_is_said_where_all_layers_run() -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 4)), CHIP)
    view = at.program(model, seed=0).at("1 day")
    for each in (copy.deepcopy(view), pickle.loads(pickle.dumps(view)), view):
        each(X)
        assert not each._forward_hooks


def test_the_guard_reports_by_itself() -> None:
    view = at.program(at.convert(Sometimes(), CHIP, exclude="direct"), seed=0).at("1 day")
    assert at.guard(view, X, allow_unused=True).unused == ("large",)
    with pytest.warns(UserWarning, match="1 of 2 analog layers"):
        view(X)


def test_a_compiled_chip_runs_in_silence() -> None:
    view = at.program(at.convert(Sometimes(), CHIP, exclude="direct"), seed=0).at("1 day")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.compile(view, backend="eager")(X)


def _pair() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def test_a_net_that_is_wrapped_before_it_is_converted_is_the_same_chip_and_runs_in_silence() -> (
    None
):
    compiled = at.convert(torch.compile(_pair(), backend="eager"), CHIP)
    digital = _pair()(X)
    part = _pair()
    part[2] = torch.compile(part[2], backend="eager")
    plain = at.program(at.convert(_pair(), CHIP), seed=1).at("1 day")(X)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for model in (compiled, at.convert(part, CHIP)):
            assert not torch.equal(model(X), digital)
            view = at.program(model, seed=1).at("1 day")
            torch.testing.assert_close(view(X), plain)
    for model in (
        nn.DataParallel(_pair()),
        nn.Sequential(nn.DataParallel(_pair()[0]), *_pair()[1:]),
    ):
        wrapped = at.program(at.convert(model.eval(), CHIP), seed=1).at("1 day")
        torch.testing.assert_close(wrapped(X), plain)
    beside = nn.DataParallel(_pair())
    beside.head = nn.Linear(4, 4)
    names = [layer.layer_name for _, layer in at.analog_layers(at.convert(beside, CHIP))]
    assert names == ["0", "2", "head"]
    one = torch.compile(nn.Linear(8, 8), backend="eager")
    digital = one(X)
    assert next(iter(at.analog_layers(at.convert(one, CHIP))))[1].layer_name == ""
    assert not torch.equal(one(X), digital)  # the layer itself was compiled
    assert torch.equal(at.to_digital(one)(X), digital)


def test_layers_beside_a_compiled_part_are_named() -> None:
    model = Sometimes()
    model.body = torch.compile(model.body, backend="eager")
    with pytest.warns(UserWarning, match=r"2 of 3 analog layers .*: 'large', 'direct'\."):
        at.convert(model, CHIP)(X)


def _convolutions() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.Linear(6, 2))
    return at.convert(net, at.chips.hermes64())


def test_inputs_of_another_scale_than_those_of_calibration_are_named() -> None:
    model, x = _convolutions(), torch.randn(32, 4, 10, generator=torch.Generator().manual_seed(0))
    at.calibrate(model, [x], effort="ranges", progress=False)
    physical = at.program(model, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view = physical.at("1 day")
        view(x)
        view(100 * x)  # the first run alone is looked at
    text = r"1 of 3 .* clip most of their inputs.*: '0' \(\d\d\.\d times\)\. .*calibrate"
    with pytest.warns(UserWarning, match=text) as caught:
        _ = [physical.at(time)(100 * x) for time in ("1 h", "1 day")]
    assert len(caught) == 1


def test_a_sweep_names_inputs_of_another_scale() -> None:
    model, x = _convolutions(), torch.randn(32, 4, 10, generator=torch.Generator().manual_seed(0))
    at.calibrate(model, [x], effort="ranges", progress=False)
    with pytest.warns(UserWarning, match="1 of 3 .* clip most of their inputs") as caught:
        at.sweep(model, lambda view: view(50 * x).mean().item(), num_chips=2, times=["0 s"])
    assert len(caught) == 1


def test_a_few_large_inputs_are_no_other_scale() -> None:
    model, x = _convolutions(), torch.randn(32, 4, 10, generator=torch.Generator().manual_seed(0))
    at.calibrate(model, [x], effort="ranges", progress=False)
    x[0, 0, :3] = 1e5
    at.program(model, seed=0).at("1 day")(x)


class Later(nn.Module):
    """A layer that runs on request."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, both: bool = True) -> torch.Tensor:
        return self.second(x) if both else self.first(x)


def test_a_layer_that_was_named_for_one_thing_is_named_for_the_other() -> None:
    torch.manual_seed(0)
    model, x = at.convert(Later(), at.chips.hermes64()), torch.randn(64, 8)
    with pytest.warns(UserWarning, match="'first'"):
        model(x)
    for layer in (model.first, model.second):
        layer.set_input_range(3.0)
    physical = at.program(model, seed=0)
    with pytest.warns(UserWarning, match="did not run: 'first'"):
        physical.at("1 day")(x)
    with pytest.warns(UserWarning, match="clip most|did not run") as caught:
        physical.at("1 day")(100 * x, both=False)
    assert ["clip most" in str(w.message) for w in caught] == [True, False]


def test_the_first_run_of_a_programmed_chip_may_be_under_vmap() -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 4)), at.chips.hermes64())
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    at.calibrate(model, [x], effort="ranges", progress=False)
    physical = at.program(model, seed=0)
    found = torch.vmap(physical.at("1 day"))(x.unsqueeze(1))
    torch.testing.assert_close(found.squeeze(1), physical.at("1 day")(x))
