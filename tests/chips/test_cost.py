"""The description of a chip's cost: what it charges, and what it refuses."""

import dataclasses

import pytest

import analogtorch as at
from analogtorch.chips import Figure

COST = at.chips.hermes64().cost
assert COST is not None


def test_charges_add_up_and_shrink_with_use() -> None:
    full = COST.mvm_energy.value
    assert COST.mvm(rows=1, cols=1, cells=1).total == pytest.approx(full)
    for charge, share in (
        ("tile", 1.0),
        ("column", 0.25),
        ("model", 0.05 + 0.125 / 2 + 0.65 / 4 + 0.175 / 8),
    ):
        energy = COST.mvm(rows=0.5, cols=0.25, cells=0.125, charge=charge)
        assert energy.total == pytest.approx(full * share)
    drifted = COST.mvm(rows=1, cols=1, cells=1, conductance=0.5)
    assert full - drifted.total == pytest.approx(0.5 * 0.175 * full)
    with pytest.raises(ValueError, match="charge must be one of"):
        COST.mvm(rows=1, cols=1, cells=1, charge="row")


def _figure(value: float) -> Figure:
    return Figure(value=value, kind="assumed", source="the test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": -1.0}, "Figure.value must be a finite number >= 0, got -1.0"),
        ({"value": float("nan")}, "Figure.value must be a finite number"),
        ({"value": "5e-7"}, "got '5e-7'"),
        ({"value": True}, "Figure.value must be a finite number"),
        ({"kind": "guessed"}, "Figure.kind must be one of"),
        ({"source": ""}, "Figure.source must say where"),
    ],
)
def test_bad_figures_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Figure(**{"value": 1.0, "kind": "assumed", "source": "the test", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mvm_energy": _figure(0.0)}, "Cost.mvm_energy must be above 0"),
        ({"mvm_time": 1e-7}, r"Cost.mvm_time must be a Figure\(value="),
        ({"phases": 0}, "Cost.phases must be an integer >= 1"),
        ({"signed_passes": 3}, r"Cost.signed_passes must be an integer in \[1, 2\]"),
        ({"precision": ""}, "Cost.precision must be a text"),
        ({"excluded": None}, "Cost.excluded must be a text"),
        ({"network": None}, "Cost.network must be a Network"),
        ({"shares": None}, "Cost.shares must be a Shares"),
        ({"published": ["9.76"]}, "Cost.published must be a tuple"),
    ],
)
def test_bad_costs_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(COST, **changes)


def test_bad_parts_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must add up to 1, got 0.05 \+ 0.125 \+ 0.5 \+ 0.65 = 1.325"
    ):
        dataclasses.replace(COST.shares, array=_figure(0.5))
    with pytest.raises(ValueError, match="Network.grid_columns must be an integer >= 1"):
        dataclasses.replace(COST.network, grid_columns=0)
    with pytest.raises(ValueError, match="Network.chip_rate must be above 0"):
        dataclasses.replace(COST.network, chip_rate=_figure(0.0))
    with pytest.raises(ValueError, match="Digital.kinds must be a tuple of strings"):
        dataclasses.replace(COST.host, kinds="pool")
    for unit in (COST.host, COST.on_chip):
        with pytest.raises(ValueError, match="rounding runs where matmul does; name 'matmul'"):
            dataclasses.replace(unit, kinds=("activation", "rounding"))
        with pytest.raises(ValueError, match="Digital.kinds: each must be one of .*'gate'.*gates"):
            dataclasses.replace(unit, kinds=("relu", "gate"))
        with pytest.raises(ValueError, match="Digital.sources: Digital has no field 'kind'"):
            dataclasses.replace(unit, sources={"kind": "a paper"})
    with pytest.raises(ValueError, match="Cost.sums_on_host must be True or False, got 1"):
        dataclasses.replace(COST, sums_on_host=1)
    with pytest.raises(ValueError, match="Published.scope must be one of"):
        dataclasses.replace(COST.published[0], scope="board")
    with pytest.raises(ValueError, match="Published.excluded must say"):
        dataclasses.replace(COST.published[0], excluded="")
    with pytest.raises(ValueError, match="Array.planes must be a divisor of the 64 tiles"):
        at.chips.hermes64().replace(array={"planes": 3})
    with pytest.raises(TypeError, match=r"Chip.cost must be a Cost such as .*, or None, got 1.0"):
        dataclasses.replace(at.chips.hermes64(), cost=1.0)


def test_other_tiles_take_other_energy_which_is_assumed() -> None:
    chip = at.chips.hermes64()
    before = chip.cost
    assert before is not None
    large = chip.replace(array={"rows": 512, "columns": 1024}).cost
    assert large is not None
    was, now = (c.mvm(rows=1, cols=1, cells=1) for c in (before, large))
    assert (now.control, now.dac) == pytest.approx((was.control, 2 * was.dac))
    assert (now.array, now.adc) == pytest.approx((8 * was.array, 4 * was.adc))
    # the same rows, columns and cells cost the same but for the control of one tile
    part = large.mvm(rows=0.5, cols=0.25, cells=0.125)
    assert part.total == pytest.approx(was.total)
    assert large.mvm_time.value == before.mvm_time.value
    assert {f.kind for f in (large.mvm_time, large.mvm_energy)} == {"assumed"}
    assert large.mvm_energy.source.startswith("ASSUMED of tiles with 2 times the rows and 4 times")
    assert (large.published, large.area) == ((), None)
    fewer = chip.replace(array={"tiles": 16}).cost
    assert fewer is not None
    assert fewer.area is None
    assert fewer.on_chip.rate.value == before.on_chip.rate.value / 4
    assert fewer.on_chip.rate.source.startswith("ASSUMED with 16 tiles, from: ASSUMED: one operat")
    assert (before.network.grid_columns, fewer.network.grid_columns) == (8, 4)
    assert chip.replace(array={"tiles": 1}).costs.network.grid_columns == 1
    both = chip.replace(array={"tiles": 16, "rows": 512}).costs
    assert (both.on_chip, both.network) == (fewer.on_chip, fewer.network)
    assert both.mvm_energy == chip.replace(array={"rows": 512}).costs.mvm_energy
    same = dataclasses.replace(fewer, on_chip=before.on_chip, network=before.network)
    assert same == before
    assert chip.replace(array={"grouped": "block_diagonal"}).cost is before
    assert chip.replace(array={"rows": 512}, cost=before).cost is before
    with pytest.raises(ValueError, match="Array has no field 'row'"):
        chip.replace(array={"row": 512})


def test_other_slices_and_pulses_take_other_energy_which_is_assumed() -> None:
    chip = at.chips.reram_4mb()
    before, whole = chip.cost, at.cost_model.peak(chip)
    assert before is not None
    for changes, columns, pulses, precision in (
        ({"slices": {"bits_per_pulse": 1}}, 8, 7, "8-bit inputs, 8-bit weights"),
        ({"slices": {"bits_per_pulse": 7}}, 8, 1, "8-bit inputs, 8-bit weights"),
        ({"slices": {"weight_bits": 2}}, 2, 4, "8-bit inputs, 2-bit weights"),
        ({"dac": {"bits": 4}}, 8, 2, "4-bit inputs, 8-bit weights"),
        ({"slices": {"bits_per_pulse": None}, "dac": {"bits": None}}, 8, 1, "analog inputs, 8-"),
    ):
        other = chip.replace(**changes)
        found = at.cost_model.peak(other)
        assert found.seconds == pytest.approx(whole.seconds * pulses / 4)
        # a weight takes the energy of its columns, each input that of its pulses
        each, then = found.joules / found.operations, whole.joules / whole.operations
        assert each == pytest.approx(then * pulses / 4 * columns / 8)
        assert found.efficiency.precision.startswith(precision)
        assert found.efficiency.kind == "assumed"
        assert found.efficiency.source.startswith(f"ASSUMED for {columns} column")
        assert at.cost_model.published(other) == ()
    shared = chip.replace(array={"columns": 1024}, slices={"bits_per_pulse": 1}).cost
    assert shared is not None
    assert shared.mvm_time.value == pytest.approx(before.mvm_time.value * 7 / 4)
    # what changes neither, and a cost of its own, leave the published figures
    for changes in ({"slices": chip.slices}, {"dac": {"bits": 8}}, {"adc": {"steps": 64}}):
        assert chip.replace(**changes).cost is before
    assert chip.replace(slices={"weight_bits": 4}, cost=before).cost is before
    assert chip.without("dac", "input_pulses").cost is before
    with pytest.raises(ValueError, match="Slices.bits_per_pulse=2 needs a DAC"):
        chip.replace(dac={"bits": None})
    # figures of one pulse are multiplied by the pulses where they are charged
    plain = at.chips.neurram48().replace(dac={"bits": 8})
    assert plain.replace(slices={"bits_per_pulse": 1}).cost is plain.cost
    with pytest.raises(ValueError, match="Slices has no field 'bits'"):
        chip.replace(slices={"bits": 2})
    with pytest.raises(TypeError, match="Chip.slices must be a Slices"):
        chip.replace(slices=4)


def test_costs_that_are_needed_are_asked_for_by_name() -> None:
    with pytest.raises(ValueError, match=r"chip 'bare' has no cost; give it one: chip\.replace"):
        at.chips.ideal().replace(name="bare", cost=None).costs  # noqa: B018
