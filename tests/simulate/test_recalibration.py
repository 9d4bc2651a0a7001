"""Recalibration in the field: the schedule, what a chip computes between two reads, its cost."""

import pytest
import torch
from torch import nn

import analogtorch as at

DAY = 86_400.0


def _physical(seed: int = 3, chip: at.Chip | None = None, **options):
    torch.manual_seed(0)
    layer, x = nn.Linear(300, 40, bias=False), torch.randn(20, 300)
    model = at.convert(nn.Sequential(layer), chip or at.chips.hermes64())
    return at.program(model, seed=seed, **options), x


def test_the_last_read_and_their_number() -> None:
    once, monthly = at.Recalibration(), at.Recalibration(every="30 days")
    assert [once.last(t) for t in (0.0, 1e9)] == [0.0, 0.0]
    assert [list(once.reads(t)) for t in (0.0, 1e9)] == [[0.0], [0.0]]
    assert [monthly.last(d * DAY) / DAY for d in (0, 29.9, 30, 75)] == [0, 0, 30, 60]
    assert [len(monthly.reads(d * DAY)) for d in (0, 29.9, 30, 75)] == [1, 1, 2, 3]
    both = at.Recalibration(every="30 days", times=("1 h", "60 days", "100 days"))
    assert [both.last(d * DAY) / DAY for d in (0.5, 60, 101, 121)] == [1 / 24, 60, 100, 120]
    assert [t / DAY for t in both.reads(121 * DAY)] == [0, 1 / 24, 30, 60, 90, 100, 120]
    tenth = at.Recalibration(every=0.1)
    assert all(tenth.last(n * 0.1) == n * 0.1 for n in range(1, 200))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every": 0}, "every must be a time after 0 s"),
        ({"every": "programmed"}, "every must be a time after 0 s"),
        ({"times": ("2 days", "1 day")}, "must be ascending"),
        ({"times": "1 day"}, "must be a list such as"),
        ({"times": (0,)}, r"times\[0\] must be a time after 0 s"),
        ({"temperature": 25}, "write '25 C'"),
    ],
)
def test_bad_schedules_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        at.Recalibration(**fields)


def test_between_two_reads_the_factors_stay() -> None:
    physical, x = _physical()
    usual, unread = physical.at("1 day"), physical.at("1 day", recalibration=at.Recalibration())
    assert not torch.equal(usual(x), unread(x))
    now = at.Recalibration(times=("1 day",))
    assert torch.equal(physical.at("1 day", recalibration=now)(x), physical.at("1 day")(x))
    # the factors are those of a view at the time of the read
    early = physical.at("1 h")[0].programmed
    late = physical.at("1 day", recalibration=at.Recalibration(every="1 h"))[0].programmed
    same = physical.at("1 day")[0].programmed
    held = physical.at("1 day", recalibration=at.Recalibration(times=("1 h",)))[0].programmed
    assert all(torch.equal(a, b) for a, b in zip(held.gains, early.gains, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(late.gains, same.gains, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(held.weights, same.weights, strict=True))
    with pytest.raises(TypeError, match=r"at: recalibration must be a Recalibration"):
        physical.at("1 day", recalibration="30 days")
    with pytest.raises(TypeError, match=r"at: recalibration must be a Recalibration"):
        physical.at("programmed", recalibration=30)


def test_a_sweep_with_recalibration_is_an_experiment_of_its_own(tmp_path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16)
    model = at.convert(nn.Sequential(nn.Linear(16, 8)), at.chips.hermes64())
    options = {"num_chips": 2, "times": ["1 day"], "folder": tmp_path}
    once = at.Recalibration()

    def metric(view: nn.Module) -> float:
        return float(view(x).abs().mean())

    found = at.sweep(model, metric, recalibration=once, **options)
    assert torch.equal(at.sweep(model, metric, recalibration=once, **options).values, found.values)
    with pytest.raises(ValueError, match="another experiment"):
        at.sweep(model, metric, **options)
    assert (at.sweep(model, metric, num_chips=2, times=["1 day"]).values > found.values).all()


def test_the_cost_of_a_read() -> None:
    physical, _ = _physical()
    chip = at.chips.hermes64()
    # two row blocks of 256 and 44 rows, 40 columns, on two tiles that compute at once
    fit = physical.recalibration_cost()
    assert fit.mvms == 2 * 256
    assert fit.seconds == pytest.approx(256 * chip.cost.mvm_time.value)
    energy = sum(
        256 * chip.cost.mvm(rows=r / 256, cols=40 / 256, cells=r * 40 / 256**2).total
        for r in (256, 44)
    )
    assert fit.joules == pytest.approx(energy)
    rows = physical.recalibration_cost("global")
    of_blocks = 300 + 2  # each row, and in both blocks a read without input
    reads = rows.mvms // of_blocks
    assert reads * of_blocks == rows.mvms
    assert reads >= 7  # one MVM has 35 steps for the largest conductance, a read needs 256
    assert {fit.kind, rows.kind} == {"assumed"}  # of partly used tiles
    assert physical.recalibration_cost("none").mvms == 0
    noisy, _ = _physical(chip=at.chips.hermes64(output_noise=0.04))
    assert noisy.recalibration_cost().mvms == 2 * fit.mvms
    # a read without input cancels offsets of single cells; MVMs are read twice for that
    balanced, _ = _physical(chip=chip.replace(adc={"asymmetry_balance": True}))
    assert balanced.recalibration_cost().mvms == 2 * fit.mvms
    assert balanced.recalibration_cost("global").mvms == rows.mvms
    assert "MVMs" in str(fit)
    ideal, _ = _physical(chip=at.chips.ideal())
    with pytest.raises(ValueError, match="has no cost"):
        ideal.recalibration_cost()
    with pytest.raises(ValueError, match="recalibration_cost: compensation must be one of"):
        physical.recalibration_cost("all")


def test_single_rows_have_inputs_of_one_sign() -> None:
    """They take one pass of a chip of unsigned inputs, as one-hot vectors do in ``at.cost``."""
    torch.manual_seed(0)
    chip = at.chips.ibm_speech34()
    model = nn.Sequential(nn.Linear(512, 512, bias=False))
    physical = at.program(at.convert(model, chip), seed=1)
    for compensation in ("global", "column"):
        rows = physical.recalibration_cost(compensation)
        assert rows.mvms == (512 + 1) * 21
        assert rows.seconds == pytest.approx(rows.mvms * chip.cost.mvm_time.value)
        assert rows.joules == pytest.approx(
            rows.mvms * chip.cost.mvm(rows=1 / 512, cols=1, cells=1 / 512).total
        )
    assert physical.recalibration_cost().mvms == 2 * 2 * 256  # either sign, twice as it has noise


def test_the_example_of_writes_prints_what_it_says() -> None:
    physical, _ = _physical(programmed_before=99)
    said = (type(physical).writes.__doc__ or "").split()[-1]
    assert said == str(physical.writes().left(1e6))


def test_devices_of_a_reference_column_count_once_per_row_of_a_tile() -> None:
    cell = at.devices.OffsetCell(device=at.devices.rram_wan(), reference="column")
    chip = at.chips.ideal().replace(cell=cell, array={"rows": 32, "columns": 16})
    model = at.convert(nn.Sequential(nn.Linear(40, 20, bias=False)), chip)
    for method in (None, at.ProgramAndVerify(rounds=2)):
        assert at.program(model, seed=1, method=method).writes().devices == 40 * 20 + 2 * 40


def test_writes_are_counted_and_saved(tmp_path) -> None:
    once, _ = _physical()
    devices = 300 * 40 * once._model[0].chip.cell.devices
    assert (once.writes().devices, once.writes().mean, once.writes().most) == (devices, 1, 1)
    method = at.ProgramAndVerify(rounds=5)
    physical, _ = _physical(method=method, programmed_before=9)
    found = physical.writes()
    assert found.devices == devices
    assert 10 < found.mean < found.most <= 60
    assert found.most % 10 == 0
    assert found.left(found.most) == 0
    assert found.left(found.most + found.most // 10) == 1
    assert found.worn(found.most) == 0
    assert 0 < found.worn(10) < 1
    assert "programmed 10 times" in str(found)
    folder = at.save(physical, tmp_path / "chip")
    model = nn.Sequential(nn.Linear(300, 40, bias=False))
    assert at.load(folder, model).writes() == found
    at.save(once, folder)
    assert "programmed_before" not in (folder / "analog.json").read_text()
    for bad in (0, -1, "many"):
        with pytest.raises(ValueError, match="endurance must be"):
            found.left(bad)
    with pytest.raises(ValueError, match="programmed_before must be an integer >= 0"):
        _physical(programmed_before=-1)
