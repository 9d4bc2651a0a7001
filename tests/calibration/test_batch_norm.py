import copy
import dataclasses
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import analogtorch as at
from analogtorch.calibration.batch_norm import _moved
from analogtorch.calibration.norm_statistics import (
    norms_of,
    remember_digital,
    remembered,
    statistics_before,
    statistics_on_error,
)
from analogtorch.evaluate.identity import structure_digest
from tests.crossbar import crossbar

CHIP = crossbar()
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _x(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(64, 3, 6, 6, generator=generator) + torch.randn(
        64, 3, 1, 1, generator=generator
    )


BATCHES = [_x(seed) for seed in range(3)]


def _net() -> nn.Module:
    """Return a net whose norms have seen the batches, digitally."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (3, 16, 16):
        layers += [
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout(0.2),
        ]
    net = nn.Sequential(*layers, nn.Conv2d(16, 4, 1, bias=False), nn.BatchNorm2d(4))
    at.reestimate_batch_norm(at.convert(net, at.chips.ideal()), BATCHES, relative=False)
    return at.to_digital(net).eval()


def _state(model: nn.Module) -> list[Tensor]:
    return [
        getattr(m, s).clone()
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
        for s in STATISTICS
    ]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _error(model: nn.Module, digital: nn.Module) -> float:
    x = _x(9)
    return ((model(x) - digital(x)).square().mean() / digital(x).var()).sqrt().item()


def test_a_chip_that_has_drifted_for_a_year_recovers() -> None:
    digital = _net()
    model = at.calibrate(at.convert(copy.deepcopy(digital), CHIP), BATCHES)
    physical = at.program(model, seed=7)
    view = physical.at("1 year", compensation="none")
    before = _error(view, digital)
    other = copy.deepcopy(view)
    assert at.reestimate_batch_norm(view, BATCHES) == ["1", "5", "9", "13"]
    after = _error(view, digital)
    assert before > 0.9
    assert after < before / 1.5
    at.reestimate_batch_norm(other, BATCHES, relative=False)
    assert _error(other, digital) < before / 1.5
    # other views have their own
    assert _error(physical.at("1 year", compensation="none"), digital) == before
    assert _same(_state(model), _state(digital))


def test_without_noise_the_averages_are_those_of_the_batches() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.3))
    model = at.convert(copy.deepcopy(net), at.chips.ideal())
    at.reestimate_batch_norm(model, iter([(x, None) for x in BATCHES]), relative=False)
    y = [net[0](x).detach() for x in BATCHES]
    assert torch.allclose(
        model[1].running_mean, torch.stack([b.mean((0, 2, 3)) for b in y]).mean(0), atol=1e-5
    )
    assert torch.allclose(
        model[1].running_var, torch.stack([b.var((0, 2, 3)) for b in y]).mean(0), rtol=1e-4
    )
    assert model[1].num_batches_tracked == 3
    assert model[1].momentum == 0.3


def test_the_statistics_move_by_what_the_chip_changes_not_by_what_the_batches_happen_to_be() -> (
    None
):
    digital, few = _net(), [_x(5)[:12]]
    with torch.no_grad():
        for norm in digital[1::4]:  # as of a training that augments its inputs
            norm.running_mean += 0.2 * norm.running_var.sqrt()
            norm.running_var *= 1.3
    model = at.convert(copy.deepcopy(digital), at.chips.ideal())
    at.reestimate_batch_norm(model, few)
    assert _same(_state(model), _state(digital))  # an exact chip changes nothing
    view = at.program(at.calibrate(at.convert(copy.deepcopy(digital), CHIP), BATCHES), seed=7)
    view = view.at("1 day", compensation="none")
    before, absolute = _error(view, digital), copy.deepcopy(view)
    held = [(layer.chip, layer.programmed) for _, layer in at.analog_layers(view)]
    at.reestimate_batch_norm(view, iter(few))
    at.reestimate_batch_norm(absolute, few, relative=False)
    assert view[0].vectors_read == absolute[0].vectors_read  # the exact run reads nothing
    assert _error(view, digital) < before / 1.4
    assert before < _error(absolute, digital)
    assert [norm.num_batches_tracked for norm in view[1::4]] == [3] * 4
    assert [(layer.chip, layer.programmed) for _, layer in at.analog_layers(view)] == held


@pytest.mark.parametrize("momentum", [0.003, 0.03])
def test_statistics_that_training_has_not_settled_stay_as_far_from_those_of_batches(
    momentum: float,
) -> None:
    """Without batch statistics between the layers: their ranges were calibrated without them."""
    digital = _net()
    for norm in digital[1::4]:
        norm.reset_running_stats()
        norm.momentum = momentum
    digital.train()
    for _ in range(5):
        digital(BATCHES[0])
    view = at.program(
        at.calibrate(at.convert(copy.deepcopy(digital.eval()), CHIP), BATCHES), seed=7
    )
    view = view.at("1 day")
    before = _error(view, digital)
    at.reestimate_batch_norm(view, BATCHES)
    assert _error(view, digital) < before


def test_the_variance_of_a_channel_that_is_silent_on_the_batches_does_not_explode() -> None:
    old, exact = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([2.0, 1e-9, 0.0, 0.0])
    now, mean = torch.tensor([1.0, 0.1, 0.1, 0.1]), torch.zeros(4)
    found, var = _moved((mean, old), (mean, exact), (mean, now), 1e-5)
    assert torch.allclose(var, torch.tensor([0.5, 1.1, 1.1, 0.1]))
    assert torch.equal(found, mean)


def test_another_call_starts_from_the_digital_statistics_again() -> None:
    digital = _net()
    model = at.convert(copy.deepcopy(digital), CHIP.replace(adc={"noise": 0.0}))
    keys = list(model.state_dict())
    view = at.program(at.calibrate(model, BATCHES), seed=7).at("1 month", compensation="none")
    at.reestimate_batch_norm(view, BATCHES)
    once = _state(view)
    assert not _same(once, _state(digital))
    view = pickle.loads(pickle.dumps(copy.deepcopy(view)))
    at.reestimate_batch_norm(view, BATCHES)  # of the same chip
    assert _same(_state(view), once)
    assert list(view.state_dict()) == keys
    with pytest.warns(UserWarning, match="have the statistics of before that again"):
        at.correct_columns(view, BATCHES, target="layer")  # as beside batch norms
    assert _same(_state(view), _state(digital))
    at.reestimate_batch_norm(view, BATCHES)  # of one that is nearly exact
    for found, first, exact in zip(_state(view), once, _state(digital), strict=True):
        assert (found - exact).abs().sum() <= (first - exact).abs().sum()
    with torch.no_grad():  # statistics that something else has set are a start of their own
        for norm in view[1::4]:
            norm.running_mean += 5.0
    at.reestimate_batch_norm(view, BATCHES)
    assert view[1].running_mean.min() > 3.0


@pytest.mark.parametrize("of_average", [True, False])
@pytest.mark.parametrize("use_buffers", [True, False])
def test_a_weight_average_goes_on_after_a_look_at_the_chip(
    use_buffers: bool, of_average: bool
) -> None:
    """torch pairs the buffers of the average and of its model by their position."""
    model = at.convert(_net(), CHIP)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers)
    average.update_parameters(model)
    digital = _state(average)
    names = [name for name, _ in average.named_buffers()]
    at.reestimate_batch_norm(average if of_average else model, BATCHES)
    assert [name for name, _ in average.named_buffers()] == names
    moved = _state(average)
    for _ in range(40):
        average.update_parameters(model)
    for found, now in zip(_state(average), _state(model), strict=True):
        assert torch.allclose(found, now)
    assert _same(moved, digital) != of_average
    assert _same(_state(model), digital) == of_average


def _pickled_before(model: nn.Module) -> nn.Module:
    """Return a copy as the code unpickles it that kept what it remembers in four buffers."""
    model = copy.deepcopy(model)
    for norm in model[1::4]:
        for name, value in remembered(norm):
            norm.register_buffer(name, value, persistent=False)
        del norm._analogtorch_moved
    return model


def test_models_that_were_pickled_with_hidden_buffers_remember_the_digital_statistics() -> None:
    model = at.convert(_net(), CHIP)
    buffers = [name for name, _ in model.named_buffers()]
    at.reestimate_batch_norm(model, BATCHES)
    digital, digest = statistics_before(model), structure_digest("adapt", model)
    old = _pickled_before(model)
    assert len(list(old.named_buffers())) == len(buffers) + 16
    assert structure_digest("adapt", old) == digest
    assert [name for name, _ in old.named_buffers()] == buffers
    old = _pickled_before(model)
    found = statistics_before(old)
    assert found.keys() == digital.keys()
    for name, pair in digital.items():
        assert all(map(torch.equal, found[name], pair))
    assert [name for name, _ in old.named_buffers()] == buffers
    old = _pickled_before(model)
    at.reestimate_batch_norm(old, BATCHES)
    assert _same(_state(old), _state(model))


def test_what_is_remembered_anew_counts_and_not_what_lies_in_hidden_buffers() -> None:
    model = at.convert(_net(), CHIP)
    at.reestimate_batch_norm(model, BATCHES)
    digital, old = statistics_before(model), _pickled_before(model)

    def fail() -> None:
        with statistics_on_error(norms_of(old)):
            remember_digital(old, {name: (mean + 1, var) for name, (mean, var) in digital.items()})
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    for name, pair in statistics_before(old).items():
        assert all(map(torch.equal, digital[name], pair))
    old = _pickled_before(model)
    remember_digital(old, {name: (mean + 1, var) for name, (mean, var) in digital.items()})
    for name, (mean, _) in statistics_before(old).items():
        assert torch.equal(mean, digital[name][0] + 1)


PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("first", PRECISIONS)
def test_models_of_other_precisions_remember_the_digital_statistics(first: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    # float16 has fewer digits below 6e-5
    values = torch.logspace(-9, 3, 1000, dtype=torch.float64).expand(4, -1)
    values = values * (1 + torch.rand(4, 1000, dtype=torch.float64, generator=generator))
    mean, var, *digital = values.to(first)
    for chain in itertools.permutations(PRECISIONS):
        norm = nn.BatchNorm1d(1000).to(first)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        remember_digital(norm, {"": (digital[0], digital[1])})
        for there in (*chain, *reversed(chain), first):
            norm.to(there)  # in place
            found = statistics_before(norm)[""]
            for value, exact in zip(found, digital, strict=True):
                assert value.dtype == there
                assert torch.equal(value, exact.to(there))
        norm.running_var[-1] *= 1.01  # something else has set it
        assert not statistics_before(norm)


def test_norms_without_statistics_have_none_to_be_moved() -> None:
    model = at.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), CHIP)
    with pytest.raises(ValueError, match="batch norm '1' has no statistics yet.*relative=False"):
        at.reestimate_batch_norm(model, BATCHES)
    at.reestimate_batch_norm(model, BATCHES, relative=False)
    at.reestimate_batch_norm(model, BATCHES)


def test_a_programmed_chip_has_read_nothing_when_it_fails() -> None:
    view = at.program(at.convert(_net(), CHIP), seed=1).at("1 h")
    layers = [layer for _, layer in at.analog_layers(view)]
    held = [(layer.chip, layer.programmed) for layer in layers]
    for relative in (True, False):
        with pytest.raises(ValueError, match="has NaN or infinite"):
            at.reestimate_batch_norm(
                view, [BATCHES[0], BATCHES[0] * float("nan")], relative=relative
            )

        def forward(model: nn.Module, x: Tensor) -> None:
            model(x)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            at.reestimate_batch_norm(view, BATCHES, relative=relative, forward=forward)
    assert [layer.vectors_read.item() for layer in layers] == [0] * 4
    assert [(layer.chip, layer.programmed) for layer in layers] == held


def test_a_converted_model_meets_the_noise_of_training_and_nothing_else_of_it() -> None:
    first, second = (at.calibrate(at.convert(_net(), CHIP), BATCHES).train() for _ in range(2))
    digital = _state(first)
    first[3].eval()
    state = torch.get_rng_state()
    for model in (first, second):
        at.reestimate_batch_norm(model, BATCHES)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in first] == [number != 3 for number in range(len(first))]
    assert _same(_state(first), _state(second))
    found = _state(first)
    assert not _same(found, digital)
    at.reestimate_batch_norm(second, BATCHES, seed=1)
    assert not _same(found, _state(second))
    # dropout is off: with it the variances of the second norm would be a quarter larger
    assert (found[4] / digital[4]).log().mean().abs() < 0.1
    quiet = dataclasses.replace(CHIP, training=at.TrainingNoise(weight="none", output=False))
    for seed in (0, 1):
        model = at.calibrate(at.convert(_net(), quiet), BATCHES)
        at.reestimate_batch_norm(model, BATCHES, seed=seed)
        found = _state(model) if seed == 0 else found
    assert _same(_state(model), found)


BAD = {
    "no batches": ([], "batches is empty"),
    "nan": (
        [BATCHES[0], torch.full_like(BATCHES[0], float("nan"))],
        "input of batch norm '1' has NaN or infinite",
    ),
    "one value": (
        [torch.randn(64, 3, 8, 8), torch.randn(1, 3, 1, 1)],
        "more than 1 value per channel",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_call_that_fails_changes_nothing(name: str) -> None:
    batches, message = BAD[name]
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    model = at.convert(net, CHIP).train()
    model(BATCHES[0])
    before = _state(model)
    with pytest.raises(ValueError, match=message):
        at.reestimate_batch_norm(model, batches)
    assert _same(_state(model), before)
    assert model[1].momentum == 0.1
    assert all(m.training for m in model.modules())
    assert not model[1]._forward_pre_hooks


class _Named(nn.BatchNorm1d):
    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return super().forward(x) * scale


class _Last(nn.BatchNorm1d):
    """Channels come last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class _Calls(nn.Module):
    def __init__(self, norm: nn.Module, **kwargs: float) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(6, 5), norm, nn.Linear(5, 2)
        self.kwargs = kwargs

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if isinstance(self.norm, _Last):
            return self.head(self.norm(y))
        y = y.transpose(1, 2)
        y = self.norm(x=y, **self.kwargs) if self.kwargs else self.norm(input=y)
        return self.head(y.transpose(1, 2))


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("length", [5, 7])
def test_what_a_norm_normalises_counts_and_not_what_it_is_called_with(
    length: int, relative: bool
) -> None:
    x, found = torch.randn(32, length, 6, generator=torch.Generator().manual_seed(0)), []
    for norm, kwargs in (
        (nn.BatchNorm1d(5), {}),
        (_Named(5), {"scale": 1.0}),
        (_Last(5), {}),
    ):
        torch.manual_seed(0)
        net = _Calls(norm, **kwargs).train()
        net(x)
        view = at.program(at.convert(net.eval(), CHIP), seed=1).at("1 year")
        at.reestimate_batch_norm(view, [x], relative=relative)
        assert "forward" not in vars(view.norm)
        found.append(_state(view))
    assert all(
        torch.allclose(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


class _Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.unused = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@pytest.mark.parametrize("relative", [True, False])
def test_norms_that_never_run_keep_their_statistics(relative: bool) -> None:
    """That they have none yet is no error then."""
    net = _Skips().train()
    net(BATCHES[0])
    model = at.convert(net.eval(), CHIP)
    before = _state(model)
    with pytest.warns(
        UserWarning,
        match="reestimate_batch_norm: 1 of 2 batch norms did not run, and keep .*: 'unused'",
    ):
        at.reestimate_batch_norm(model, BATCHES, relative=relative)
    assert at.reestimate_batch_norm(model, BATCHES, relative=relative) == ["norm"]  # it is known
    after, each = _state(model), len(STATISTICS)
    assert not _same(after[:each], before[:each])
    assert _same(after[each:], before[each:])


def test_models_whose_norms_never_run_or_that_have_none_are_refused() -> None:
    model = at.convert(_Skips(), CHIP)
    before = _state(model)
    for relative in (True, False):
        with pytest.raises(ValueError, match="2 of 2 batch norms never ran: 'norm', 'unused'"):
            at.reestimate_batch_norm(
                model, BATCHES, relative=relative, forward=lambda model, x: model.conv(x)
            )
    assert _same(_state(model), before)
    for net in (nn.Linear(3, 3), nn.BatchNorm2d(3, track_running_stats=False)):
        with pytest.raises(ValueError, match="no batch norm that tracks statistics"):
            at.reestimate_batch_norm(nn.Sequential(net), BATCHES)
    with pytest.raises(ValueError, match="batch norm '0' is lazy and has no statistics yet; run"):
        at.reestimate_batch_norm(nn.Sequential(nn.LazyBatchNorm2d(affine=False)), BATCHES)
