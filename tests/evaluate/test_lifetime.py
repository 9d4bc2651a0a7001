"""How long a metric stays within a limit: bisection, pairing of chips, table and plot."""

import csv
import io
import json
import math

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.devices import seconds
from analogtorch.evaluate.field import PRECISION, crossing, useful_reads
from analogtorch.evaluate.lifetime import Lifetime

DAY, YEAR = 86_400.0, 31_536_000.0
MONTHLY = at.Recalibration(every="30 days")


def _model(chip: at.Chip | None = None):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(60, 64)
    y = layer(x).detach()

    def metric(view: nn.Module) -> float:
        return 1 - ((view(x) - y).norm() / y.norm()).item()

    return at.convert(nn.Sequential(layer), chip or at.chips.hermes64()), metric


@pytest.mark.parametrize("end", [30.0, 3600.0, 5 * DAY, 9 * YEAR])
def test_bisection_finds_the_end(end: float) -> None:
    asked = []

    def within(t: float) -> bool:
        asked.append(t)
        return t < end

    found = crossing(within, (0.0,), 10 * YEAR)
    assert 1 / PRECISION < (found + 60) / (end + 60) < PRECISION
    assert len(asked) < 25
    assert crossing(lambda t: False, (0.0,), YEAR) == 0
    assert crossing(lambda t: True, (0.0, DAY), YEAR) == math.inf


def test_the_moment_before_a_read_is_none_of_the_read() -> None:
    reads = at.Recalibration(every="30 days", times=("1 h", "1 day")).reads(3e7)
    asked: list[float] = []
    crossing(lambda t: bool(asked.append(seconds(t))) or True, reads, 3e7)
    assert any(0 < read - t < 0.1 for read in reads for t in asked)
    assert not set(asked) & set(reads[1:])


@pytest.mark.parametrize("every", [None, 0.1, "30 days", 1e6])
@pytest.mark.parametrize("start", [0.0, 86_400.0, 1e6])
def test_reads_are_those_that_a_list_would_have(every: str | float | None, start: float) -> None:
    schedule = at.Recalibration(every=every, times=("1 h", "1 day", 1e6, "30 days"))
    period, last = None if every is None else seconds(every), 30 * DAY + 7.0
    if every == 0.1:  # of so many a few
        start, last = start - 0.05 * (start > 0), start + 20.0
    regular = [] if period is None else [n * period for n in range(round(last / period) + 2)]
    times = {0.0, 3600.0, DAY, 1e6, 30 * DAY, *regular}
    listed = sorted(t for t in times if start <= t <= last)
    found = schedule.reads(last, start)
    assert list(found) == listed
    assert (len(found), found[-1], found[1:-1]) == (len(listed), listed[-1], tuple(listed[1:-1]))
    with pytest.raises(IndexError):
        found[len(listed)]


def test_a_chip_may_be_read_each_second_for_ten_years() -> None:
    model, metric = _model()
    often = at.Recalibration(every="1 s", times=("1.5 s",))
    found = at.lifetime(model, metric, limit=0.1, recalibration=often, num_chips=1)
    assert found.reads == 10 * YEAR + 1  # none at the end
    assert found.recalibrated.isinf().all()
    ends = crossing(lambda t: often.last(t) < 1e6, often.reads(10 * YEAR), 10 * YEAR)
    assert ends == pytest.approx(1e6, abs=2)


def test_a_metric_that_rises_and_falls_crosses_at_the_same_time_whatever_is_longest() -> None:
    def within(t: float) -> bool:
        """Below the limit from 10 to 30 h, and now and then later."""
        return not (10 <= t / 3600 < 30 or int(t / DAY / 40) % 2)

    for reads in ((0.0,), MONTHLY.reads(10 * YEAR)):
        found = {
            crossing(within, [t for t in reads if t <= days * DAY], days * DAY)
            for days in (2, 30, 365, 730, 3650)
        }
        assert len(found) == 1
        assert found.pop() == pytest.approx(36_000, rel=PRECISION - 1)


def test_chips_serve_from_the_time_at_which_their_targets_are_right() -> None:
    model, metric = _model(at.chips.hermes64().drift_aware("1 year"))
    options = {"limit": 0.86, "num_chips": 1}
    found = at.lifetime(model, metric, recalibration=MONTHLY, longest="2 years", **options)
    assert metric(at.program(model, seed=found.seeds[0]).at("0 s")) < 0.86
    assert found.start == found.to_dict()["start"] == YEAR
    assert (found.once > YEAR).all()
    assert found.reads == 13  # after a year, and 390, 420 days and so on
    text = str(found)
    assert "looked at from 1 year, when their targets are right, up to 2 years" in text
    assert "at 1 year " in text
    assert "at 0 s" not in text
    found.plot()
    often = at.recalibration_interval(
        model, metric, life=400 * DAY, intervals=["10 days"], times=["1 h", 366 * DAY], **options
    )
    assert (often.every, often.start, often.to_dict()["start"]) == (10 * DAY, YEAR, YEAR)
    assert often.reads(10 * DAY) == 5  # after 365, 366, 370, 380 and 390 days
    assert "from 1 year, when their targets are right, to 1.09589 years" in str(often)
    assert often.times == (366 * DAY,)  # a chip does not serve after an hour
    assert "recalibrated at 1.00274 years too" in str(often)
    with pytest.raises(ValueError, match="longest must be after 1 year, the time at which"):
        at.lifetime(model, metric, recalibration=MONTHLY, longest="1 year", **options)


def test_the_first_crossing_counts_where_a_read_lifts_the_metric() -> None:
    reads = MONTHLY.reads(10 * YEAR)

    def dips(t: float) -> bool:
        """Below the limit in the first month from day 3 on, and again later."""
        return MONTHLY.last(t) > 0 or t < 3 * DAY

    assert crossing(dips, reads, 10 * YEAR) == pytest.approx(3 * DAY, rel=0.05)

    def worse_from(n: int, days: float):
        """Below the limit from the nth month on, some days after a read."""
        return lambda t: MONTHLY.last(t) < n * 30 * DAY or t - MONTHLY.last(t) < days * DAY

    for n in (1, 2, 5, 37, 121):
        found = crossing(worse_from(n, 20), reads, 10 * YEAR) / DAY
        assert 30 * n - 1 < found < 30 * n + 30
        # a read that lifts nothing
        found = crossing(worse_from(n, 0), reads, 10 * YEAR) / DAY
        assert found == pytest.approx(30 * n)


def test_recalibration_makes_chips_last_longer() -> None:
    model, metric = _model()
    often = at.Recalibration(every="30 days", times=("1 h", "12 h", "7 days"))
    found = at.lifetime(model, metric, limit=0.8, recalibration=often, num_chips=3)
    assert (found.recalibrated > 5 * found.once).all()
    assert (found.once > 3600).all()
    assert found.reads == len(often.reads(10 * YEAR)) == 125
    assert found.cost is not None
    # the same chips as those of a sweep; the values lie on both sides of the limit
    swept = at.sweep(model, metric, num_chips=3, times=["0 s"], recalibration=often)
    assert found.seeds == swept.seeds
    assert (swept.values > 0.8).all()
    physical = at.program(model, seed=found.seeds[0])
    late = physical.at(4 * found.once[0].item(), recalibration=at.Recalibration())
    assert metric(late) < 0.8
    again = at.lifetime(model, metric, limit=0.8, recalibration=often, num_chips=3)
    assert torch.equal(again.once, found.once)


def test_table_plot_and_json(tmp_path) -> None:
    model, metric = _model()
    found = at.lifetime(
        model, metric, limit=0.8, recalibration=MONTHLY, num_chips=2, longest="1 year"
    )
    text = str(found)
    assert "every 30 days" in text
    assert "13 reads of the compensation" in text
    assert "until the metric crosses 0.8, looked at up to 1 year" in text
    assert "a dip between them is missed" in text
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["seeds"] == list(found.seeds)
    assert data["reads"] == 13
    assert len(data["once"]) == 2
    header, *rows = csv.reader(io.StringIO(found.to_csv()))
    assert header == ["seed", "once", "recalibrated"]
    assert [[int(seed), float(once)] for seed, once, _ in rows] == [
        [seed, once] for seed, once in zip(found.seeds, found.once.tolist(), strict=True)
    ]
    figure = found.plot(tmp_path / "lifetime.png")
    assert (tmp_path / "lifetime.png").exists()
    assert len(figure.axes[0].lines) == 2


def _found(once: list[float], schedule: at.Recalibration, start: float = 0.0) -> Lifetime:
    """Return what was measured on chips that last so many days."""
    days = torch.tensor(once, dtype=torch.float64) * DAY
    return Lifetime(
        limit=0.8,
        longest=10 * YEAR,
        once=days,
        recalibrated=days,
        recalibration=schedule,
        reads=useful_reads(schedule, start, 10 * YEAR),
        cost=None,
        seeds=tuple(range(len(once))),
        start=start,
    )


@pytest.mark.parametrize(
    ("once", "median"),
    [
        ([5.0, 1.0, 3.0], "3 "),
        ([0.0, 2.72], "1.36 "),
        ([500.0, 1.0, 2.0, 300.0], "151 "),
        ([50.0, math.inf], "> 1,850 "),  # the mean of 50 and of more than 3,650
        ([50.0, math.inf, math.inf], "> 3,650 "),
    ],
)
def test_the_median_of_chips(once: list[float], median: str) -> None:
    row = str(_found(once, MONTHLY)).splitlines()[2]
    assert row.startswith("at 0 s ")
    assert row.removeprefix("at 0 s").lstrip().startswith(median)


@pytest.mark.parametrize(
    ("every", "times", "start", "name"),
    [
        ("30 days", ("1 h", "12 h"), 0.0, "every 30 days and 2 times"),
        ("30 days", ("1 h", "12 h"), DAY, "every 30 days"),
        ("30 days", ("1 h", "1 day", "7 days"), DAY, "every 30 days and 1 time"),
        ("30 days", ("30 days", "20 years"), 0.0, "every 30 days"),  # no more reads
        (None, ("1 h", "7 days"), DAY, "1 time"),
        (None, ("1 h",), DAY, "at 1 day alone"),
        (None, (), 0.0, "at 0 s alone"),
    ],
)
def test_a_schedule_counts_the_times_that_add_a_read(
    every: str | None, times: tuple[str, ...], start: float, name: str
) -> None:
    found = _found([1.0], at.Recalibration(every=every, times=times), start)
    assert str(found).splitlines()[3].split("  ")[0] == name


def test_the_temperature_of_the_reads_is_named() -> None:
    found = _found([1.0], at.Recalibration(every="30 days", temperature="85 C"))
    assert "on the chips, drift is read at 358.15 K" in str(found)
    assert found.to_dict()["read_temperature"] == 358.15
    plain = _found([1.0], MONTHLY)
    assert "drift is read" not in str(plain)
    assert "read_temperature" not in plain.to_dict()


def test_a_loss_must_not_rise_and_data_that_end_are_noted() -> None:
    cell = at.devices.DifferentialPair(device=at.devices.rram_wan())
    model, metric = _model(at.chips.hermes64().replace(cell=cell, name="ReRAM"))
    found = at.lifetime(
        model, lambda view: 1 - metric(view), limit=0.9, recalibration=MONTHLY, num_chips=1,
        higher_is_better=False,
    )  # fmt: skip
    assert found.once.isinf().all()
    assert "> 3,650" in str(found)
    assert "beyond the device's data" in found.note
    bounded = at.metrics.accuracy([(torch.zeros(1, 8), torch.zeros(1, dtype=torch.long))])
    with pytest.raises(
        ValueError, match=r"lifetime: limit must be a number in \[0, 1\], got 85; 0"
    ):
        at.lifetime(model, bounded, limit=85, recalibration=MONTHLY)
    with pytest.raises(ValueError, match=r"recalibration_interval: limit .* got 85; 0.75 is 75 %"):
        at.recalibration_interval(model, bounded, limit=85)
    never = at.lifetime(model, metric, limit=2.0, recalibration=MONTHLY, num_chips=1)
    assert never.once.tolist() == never.recalibrated.tolist() == [0.0]
    free, metric = _model(at.chips.ideal())
    unknown = at.lifetime(free, metric, limit=0.5, recalibration=MONTHLY, num_chips=1)
    assert unknown.cost is None
    assert "what one takes is not known, as a chip has no cost" in str(unknown)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"limit": math.nan}, ValueError, "limit must be a"),
        ({"recalibration": "30 days"}, TypeError, "recalibration must be a Recalibration"),
        ({"longest": 0}, ValueError, "longest must be a time after 0 s"),
        ({"compensation": "none"}, ValueError, "compensation must be one of"),
        ({"num_chips": 0}, ValueError, "num_chips must be an integer >= 1"),
        ({"temperature": "85 C"}, ValueError, "has no activation energy"),
    ],
)
def test_bad_arguments_are_refused(changes: dict, error: type, message: str) -> None:
    model, metric = _model()
    with pytest.raises(error, match=message):
        at.lifetime(model, metric, **{"limit": 0.8, "recalibration": MONTHLY, **changes})
