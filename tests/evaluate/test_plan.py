"""Hardware plans: what is measured, what they cost, and that convert makes the same model again."""

import copy
import csv
import dataclasses
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.conversion.route import routed_layers
from analogtorch.cost_model import WeightMemory
from analogtorch.evaluate import FloorNotReached, HardwarePlan
from analogtorch.evaluate.checked import chip_seeds
from analogtorch.evaluate.plan_bench import search
from analogtorch.evaluate.plan_cost import Costs
from analogtorch.evaluate.walks import Candidate, neighbours, walk
from tests.crossbar import crossbar

CHIP = crossbar()
X = torch.randn(400, 24, generator=torch.Generator().manual_seed(0))


def _digital() -> nn.Sequential:
    """Return a net whose layer ``2`` is fragile: one large weight sets its scale."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 6)
    )
    with torch.no_grad():
        net[2].weight[3, 5] = 4.0
    return net.eval()


LABELS = _digital()(X).argmax(-1)


def _accuracy(model: nn.Module) -> float:
    return at.accuracy(model, [(X, LABELS)])


def _calibrate(model: nn.Module) -> None:
    at.calibrate(model, [X])


def _analog() -> nn.Module:
    return at.calibrate(at.convert(_digital(), CHIP), [X])


def _plan(model: nn.Module | None = None, floor: float = 0.9, **options: object) -> HardwarePlan:
    usual = {"example": X[:1], "prepare": _calibrate, "num_chips": 2, "confirm": 2}
    return at.plan(model or _analog(), _accuracy, floor, **(usual | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found() -> HardwarePlan:
    return _plan()


def test_the_fragile_layer_is_kept_digital_and_the_floor_is_kept(found: HardwarePlan) -> None:
    assert found.reference == 1.0
    (analog,) = [p for p in found.points if p.name == "all analog"]
    assert analog.metric.mean < found.threshold == pytest.approx(0.9)
    assert found.best is not None
    assert "2" in found.best.digital
    assert found.best.metric.mean >= found.threshold
    kept = [p for p in found.points if p.metric.mean >= found.threshold]
    assert found.best.cost.energy == min(p.cost.energy for p in kept)
    least = dataclasses.replace(found, cheapest="digital_macs").best
    assert least is not None
    assert least.cost.digital_macs == min(p.cost.digital_macs for p in kept)


def test_the_front_holds_no_point_that_another_beats(found: HardwarePlan) -> None:
    def costs(p: at.evaluate.HardwarePoint) -> tuple[float, ...]:
        return (-p.metric.mean, p.cost.energy, p.cost.latency, p.cost.chips)

    for p in found.points:
        beaten = any(
            costs(q) != costs(p) and all(a <= b for a, b in zip(costs(q), costs(p), strict=True))
            for q in found.points
        )
        assert beaten == (p not in found.front)
    energies = [p.cost.energy for p in found.points]
    assert energies == sorted(energies)


def test_the_arguments_make_the_same_model_of_the_digital_one(found: HardwarePlan) -> None:
    kinds = {bool(p.digital) + 2 * bool(p.devices) for p in found.points}
    assert {0, 1, 2} <= kinds  # all analog, digital layers, more devices
    for kind in kinds:
        point = next(p for p in found.points if bool(p.digital) + 2 * bool(p.devices) == kind)
        model = at.convert(_digital(), **point.convert_arguments())
        _calibrate(at.quantise_digital(model))
        again = at.sweep(model, _accuracy, num_chips=2, times=["1 day"])
        assert torch.equal(again.values, point.values)
        assert again.seeds == found.seeds
    assert found.convert_arguments() == found.best.convert_arguments()  # type: ignore[union-attr]


def test_plans_of_chips_that_correct_themselves() -> None:
    recovery = at.Recovery(batches=[X[:100]])
    found = _plan(floor=0.5, recovery=recovery, devices={}, max_plans=12)
    point = next(p for p in found.points if not p.digital)
    model = at.convert(_digital(), **point.convert_arguments())
    _calibrate(model)
    options = {"num_chips": 2, "times": ["1 day"]}
    corrected = at.sweep(model, _accuracy, recovery=recovery, **options)
    assert torch.equal(corrected.values, point.values)
    assert not torch.equal(at.sweep(model, _accuracy, **options).values, point.values)
    lost = at.sensitivity(
        _analog(), _accuracy, effects="drift", time="1 day", num_chips=2, recovery=recovery
    )
    assert found.sensitivity == lost
    assert found.recovery == lost.recovery == recovery.summary
    assert f"before they are measured, {recovery.summary}" in str(found)
    assert found.to_dict()["recovery"] == recovery.summary
    with pytest.raises(TypeError, match="plan: recovery must be a Recovery"):
        _plan(recovery=[X])


def test_a_plan_names_the_compensation_of_its_chips(found: HardwarePlan) -> None:
    assert not {"recovery", "conditions"} & found.to_dict().keys()
    plain = _plan(floor=0.3, devices={}, max_plans=12, compensation="none")
    assert "on the chips, drift is not compensated" in str(plain)
    assert plain.to_dict()["conditions"] == ["drift is not compensated"]


def test_a_layer_that_was_excluded_stays_excluded_and_is_charged() -> None:
    model = at.convert(_digital(), CHIP, exclude="4", per_layer={"2": at.chips.hermes64()})
    found = _plan(model, 0.5, devices={}, max_plans=12, also=["0"], chip=CHIP)
    assert ("0",) in [p.digital for p in found.points]
    for p in found.points:
        assert "4" in p.convert_arguments()["exclude"]
        assert p.convert_arguments()["chip"] == CHIP
        assert p.digital.count("4") == 0
        assert p.cost.digital_macs >= 40 * 6


@pytest.mark.parametrize("chip", [None, CHIP])
def test_layers_with_more_devices_are_refused_as_plan_chooses_them(chip: at.Chip | None) -> None:
    model = at.convert(_digital(), CHIP, per_layer={"0": {"cell": CHIP.cell.enlarged(2)}})
    text = r"layer '0' takes 2 unit cells of .*without them in per_layer, .* devices=\{2: "
    with pytest.raises(ValueError, match=text):
        _plan(model, chip=chip)


def test_inputs_without_a_sign_take_one_pass_and_the_table_tells_of_the_others() -> None:
    chip = at.chips.ibm_speech34()
    model = at.convert(_digital(), chip)
    how = {"prepare": None, "devices": {}, "max_plans": 12, "num_chips": 1, "confirm": 0}
    both = _plan(model, 0.1, **how)
    found = _plan(model, 0.1, signed_inputs=["0"], sensitivity=both.sensitivity, **how)
    for plan, passes in ((both, "2 passes each: 3 matrices"), (found, "2 passes each: 1 matrix")):
        assert f"signed inputs, {passes} (signed_inputs=[...]" in str(plan)
    assert found.signed == ("0",)
    for point in found.points:
        left = at.convert(_digital(), **point.convert_arguments())
        mapping = at.map_to_chip(at.quantise_digital(left, example=X[:1]), X[:1])
        signed = [m.name for m in mapping.matrices if m.name == "0"]
        alone = at.cost(mapping, signed_inputs=signed)
        read, _ = WeightMemory().read(sum(left[int(n)].weight.numel() for n in point.digital))
        assert point.cost.energy == pytest.approx(alone.energy.system + read)
    dear, cheap = ({p.name: p.cost.energy for p in plan.points} for plan in (both, found))
    assert cheap["all analog"] < dear["all analog"]
    assert "signed" not in str(_plan(model, 0.1, signed_inputs=(), **how))
    with pytest.raises(ValueError, match=r"signed_inputs names \['1'\], which are no matrices"):
        _plan(model, signed_inputs=["1"], **how)


class _ByWeight(nn.Sequential):
    """Computes with the weight of its first layer and does not call it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.both = False

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self[0].weight, self[0].bias)
        if self.both:
            y = y + x @ (2 * self[0].weight).T
        for layer in self[1:]:
            y = layer(y)
        return y


def _by_weight() -> nn.Module:
    return _ByWeight(*_digital()).eval()


def test_layers_that_are_called_by_their_weights_are_measured_as_they_are_charged() -> None:
    model = at.convert(_by_weight(), CHIP)
    options = {"prepare": None, "devices": {}, "max_plans": 12}
    found = _plan(model, 0.5, **options)
    assert routed_layers(model) == []
    again = at.convert(_by_weight(), CHIP, example=X[:1])
    assert found.sensitivity == at.sensitivity(
        again, _accuracy, effects="drift", time="1 day", num_chips=2
    )
    (analog,) = [p for p in found.points if p.name == "all analog"]
    values = at.sweep(again, _accuracy, num_chips=2, times=["1 day"]).values
    assert torch.equal(analog.values, values)


def test_digital_layers_that_are_called_by_their_weights_round_inputs_and_are_charged() -> None:
    by_weight, called = (
        _plan(at.convert(model, CHIP), 0.5, prepare=None, devices={}, max_plans=12)
        for model in (_by_weight(), _digital())
    )
    assert by_weight.digital_metric == called.digital_metric
    assert by_weight.digital_cost == called.digital_cost
    assert [p.metric for p in by_weight.points] == [p.metric for p in called.points]
    assert [p.cost for p in by_weight.points] == [p.cost for p in called.points]


def test_an_example_that_can_only_be_mapped_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"plan: the model does not run on .*types that it takes"):
        _plan(example=X[:1].double())


def test_products_with_a_layers_weight_that_no_chip_computes_are_named() -> None:
    model = at.convert(_by_weight(), CHIP)
    model.both = True
    with pytest.warns(UserWarning, match=r"plan: 1 analog layers are bypassed: .*\n  '0': .*mm"):
        _plan(model, 0.1, prepare=None, devices={}, max_plans=12, num_chips=1)


def test_the_model_and_the_random_state_stay_as_they_were() -> None:
    model = _analog()
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    _plan(model, 0.5, devices={}, max_plans=12, num_chips=1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert model[2].calibrated  # type: ignore[index, union-attr]


def test_the_model_itself_may_be_the_layer() -> None:
    model = at.calibrate(at.convert(nn.Linear(24, 6), CHIP), [X])
    found = _plan(model, 0.01, num_chips=1)
    assert {p.name for p in found.points} == {"all analog", "2 cells per weight: (root)"}
    again = at.convert(at.to_digital(model), **found.convert_arguments())
    assert again.chip == CHIP
    assert at.map_to_chip(model, X[:1], duplicate={"": 2}).copies == {"(root)": 2}


def test_costs_add_up_by_hand() -> None:
    model = at.convert(_digital(), CHIP)
    memory = WeightMemory(capacity=1000)
    costs = Costs(model, X[:1], CHIP, memory)
    macs, (first, middle, last) = 2800, (960, 1600, 240)
    assert CHIP.cost is not None
    host, whole, alone = CHIP.cost.host, costs.of(Candidate(())), costs.all_digital()
    read = 1000 * memory.energy.value + 1800 * memory.dram_energy.value
    relu = 80
    rounding = {"0": 5 * 24 + 2, "2": 5 * 40 + 2, "4": 5 * 40 + 2}
    operations = 2 * macs + relu + sum(rounding.values())
    assert alone.energy == pytest.approx(operations * host.energy.value + read)
    assert alone.latency == pytest.approx(
        operations / host.rate.value + 1800 / memory.dram_rate.value
    )
    assert (whole.macs, whole.digital_macs) == (macs, 0)
    report = at.cost(at.map_to_chip(model, X[:1]))
    assert whole.energy == pytest.approx(report.energy.system)
    assert whole.latency == pytest.approx(report.latency)
    part = costs.of(Candidate((("0", 0), ("4", 0))))
    assert part.digital_macs == first + last
    report = at.cost(at.map_to_chip(model, X[:1], exclude=["0", "4"]))
    read, waited = memory.read(first + last)
    rounded = rounding["0"] + rounding["4"]
    read += rounded * host.energy.value
    assert part.energy == pytest.approx(report.energy.system + read)
    assert part.latency == pytest.approx(report.latency + waited + rounded / host.rate.value)
    twice = costs.of(Candidate((("2", 2),)))
    apart = at.cost(at.map_to_chip(model, X[:1], exclude=["0", "4"])).energy
    added = apart.tile + 40 * CHIP.cost.on_chip.energy.value  # the copy, and its sums
    assert twice.energy == pytest.approx(whole.energy + added, rel=0.01)
    assert middle == costs.weights["2"]


class _Parts(nn.Module):
    """Layers of several kinds, with a branch beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(4, 6, 3, groups=2), nn.LSTM(6, 6, batch_first=True)
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)
        self.beside = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        held = self.lstm(self.conv(x).mT)[0].relu()
        return self.head(self.attention(held, held, held)[0]) + self.beside(x[..., 2:].mT)


@pytest.mark.parametrize("kinds", [(), ("activation", "add"), ("activation", "add", "matmul")])
def test_the_price_is_that_of_the_model_as_measured(kinds: tuple[str, ...]) -> None:
    assert CHIP.cost is not None
    on_chip = dataclasses.replace(CHIP.cost.on_chip, kinds=kinds)
    chip = CHIP.replace(cost=dataclasses.replace(CHIP.cost, on_chip=on_chip))
    x, memory = torch.zeros(1, 4, 9), WeightMemory()
    lstm, attention = ["lstm.ih_l0", "lstm.hh_l0"], ["attention.in_proj", "attention.out_proj"]
    for before, int8, digital in (
        (["head"], False, ["conv"]),
        (["head"], True, ["conv", lstm[0]]),
        ([], False, ["beside"]),
        ([], False, ["conv", *lstm, "head"]),
        ([], False, [attention[0], "beside"]),
        (["beside"], True, [lstm[1], *attention, "head"]),
    ):
        given = at.convert(_Parts(), chip, exclude=before)
        costs = Costs(at.quantise_digital(given) if int8 else given, x, chip, memory)
        model = at.convert(_Parts(), chip, exclude=[*before, *digital])
        mapping = at.map_to_chip(at.quantise_digital(model), x)
        placed = {m.name for m in mapping.matrices}
        read, waited = memory.read(sum(n for w, n in costs.weights.items() if w not in placed))
        report = at.cost(mapping)
        found = costs.of(Candidate.of(dict.fromkeys(digital, 0), costs.layers))
        assert found.energy == pytest.approx(report.energy.system + read)
        assert found.latency == pytest.approx(report.latency + waited)


def test_the_price_of_a_layer_does_not_depend_on_its_name_or_who_holds_its_weight() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rounding = nn.ModuleDict({"rounding": nn.Linear(8, 8), "a": nn.Linear(8, 8)})
            self.tied = nn.Linear(8, 8)
            self.tied.weight = self.rounding["a"].weight

        def forward(self, x: Tensor) -> Tensor:
            return self.tied(self.rounding["a"](self.rounding["rounding"](x)).relu())

    x, memory = torch.zeros(1, 8), WeightMemory()
    costs = Costs(at.convert(Net(), CHIP), x, CHIP, memory)
    assert set(costs.rounded.rounding.values()) == {"rounding.rounding", "rounding.a", "tied"}
    exact, rounded = (
        [op.name for op in found.operations if op.matrix] for found in (costs.traced, costs.rounded)
    )
    assert exact == rounded
    for digital in (["rounding.rounding"], ["rounding.a", "tied"]):
        mapping = at.map_to_chip(at.quantise_digital(at.convert(Net(), CHIP, exclude=digital)), x)
        found = costs.of(Candidate.of(dict.fromkeys(digital, 0), costs.layers))
        placed = {m.name for m in mapping.matrices}
        read, _ = memory.read(sum(n for name, n in costs.weights.items() if name not in placed))
        assert found.energy == pytest.approx(at.cost(mapping).energy.system + read, abs=0)


def test_a_model_whose_code_depends_on_what_is_rounded_is_charged_as_it_runs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 1, bias=False), nn.Linear(1, 2)
            self.a.weight.data = torch.tensor([[1.0, -1.0]])

        def forward(self, x: Tensor) -> Tensor:
            held = self.a(x)
            return self.b(held.exp().relu() if held > 0 else held)

    x, memory = torch.tensor([[1.0, 0.999]]), WeightMemory()
    costs = Costs(at.convert(Net(), CHIP), x, CHIP, memory)
    for digital in ("a", "b"):
        mapping = at.map_to_chip(at.quantise_digital(at.convert(Net(), CHIP, exclude=digital)), x)
        read, _ = memory.read(2)
        found = costs.of(Candidate.of({digital: 0}, costs.layers))
        assert found.energy == pytest.approx(at.cost(mapping).energy.system + read)


def test_a_walk_takes_what_saves_most_for_what_it_costs() -> None:
    losses = {"a": {1: 4.0, 0: 0.0}, "b": {1: 3.0, 2: 2.0, 0: 0.0}, "c": {1: 0.0, 0: 0.0}}
    costs = {"a": {1: 0.0, 0: 8.0}, "b": {1: 0.0, 2: 0.5, 0: 10.0}, "c": {1: 0.0, 0: 1.0}}
    steps = [dict(c.cells) for c in walk(losses, costs)]
    assert steps == [{}, {"b": 2}, {"a": 0, "b": 2}, {"a": 0, "b": 0}]
    costs["c"][0] = -1.0  # it saves energy: after those that save loss for nothing
    costs["a"][0] = 0.0
    steps = [dict(c.cells) for c in walk(losses, costs)]
    assert steps[1] == {"a": 0}
    assert steps[-1] == {"a": 0, "b": 0}


def test_no_exchange_of_a_layer_makes_the_best_cheaper(found: HardwarePlan) -> None:
    """The plan ends for that reason, and not because enough was measured."""
    best = found.best
    assert best is not None
    assert len(found.points) < 32
    seen = {(p.digital, tuple(p.devices.items())): p for p in found.points}
    losses = {name: {0: 0.0, 1: 1.0, 2: 0.5} for name in ("0", "2", "4")}
    state = dict.fromkeys(best.digital, 0) | best.devices
    costs = Costs(_analog(), X[:1], CHIP, WeightMemory())
    cheaper = [
        c
        for c in neighbours(Candidate.of(state, losses), losses)
        if costs.of(c).energy < best.cost.energy
    ]
    assert cheaper
    for c in cheaper:
        assert not found.keeps(seen[c.digital, tuple(c.devices.items())])


def test_neighbours_differ_in_one_layer_or_exchange_two() -> None:
    losses = {"a": {0: 0.0, 1: 3.0}, "b": {0: 0.0, 1: 2.0}, "c": {0: 0.0, 1: 1.0}}
    near = neighbours(Candidate((("b", 0), ("c", 0))), losses)
    assert [dict(c.cells) for c in near] == [
        {"a": 0, "b": 0},  # c on the chip for a
        {"a": 0, "c": 0},
        {"b": 0},
        {"c": 0},
    ]


def test_long_walks_are_measured_at_some_steps_and_around_the_floor() -> None:
    measured = list[int]()

    def point(i: int) -> int:
        measured.append(i)
        return i

    search(range(101), point, lambda i: i >= 37, 14)  # type: ignore[arg-type]
    assert {0, 100, 36, 37} <= set(measured)
    assert len(measured) <= 14


def test_a_floor_that_no_plan_keeps_says_how_far_the_best_gets() -> None:
    noisy = CHIP.replace(adc={"noise": 3.0})
    model = at.convert(_digital(), noisy)
    with pytest.raises(FloorNotReached, match="asks for at least 1; the best of") as caught:
        _plan(model, 1.0, devices={}, max_plans=12)
    left = caught.value.plan
    assert left.best is None
    assert left.nearest.metric.mean == max(p.metric.mean for p in left.points)
    assert "no plan keeps the floor" in str(left)
    assert left.digital == "int8"
    for digital_metric, found in ((0.5, True), (1.0, False)):
        error = FloorNotReached(dataclasses.replace(left, digital_metric=digital_metric))
        remedy = "Lower the floor, leave the digital part in digital='float', calibrate"
        assert (remedy in str(error)) == found
    some = FloorNotReached(dataclasses.replace(left, unmeasured=3))
    assert "allow more max_plans, as 3 candidates are not measured" in str(some)
    with pytest.raises(FloorNotReached, match="calibrate in prepare or train") as caught:
        _plan(model, 1.0, devices={}, max_plans=40)
    assert "max_plans" not in str(caught.value)
    assert caught.value.plan.unmeasured == 0
    assert len(caught.value.plan.points) < 40
    with pytest.raises(FloorNotReached):
        left.convert_arguments()


def test_candidates_that_walks_skip_are_measured_before_no_plan_keeps_the_floor(
    found: HardwarePlan,
) -> None:
    calls = 0

    def metric(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        cells = {name: layer.chip.cell for name, layer in at.analog_layers(model)}
        if calls == 1:  # all layers are exact
            return 1.0
        if cells == {"0": CHIP.cell, "2": CHIP.cell}:
            return 0.98
        return 0.9 if cells else 0.95

    given = {"prepare": _calibrate, "num_chips": 1, "sensitivity": found.sensitivity}
    plan = at.plan(_analog(), metric, 0.97, example=X[:1], max_plans=12, **given)  # type: ignore[arg-type]
    assert plan.best is not None
    assert (plan.best.digital, plan.best.devices) == (("4",), {})


def test_the_best_keeps_the_floor_on_chips_that_had_no_part_in_its_choice(
    found: HardwarePlan,
) -> None:
    kept = {("0",), ("0", "4"), ("4",)}
    calls: dict[tuple[str, ...], int] = {}

    def metric(model: nn.Module) -> float:
        analog = tuple(name for name, _ in at.analog_layers(model))
        calls[analog] = number = calls.get(analog, 0) + 1
        if not analog or sum(calls.values()) == 1:  # all layers are exact
            return 1.0
        if analog not in kept:
            return 0.5
        lucky = analog != ("0", "4")  # on the first two chips alone
        return 0.7 if lucky and number > 2 else 0.98

    def plan(**options: object) -> HardwarePlan:
        calls.clear()
        given = {"prepare": _calibrate, "num_chips": 2, "sensitivity": found.sensitivity}
        given |= {"devices": {}, "max_plans": 12} | options
        return at.plan(_analog(), metric, 0.9, example=X[:1], **given)  # type: ignore[arg-type]

    lucky = plan(confirm=0)
    assert lucky.best is not None
    assert lucky.best.confirmed is None
    assert lucky.best.analog in kept - {("0", "4")}
    sure = plan(confirm=3)
    assert sure.best is not None
    assert sure.best.analog == ("0", "4")
    assert sure.best.confirmed is not None
    assert sure.best.confirmed.values.tolist() == [[0.98]] * 3
    assert sure.best.values.tolist() == [[0.98]] * 2
    assert {p.analog for p in sure.refuted} == kept - {("0", "4")}
    assert sure.seeds + sure.further_seeds == chip_seeds(0, 5)
    assert "0.9800 on 3 further chips" in str(sure)
    assert "2 chips that chose them, and not on 3 further ones: on the chip: 4 (0.7000" in str(sure)
    assert [p.name for p in sure.points if p.confirmed is None] != []
    rows = list(csv.DictReader(io.StringIO(sure.to_csv())))
    assert [row["confirmed_metric"] for row in rows if row["best"] == "True"] == ["0.98"]
    kept.remove(("0", "4"))
    with pytest.raises(FloorNotReached, match="2 keep it on the 2 chips .* but not on 3") as caught:
        plan(confirm=3)
    assert caught.value.plan.best is None


def test_an_error_may_rise_to_the_digital_one_over_the_floor() -> None:
    target = _digital()(X).detach()

    def error(model: nn.Module) -> float:
        return 1.0 + (model(X) - target).square().mean().item()

    found = at.plan(
        _analog(),
        error,
        0.97,
        example=X[:1],
        prepare=_calibrate,
        num_chips=1,
        higher_is_better=False,
        max_plans=12,
    )
    assert found.threshold == pytest.approx(1 / 0.97)
    assert found.best is not None
    assert found.best.metric.mean <= found.threshold
    assert "at most" in str(found)


def test_a_floor_may_allow_more_than_a_bounded_error_can_be() -> None:
    def error(model: nn.Module) -> float:
        model(X)
        return 0.6

    error.bounds, error.higher_is_better = (0, 1), False  # type: ignore[attr-defined]
    found = at.plan(
        _analog(), error, 0.3, example=X[:1], prepare=_calibrate, num_chips=1, max_plans=12
    )
    assert found.best is not None
    assert found.threshold == pytest.approx(0.6 / 0.3)


# in the sensitivities, the second to the fifth; later
@pytest.mark.parametrize("stop", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_an_interrupted_plan_goes_on_and_gives_the_same(tmp_path: Path, stop: int) -> None:
    small: dict[str, object] = {"devices": {}, "max_plans": 12, "num_chips": 1}
    calls = 0

    def counted(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        return _accuracy(model)

    found = at.plan(_analog(), counted, 0.8, example=X[:1], prepare=_calibrate, **small)  # type: ignore[arg-type]
    whole, calls = calls, 0

    def fragile(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return _accuracy(model)

    fragile.__name__ = counted.__name__
    options = {"example": X[:1], "prepare": _calibrate, "folder": tmp_path / "p"} | small
    with pytest.raises(KeyboardInterrupt):
        at.plan(_analog(), fragile, 0.8, **options)  # type: ignore[arg-type]
    begun = calls
    again = at.plan(_analog(), fragile, 0.8, **options)  # type: ignore[arg-type]
    assert again.to_dict() == found.to_dict()
    # of those that were measured before, all exact and all digital alone are measured again
    assert calls - begun == whole - (begun - 1) + 1 + (stop > 6)
    calls = 100
    assert at.plan(_analog(), fragile, 0.8, **options).to_dict() == found.to_dict()  # type: ignore[arg-type]
    assert calls == 102  # all exact and all digital
    with pytest.raises(ValueError, match="sensitivity holds another experiment .metric 'counted'"):
        at.plan(_analog(), _accuracy, 0.8, **options)  # type: ignore[arg-type]


def test_a_folder_of_another_prepare_is_told(found: HardwarePlan, tmp_path: Path) -> None:
    def run(scale: float) -> None:
        def prepare(model: nn.Module) -> None:
            _calibrate(model)
            with torch.no_grad():
                next(model.parameters()).mul_(scale)

        given = {"sensitivity": found.sensitivity, "folder": tmp_path, "num_chips": 1, "confirm": 0}
        at.plan(_analog(), _accuracy, 0.5, example=X[:1], prepare=prepare, max_plans=12, **given)  # type: ignore[arg-type]

    run(1.0)
    with pytest.raises(ValueError, match=f"plan: {tmp_path} holds a plan with another prepare, "):
        run(2.0)


def test_a_folder_that_cannot_be_one_is_refused_before_anything_is_measured(
    found: HardwarePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(model: nn.Module) -> float:
        raise AssertionError

    def run(folder: Path, **options: object) -> None:
        at.plan(_analog(), never, 0.9, example=X[:1], prepare=_calibrate, folder=folder, **options)  # type: ignore[arg-type]

    (tmp_path / "file").write_text("precious")
    for sensitivity in (None, found.sensitivity):
        for name in ("file", "file/plan"):
            message = rf"plan: could not make the folder {tmp_path / name}: .*; name another folder"
            with pytest.raises(OSError, match=f"{message}$"):
                run(tmp_path / name, sensitivity=sensitivity)
    for sensitivity in (None, found.sensitivity):
        with pytest.raises(ValueError, match=r"plan: .* holds file and nothing of a plan; give a "):
            run(tmp_path, sensitivity=sensitivity)
    (tmp_path / "full").mkdir()

    def full(**options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    monkeypatch.setattr(tempfile, "mkstemp", full)
    for sensitivity in (None, found.sensitivity):
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "full", sensitivity=sensitivity)


def test_a_folder_that_cannot_be_written_gives_the_plan_that_it_has(
    tmp_path: Path,
) -> None:
    small: dict[str, object] = {"devices": {}, "max_plans": 12, "num_chips": 1, "confirm": 1}
    folder = tmp_path / "p"
    first = _plan(floor=0.5, folder=folder, **small)
    swept = [path for path in folder.iterdir() if path.name.startswith("plan-")]
    measured = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    mkdir = Path.mkdir

    def denied(**options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    def refused(path: Path, *given: object, **options: object) -> None:
        if path.is_relative_to(folder) and not path.exists():
            denied()
        mkdir(path, *given, **options)  # type: ignore[arg-type]

    def tried() -> HardwarePlan:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(folder))
            patch.setattr(tempfile, "mkstemp", denied)
            patch.setattr(tempfile, "NamedTemporaryFile", denied)
            patch.setattr(Path, "mkdir", refused)
            return _plan(floor=0.5, folder=folder, **small)

    assert tried().to_dict() == first.to_dict()
    lacks = (
        rf"^\[Errno 13\] plan: could not write in {folder}, which lacks some of the measurements"
        ".*copy it to a folder that can be written"
    )
    heads = (*(path / "chip-00000.json" for path in swept), folder / "sensitivity/chip-00000.json")
    for chip in heads:  # of a plan that was stopped within a measurement
        chip.unlink()
        with pytest.raises(OSError, match=lacks):
            tried()
        chip.write_bytes(measured[chip])
    for missing in (*swept, folder / "sensitivity"):  # or between two
        missing.rename(tmp_path / "away")
        with pytest.raises(OSError, match=lacks):
            tried()
        (tmp_path / "away").rename(missing)
    assert {path: path.read_bytes() for path in measured} == measured
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(
        OSError, match=rf"plan: could not write in {folder}: Permission denied; name"
    ):
        tried()


def test_hidden_files_keep_no_plan_from_beginning(tmp_path: Path) -> None:
    place = tmp_path / "sensitivity"
    place.mkdir()
    (place / ".DS_Store").write_text("")
    (place / ".sensitivity.json.x1.part").write_text("")
    (tmp_path / "notes.txt").write_text("beside a plan that has begun")
    _plan(floor=0.5, folder=tmp_path, devices={}, max_plans=12, num_chips=1)
    assert (place / "sensitivity.json").exists()


def test_what_was_measured_can_be_given(found: HardwarePlan) -> None:
    again = _plan(sensitivity=found.sensitivity)
    assert again.to_dict() == found.to_dict()
    other = at.convert(nn.Sequential(nn.Linear(24, 6)), CHIP)
    with pytest.raises(ValueError, match="of each analog layer of this model"):
        _plan(other, sensitivity=found.sensitivity, prepare=None)


def test_a_sensitivity_from_before_a_retraining_is_refused(found: HardwarePlan) -> None:
    model = _analog()
    with torch.no_grad():
        model[4].weight[0].neg_()
    exact = _accuracy(at.to_digital(copy.deepcopy(model)))
    message = f"all layers exact the metric is {exact:.8g}, and that of sensitivity was 1; leave"
    with pytest.raises(ValueError, match=message):
        _plan(model, sensitivity=found.sensitivity)


def test_the_table_says_how_to_map_a_model_whose_layers_all_have_more_devices(
    found: HardwarePlan,
) -> None:
    best, text = found.best, "at.map_to_chip(..., chip=found.chip)"
    assert best is not None
    for devices in ({}, dict.fromkeys(best.analog, 2)):
        plan = dataclasses.replace(found, points=(dataclasses.replace(best, devices=devices),))
        assert (text in str(plan)) == bool(devices)


def test_table_page_csv_and_plot(found: HardwarePlan, tmp_path: Path) -> None:
    text, best = str(found), found.best
    assert best is not None
    for wanted in ("all analog", "all digital, int8", best.name + " *", "convert_arguments"):
        assert wanted in text
    assert "<table>" in found._repr_html_()
    rows = list(csv.DictReader(io.StringIO(found.to_csv(tmp_path / "plan.csv"))))
    assert (tmp_path / "plan.csv").read_text().splitlines()[0].startswith("name,metric")
    assert [row["name"] for row in rows if row["best"] == "True"] == [best.name]
    assert len(rows) == len(found.points) + 1
    assert json.loads(json.dumps(found.to_dict()))["points"][0]["energy"] > 0
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _plan(floor=0.0), "floor must be"),
        (lambda: _plan(floor=1.5), "floor must be"),
        (lambda: _plan(floor=float("nan")), "floor must be"),
        (lambda: _plan(_digital()), "no analog layer"),
        (lambda: _plan(prepare=None), "is calibrated"),
        (lambda: _plan(cheapest="price"), "cheapest"),
        (lambda: _plan(digital="int4"), "digital"),
        (lambda: _plan(times=[]), "times is empty"),
        (lambda: _plan(max_plans=11), "max_plans"),
        (lambda: _plan(also=["2", "heads"]), "'heads' matches none of the 3 analog layers"),
        (lambda: _plan(also=[("2", "[04]")]), "leaves no layer on the chip"),
        (lambda: _plan(also=["0", "2", "4"], max_plans=12), "max_plans=12 has no room.*plans=13"),
        (lambda: _plan(max_chips=0), "max_chips"),
        (lambda: _plan(confirm=-1), "confirm must be"),
        (lambda: _plan(devices={1: {"cell": CHIP.cell}}), r"devices\[1\]"),
        (lambda: _plan(devices={2: {"cells": CHIP.cell}}), r"devices\[2\]"),
        (lambda: _plan(devices={2: CHIP.replace(array={"rows": 64})}), "its tiles differ"),
        (lambda: _plan(at.convert(_digital(), at.chips.ideal()), prepare=None), "no cost"),
        (
            lambda: at.plan(_analog(), lambda m: float("nan"), example=X[:1], prepare=_calibrate),
            "nan",
        ),
        (
            lambda: at.plan(_analog(), lambda m: 0.0, example=X[:1], prepare=_calibrate),
            "only above 0",
        ),
        (
            lambda: _plan(at.convert(_digital(), CHIP, per_layer={"2": at.chips.hermes64()})),
            "several chips",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_metric_below_0_is_refused_before_the_sensitivities() -> None:
    calls = 0

    def negative_loss(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        return _accuracy(model) - 2

    with pytest.raises(ValueError, match="all layers exact is -1.*shift or negate the metric"):
        at.plan(_analog(), negative_loss, example=X[:1], prepare=_calibrate)
    assert calls == 1


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError, match="metric"):
        at.plan(_analog(), 3, example=X[:1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="devices"):
        _plan(devices=[2])
    with pytest.raises(TypeError, match="memory"):
        _plan(memory=3)
    with pytest.raises(TypeError, match="WeightMemory.energy"):
        WeightMemory(energy=1e-12)  # type: ignore[arg-type]


def test_names_may_have_signs_of_patterns() -> None:
    named = nn.Sequential()
    for name, layer in zip(("a[0]", "r1", "b*", "r2", "c?"), _digital(), strict=True):
        named.add_module(name, layer)
    model = at.calibrate(at.convert(named, CHIP), [X])
    found = _plan(model)
    assert found.best is not None
    assert "b*" in found.best.digital
    again = at.convert(at.to_digital(model), **found.convert_arguments())
    assert {n for n, _ in at.analog_layers(again)} == set(found.best.analog)


def test_a_plan_of_embeddings_alone_multiplies_nothing() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (40, 5))
    digital = nn.Sequential(nn.Embedding(20, 16), nn.Flatten())
    target = digital(tokens).detach()

    def near(model: nn.Module) -> float:
        return 1 - ((model(tokens) - target).norm() / target.norm()).item()

    model = at.convert(digital, CHIP, embeddings=True)
    found = at.plan(model, near, 0.5, example=tokens[:1], num_chips=1, confirm=0, devices={})
    row = next(line for line in str(found).splitlines() if line.startswith("all digital"))
    assert row.split()[-1] == "-"


def test_plans_take_no_more_chips_than_allowed() -> None:
    small = CHIP.replace(array={"tiles": 1, "rows": 40, "columns": 40})
    model = at.convert(_digital(), small)
    found = _plan(model, 0.1, devices={}, max_plans=12, max_chips=1, num_chips=1)
    assert {p.cost.chips for p in found.points} == {1}
    huge = at.convert(nn.Sequential(nn.Linear(24, 100)), small)
    with pytest.raises(ValueError, match="no plan takes 1 chips or fewer, the smallest takes 3"):
        at.plan(huge, lambda m: 1.0, 0.1, example=X[:1], max_chips=1, num_chips=1)
