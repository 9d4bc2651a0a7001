"""``at.hwa.adapt``: the copy survives the chip better, the same call gives the same copy."""

import copy
import csv
import dataclasses
import itertools
import json
import math
import re
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import analogtorch as at
from analogtorch.calibration.norm_statistics import digital_statistics
from analogtorch.evaluate.identity import structure_digest
from analogtorch.hwa import adaptation, budget, training
from analogtorch.hwa.adapted import Generalisation, Stage
from analogtorch.hwa.clip import clip, tails
from analogtorch.hwa.on_chips import OnChips, Reading
from analogtorch.hwa.schedule import Schedule, relative_adam
from analogtorch.hwa.training import Training
from analogtorch.hwa.twin import Twin
from analogtorch.report.adapted import plot
from tests.crossbar import crossbar


def _net(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(32)] if norm else []
    net = nn.Sequential(nn.Linear(12, 32), *middle, nn.ReLU(), nn.Linear(32, 5))
    for layer in (net[0], net[-1]):  # a few large weights, as in trained models
        nn.init.normal_(layer.weight, std=0.3)
    if norm:
        net.train()
        for _ in range(20):
            net(torch.randn(64, 12))
    return net.eval()


def _batches(count: int = 8) -> list[Tensor]:
    return list(torch.randn(count, 32, 12, generator=torch.Generator().manual_seed(1)).unbind())


def _state(model: nn.Module) -> dict[str, Any]:
    return copy.deepcopy(model.state_dict())


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, Tensor) else v == b[k] for k, v in a.items()
    )


CHIP = crossbar(device="one_device")


class _Checkpointed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def test_activation_checkpointing_changes_no_bit() -> None:
    found = []
    for kind in (nn.Sequential, _Checkpointed):
        net = kind(*_net(), nn.Dropout(0.5)).eval()
        adapted = at.hwa.adapt(net, _batches(), chip=CHIP, steps=4, num_chips=1)
        found.append(adapted.model.state_dict())
    assert _same(*found)


def test_the_copy_is_nearer_to_the_digital_model_and_the_given_one_stays() -> None:
    model, batches = _net(), _batches()
    before = _state(model)
    recipe = at.hwa.Recipe(looks=2, learning_rate=0.005, outputs="error")
    adapted = at.hwa.adapt(model, batches, chip=CHIP, recipe=recipe, steps=60, num_chips=1)
    assert _same(before, _state(model))
    assert type(model[0]) is nn.Linear
    names = [stage.name for stage in adapted.stages]
    assert names == ["converted", "calibrated", "distilled", "recalibrated"]
    assert adapted.stages[3].reading.error.shape == (1, 2)
    # fresh chips and fresh inputs: the gain is no choice among what was measured
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(9))
    plain = at.calibrate(at.convert(copy.deepcopy(model), CHIP), batches)

    def error(chip: nn.Module) -> float:
        return float((chip(x) - model(x)).square().mean())

    def mean(net: nn.Module) -> float:
        return float(at.sweep(net, error, num_chips=3, times=["1 day"]).mean)

    with torch.no_grad():
        assert mean(adapted.model) < 0.95 * mean(plain)


def test_progress_says_what_each_stage_came_to(capsys) -> None:
    recipe = at.hwa.Recipe(looks=1)
    how = {"chip": CHIP, "recipe": recipe, "steps": 3, "num_chips": 1}
    adapted = at.hwa.adapt(_net(norm=True), _batches(), **how, progress=True)
    printed = capsys.readouterr().err
    for stage in adapted.stages:
        undone = "" if stage.kept else ", undone"
        assert f"adapt: {stage.name}, error on chips {stage.reading.mean:.3g}{undone} (" in printed
    assert "calibrate: " in printed  # its own bar
    at.hwa.adapt(_net(norm=True), _batches(), **how)
    assert capsys.readouterr().err == ""


def test_the_same_call_gives_the_same_copy_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two = (
        at.hwa.adapt(_net_of(model), _batches(), steps=12, num_chips=1)
        for model in (_net(), _net())
        if torch.set_rng_state(state) is None
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert _same(_state(one.model), _state(two.model))
    other = at.hwa.adapt(_net_of(_net()), _batches(), steps=12, num_chips=1, seed=1)
    assert not _same(_state(one.model), _state(other.model))


def _net_of(model: nn.Module) -> nn.Module:
    """A converted and calibrated model, whose ranges stay."""
    state = torch.get_rng_state()
    found = at.calibrate(at.convert(model, CHIP), _batches())
    torch.set_rng_state(state)
    return found


class _Stop(Exception):
    pass


class _Writer:
    """Counts what it is given, and stops the run at a step."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.tags, self.values = stop, set[str](), dict[int, float]()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.tags.add(tag)
        self.values[step] = value
        if step == self.stop:
            raise _Stop


@pytest.mark.parametrize("norm", [False, True])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path: Path, norm: bool) -> None:
    options: dict[str, Any] = {
        "chip": CHIP,
        "steps": 18,
        "num_chips": 1,
        "recipe": at.hwa.Recipe(looks=6),
    }
    whole = at.hwa.adapt(_net(norm), _batches(), **options)
    folder = tmp_path / "run"
    with pytest.raises(_Stop):
        at.hwa.adapt(_net(norm), _batches(), folder=folder, writer=_Writer(stop=11), **options)
    writer = _Writer()
    resumed = at.hwa.adapt(_net(norm), _batches(), folder=folder, writer=writer, **options)
    assert min(writer.values) == 9  # the last look before the stop
    assert writer.tags >= {"adapt/loss", "adapt/noise", "adapt/error"}
    assert _same(_state(whole.model), _state(resumed.model))
    assert [vars(s) for s in whole.steps] == [vars(s) for s in resumed.steps]
    again = at.hwa.adapt(_net(norm), _batches(), folder=folder, writer=_Writer(0), **options)
    assert _same(_state(whole.model), _state(again.model))  # it was finished: no step was taken
    assert str(dataclasses.replace(again, seconds=resumed.seconds)) == str(resumed)
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(18))
    with pytest.raises(ValueError, match="another run, which differs in seed"):
        at.hwa.adapt(_net(norm), _batches(), folder=folder, seed=3, **options)


def test_a_resumed_run_keeps_the_weight_scales_that_the_search_chose(tmp_path: Path) -> None:
    model = _net()
    with torch.no_grad():  # columns that differ much in size
        for layer in (model[0], model[2]):
            layer.weight.mul_(torch.linspace(0.02, 1, len(layer.weight)).unsqueeze(1))
    chip = CHIP.replace(periphery={"output_bits": 8})
    options: dict[str, Any] = {"chip": chip, "steps": 2, "num_chips": 1, "folder": tmp_path}
    whole = at.hwa.adapt(model, _batches(), **options)
    scales = [layer.chip.periphery.weight_scale for _, layer in at.analog_layers(whole.model)]
    assert "column" in scales
    again = at.hwa.adapt(model, _batches(), **options)
    layers = [layer for _, layer in at.analog_layers(again.model)]
    assert [layer.chip.periphery.weight_scale for layer in layers] == scales
    assert len({id(layer.chip) for layer in layers}) == len(set(scales))
    assert all(layer.given_chip == chip for layer in layers)
    assert _same(_state(whole.model), _state(again.model))


def test_stages_that_make_the_error_larger_are_undone() -> None:
    # one step so large that nothing is left of the model
    recipe = at.hwa.Recipe(learning_rate=30.0, clip_sigma=None, ramp=0.0)
    given = _net_of(_net())
    adapted = at.hwa.adapt(given, _batches(), recipe=recipe, steps=3, num_chips=1)
    assert adapted.steps[-1].error is not None
    assert adapted.steps[-1].error > 1
    last = adapted.stages[-1]
    assert (last.name, last.kept) == ("distilled", False)
    assert last.reading.mean == min(s.error for s in adapted.steps if s.error is not None)
    assert "no look of the training was better than its start" in str(adapted)
    assert _same(_state(given), _state(adapted.model))


def test_a_calibration_that_errs_more_than_none_is_undone(tmp_path: Path) -> None:
    clipping = {"method": "percentile", "percentile": 65.0}
    options = {"chip": CHIP, "calibration": clipping, "num_chips": 1, "folder": tmp_path}
    recipe = at.hwa.Recipe(looks=1, noise=0.0)
    found = at.hwa.adapt(_net(), _batches(), steps=1, recipe=recipe, **options)
    kept = {stage.name: stage.kept for stage in found.stages}
    assert kept["converted"]
    assert not kept["calibrated"]
    assert not kept["recalibrated"]
    errors = [stage.reading.mean for stage in found.stages if stage.kept]
    assert errors == sorted(errors, reverse=True)
    assert not any(layer.calibrated for _, layer in at.analog_layers(found.model))
    again = at.hwa.adapt(_net(), _batches(), steps=1, recipe=recipe, **options)
    assert _same(_state(found.model), _state(again.model))


def test_batch_norm_is_moved_before_and_after_the_training_where_that_helps() -> None:
    model = _net(norm=True)
    adapted = at.hwa.adapt(model, _batches(), chip=CHIP, steps=6, num_chips=2)
    names = [stage.name for stage in adapted.stages]
    moves = [n for n, name in enumerate(names) if name == "batch norm re-estimated"]
    assert [names[n - 1] for n in moves] == ["calibrated", "recalibrated"]
    least = math.inf
    for n, stage in enumerate(adapted.stages):
        if n in moves:
            assert stage.kept == (stage.reading.mean <= least)
        if stage.kept:
            least = min(least, stage.reading.mean)
    moved = any(adapted.stages[n].kept for n in moves)
    assert torch.equal(adapted.model[1].running_mean, model[1].running_mean) != moved


@pytest.mark.parametrize("undone", [{2}, {1, 2}])
def test_norms_whose_last_move_is_undone_remember_the_digital_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undone: set[int]
) -> None:
    reestimate, measure = at.reestimate_batch_norm, OnChips.measure
    moves, looks = itertools.count(1), itertools.count(1)
    moved = 0

    def move(*given: Any, **options: Any) -> list[str]:
        nonlocal moved
        moved = next(moves)
        return reestimate(*given, **options)

    def worse(chips: OnChips, *given: Any) -> Reading:
        error = torch.full((1, 2), 1 / next(looks) + (moved in undone))
        return dataclasses.replace(measure(chips, *given), error=error)

    monkeypatch.setattr(adaptation, "reestimate_batch_norm", move)
    monkeypatch.setattr(OnChips, "measure", worse)
    given = _net(norm=True)
    options: dict[str, Any] = {"chip": CHIP, "steps": 2, "num_chips": 1, "folder": tmp_path / "run"}
    first = at.hwa.adapt(given, _batches(), **options)
    kept = [stage.kept for stage in first.stages if stage.name == "batch norm re-estimated"]
    assert kept == [number not in undone for number in (1, 2)]
    again = at.hwa.adapt(given, _batches(), **options)
    for found in (first.model, again.model):
        assert torch.equal(found[1].running_mean, given[1].running_mean) == (1 in undone)
        start = digital_statistics(found)["1"]
        assert torch.equal(start[0], given[1].running_mean)
        assert torch.equal(start[1], given[1].running_var)
    assert structure_digest("adapt", first.model) == structure_digest("adapt", again.model)
    for found in (first.model, again.model):
        reestimate(found, _batches())
    assert _same(_state(first.model), _state(again.model))


@pytest.mark.parametrize(("count", "learnt"), [(3, 3), (8, 6), (24, 20)])
def test_the_last_quarter_is_held_back_at_most_four_batches(count: int, learnt: int) -> None:
    batches, seen = [x[:4] for x in _batches(count)], set()

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        if y.requires_grad:
            seen.update(number for number, each in enumerate(batches) if torch.equal(each, x))
        return y

    options: dict[str, Any] = {"forward": forward, "recipe": at.hwa.Recipe(looks=1)}
    options["calibration"] = {"effort": "ranges"}
    adapted = at.hwa.adapt(_net_of(_net()), batches, steps=learnt, num_chips=1, **options)
    assert seen == set(range(learnt))
    assert adapted.to_dict()["held_back"] == (learnt < count)
    assert ("agrees, on batches held back" in str(adapted)) == (learnt < count)
    few = "agrees, on batches that were learnt from; give at least 4 to hold some back"
    assert (few in str(adapted)) == (learnt == count)


class _TwoOutputs(nn.Module):
    """Of the second output each sample has two vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _net()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y: Tensor = self.net(x)
        return y, torch.stack([y, y - 1], 1)


@pytest.mark.parametrize("sizes", [(8, 8), (15, 1)])
def test_every_sample_counts_alike_in_the_error(sizes: tuple[int, int]) -> None:
    net = _TwoOutputs()
    twin = Twin(at.convert(copy.deepcopy(net), CHIP), net, at.hwa.Recipe(outputs="error"))
    parts = torch.randn(16, 12, generator=torch.Generator().manual_seed(3)).split(sizes)
    found = OnChips(twin, parts, [1], ["1 day"]).measure().mean
    view, errors = at.program(twin.student, seed=1).at("1 day"), []
    with torch.no_grad():
        for part in parts:
            pairs = zip(twin.outputs(view, part), twin.exact(part), strict=True)
            errors.append(torch.stack([twin.compare(y, t, n) for n, (y, t) in enumerate(pairs)]))
    alike = torch.stack(errors).mean().sqrt().item()
    weights = torch.tensor(sizes)[:, None] / 16
    expected = (weights * torch.stack(errors)).sum(0).mean().sqrt().item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert (found == alike) == (sizes[0] == sizes[1])  # to the last bit


def test_a_batch_norm_without_statistics_costs_no_training() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()
    advice = r"call analogtorch.reestimate_batch_norm\(model, batches, relative=False\)"
    unmoved = f"not batch norm re-estimated: .* has no statistics yet.*{advice}"
    with pytest.warns(UserWarning, match=unmoved):
        adapted = at.hwa.adapt(model, _batches(), chip=CHIP, steps=2, num_chips=1)
    assert len(adapted.steps) == 2
    at.reestimate_batch_norm(model, _batches(), relative=False)  # as the warning advises
    adapted = at.hwa.adapt(model, _batches(), chip=CHIP, steps=2, num_chips=1)
    assert "batch norm re-estimated" in [stage.name for stage in adapted.stages]


def test_a_loss_that_is_no_number_ends_the_training_with_the_best_state() -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        return y * math.nan if y.requires_grad else y

    given = _net_of(_net())
    with pytest.warns(UserWarning, match=r"the loss was nan at step 0, on batch \d"):
        adapted = at.hwa.adapt(given, _batches(), steps=5, num_chips=1, forward=forward)
    assert _same(_state(given), _state(adapted.model))
    assert not adapted.steps
    assert [stage.kept for stage in adapted.stages] == [True, False]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (torch.randn(32, 7), "RuntimeError at step .*, on batch 38 .*: mat1 and mat2 shapes"),
        (torch.full((32, 12), torch.nan), "ValueError at step .*for batch 38 .*hold NaN"),
    ],
)
def test_a_batch_that_does_not_run_ends_the_training_and_costs_nothing(
    bad: Tensor, named: str, tmp_path: Path
) -> None:
    batches = _batches(64)
    batches[38] = bad  # of 60 to learn from, of which every other one calibrates
    assert all(x is not bad for x in adaptation.calibrating(batches[:60]))
    with pytest.warns(UserWarning, match=f"{named}.*best state before; leave that batch out"):
        adapted = at.hwa.adapt(
            _net(), batches, chip=CHIP, steps=120, num_chips=1, seed=2, folder=tmp_path / "run"
        )
    assert 0 < len(adapted.steps) < 60
    assert re.match(named.split(":")[0], adapted.stopped)
    assert adapted.stages[-1].reading.mean <= adapted.stages[0].reading.mean
    assert (
        at.hwa.adapt(
            _net(), batches, chip=CHIP, steps=120, num_chips=1, seed=2, folder=tmp_path / "run"
        ).stopped
        == adapted.stopped
    )  # a finished run


def test_a_batch_that_does_not_run_is_named_by_its_number_while_it_calibrates() -> None:
    batches = _batches(64)
    batches[30] = torch.randn(32, 7)
    with pytest.raises(ValueError, match="inputs, got shape") as raised:
        at.hwa.adapt(_net(), batches, chip=CHIP, steps=2, num_chips=1)
    assert any("failed on batch 30, counted" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_whose_gradients_are_not_finite_are_named(dtype: torch.dtype) -> None:
    class Silent(nn.Sequential):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__(*layers)
            self.floor = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = super().forward(x)
            return y + self.floor.abs().sqrt()  # whose derivative is infinite at 0

    model, batches = Silent(*_net()).to(dtype), [x.to(dtype) for x in _batches()]
    why = r"gradients were NaN or infinite at step 0, on batch \d+ \(from 0\): of 'floor'"
    named = why + ", so .*best state.*requires_grad_"
    with pytest.warns(UserWarning, match=named):
        adapted = at.hwa.adapt(model, batches, chip=CHIP, steps=4, num_chips=1)
    assert re.fullmatch(why, adapted.stopped)
    assert all(p.isfinite().all() for p in adapted.model.parameters())
    model.floor.requires_grad_(False)
    assert "all 4" in at.hwa.adapt(model, batches, chip=CHIP, steps=4, num_chips=1).stopped


def test_an_encoder_adapts_with_padded_inputs() -> None:
    """In inference torch makes nested tensors of them, whose hidden positions become zeros."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, hidden = nn.TransformerEncoder(layer, 1).eval(), torch.zeros(4, 6, dtype=torch.bool)
    hidden[:, 4:] = True

    def forward(model: nn.Module, x: Tensor) -> Any:
        return model(x, src_key_padding_mask=hidden)

    batches = list(torch.randn(4, 4, 6, 16).unbind())
    twin = at.hwa.Twin(at.convert(copy.deepcopy(model), CHIP), model, forward=forward)
    torch.testing.assert_close(twin.exact(batches[0])[0], forward(model, batches[0]))
    adapted = at.hwa.adapt(model, batches, chip=CHIP, steps=2, num_chips=1, forward=forward)
    assert len(adapted.steps) == 2
    assert model.use_nested_tensor
    assert model.layers[0].activation_relu_or_gelu == 1


def test_ingredients_can_be_switched_off() -> None:
    recipe = at.hwa.Recipe(noise=0.0, clip_sigma=None, layers=0.0, learn_ranges=False,
                           outputs="divergence", temperature=2.0, looks=1)  # fmt: skip
    given = _net_of(_net())
    adapted = at.hwa.adapt(given, _batches(), recipe=recipe, steps=4, num_chips=1)
    assert {step.noise for step in adapted.steps} == {0.0}
    assert [step.error is not None for step in adapted.steps] == [False, False, False, True]
    ranges = [
        [layer.input_ranges for _, layer in at.analog_layers(m)] for m in (given, adapted.model)
    ]
    assert ranges[0] == ranges[1]


def test_clipping_grows_and_follows_the_unit_of_the_weight_scale() -> None:
    for scale, per_channel in (("block", False), ("column", True)):
        model = at.convert(_net(), CHIP.replace(periphery={"weight_scale": scale}))
        model[2].weight.requires_grad_(False)
        start = _state(model)
        limits = tails(model, 1.5)
        assert list(limits) == ["0"]
        clip(model, limits, share=0.0)
        assert _same(start, _state(model))  # as wide as the largest weight
        _, sigma, _ = limits["0"]
        wanted = at.hwa.clip_weights_(copy.deepcopy(model), sigma, per_channel=per_channel)
        clip(model, limits, share=1.0)
        assert torch.equal(model[0].weight, wanted[0].weight)
        assert torch.equal(model[2].weight, start["2.weight"])


def test_clipping_again_and_again_takes_no_more_than_once() -> None:
    """Of a blur and of a kernel with one large weight, standard deviations fall at each clip."""
    by_column = CHIP.replace(periphery={"weight_scale": "column"})
    layer = at.convert(nn.Conv2d(8, 8, 3, groups=8), by_column)
    with torch.no_grad():
        layer.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
        layer.weight[0] += 1.0
        layer.weight[1, 0, 1, 1] = 2.0
        before = layer.weight.clone()
    limits = tails(layer, 2.5)
    for step in range(50):
        clip(layer, limits, share=min(1.0, step / 20))
    lost = (before - layer.weight).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    # one weight among nine is 3 standard deviations, of which no more than 0.5 are clipped
    assert lost.max() < 0.5 / 3


@pytest.mark.parametrize("scale", ["block", "column"])
def test_clipping_takes_no_more_of_heavy_tails_than_of_gaussian_weights(scale: str) -> None:
    torch.manual_seed(0)
    layer = at.convert(nn.Linear(400, 50), CHIP.replace(periphery={"weight_scale": scale}))
    shares = {}
    for name, draw in (("gaussian", torch.randn), ("heavy", _laplace)):
        before = layer.weight.data.copy_(draw(50, 400)).clone()
        ((_, end, _),) = (limits := tails(layer, 2.0)).values()
        clip(layer, limits, share=1.0)
        lost = (before - layer.weight.detach()).square().sum() / before.square().sum()
        shares[name] = end, lost.item()
    # a Gaussian of variance 1 exceeds 2 by a mean square of 0.01154
    assert shares["gaussian"][0] == pytest.approx(2.0, abs=0.05)
    assert shares["gaussian"][1] == pytest.approx(0.01154, rel=0.1)
    # a Laplace density of variance 1 by exp(-sqrt(2) c), which is as much at c = 3.155
    assert shares["heavy"][0] == pytest.approx(3.155, abs=0.15)
    assert shares["heavy"][1] == pytest.approx(0.01154, rel=0.1)


def _laplace(*shape: int) -> torch.Tensor:
    return torch.distributions.Laplace(0.0, 0.5**0.5).sample(shape)


@pytest.mark.parametrize(
    ("forward", "compared"),
    [
        (None, "divergence"),
        (lambda model, x: {"logits": model(x), "hidden": x}, "divergence"),
        (lambda model, x: {"last_hidden_state": model(x)}, "error"),
        (lambda model, x: nn.functional.normalize(model(x), dim=-1), "error"),
    ],
)
def test_outputs_that_are_no_scores_are_compared_number_by_number(
    forward: Any, compared: str
) -> None:
    given = _net_of(_net())
    options: dict[str, Any] = {"steps": 1, "num_chips": 1, "forward": forward}
    chosen = at.hwa.adapt(given, _batches(4), **options)
    assert chosen.compared == chosen.to_dict()["compared"] == compared
    assert ("number by number" in str(chosen)) == (compared == "error")
    named = at.hwa.adapt(given, _batches(4), recipe=at.hwa.Recipe(outputs=compared), **options)
    assert _same(_state(chosen.model), _state(named.model))


@dataclasses.dataclass
class _Batch:
    x: Tensor
    labels: Tensor


@dataclasses.dataclass
class _Targets:
    x: Tensor
    target: Tensor


class _Autoencoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, width)

    def forward(self, x: Any, labels: Tensor | None = None) -> Any:
        x = x.x if isinstance(x, _Targets) else x
        y: Tensor = self.last(self.first(x).relu())
        return y if labels is None else {"loss": (y - labels).square().mean(), "logits": y}


@pytest.mark.parametrize(
    ("pack", "forward"),
    [
        (lambda x: x, None),
        (lambda x: (x, torch.zeros(8)), None),
        (lambda x: (x, torch.zeros(8, 5)), None),  # soft labels are no inputs
        (lambda x: {"x": x}, None),
        (lambda x: {"x": x, "labels": torch.zeros(8, 5)}, None),
        (lambda x: (x, torch.zeros(8, 5)), lambda model, batch: model(batch[0])),
        (lambda x: [x, torch.zeros(8, 5)], lambda model, batch: model(x=batch[0])),
        (lambda x: {"x": x, "labels": torch.zeros(8, 5)}, lambda model, batch: model(batch["x"])),
        (lambda x: x, lambda model, x: model.last(model.first(x).relu())),
        (
            lambda x: {"x": x, "labels": torch.zeros(8, 5)},
            lambda model, batch: model.last(model.first(batch["x"]).relu()),
        ),
        (
            lambda x: _Batch(x, torch.zeros(8, 5)),
            lambda model, batch: model.last(model.first(batch.x).relu()),
        ),
        (lambda x: _Targets(x, torch.zeros(8, 5)), lambda model, batch: model(batch)),
        (lambda x: x, lambda model, x: model(x)),
        (lambda x: {"pixels": x, "rows": [1]}, lambda model, batch: model(batch["pixels"])),
        (lambda x: (torch.arange(8), [x]), lambda model, batch: model(batch[1][0])),
    ],
)
def test_reconstructions_of_the_inputs_are_compared_number_by_number(
    pack: Any, forward: Any
) -> None:
    """However a batch is packed."""
    batch = pack(torch.randn(8, 6))
    for width, compared in ((6, "error"), (5, "divergence")):
        if isinstance(batch, dict) and "labels" in batch:
            batch["labels"] = torch.zeros(8, width)
        twin = at.hwa.Twin(
            at.convert(_Autoencoder(width), CHIP), _Autoencoder(width), forward=forward
        )
        twin.exact(batch)
        assert twin.compared == compared


def test_a_twin_compares_after_it_has_seen_the_outputs_of_the_teacher() -> None:
    twin = at.hwa.Twin(at.convert(_net(), CHIP), _net())
    with pytest.raises(RuntimeError, match=r"exact\(batch\) or loss\(batch\)"):
        twin.compare(torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("minutes", "later", "steps", "looks"),
    [
        # before: a look each at the model converted, calibrated and with corrected columns, and at
        # what it learns from, and three trial steps; after: 1.25 times four looks
        (19, 1, 5, 2),  # 19 - 7 - 5 are five steps and two looks
        (15, 1, 2, 1),  # 15 - 7 - 5 are two steps and a look: two looks would take over half
        (60, 1, 7, 2),
        (24, 2, 5, 2),  # seven by the trial; four took nine minutes with a look, three are left
        (19, 9, 3, 1),  # five by the trial; after three no time is left
    ],
)
def test_minutes_bound_the_steps(
    minutes: float,
    later: int,
    steps: int,
    looks: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A look takes a minute, a step one in the trial and ``later`` minutes in the training."""
    now = [time.monotonic()]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    for module in (adaptation, budget, training):
        monkeypatch.setattr(module, "time", clock)
    took = [1]
    gradients, measure, run = Training.gradients, OnChips.measure, Training.run

    def lasting(done: Callable[..., Any], minutes: Callable[[], int]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            now[0] += 60 * minutes()
            return done(*args)

        return timed

    def training_run(*args: Any) -> None:
        took[0] = later
        run(*args)

    monkeypatch.setattr(Training, "gradients", lasting(gradients, lambda: took[0]))
    monkeypatch.setattr(OnChips, "measure", lasting(measure, lambda: 1))
    monkeypatch.setattr(Training, "run", training_run)
    recipe = at.hwa.Recipe(looks=2)
    options: dict[str, Any] = {"chip": CHIP, "steps": 7, "num_chips": 1, "recipe": recipe}
    options |= {"minutes": minutes, "folder": tmp_path / "run"}
    adapted = at.hwa.adapt(_net(), _batches(), **options)
    assert len(adapted.steps) == steps
    assert len([step.step for step in adapted.steps if step.error is not None]) == looks
    stopped = f"{steps} of 7 steps done: {minutes} minutes allow no more"
    assert adapted.stopped == ("all 7 steps done" if steps == 7 else stopped)
    assert later == 9 or adapted.seconds <= 60 * minutes
    assert at.hwa.adapt(_net(), _batches(), **options).stopped == adapted.stopped


@pytest.mark.parametrize("norm", [False, True])
def test_steps_that_measure_the_time_change_nothing(norm: bool) -> None:
    options: dict[str, Any] = {"chip": CHIP, "steps": 5, "num_chips": 1}
    timed, whole = (
        at.hwa.adapt(_net(norm), _batches(), minutes=minutes, **options) for minutes in (60, None)
    )
    assert _same(_state(timed.model), _state(whole.model))
    assert timed.steps == whole.steps


def test_minutes_that_are_used_up_before_the_training_are_told() -> None:
    recipe = at.hwa.Recipe(looks=2)
    options: dict[str, Any] = {"chip": CHIP, "steps": 7, "num_chips": 1, "recipe": recipe}
    with pytest.warns(UserWarning, match="leave no time for the training, which has one step;"):
        adapted = at.hwa.adapt(_net(), _batches(), minutes=1e-6, **options)
    assert len(adapted.steps) == 1
    assert adapted.stopped == "1 of 7 steps done: 1e-06 minutes allow no more"
    at.hwa.adapt(_net(), _batches(), minutes=1e-6, **options | {"steps": 1})  # has what it asks for


@pytest.mark.parametrize(
    ("given", "remedies"),
    [
        ({"chip": CHIP, "num_chips": 2}, r"more minutes or a smaller num_chips or fewer times or "
         r"calibration=\{\"effort\": \"ranges\"\}"),
        ({"chip": CHIP, "calibration": {"effort": "ranges"}}, "more minutes or fewer times"),
        ({"times": ["1 day"]}, "more minutes"),
    ],
)  # fmt: skip
def test_minutes_that_are_used_up_have_remedies_that_help(
    given: dict[str, Any], remedies: str
) -> None:
    model = _net() if "chip" in given else _net_of(_net())
    with pytest.warns(
        UserWarning, match=rf"leave no time .* before it, .* takes about \d+ s\. Give {remedies}$"
    ):
        at.hwa.adapt(model, _batches(), minutes=1e-6, **{"num_chips": 1, "steps": 2} | given)


def test_the_learning_rate_grows_with_the_noise_and_falls_to_0() -> None:
    """Adam's first steps are of full size, and the first gradients those of rounding alone."""
    schedule = Schedule(at.hwa.Recipe(), 100, {})
    rates = [schedule.rate(step) for step in range(100)]
    falling = [0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(100)]
    assert rates[:30] == pytest.approx([(i + 1) / 30 * falling[i] for i in range(30)])
    assert rates[30:] == pytest.approx(falling[30:])
    at_once = Schedule(at.hwa.Recipe(ramp=0), 100, {})
    assert [at_once.rate(step) for step in range(100)] == pytest.approx(falling)


def test_the_report_prints_draws_and_lists(tmp_path: Path) -> None:
    adapted = at.hwa.adapt(
        _net_of(_net()), _batches(), calibration={}, steps=3, num_chips=2, times=["0 s", "1 year"],
        metric=lambda chip: 0.5,
    )  # fmt: skip
    text = str(adapted)
    assert "error at 0 s" in text
    assert "metric at 1 year" in text
    assert "recalibrated" in text
    assert "columns fitted (at.Recovery, steps=0)" in text
    data = json.loads(json.dumps(adapted.to_dict()))
    assert [len(stage["error"]) for stage in data["stages"]] == [2] * 4
    assert data["stages"][0]["metric"] == [[0.5, 0.5], [0.5, 0.5]]
    assert data["recovered"]["metric"] == [[0.5, 0.5], [0.5, 0.5]]
    assert "outputs of one number within a tenth of their spread, of others whose largest" in text
    adapted.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_says_how_much_of_the_model_is_on_the_chip() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2))
    batches = [torch.randn(16, 4) for _ in range(4)]
    for model, said in ((net, True), (nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), False)):
        adapted = at.hwa.adapt(model, batches, chip=CHIP, steps=1, num_chips=1, times=["0 s"])
        assert ("33.3 % of the weights that multiply are on the chip; at." in str(adapted)) == said


def test_the_plot_begins_at_the_last_stage_that_is_kept() -> None:
    adapted = at.hwa.adapt(_net_of(_net()), _batches(), calibration={}, steps=1, num_chips=1)
    reading = adapted.stages[0].reading

    def stage(name: str, error: float, kept: bool = True) -> Stage:
        reads = dataclasses.replace(reading, error=torch.full_like(reading.error, error))
        return Stage(name=name, reading=reads, kept=kept)

    stages = [stage("converted", 0.3), stage("calibrated", 0.5, kept=False)]
    stages += [stage("ranges per vector", 0.2), stage("distilled", 0.1)]
    axes = plot(dataclasses.replace(adapted, stages=tuple(stages))).axes[0]
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed.get_label() == "ranges per vector"
    assert dashed.get_ydata() == pytest.approx([0.2, 0.2])


def test_the_report_says_whose_outputs_are_compared_with() -> None:
    model = _net()
    for teacher, passed in ((None, False), (model, False), (_net(), True)):
        options = {"steps": 1, "num_chips": 1, "calibration": {"effort": "ranges"}}
        adapted = at.hwa.adapt(model, _batches(4), chip=CHIP, teacher=teacher, **options)
        assert ("to those of the teacher, " in str(adapted)) is passed
        assert ("to the digital ones, " in str(adapted)) is not passed
        assert adapted.to_dict()["with_teacher"] is adapted.with_teacher is passed


def test_the_report_says_what_chips_gain_that_correct_their_columns(tmp_path: Path) -> None:
    net, batches = _net_of(_net()), _batches()
    options: dict[str, Any] = {"steps": 2, "num_chips": 2, "times": ["1 day"]}
    options |= {"metric": lambda chip: chip(batches[7]).sum().item(), "folder": tmp_path}
    adapted = at.hwa.adapt(net, batches, calibration={}, **options)
    # two of the eight batches are held back: as many of those that are learnt from correct
    recovery = at.Recovery(batches=[batches[0], batches[3]], steps=0)
    chips = [at.program(adapted.model, seed=seed).at("1 day") for seed in adapted.seeds]
    assert adapted.recovered is not None
    assert adapted.recovered.metric is not None
    wanted = [options["metric"](recovery.correct(chip)) for chip in chips]
    assert adapted.recovered.metric[:, 0].tolist() == pytest.approx(wanted)
    again = at.hwa.adapt(net, batches, calibration={}, **options)
    for what in ("recovered", "recovered_before"):
        assert again.to_dict()[what] == adapted.to_dict()[what]


def test_the_report_compares_with_corrected_columns_before_the_training() -> None:
    net, batches = _net_of(_net()), _batches()
    options: dict[str, Any] = {"num_chips": 2, "times": ["1 day"], "calibration": {}}
    options |= {"metric": lambda chip: chip(batches[7]).sum().item()}
    adapted = at.hwa.adapt(net, batches, steps=2, **options)
    at.calibrate(net, adaptation.calibrating(batches[:6]), report=None)
    recovery = at.Recovery(batches=[batches[0], batches[3]], steps=0)
    chips = [at.program(net, seed=seed).at("1 day") for seed in adapted.seeds]
    before = adapted.recovered_before
    assert before is not None
    assert before.metric is not None
    wanted = [options["metric"](recovery.correct(chip)) for chip in chips]
    assert before.metric[:, 0].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("before", "after", "stage", "says"),
    [
        (0.1, 0.2, 0.3, "keep more of the model before this training"),
        (0.2, 0.1, 0.3, "keep more of a model that learns for them"),
        (0.25, 0.4, 0.2, ""),  # corrected columns are of no use
    ],
)
def test_the_report_says_for_whom_the_training_costs_more_than_it_gains(
    before: float, after: float, stage: float, says: str
) -> None:
    adapted = at.hwa.adapt(_net_of(_net()), _batches(), calibration={}, steps=1, num_chips=1)

    def reading(error: float) -> Reading:
        found = adapted.stages[0].reading
        return dataclasses.replace(found, error=torch.full_like(found.error, error))

    stages = [Stage(name="calibrated", reading=reading(0.5))]
    stages += [Stage(name="distilled", reading=reading(stage))]
    text = str(
        dataclasses.replace(
            adapted,
            stages=tuple(stages),
            recovered=reading(after),
            recovered_before=reading(before),
        )
    )
    assert "columns fitted (at.Recovery, steps=0), before training" in text
    assert ("chips that correct their columns" in text) is bool(says)
    assert says in text


def test_a_training_that_is_undone_has_no_row_of_corrected_columns_before_it() -> None:
    adapted = at.hwa.adapt(_net_of(_net()), _batches(), calibration={}, steps=1, num_chips=1)
    reading = adapted.stages[0].reading
    stages = (
        Stage(name="converted", reading=reading),
        Stage(name="distilled", reading=reading, kept=False),
    )
    assert ", before training" not in str(dataclasses.replace(adapted, stages=stages))


CORRECTED = at.TrainingNoise(weight="device", corrected=True)


@pytest.mark.parametrize("of_chip", [False, True])
def test_stages_are_of_chips_that_correct_their_columns_if_the_noise_does(of_chip: bool) -> None:
    net, batches = _net(), _batches()
    chip = CHIP.replace(training=CORRECTED) if of_chip else CHIP
    recipe = at.hwa.Recipe(training=None if of_chip else CORRECTED)
    options: dict[str, Any] = {"steps": 2, "num_chips": 2, "times": ["1 day"], "recipe": recipe}
    options |= {"metric": lambda chip: chip(batches[7]).sum().item()}
    adapted = at.hwa.adapt(net, batches, chip=chip, **options)
    assert adapted.corrected
    assert adapted.recovered is None
    recovery = at.Recovery(batches=[batches[0], batches[3]], rounds=1, steps=0)
    chips = [at.program(adapted.model, seed=seed).at("1 day") for seed in adapted.seeds]
    wanted = [options["metric"](recovery.correct(chip)) for chip in chips]
    last = [stage for stage in adapted.stages if stage.kept][-1].reading
    assert last.metric is not None
    assert last.metric[:, 0].tolist() == pytest.approx(wanted)
    measured_on = "on 2 chips that correct their columns (at.Recovery, steps=0) to the digital ones"
    assert measured_on in str(adapted)
    assert adapted.to_dict()["corrected"] is True


@pytest.mark.slow  # two trainings of 150 steps
def test_a_net_that_learns_for_corrected_columns_keeps_its_own_outputs() -> None:
    """One that learns without them makes up for errors that they take away, and is off by that."""
    torch.manual_seed(1)
    x = torch.randn(2048, 20)
    wave = 3 * torch.sin(x @ torch.randn(20) / 3) + x[:, 0]
    y = (2.7 + (wave - wave.mean()) / wave.std()).unsqueeze(1)  # as ages or prices, not about 0
    net = nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(600):
        part = slice(64 * (step % 32), 64 * (step % 32 + 1))
        nn.functional.mse_loss(net(x[part]), y[part]).backward()
        optimizer.step()
        optimizer.zero_grad()
    batches, exact = list(x.split(64)), net(x).detach()
    found = {}
    for name, noise in (("plain", at.TrainingNoise(weight="device")), ("corrected", CORRECTED)):
        recipe = at.hwa.Recipe(training=noise, patience=None)
        chip = at.chips.hermes64()
        adapted = at.hwa.adapt(net, batches, chip=chip, recipe=recipe, steps=150, num_chips=2)
        own = at.to_digital(copy.deepcopy(adapted.model))(x).detach()
        recovery, errors = at.Recovery(batches=batches[:4]), []
        for seed in range(50, 54):
            view = recovery.correct(at.program(adapted.model, seed=seed).at("1 day"))
            errors.append((view(x).detach() - exact).square().mean())
        found[name] = (own - exact).mean().abs(), torch.stack(errors).mean().sqrt()
    assert found["corrected"][0] < 0.5 * found["plain"][0]
    assert found["corrected"][1] < 0.9 * found["plain"][1]


def test_the_report_names_batches_held_back_that_are_unlike_the_others() -> None:
    adapted = at.hwa.adapt(_net_of(_net()), _batches(), calibration={}, steps=1, num_chips=1)
    found = {}
    for learnt in (1.2, 0.9, 0.5):
        left = Generalisation(learnt=learnt, held=0.9)
        found[learnt] = str(dataclasses.replace(adapted, generalisation=left))
    assert "are unlike the others: shuffle the samples before batching" in found[1.2]
    assert not any("unlike" in found[learnt] for learnt in (0.9, 0.5))
    assert "more batches would help" in found[0.5]
    assert not Generalisation(learnt=1.02, held=0.97).is_unlike  # by chance
    assert Generalisation(learnt=2.0, held=1.5).is_unlike
    assert not Generalisation(learnt=1.6, held=1.5).is_unlike


@pytest.mark.slow
def test_batches_learnt_by_heart_are_told(tmp_path: Path) -> None:
    recipe = at.hwa.Recipe(learning_rate=0.01, looks=1, patience=None)
    options: dict[str, Any] = {"chip": CHIP, "recipe": recipe, "steps": 100, "num_chips": 1}
    few = [batch[:4] for batch in _batches(4)]
    adapted = at.hwa.adapt(_net(), few, folder=tmp_path, **options)
    found = adapted.generalisation
    assert found is not None
    assert found.learnt < 0.8 * found.held
    assert "on those held back; more batches would help" in str(adapted)
    assert adapted.to_dict()["generalisation"] == vars(found)
    resumed = at.hwa.adapt(_net(), few, folder=tmp_path, **options)
    assert resumed.generalisation == found
    many = at.hwa.adapt(_net(), _batches(40), **options).generalisation
    assert many is not None
    assert many.learnt < 1
    assert not many.needs_more
    assert at.hwa.adapt(_net(), few[:3], **options).generalisation is None


class _Outputs(nn.Module):
    """A model of several outputs, one of them a sequence of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.conv = nn.Conv1d(6, 3, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, _ = self.attention(x, x, x)
        y, state = self.lstm(y)
        return {"loss": y.mean(), "hidden": (self.conv(y.mT), state), "name": "outputs"}


def test_a_time_beyond_the_data_of_the_devices_is_noted() -> None:
    chip = crossbar(cell=at.devices.DifferentialPair(device=at.devices.rram_wan()))
    options: dict[str, Any] = {"chip": chip, "calibration": {}, "steps": 1, "num_chips": 1}
    known = at.hwa.adapt(_net(), _batches(4), times=["1 day"], **options)
    beyond = at.hwa.adapt(_net(), _batches(4), times=["1 year"], **options)
    assert (known.note, "note" in known.to_dict()) == ("", False)
    assert "data" in beyond.note
    assert str(beyond).endswith(beyond.note)
    assert beyond.to_dict()["note"] == beyond.note


def test_of_many_batches_few_calibrate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search passes over its batches for each thing that it tries."""
    seen: list[list[Tensor]] = []

    def spied(model: nn.Module, batches: list[Tensor], **options: Any) -> nn.Module:
        seen.append(list(batches))
        return at.calibrate(model, batches, **options)

    monkeypatch.setattr(adaptation, "calibrate", spied)
    batches = _batches(70)
    at.hwa.adapt(_net(), batches, chip=CHIP, steps=1, num_chips=1)
    assert [len(each) for each in seen] == [adaptation.CALIBRATED] * 2  # before and after
    places = [next(i for i, b in enumerate(batches) if b is each) for each in seen[0]]
    assert places == sorted(set(places))
    assert places[-1] >= 60  # from all over what is not held back


def test_every_layer_is_compared() -> None:
    torch.manual_seed(0)
    model = _Outputs().eval()
    batches = list(torch.randn(4, 4, 5, 8).unbind())
    student = at.convert(copy.deepcopy(model), CHIP)
    twin = at.hwa.Twin(student, model)
    assert twin.names == ["attention", "lstm", "conv"]
    with at.noise(1):
        losses = twin.loss(batches[0])
    with at.noise(1):
        total = twin.total(batches[0])
    outputs, layers = losses.outputs, losses.layers
    assert outputs.requires_grad
    assert layers > 0
    assert total == outputs + layers
    assert len(twin.exact(batches[0])) == 3  # without the scalar
    adapted = at.hwa.adapt(model, batches, chip=CHIP, steps=2, num_chips=1)
    assert len(adapted.steps) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass chip="),
        ({"chip": CHIP, "steps": 0}, "steps must be an integer >= 1"),
        ({"chip": CHIP, "minutes": -1}, "minutes must be a positive number"),
        ({"chip": CHIP, "times": "1 day"}, "times must be a list"),
        ({"chip": CHIP, "times": []}, "times is empty"),
        ({"chip": CHIP, "num_chips": 0}, "num_chips must be an integer >= 1"),
        ({"chip": CHIP, "teacher": nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 4))},
         r"returns outputs of shape \(32, 5\) and"),
        ({"chip": CHIP, "calibration": {"method": "none"}}, "method must be one of"),
        ({"chip": CHIP, "recipe": at.hwa.Recipe(layers=1.0), "teacher": nn.Sequential(
            nn.Sequential(nn.Linear(12, 3)), nn.ReLU(), nn.Sequential(nn.Linear(3, 7)),
            nn.Linear(7, 5))}, "of all layers that ran differ in shape"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_and_change_nothing(
    options: dict[str, Any], message: str
) -> None:
    model = _net()
    before = _state(model)
    with pytest.raises(ValueError, match=message):
        at.hwa.adapt(model, _batches(4), **options)
    assert _same(before, _state(model))
    assert not list(at.analog_layers(model))


def test_wrong_models_and_batches_are_refused() -> None:
    converted = _net_of(_net())
    with pytest.raises(ValueError, match="batches is empty"):
        at.hwa.adapt(_net(), [], chip=CHIP)
    with pytest.raises(TypeError, match="iterable of batches"):
        at.hwa.adapt(_net(), torch.randn(4, 12), chip=CHIP)
    with pytest.raises(ValueError, match="layer '0' takes"):
        at.hwa.adapt(_net(), [torch.randn(4, 11)], chip=CHIP)
    with pytest.raises(ValueError, match="is converted already"):
        at.hwa.adapt(converted, _batches(), chip=CHIP)
    with pytest.raises(ValueError, match="no Parameter of the model requires a gradient"):
        at.hwa.adapt(_net_of(_net()).requires_grad_(False), _batches(4))
    with pytest.raises(ValueError, match="NaN or infinite"):
        at.hwa.adapt(_net(), [torch.full((4, 12), math.inf)], chip=CHIP)
    with pytest.raises(TypeError, match="writer must have add_scalar"):
        at.hwa.adapt(_net(), _batches(4), chip=CHIP, writer=print)
    with pytest.raises(ValueError, match="programmed"):
        at.hwa.adapt(at.program(converted, seed=1).at("1 day"), _batches(4))


def test_recipes_refuse_wrong_numbers() -> None:
    for options in ({"learning_rate": 0}, {"noise": 2}, {"ramp": -1}, {"clip_sigma": 0},
                    {"outputs": "logits"}, {"temperature": 0}, {"layers": -1}, {"looks": 0},
                    {"patience": 0}, {"learn_ranges": 1},
                    {"outputs": "error", "temperature": 2.0}):  # fmt: skip
        with pytest.raises(ValueError, match="Recipe"):
            at.hwa.Recipe(**options)  # type: ignore[arg-type]


def test_chips_that_are_nearly_exact_have_an_error_of_zero() -> None:
    adapted = at.hwa.adapt(_net(), _batches(), chip=at.chips.ideal(), steps=2, num_chips=1)
    assert "nan" not in str(adapted)
    assert all(math.isfinite(stage.reading.mean) for stage in adapted.stages)
    assert 0 <= adapted.stages[0].reading.mean < 1e-3


def test_a_complex_weight_moves_by_its_whole_size() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    net[0].phase = nn.Parameter(torch.full((5,), 2j))
    at.convert(net, CHIP)
    optimizer = relative_adam(net, at.hwa.Recipe(learning_rate=0.01))
    found = {id(group["params"][0]): group["lr"] for group in optimizer.param_groups}
    assert math.isclose(found[id(net[0].phase)], 0.02, rel_tol=1e-6)


def test_a_buffer_that_follows_the_batch_loses_no_training() -> None:
    class Stateful(nn.Module):
        last: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 24), nn.Linear(24, 5)
            self.register_buffer("last", torch.zeros(1, 24))

        def forward(self, x: Tensor) -> Tensor:
            self.last = torch.relu(self.a(x)).detach()
            return self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    batches = [torch.randn(12 + 4 * (i % 2), 16) for i in range(12)]
    found = at.hwa.adapt(Stateful(), batches, chip=at.chips.hermes64(), steps=5, num_chips=1)
    assert len(found.steps) == 5


def test_outputs_without_a_gradient_are_named() -> None:
    class Inference(nn.Sequential):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    torch.manual_seed(0)
    net = Inference(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5))
    batches = [torch.randn(32, 16) for _ in range(6)]
    with pytest.raises(ValueError, match="have no gradient to learn by, as where its forward"):
        at.hwa.adapt(net, batches, chip=at.chips.hermes64(), steps=2, num_chips=1)


@pytest.mark.parametrize("in_place", [False, True])
def test_buffers_that_a_forward_writes_stay_as_they_were(in_place: bool, tmp_path: Path) -> None:
    class Counting(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 24), nn.Linear(24, 5)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if in_place:
                self.seen.add_(len(x))
            else:
                self.seen = self.seen + len(x)
            return self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    net, options = Counting(), {"chip": CHIP, "steps": 2, "num_chips": 1}
    before, held = net.seen, net.state_dict()["seen"].clone()
    first = at.hwa.adapt(net, _batches(), folder=tmp_path / "run", **options)
    assert net.seen is before
    assert torch.equal(before, held)
    again = at.hwa.adapt(net, _batches(), folder=tmp_path / "run", **options)
    assert _same(_state(first.model), _state(again.model))


def test_outputs_that_are_detached_raise_one_warning() -> None:
    class Detached(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    torch.manual_seed(0)
    net = Detached(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5))
    with pytest.warns(UserWarning, match="keeps those of its layers alone") as caught:
        at.hwa.adapt(net, _batches(), chip=CHIP, steps=3, num_chips=1)
    assert len([w for w in caught if "its layers alone" in str(w.message)]) == 1


def test_embeddings_of_sparse_gradients_are_refused_by_name() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 12, sparse=True), nn.Linear(12, 5))
    tokens = list(torch.randint(0, 20, (8, 4, 6)).unbind())
    options: dict[str, Any] = {"chip": CHIP, "steps": 2, "num_chips": 1}
    with pytest.raises(ValueError, match=r"embedding '0' learns .* model.0.sparse = False"):
        at.hwa.adapt(net, tokens, **options)
    net[0].requires_grad_(False)
    at.hwa.adapt(net, tokens, **options)


def test_ranges_that_do_not_learn_keep_no_gradient() -> None:
    recipe = at.hwa.Recipe(learn_ranges=False)
    model = at.hwa.adapt(_net(), _batches(), chip=CHIP, steps=2, num_chips=1, recipe=recipe).model
    assert not [name for name, p in model.named_parameters() if p.grad is not None]


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_agreement_of_numbers_does_not_depend_on_the_size_of_batches(outputs: int) -> None:
    """A tenth of their spread over all batches held back counts, not that of each batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, outputs))
    with torch.no_grad():
        net[-1].weight[0] *= 100  # quantities of two units, if there are two
    rows = torch.randn(16, 12)
    recipe = at.hwa.Recipe(outputs="error")

    def shares(size: int) -> Tensor:
        held = rows.split(size)
        twin = at.hwa.Twin(at.convert(copy.deepcopy(net), CHIP), net, recipe)
        twin.exact(rows)
        return OnChips(twin, held, (1, 2), ["0 s", "1 year"]).measure().agreement

    whole = shares(16)
    assert whole.min() > 0
    for size in (1, 4):
        assert torch.equal(shares(size), whole)
