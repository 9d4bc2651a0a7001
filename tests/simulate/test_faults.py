"""Stuck, open and short devices and lines: their shares, and their effect on an MVM."""

import math

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.chips import ADC_ERRORS
from analogtorch.devices import DifferentialPair, hermes_one_device, rram_wan
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.faults import CODES, FAULTS, of_devices
from analogtorch.simulate.tile_state import tile_state
from tests.crossbar import crossbar

CHIP = crossbar()
EXACT = at.chips.ideal().replace(array={"rows": 64, "columns": 32, "tiles": 4})
"""No noise, drift or converters: an MVM can be computed by hand."""
DEVICE = ("stuck_off", "stuck_on", "open_devices", "short_devices")


def _layer(chip: at.Chip, outputs: int = 32, inputs: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Sequential(nn.Linear(inputs, outputs, bias=False)), chip)


def _section(physical: at.ProgrammedChip):
    return physical._placed["0"][0]


def _relative(view: nn.Module) -> torch.Tensor:
    """The weights on a chip in units of full conductance."""
    held = view[0].programmed
    return held.weights[0] / held.scales[0][0].unsqueeze(1)


def test_shares_of_devices_are_as_asked_and_the_polarities_fail_apart() -> None:
    shares = {"stuck_off": 0.01, "stuck_on": 0.02, "open_devices": 0.005, "short_devices": 0.001}
    states = [tile_state(CHIP, Defects(**shares), 7, 0, tile) for tile in range(16)]
    faults = torch.stack([state.faults for state in states])
    assert faults.shape[1] == CHIP.cell.devices == 2
    for name, share in shares.items():
        # 2 million devices: four standard errors of the share
        bound = 4 * math.sqrt(share * (1 - share) / faults.numel())
        assert (faults == CODES[name]).float().mean().item() == pytest.approx(share, abs=bound)
        mean = sum(state.shares()[name] for state in states) / len(states)
        assert mean == pytest.approx(share, abs=bound)
    broken = (faults > 0).float().transpose(0, 1).flatten(1)
    total = sum(shares.values())
    both, cells = (broken[0] * broken[1]).mean().item(), broken.shape[1]
    # independent polarities: a product of shares, within four standard errors
    assert both == pytest.approx(total**2, abs=4 * total / math.sqrt(cells))
    assert torch.equal(states[0].works, (states[0].faults == 0).all(0))


def test_shares_of_lines_are_as_asked() -> None:
    defects = Defects(
        open_rows=0.04, short_rows=0.02, columns=0.03, open_columns=0.05, short_columns=0.01
    )
    states = [tile_state(CHIP, defects, 7, 0, tile) for tile in range(64)]
    for part, name in (("row", "row_faults"), ("column", "column_faults")):
        found = torch.stack([getattr(state, name) for state in states])
        for fault, share in defects.shares(part).items():
            bound = 4 * math.sqrt(share * (1 - share) / found.numel())  # of 16,384 lines
            assert (found == CODES[fault]).float().mean().item() == pytest.approx(share, abs=bound)
    state = states[0]
    assert (state.faults[:, state.row_faults > 0] > 0).all()
    assert (state.faults[:, :, state.column_faults > 0] > 0).all()
    assert torch.equal(state.works, (state.row_faults == 0).unsqueeze(1) & state.columns)


def test_all_devices_can_have_a_fault() -> None:
    whole = of_devices(1, 0, (2, 50, 60), {"stuck_off": 0.1, "stuck_on": 0.6, "open_devices": 0.3})
    assert (whole > 0).all()
    assert (tile_state(CHIP, Defects(stuck_on=1.0), 1, 0, 0).faults == CODES["stuck_on"]).all()


def test_faults_stay_where_they_are_when_more_are_added() -> None:
    few, many = (tile_state(CHIP, Defects(stuck_on=s, stuck_off=s), 3, 0, 2) for s in (0.02, 0.04))
    assert (many.faults[few.faults > 0] == few.faults[few.faults > 0]).all()
    other = tile_state(CHIP, Defects(stuck_on=0.02, stuck_off=0.02), 4, 0, 2)
    assert not torch.equal(other.faults, few.faults)
    cells = tile_state(CHIP, Defects(cells=0.1), 3, 0, 2)
    with_devices = tile_state(CHIP, Defects(cells=0.1, stuck_on=0.1), 3, 0, 2)
    assert ((with_devices.faults == CODES["cells"]) == (cells.faults == CODES["cells"])).all()


@pytest.mark.parametrize(
    ("defects", "value"),
    [
        (Defects(stuck_off=0.2), 0.0),
        (Defects(stuck_off=0.2, off_level=0.25), 0.25),
        (Defects(stuck_on=0.2), 1.0),
        (Defects(open_devices=0.2), 0.0),
        (Defects(short_devices=0.2), 10.0),
        (Defects(short_devices=0.2, short_level=3.0), 3.0),
    ],
)
def test_an_mvm_with_broken_devices_is_that_by_hand(defects: Defects, value: float) -> None:
    """On a chip without noise a broken device replaces its conductance, and nothing else."""
    model = _layer(EXACT)
    physical = at.program(model, seed=5, defects=defects)
    faults = tile_state(EXACT, defects, 5, 0, 0).faults[:, :64, :32].mT  # (2, outputs, rows)
    w, scale = model[0].weight, model[0].weight.abs().amax()
    g = torch.stack((w.clamp_min(0), (-w).clamp_min(0))) / scale  # in units of g_max
    assert (faults[0] > 0).any()
    assert (faults[1] > 0).any()
    g = torch.where(faults > 0, value, g)
    x = torch.randn(7, 64)
    for time in ("programmed", "1 year"):
        view = physical.at(time, compensation="none")
        torch.testing.assert_close(view(x), x @ (scale * (g[0] - g[1])).T)
        assert torch.equal(physical.at(time, compensation="none")(x), view(x))


def test_stuck_on_levels_are_uniform_and_fixed() -> None:
    defects = Defects(stuck_on=0.5, on_level=0.2)
    model = _layer(EXACT)
    section = _section(at.program(model, seed=5, defects=defects))
    state = tile_state(EXACT, defects, 5, 0, 0)
    stuck = state.faults[:, :64, :32].mT == CODES["stuck_on"]
    found = section.g[stuck] / section.chip.cell.device.g_max
    torch.testing.assert_close(found, state.levels[:, :64, :32].mT[stuck].to(found))
    assert found.min() >= 0.2
    assert found.max() <= 1
    # about 2,048 levels of standard deviation 0.8 / sqrt(12): four standard errors are 0.02
    assert found.mean().item() == pytest.approx(0.6, abs=0.02)


def test_a_reference_that_is_stuck_on_has_one_level_for_all_columns() -> None:
    cell = at.devices.OffsetCell(device=at.devices.ideal_device(), reference="column")
    model = _layer(EXACT.replace(cell=cell))
    section = _section(at.program(model, seed=0, defects=Defects(stuck_on=0.2, on_level=0.1)))
    held, reference = section.g  # (outputs, rows)
    assert torch.equal(reference, reference[:1].expand_as(reference))
    stuck = reference[0] != cell.g_ref
    assert 0.1 < stuck.float().mean() < 0.3
    assert len(reference[0][stuck].unique()) == stuck.sum()
    assert held.std(0).min() > 0


@pytest.mark.parametrize("field", ["open_rows", "short_rows"])
def test_no_input_reaches_the_cells_of_a_broken_row(field: str) -> None:
    model, defects = _layer(EXACT), Defects(**{field: 0.2})
    rows = tile_state(EXACT, defects, 3, 0, 0).row_faults[:64]
    assert (rows == CODES[field]).any()
    x = torch.randn(7, 64)
    view = at.program(model, seed=3, defects=defects).at("1 day", compensation="none")
    torch.testing.assert_close(view(x), model(x * (rows == 0)))


def test_an_open_column_converts_noise_and_offset_alone() -> None:
    chip = CHIP.replace(array={"rows": 64, "columns": 32, "tiles": 4}, adc={"noise": 0.05})
    defects = Defects(open_columns=0.3)
    columns = tile_state(chip, defects, 2, 0, 0).column_faults
    view = at.program(_layer(chip), seed=2, defects=defects).at("0 s", compensation="none")
    assert (_relative(view)[columns > 0] == 0).all()
    assert (view[0].programmed.gains[0][0][columns > 0] == 1).all()  # nothing to calibrate
    y = view(torch.randn(400, 64))
    assert 0 < y[:, columns > 0].std() < 0.5 * y[:, columns == 0].std()


def test_a_short_column_is_at_the_end_of_its_range() -> None:
    chip = CHIP.replace(array={"rows": 64, "columns": 32, "tiles": 4}, adc={"noise": 0.0})
    defects = Defects(short_columns=0.3)
    state = tile_state(chip, defects, 2, 0, 0)
    short = state.column_faults > 0
    offset = next(i for i, error in enumerate(ADC_ERRORS) if error.kind == "offset")
    assert set(state.errors[offset, short].tolist()) == {1.0, -1.0}
    view = at.program(_layer(chip), seed=2, defects=defects).at("1 day", compensation="none")
    y = view(torch.randn(50, 64))
    assert (y[:, short] == y[0, short]).all() or y[:, short].std(0).max() > 0  # range per vector
    assert torch.equal(y[:, short].sign(), state.errors[offset, short].sign().expand(50, -1))
    assert y[:, short].abs().min() > y[:, ~short].abs().max()


def test_drift_and_read_noise_of_broken_devices() -> None:
    """Stuck devices are read with noise and stay; open and short ones have neither."""
    chip = CHIP.replace(
        array={"rows": 64, "columns": 32, "tiles": 4}, cell={"device": hermes_one_device()}
    )
    shares = dict.fromkeys(DEVICE, 0.1)
    for drifts in (False, True):
        section = _section(
            at.program(_layer(chip), seed=5, defects=Defects(**shares, on_drifts=drifts))
        )
        assert section.stuck is not None
        everything = slice(None)
        then, now = section.g, section._read(everything, 3e7)
        of = {name: section.stuck.faults == CODES[name] for name in DEVICE}
        for name in ("open_devices", "short_devices"):
            assert torch.equal(now[of[name]], then[of[name]])
        assert (now[of["stuck_off"]] == 0).all()  # PCM's noise is a share of its conductance
        lost = (now[of["stuck_on"]] / then[of["stuck_on"]]).mean().item()
        # a full device: (t / t0) ^ -nu with nu of 0.0736 - 0.0126 - 0.0436, within 2 %
        mean = (3e7 / 200 + 1) ** -0.0174 if drifts else 1.0
        assert lost == pytest.approx(mean, abs=0.02)
        assert now[of["stuck_on"]].std() > 0


def test_devices_whose_drift_follows_no_power_law_stay_broken() -> None:
    """A device that conducts nothing must not come back by the shift of its mean."""
    chip = CHIP.replace(array={"rows": 64, "columns": 32}, cell=DifferentialPair(device=rram_wan()))
    defects = Defects(cells=0.3, open_devices=0.1)
    view = at.program(_layer(chip), seed=5, defects=defects).at("1 day", compensation="none")
    faults = tile_state(chip, defects, 5, 0, 0).faults[:, :64, :32].mT
    assert (_relative(view)[(faults > 0).all(0)] == 0).all()


@pytest.mark.parametrize("method", [at.ProgramAndVerify(rounds=3), at.GradientDescent(rounds=3)])
def test_pulses_do_not_move_broken_devices(method: at.ProgramAndVerify) -> None:
    chip = CHIP.replace(array={"rows": 64, "columns": 32, "tiles": 4})
    defects = Defects(**dict.fromkeys(DEVICE, 0.1))
    once, again = (
        _section(at.program(_layer(chip), seed=5, defects=defects, method=m))
        for m in (None, method)
    )
    broken = once.stuck.faults > 0
    assert torch.equal(once.g[broken], again.g[broken])
    assert not torch.equal(once.g[~broken], again.g[~broken])


def test_compensation_reads_stuck_devices() -> None:
    """Global compensation is the magnitude of all cells then over that now, broken ones too."""
    chip = CHIP.replace(array={"rows": 64, "columns": 32, "tiles": 4})
    gains = []
    for share in (0.0, 0.2):
        physical = at.program(_layer(chip), seed=5, defects=Defects(stuck_on=share))
        view, section = (
            physical.at("1 year", compensation="global", readout="ideal"),
            _section(physical),
        )
        then, now = (section.weights(t).abs().sum().item() for t in (None, 31_536_000.0))
        gains.append(view[0].programmed.gains[0][0, 0].item())
        assert gains[-1] == pytest.approx(then / now, rel=1e-5)
    assert gains[1] < 0.9 * gains[0]


def test_faults_do_not_depend_on_the_order_of_layers_or_on_the_writing_method() -> None:
    defects = Defects(stuck_on=0.05, open_columns=0.1)
    model = at.convert(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 25)), EXACT)
    mapping = at.map_to_chip(model, torch.zeros(1, 20))
    assert mapping.num_chips == 1
    maps = [
        at.program(model, seed=9, defects=defects, mapping=mapping).yield_map(),
        at.yield_map(EXACT, defects, seed=9),
    ]
    for tile, state in maps[0].items():
        assert torch.equal(state.faults, maps[1][tile].faults)
        assert torch.equal(state.errors, maps[1][tile].errors)


def test_no_defects_are_the_chip_without() -> None:
    model, x = _layer(CHIP), torch.randn(5, 64)
    plain = at.program(model, seed=1).at("1 day")(x)
    for defects in (Defects(), Defects(on_level=0.5, short_level=2.0)):
        assert torch.equal(at.program(model, seed=1, defects=defects).at("1 day")(x), plain)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stuck_on": 0.7, "stuck_off": 0.4}, r"shares of the devices .* got stuck_off 0\.4 \+"),
        ({"open_rows": 0.6, "short_rows": 0.6}, "shares of the rows must sum to 1 or less"),
        ({"columns": 0.6, "open_columns": 0.6}, "shares of the columns must sum to 1 or less"),
        ({"on_level": 1.5}, r"Defects.on_level must be a number in \[0, 1\], got 1.5"),
        ({"off_level": -0.5}, r"Defects.off_level must be a number in \[0, 1\]"),
        ({"short_level": 0.5}, "Defects.short_level must be a number >= 1"),
        ({"on_drifts": 1}, "Defects.on_drifts must be True or False"),
    ],
)
def test_bad_defects_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Defects(**given)


def test_defects_are_scaled_and_left_out_by_name() -> None:
    defects = Defects(cells=0.01, worst_tile=0.02, stuck_on=0.1, tile_gain=0.05)
    assert defects.present() == ("stuck_on", "cells", "tile_gain")
    assert Defects(worst_tile=0.1).present() == ("cells",)
    grown = defects.scaled(cells=2.0, stuck_on=0.5)
    assert (grown.cells, grown.worst_tile, grown.stuck_on) == (0.02, 0.04, 0.05)
    assert defects.without("cells", "stuck_on", "tile_gain").present() == ()
    with pytest.raises(ValueError, match=r"unknown defect 'stuck_onn', did you mean 'stuck_on'\?"):
        defects.without("stuck_onn")
    with pytest.raises(ValueError, match="Defects.stuck_on must be a share"):
        defects.scaled(stuck_on=20.0)
    assert [fault.field for fault in FAULTS] == list(CODES)
