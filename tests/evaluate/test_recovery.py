"""Corrections of chips in the field: they stay until the next one, cost MVMs, and keep chips."""

import concurrent.futures
import contextlib
import copy
import json
import re
import threading
from typing import Any

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.evaluate.field import Field, reads_of, stays, useful_reads

DAY, YEAR = 86_400.0, 31_536_000.0
MONTHLY = at.Recalibration(every="30 days")


def _model():
    """Return a converted net with batch norm, its metric and its inputs."""
    torch.manual_seed(0)
    x = torch.randn(300, 64)
    net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    for _ in range(50):
        net(x)
    y = net.eval()(x).detach()

    def metric(view: nn.Module) -> float:
        return 1 - ((view(x) - y).norm() / y.norm()).item()

    # with targets that allow for drift, there would be little to recover from
    model = at.convert(net, at.chips.hermes64())
    return at.calibrate(model, [x], effort="ranges"), metric, x


def test_corrections_stay_as_registers_do() -> None:
    model, _, x = _model()
    physical = at.program(model, seed=7)
    # what is found at 0 s and carried is a compensation that is read at 0 s alone
    stale = physical.at("1 day", recalibration=at.Recalibration())
    start = physical.at("0 s")
    carried = physical.at("1 day", corrected=start)
    assert torch.equal(carried(x), stale(x))
    # the digital side is that of the corrected view, the cells are those of the time
    corrected = at.Recovery(batches=[x[:100]], batch_norm=True).correct(physical.at("30 days"))
    with torch.no_grad():  # whatever else is digital stays too, such as adapters
        corrected[3].bias += 0.5
    later = physical.at("59 days", corrected=corrected)
    assert torch.equal(later[3].bias, corrected[3].bias)
    assert not torch.equal(later[3].bias, model[3].bias)
    for now, before, plain in zip(later, corrected, physical.at("59 days"), strict=True):
        if isinstance(now, nn.BatchNorm1d):
            assert torch.equal(now.running_mean, before.running_mean)
        elif not isinstance(now, nn.ReLU):
            held, old = now.programmed, before.programmed
            assert torch.equal(held.offset, old.offset)
            assert torch.equal(held.gains[0], old.gains[0])
            assert torch.equal(held.weights[0], plain.programmed.weights[0])
            assert not torch.equal(held.weights[0], old.weights[0])
    # the given view stays, and carrying on from a carried one changes nothing
    again = physical.at("59 days", corrected=physical.at("40 days", corrected=corrected))
    assert torch.equal(again(x), physical.at("59 days", corrected=corrected)(x))


def test_threads_correct_the_batch_norms_of_several_chips() -> None:
    model, metric, x = _model()
    entered = threading.Barrier(2)

    def forward(view: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        with contextlib.suppress(threading.BrokenBarrierError):
            entered.wait(0.2)  # gives the other thread the time to come here too
        return view(batch)

    recovery = at.Recovery(batches=[x[:100]], columns=None, batch_norm=True, forward=forward)
    options = {"num_chips": 2, "times": ["1 day"], "recovery": recovery}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = at.sweep(model, metric, executor=pool, **options)
    assert torch.equal(found.values, at.sweep(model, metric, **options).values)


def test_corrected_must_be_of_this_chip() -> None:
    model, _, _ = _model()
    physical = at.program(model, seed=7)
    view = physical.at("0 s")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(2)
    cases = [
        (3, {}, TypeError, "at: corrected"),
        (model, {}, ValueError, "corrected is not programmed"),
        (at.program(other, seed=7).at("0 s"), {}, ValueError, "other target weights"),
        (view[:1], {}, ValueError, "other analog layers"),
        (view, {"recalibration": MONTHLY}, ValueError, "leave out recalibration="),
    ]
    for corrected, more, error, message in cases:
        with pytest.raises(error, match=message):
            physical.at("1 day", corrected=corrected, **more)


def test_a_recovery_that_fails_leaves_the_view() -> None:
    model, _, x = _model()
    view = at.program(model, seed=7).at("1 day")
    before = copy.deepcopy(view)
    calls = []

    def forward(view: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 3:  # while norms adapt, after the columns
            raise RuntimeError("stop")
        return view(batch)

    with pytest.raises(RuntimeError, match="stop"):
        at.Recovery(batches=[x], batch_norm=True, forward=forward).correct(view)
    assert torch.equal(view[1].running_mean, before[1].running_mean)
    assert torch.equal(view(x), before(x))


def test_its_mvms_are_charged() -> None:
    model, _, x = _model()
    physical = at.program(model, seed=7)
    read = physical.recalibration_cost()
    # each of the two layers lies in one block; a linear layer takes an MVM per input
    once = physical.recalibration_cost(
        recovery=at.Recovery(batches=[x[:100], x[100:140]], columns=None, batch_norm=True)
    )
    assert once.mvms == read.mvms + 2 * 140
    thrice = at.Recovery(batches=[x[:100]], rounds=3)
    columns = physical.recalibration_cost(recovery=thrice)
    assert columns.mvms == read.mvms + 2 * (3 + 1) * 100  # once to judge what it was worth
    assert columns.seconds > read.seconds
    assert columns.joules > read.joules
    # an MVM whose output has noise is taken twice
    noisy = at.chips.hermes64().replace(adc={"noise": 0.04})
    loud = at.program(at.calibrate(at.convert(at.to_digital(model), noisy), [x]), seed=7)
    more = loud.recalibration_cost(recovery=thrice).mvms - loud.recalibration_cost().mvms
    assert more == 2 * (3 * 2 + 1) * 100
    conv = at.convert(nn.Sequential(nn.Conv2d(2, 4, 3)), at.chips.hermes64())
    images = torch.randn(5, 2, 8, 6)
    at.calibrate(conv, [images])
    found = at.program(conv, seed=7)
    fit = at.Recovery(batches=[images], rounds=1, target="layer")
    more = found.recalibration_cost(recovery=fit).mvms - found.recalibration_cost().mvms
    assert more == 1 * 5 * 24  # one for each of the 6 x 4 output positions
    with pytest.raises(TypeError, match="recovery must be a Recovery"):
        physical.recalibration_cost(recovery=[x])


@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 80, 3, groups=2, bias=False),  # a block of 64 columns has both groups
        nn.ConvTranspose2d(16, 32, 3, groups=4),
        nn.Conv2d(16, 16, 3),
    ],
)
def test_their_mvms_are_those_of_inferences(layer: nn.Module, grouped: str) -> None:
    chip = at.chips.hermes64().replace(array={"grouped": grouped, "columns": 64})
    x = torch.randn(3, 16, 8, 8)
    model = at.calibrate(at.convert(nn.Sequential(copy.deepcopy(layer)), chip), [x])
    mapping = at.map_to_chip(model, x)
    inference = at.cost(mapping)
    recovery = at.Recovery(batches=[x], rounds=1, target="layer")
    found = at.program(model, seed=7, mapping=mapping).recalibration_cost("none", recovery)
    assert found.mvms == sum(run.mvms for run in inference.schedule.runs)
    assert found.seconds == pytest.approx(max(tile.busy for tile in inference.schedule.tiles))
    assert found.joules == pytest.approx(inference.energy.tile)


def test_zeros_between_groups_are_not_charged_in_reads_of_the_compensation() -> None:
    chip = at.chips.hermes64().replace(array={"grouped": "block_diagonal"})
    model = at.convert(nn.Sequential(nn.Conv2d(16, 16, 3, groups=16)), chip)
    read = at.program(model, seed=7).recalibration_cost()
    assert read.mvms == 256
    one = chip.cost.mvm(rows=144 / 256, cols=16 / 256, cells=144 / 256**2)
    assert read.joules == pytest.approx(256 * one.total)


def test_sweeps_measure_chips_that_correct_themselves(tmp_path) -> None:
    model, metric, x = _model()
    recovery = at.Recovery(batches=[x[:100]])
    options = {"num_chips": 2, "times": ["programmed", "1 h", "40 days"], "seed": 3}
    plain = at.sweep(model, metric, **options)
    found = at.sweep(model, metric, recovery=recovery, folder=tmp_path, **options)
    assert (found.values > plain.values).all()

    # what a chip corrects without a schedule, it corrects when it is looked at
    by_hand = at.sweep(model, lambda m: metric(at.correct_columns(m, [x[:100]])), **options)
    assert torch.equal(found.values, by_hand.values)

    # with one, at the last read before
    monthly = at.sweep(model, metric, recovery=recovery, recalibration=MONTHLY, **options)
    physical = at.program(model, seed=monthly.seeds[1])
    for column, (read, time) in enumerate((("0 s", "1 h"), ("30 days", "40 days")), start=1):
        corrected = recovery.correct(physical.at(read))
        later = physical.at(time, corrected=corrected)
        assert monthly.values[1, column].item() == pytest.approx(metric(later))
    assert monthly.values[1, 2] != found.values[1, 2]

    # a folder serves one recovery
    again = at.Recovery(batches=(x[:100].clone(),))
    assert torch.equal(
        at.sweep(model, metric, recovery=again, folder=tmp_path, **options).values, found.values
    )
    for other in (None, at.Recovery(batches=[x[:101]]), at.Recovery(batches=[x[:100]], rounds=3)):
        with pytest.raises(ValueError, match=r"another experiment \(recovery"):
            at.sweep(model, metric, recovery=other, folder=tmp_path, **options)
    with pytest.raises(TypeError, match=r"sweep: recovery must be .*Recovery\(batches=batches\)"):
        at.sweep(model, metric, recovery=[x], **options)


def test_a_schedule_of_reads_that_nothing_uses_is_refused() -> None:
    model, metric, x = _model()
    options = {"num_chips": 1, "times": ["1 year"], "compensation": "none"}
    with pytest.raises(ValueError, match="sweep: recalibration .* compensation='none'.* recovery="):
        at.sweep(model, lambda view: pytest.fail("measured"), recalibration=MONTHLY, **options)
    physical = at.program(model, seed=7)
    with pytest.raises(ValueError, match="at: recalibration .* compensation='none'"):
        physical.at("1 year", recalibration=MONTHLY, compensation="none")
    # a recovery is fitted at these reads
    options["recovery"] = at.Recovery(batches=[x[:100]])
    monthly = at.sweep(model, metric, recalibration=MONTHLY, **options)
    assert monthly.values != at.sweep(model, metric, **options).values


def test_comparisons_measure_them_too() -> None:
    model, metric, x = _model()
    options = {"example": x[:1], "num_chips": 1, "times": ["1 day"]}
    options |= {"prepare": lambda m: at.calibrate(m, [x], effort="ranges")}
    recovery = at.Recovery(batches=[x[:100]])
    found = at.compare(model, ["hermes64"], metric, recovery=recovery, **options)
    swept = at.sweep(model, metric, recovery=recovery, num_chips=1, times=["1 day"])
    assert torch.equal(found["hermes64"].sweep.values, swept.values)
    with pytest.raises(ValueError, match="recovery=.* has no effect on costs alone"):
        at.compare(
            at.to_digital(copy.deepcopy(model)), ["hermes64"], recovery=recovery, example=x[:1]
        )


def test_budgets_and_sensitivities_measure_them_too() -> None:
    model, metric, x = _model()
    recovery = at.Recovery(batches=[x[:100]])
    options = {"num_chips": 2, "recovery": recovery, "seed": 3}
    swept = at.sweep(model, metric, times=["1 year"], **options)
    budget = at.budget(model, metric, time="1 year", growth=None, names="drift", **options)
    assert budget.reference - budget.total.mean == pytest.approx(swept.mean.item())
    lost = at.sensitivity(model, metric, effects=("output_noise", "drift"), **options)
    assert lost.reference - lost.total["drift"].mean == pytest.approx(swept.mean.item())
    plain = at.sensitivity(model, metric, effects=("output_noise", "drift"), num_chips=2, seed=3)
    # exact weights have nothing to correct, and each layer on its own gains
    for row in lost.rows:
        before = next(other for other in plain.rows if other.name == row.name)
        assert row.loss["output_noise"] == before.loss["output_noise"]
        assert row.loss["drift"].mean < before.loss["drift"].mean
    for measure in (at.budget, at.sensitivity):
        with pytest.raises(TypeError, match=r"recovery must be .*Recovery\(batches=batches\)"):
            measure(model, metric, recovery=[x])


def test_sensitivities_measure_noise_that_no_recovery_was_fitted_to() -> None:
    model, metric, x = _model()
    noisy = at.chips.hermes64().replace(adc={"noise": 2.0})
    model = at.calibrate(at.convert(at.to_digital(model), noisy), [x], effort="ranges")
    recovery = at.Recovery(batches=[x])  # the inputs of the metric, in their order
    options = {"num_chips": 2, "recovery": recovery, "seed": 3}
    swept = at.sweep(model, metric, times=["1 day"], **options)
    lost = at.sensitivity(model, metric, effects="drift", time="1 day", **options)
    assert lost.reference - lost.total["drift"].mean == pytest.approx(swept.mean.item(), rel=1e-6)


def test_results_say_that_their_chips_correct_themselves() -> None:
    model, metric, x = _model()
    recovery = at.Recovery(batches=[x[:100], x[100:150]], rounds=1, steps=0)
    said = "chips correct gain and offset of their columns digitally, from 150 unlabelled inputs"
    options = {"num_chips": 2, "recovery": recovery}
    compared = at.compare(
        model, ["hermes64"], metric, example=x[:1], times=["1 day"],
        prepare=lambda view: at.calibrate(view, [x], effort="ranges"), **options,
    )  # fmt: skip
    assert f"at each time the {said}" in str(compared)
    assert compared.to_dict()["recovery"] == said
    assert f"mean of 2 simulated chips; {said}" in compared.to_csv()
    budget = at.budget(model, metric, time="1 day", names=["adc"], **options)
    assert f"before they are measured, {said}" in str(budget)
    assert budget.to_dict()["recovery"] == said
    plain = at.budget(model, metric, time="1 day", names=["adc"], num_chips=2)
    assert "correct" not in str(plain)
    assert "recovery" not in plain.to_dict()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batches": [torch.zeros(1, 4)]}, "gain and offset of their columns digitally, from 1 un"),
        ({"batches": [{"x": 1}]}, "columns digitally, from 1 unlabelled batch"),
        ({"batches": [(1, 2)] * 2, "columns": "gain"}, "the gain of their columns digitally, from"),
        ({"batches": [(1, 2)] * 2, "columns": "offset"}, "the offset of .* 2 unlabelled batches"),
        (
            {"batches": [torch.zeros(3, 4)], "batch_norm": True},
            "columns and the statistics of batch norm digitally, from 3 unlabelled inputs",
        ),
        (
            {"batches": [torch.zeros(3, 4)], "batch_norm": True, "columns": None},
            "chips correct the statistics of batch norm digitally",
        ),
    ],
)
def test_a_recovery_says_what_it_corrects(given: dict, said: str) -> None:
    assert re.search(said, at.Recovery(**given).summary)


def test_recovery_makes_chips_last_longer() -> None:
    model, metric, x = _model()
    often = at.Recalibration(every="90 days", times=("1 h", "1 day", "7 days"))
    recovery = at.Recovery(batches=[x[:150]], rounds=1)
    weights = copy.deepcopy(model.state_dict())
    options = {"limit": 0.75, "recalibration": often, "num_chips": 1, "longest": "1 year"}
    found = at.lifetime(model, metric, recovery=recovery, **options)
    plain = at.lifetime(model, metric, **options)
    assert torch.equal(found.once, plain.once)
    assert torch.equal(found.recalibrated, plain.recalibrated)
    assert plain.recovered is None
    assert "recovered" not in plain.to_dict()
    assert (found.recovered >= found.recalibrated).all()
    assert (found.recovered > found.recalibrated).any()
    assert found.recovery_cost.mvms > found.cost.mvms
    text = str(found)
    assert "every 90 days and 3 times, recovery" in text
    assert f"with recovery: {found.recovery_cost}" in text
    assert len(json.loads(json.dumps(found.to_dict(), allow_nan=False))["recovered"]) == 1
    assert len(found.plot().axes[0].lines) == 3
    again = at.lifetime(model, metric, recovery=recovery, **options)
    assert torch.equal(again.recovered, found.recovered)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items() if v is not None)


def test_blocks_that_share_a_tile_are_read_one_after_the_other() -> None:
    model, metric, x = _model()
    mapping = at.map_to_chip(model, x[:1])
    assert mapping.tiles_used == 1  # both layers
    options = {"limit": 0.1, "num_chips": 1}
    for measure, more in (
        (at.lifetime, {"recalibration": MONTHLY, "longest": "1 h"}),
        (at.recalibration_interval, {"life": "1 h"}),
    ):
        apart = measure(model, metric, **options, **more)
        packed = measure(model, metric, mapping=mapping, **options, **more)
        assert packed.to_dict()["cost"]["seconds"] == packed.cost.seconds
        assert packed.cost.seconds == pytest.approx(2 * apart.cost.seconds)
        assert packed.cost.joules == pytest.approx(apart.cost.joules)
        with pytest.raises(TypeError, match="mapping must be what map_to_chip gives"):
            measure(model, metric, mapping=3, **options, **more)


def test_as_many_looks_at_every_interval() -> None:
    looks: list[float] = []
    for days in (1, 30, 365, 366):
        schedule, asked = at.Recalibration(every=days * DAY), []
        assert stays(lambda t, asked=asked: asked.append(t) or True, schedule.reads(YEAR), YEAR)
        # right before a read at the end, after which no chip serves
        assert asked[0] == pytest.approx(YEAR, rel=1e-8)
        assert (asked[0] < YEAR) == (YEAR in schedule.reads(YEAR))
        assert asked[-1] == 0
        looks.append(len(asked))
    assert looks == [16, 16, 16, 16]  # 0 s, 1, 2, 4 h and so on up to 8192 h, and the year
    # they are right before reads, so that a metric that ages in between is seen
    weekly = at.Recalibration(every="7 days")
    assert stays(lambda t: t - weekly.last(t) < 7.5 * DAY, weekly.reads(YEAR), YEAR)
    assert not stays(lambda t: t - MONTHLY.last(t) < 29.9 * DAY, MONTHLY.reads(YEAR), YEAR)
    assert not stays(lambda t: t > 0, weekly.reads(YEAR), YEAR)
    assert not stays(lambda t: t < YEAR, weekly.reads(YEAR), YEAR)
    assert stays(lambda t: True, (0.0,), 60.0)


@pytest.mark.parametrize("share", [1, 2, 3, 7])
def test_a_read_at_the_end_of_the_life_neither_helps_nor_counts(share: int) -> None:
    """An interval that divides the life is as good as one that is a little longer."""
    life, aged = 42 * DAY, 42 / share * DAY
    kept = []
    for every in (aged, aged * 1.001):
        schedule = at.Recalibration(every=every)
        reads = reads_of(schedule, 0.0, life)
        kept.append(stays(lambda t, s=schedule: t - s.last(t) < 0.99 * aged, reads, life))
        assert useful_reads(schedule, 0.0, life) == share
    assert kept == [False, False]


def test_the_longest_interval_that_keeps_all_chips() -> None:
    model, metric, x = _model()
    options = {
        "limit": 0.72,
        "num_chips": 2,
        "intervals": ["5 days", "90 days", "1 year"],
        "times": ("1 h", "1 day", "7 days"),
    }
    found = at.recalibration_interval(model, metric, **options)
    assert found.intervals == (YEAR, 90 * DAY, 5 * DAY)
    assert found.longest.min() == 0
    assert found.every is None
    assert "too, none of the intervals keeps all chips within 0.72 for 1 year" in str(found)
    recovery = at.Recovery(batches=[x[:150]], rounds=1)
    helped = at.recalibration_interval(model, metric, recovery=recovery, **options)
    assert (helped.longest >= found.longest).all()
    assert helped.every == helped.longest.min().item() == 90 * DAY
    assert helped.reads(90 * DAY) == 8
    assert helped.cost.mvms > found.cost.mvms
    text = str(helped)
    assert "recalibrated at 1 h, 1 day, 7 days too, every 90 days keeps all chips" in text
    assert "2 of 2" in text
    assert "every 5 days" not in text
    data = json.loads(json.dumps(helped.to_dict(), allow_nan=False))
    assert (data["every"], data["longest"]) == (helped.every, helped.longest.tolist())


def test_an_interval_whose_next_shorter_one_crosses_the_limit_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, metric, _ = _model()
    tried: list[float] = []

    def within(self: Field, physical: Any, schedule: at.Recalibration, _: Any) -> Any:
        tried.append(schedule.every)
        return lambda t: schedule.every in kept

    monkeypatch.setattr(Field, "within", within)
    days = ["1 year", "90 days", "30 days", "5 days"]
    for kept, shorter, looked in (
        ({YEAR}, False, 2),
        ({YEAR, 90 * DAY}, True, 2),
        ({90 * DAY, 5 * DAY}, False, 3),
        ({5 * DAY}, True, 4),
        (set(), True, 4),
    ):
        tried.clear()
        found = at.recalibration_interval(model, metric, limit=0.7, num_chips=1, intervals=days)
        assert len(tried) == looked
        assert found.longest.item() == max(kept, default=0.0)
        assert found.shorter.tolist() == found.to_dict()["shorter"] == [shorter]
        assert ("1 of 1 chips cross the limit with the next shorter" in str(found)) != shorter


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"intervals": "1 day"}, ValueError, "intervals must be a list such as"),
        ({"intervals": []}, ValueError, "intervals must be a list such as"),
        ({"intervals": ["1 day", 0]}, ValueError, "intervals must be after 0 s"),
        (
            {"life": "1 h", "times": ["1 min", "1 day", 7 * 86_400]},
            ValueError,
            "times must lie within the life of 1 h, got '1 day', 604800; drop them",
        ),
        ({"life": 0}, ValueError, "life must be a time after 0 s"),
        ({"recovery": [1]}, TypeError, "recovery must be a Recovery"),
        ({"compensation": "none"}, ValueError, "compensation must be one of"),
    ],
)
def test_bad_arguments_are_refused(changes: dict, error: type, message: str) -> None:
    model, metric, _ = _model()
    with pytest.raises(error, match=f"recalibration_interval: {message}"):
        at.recalibration_interval(model, metric, **{"limit": 0.8, **changes})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"batches": torch.ones(2, 64)}, TypeError, "batches must be an iterable of batches"),
        ({"batches": []}, ValueError, "batches is empty"),
        ({"columns": "gains"}, ValueError, "Recovery.columns must be one of"),
        ({"columns": None}, ValueError, "corrects nothing"),
        ({"rounds": 0}, ValueError, "rounds must be an integer >= 1"),
        ({"batch_norm": 1}, ValueError, "batch_norm must be True or False"),
        ({"forward": 3}, TypeError, "forward must be a function"),
    ],
)
def test_a_recovery_checks_its_fields(given: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        at.Recovery(**{"batches": [torch.ones(2, 64)], **given})
