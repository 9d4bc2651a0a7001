"""The statistics of a sweep, on values that are written down here."""

import copy
import csv
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import analogtorch as at
from analogtorch.devices import seconds
from analogtorch.evaluate import Verdict
from analogtorch.evaluate.interval import confidence_above

TIMES = ("0 s", "1 day")


def sweep(*chips: list[float], **options) -> at.Sweep:
    values = torch.tensor(chips, dtype=torch.float64)
    return at.Sweep(times=TIMES, values=values, seeds=tuple(range(len(chips))), **options)


GOOD = sweep(*([0.90 + 0.002 * i, 0.80 + 0.004 * i] for i in range(10)), metric="accuracy")
ERROR = sweep(*([0.10 - 0.002 * i, 0.20 - 0.004 * i] for i in range(10)), higher_is_better=False)


def parquet_columns(path: Path) -> dict[str, list]:
    from pyarrow import parquet

    return parquet.read_table(path).to_pydict()


def test_the_worst_chip_is_on_the_side_that_is_worse() -> None:
    assert GOOD.worst.tolist() == [0.90, 0.80]
    assert ERROR.worst.tolist() == [0.10, 0.20]


def test_results_with_tensors_are_equal_to_themselves_alone() -> None:
    assert GOOD == GOOD
    assert dataclasses.replace(GOOD) != GOOD
    batch = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    made = [at.metrics.accuracy([copy.deepcopy(batch)]) for _ in range(2)]
    assert made[0] != made[1]
    assert len({GOOD, ERROR, *made}) == 4


def test_quantiles() -> None:
    assert GOOD.quantile(0.5).tolist() == pytest.approx([0.909, 0.818])
    assert GOOD.quantile(0).tolist() == GOOD.worst.tolist()
    with pytest.raises(ValueError, match=r"Sweep.quantile: q must be a share in \[0, 1\], got 50"):
        GOOD.quantile(50)


def test_intervals_are_of_the_mean_at_each_time() -> None:
    narrow, wide = GOOD.interval(0.8), GOOD.interval()
    assert [found.mean for found in wide] == pytest.approx(GOOD.mean.tolist())
    for inner, outer in zip(narrow, wide, strict=True):
        assert outer.low < inner.low < inner.mean < inner.high < outer.high
    assert sweep([0.9, 0.8]).interval()[0].ends is None


@pytest.mark.parametrize("method", ["keeps", "chip_yield", "plot"])
def test_limits_that_a_metric_cannot_be_are_refused(method: str) -> None:
    share, loss = sweep([0.9, 0.8], bounds=(0, 1)), sweep([3.0, 4.0], bounds=(1, math.inf))
    percent = rf"Sweep.{method}: limit must be a number in \[0, 1\], got 75; 0.75 is 75 %"
    with pytest.raises(ValueError, match=percent):
        getattr(share, method)(limit=75)
    with pytest.raises(ValueError, match=r"must be a number in \[-1, 1\], got -2; 0.75 is"):
        getattr(share.minus(share), method)(limit=-2)
    with pytest.raises(ValueError, match="must be a number >= 1, got 0.5$"):
        getattr(loss, method)(limit=0.5)
    for found, limit in ((share, 0), (share, 1), (share.minus(share), -1), (loss, 75), (GOOD, 75)):
        getattr(found, method)(limit=limit)


def test_yield_counts_the_chips_that_keep_a_limit() -> None:
    first, later = GOOD.chip_yield(0.9059)
    assert (first.mean, later.mean) == (0.7, 0.0)
    assert first.ends == pytest.approx((0.3475, 0.9333), abs=1e-4)  # 7 of 10, Clopper-Pearson
    assert [found.mean for found in ERROR.chip_yield(0.0941)] == [0.7, 0.0]
    assert sweep([0.9, 0.9]).chip_yield(0.9)[0].mean == 1.0  # the limit itself is kept


def test_a_verdict_is_yes_no_or_not_settled_with_its_confidence() -> None:
    yes, no = GOOD.keeps(0.9)
    assert (yes.answer, no.answer) == ("yes", "no")
    assert yes.confidence > 0.999 > 0.001 > no.confidence
    assert (str(yes), str(no)) == ("yes (> 99.9 %)", "no (> 99.9 %)")
    open_ = GOOD.keeps(0.909)[0]  # the mean itself
    assert open_.answer == "not settled"
    assert open_.confidence == pytest.approx(0.5)
    assert str(open_) in ("not settled (49.9 % yes)", "not settled (50.0 % yes)")
    assert [v.answer for v in ERROR.keeps(0.1)] == ["yes", "no"]
    assert sweep([0.9, 0.8]).keeps(0.1) == (Verdict(answer="not settled", confidence=None),) * 2
    assert str(sweep([0.9, 0.8]).keeps(0.1)[0]) == "not settled"


def test_chips_that_are_all_alike_settle_nothing_unless_the_step_is_known() -> None:
    for count in (2, 5, 29):
        found = sweep(*[[1.0, 1.0]] * count).keeps(0.99)[0]
        assert found == Verdict(answer="not settled", confidence=None, alike=True)
        assert str(found) == "not settled (all chips alike)"
    alike = sweep(*[[1.0, 0.5]] * 5)
    assert [str(found) for found in alike.keeps(0.99, resolution=1 / 1000)] == [
        "yes (> 99.9 %)",
        "no (> 99.9 %)",
    ]
    near = alike.keeps(0.99, resolution=1 / 58)[0]  # the limit is less than a sample away
    assert (near.answer, near.alike) == ("not settled", False)
    # one chip that differs by a sample tells no more than none
    hardly = sweep(*[[1.0, 0.5]] * 4, [1 - 1 / 58, 0.5])
    assert hardly.keeps(0.99, resolution=1 / 58)[0].confidence < near.confidence < 0.95
    some = sweep(*[[1.0, 0.5]] * 3, *[[1 - 1 / 58, 0.5]] * 2)
    assert some.keeps(0.98)[0].answer == "yes"
    assert some.keeps(0.98, resolution=1 / 58)[0].answer == "not settled"
    with pytest.raises(ValueError, match=r"Sweep.keeps: resolution must be .* >= 0, got -1; 1 / N"):
        alike.keeps(0.99, resolution=-1)
    with pytest.raises(ValueError, match=r"resolution must be .*, got 64; 1 / N of N samples"):
        sweep([0.9, 0.5], [0.8, 0.4], bounds=(0, 1)).keeps(0.5, resolution=64)


@pytest.mark.parametrize(
    ("shape", "chips", "rate"),
    [
        (None, 5, 0.05),
        (None, 25, 0.05),
        (4.0, 5, 0.084),  # of a gamma distribution; by Student's t alone 0.094
        (4.0, 25, 0.057),  # 0.073
        (1.0, 5, 0.127),  # 0.157
        (1.0, 25, 0.068),  # 0.104
    ],
)
def test_how_often_a_verdict_is_wrong(shape: float | None, chips: int, rate: float) -> None:
    """Of 4,000 samples of chips, the limit being the true mean: within three standard errors."""
    draws = np.random.default_rng(0)
    values = (
        draws.normal(size=(4000, chips))
        if shape is None
        else shape - draws.gamma(shape, size=(4000, chips))
    )
    wrong = sum(confidence_above(row, 0.0, skewed=True) > 0.95 for row in values.tolist()) / len(
        values
    )
    assert wrong == pytest.approx(rate, abs=3 * math.sqrt(rate * (1 - rate) / len(values)))


def test_what_it_takes_to_settle_a_verdict_is_asked_for() -> None:
    limit = 0.909 - 1.5 * GOOD.std[0].item() / math.sqrt(10)  # t = 1.5: 91.6 % by any table
    assert GOOD.keeps(limit)[0].confidence == pytest.approx(0.916, abs=1e-3)
    assert GOOD.keeps(limit, 0.95)[0].answer == "not settled"
    assert str(GOOD.keeps(limit, 0.9)[0]) == "yes (91.6 %)"


def test_a_paired_difference_knows_what_means_alone_do_not() -> None:
    better = sweep(*(row for row in (GOOD.values + 0.001).tolist()), metric="accuracy")
    assert better.interval()[0].low < GOOD.interval()[0].high  # they overlap
    gain = better.minus(GOOD)
    assert gain.metric == "difference of accuracy"
    assert gain.interval()[0].ends == pytest.approx((0.001, 0.001))
    assert [found.answer for found in gain.keeps(0, resolution=0.001)] == ["yes", "yes"]
    loss = GOOD.minus(better)
    assert [found.answer for found in loss.keeps(0, resolution=0.001)] == ["no", "no"]
    assert gain.chip_yield(0)[0].mean == 1.0


@pytest.mark.parametrize("mine", [(600, 610), (607, 617)])
def test_chips_that_differ_by_as_many_samples_settle_nothing(mine: tuple[int, int]) -> None:
    def of(right: tuple[int, int]) -> at.Sweep:
        return sweep(*([count / 1118, 1.0] for count in right))

    # 600 - 601 and 610 - 611 of 1118: in floating point not the same share
    found = of(mine).minus(of((601, 611))).keeps(0)[0]
    assert found == Verdict(answer="not settled", confidence=None, alike=True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (at.Sweep(TIMES, GOOD.values, tuple(range(1, 11)), metric="accuracy"), "the seeds of the"),
        (at.Sweep(("0 s", "1 h"), GOOD.values, GOOD.seeds, metric="accuracy"), "the times differ"),
        (at.Sweep(TIMES, GOOD.values, GOOD.seeds, metric="loss"), "metrics differ, 'accuracy' and"),
        (
            at.Sweep(TIMES, GOOD.values, GOOD.seeds, metric="accuracy", higher_is_better=False),
            r"directions \(higher_is_better\) differ, True and False; measure both with the same",
        ),
    ],
)
def test_sweeps_that_are_no_pair_are_refused(other: at.Sweep, message: str) -> None:
    with pytest.raises(ValueError, match=f"Sweep.minus: .*{message}"):
        GOOD.minus(other)


def test_times_are_compared_by_their_seconds_and_caveats_stay() -> None:
    named = at.Sweep(("0 s", "24 h"), GOOD.values, GOOD.seeds, metric="accuracy", notes=("", "x"))
    found = GOOD.minus(named)
    assert not found.values.any()
    assert found.notes == ("", "x")
    with pytest.raises(TypeError, match="Sweep.minus: other must be a Sweep .*, got 0.9"):
        GOOD.minus(0.9)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.float32])
def test_values_of_any_real_type_become_float64(dtype: torch.dtype) -> None:
    values = torch.tensor([[1, 2], [3, 2], [5, 2]], dtype=dtype)
    found = at.Sweep(TIMES, values, (0, 1, 2))
    assert found.values.dtype == torch.float64
    assert found.mean.tolist() == found.quantile(0.5).tolist() == [3.0, 2.0]
    assert found.to_dict()["1 day"]["values"] == [2.0, 2.0, 2.0]
    learnt = at.Sweep(TIMES, torch.ones(2, 2, requires_grad=True), (0, 1))
    assert not learnt.values.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bounds": (1, 0)},
            r"Sweep.bounds must be a smallest and a largest .*, got \(1, 0",
        ),
        (
            {"bounds": (0.5, 1)},
            "Sweep.values is 0 of chip 0 at 0 s, beyond the bounds of",
        ),
        ({"times": ("0 s", "0 s")}, "Sweep: times must differ, but '0 s' and '0 s' are the same"),
        ({"times": ("24 h", "1 day")}, "Sweep: times must differ, but '24 h' and '1 day' are"),
        ({"times": ("0 s", "later")}, "time 'later' is not understood; give seconds as a number"),
        ({"times": "1 day"}, r"Sweep: times must be a list .*, got '1 day'; write \['1 day'\]"),
        ({"times": (), "values": torch.zeros(1, 0)}, "Sweep: times is empty; give at least one"),
        ({"seeds": (), "values": torch.zeros(0, 2)}, "Sweep.seeds is empty; give the seed of at"),
        ({"seeds": (7, 7), "values": torch.zeros(2, 2)}, "Sweep.seeds has 7 twice; a chip counts"),
        ({"values": torch.zeros(1, 2, dtype=torch.complex64)}, "real numbers, got torch.complex64"),
        ({"values": torch.zeros(1, 2, dtype=torch.bool)}, r"got torch.bool; write values.double\("),
    ],
)
def test_a_sweep_of_what_is_none_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        at.Sweep(**{"times": TIMES, "values": torch.zeros(1, 2), "seeds": (0,), **changes})


def test_seeds_that_are_no_list_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Sweep.seeds must be a list such as \(0, 1\), got 1"):
        at.Sweep(("1 day",), torch.ones(1, 1), 1)  # type: ignore[arg-type]


def test_times_in_seconds_are_named() -> None:
    found = at.Sweep([0, 86400.0], torch.ones(1, 2), (0,))
    assert found.times == ("0 s", "86400 s")
    assert list(found.to_dict()) == ["0 s", "86400 s"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1e-20, "1e-20"), (1.23456e-7, "1.235e-07"), (2e-6, "0.000002000"), (1e20, "1e+20")],
)
def test_metrics_of_any_size_are_shown_by_four_digits(value: float, shown: str) -> None:
    row = str(sweep([value, 0.0], [value, 0.0])).splitlines()[1]
    assert row.split()[:3] == ["0", "s", shown]
    assert max(map(len, row.split())) <= 12


def test_values_that_are_not_finite_name_their_chip() -> None:
    with pytest.raises(ValueError, match="must be finite, got nan of chip 1 at 1 day"):
        sweep([0.9, 0.8], [0.9, math.nan])


def test_json_and_csv_have_every_chip(tmp_path: Path) -> None:
    found = json.loads(json.dumps(GOOD.to_dict()))
    assert list(found) == list(TIMES)
    assert found["1 day"]["values"] == GOOD.values[:, 1].tolist()
    assert found["1 day"]["interval"] == pytest.approx(GOOD.interval()[1].ends)
    assert sweep([0.9, 0.8]).to_dict()["0 s"]["interval"] is None
    text = GOOD.to_csv(tmp_path / "new" / "sweep.csv")
    assert (tmp_path / "new" / "sweep.csv").read_text() == text
    header, *rows = csv.reader(text.splitlines())
    assert header == ["chip", "seed", "time", "seconds", "accuracy", "note"]
    assert len(rows) == 20
    assert rows[1] == ["0", "0", "1 day", "86400.0", "0.8", ""]


@pytest.mark.parametrize(("times", "tilted"), [(2, False), (7, True)])
def test_labels_are_tilted_where_they_would_overlap(times: int, tilted: bool) -> None:
    given = ("1 h", "10 years", "1 day", "2 days", "3 days", "1 month", "1 year")[:times]
    figure = at.Sweep(times=given, values=torch.rand(3, times).double(), seeds=(1, 2, 3)).plot()
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    assert all((label.get_rotation() != 0) == tilted for label in labels)
    boxes = [label.get_window_extent() for label in labels]
    if not tilted:
        assert boxes[0].x1 < boxes[1].x0


def test_parquet_has_the_columns_of_csv_with_their_types(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    found = at.Sweep(("programmed", "1 day"), GOOD.values, (-(2**63), *range(9)), metric="error")
    path = found.to_parquet(tmp_path / "new" / "sweep.parquet")
    columns = parquet_columns(path)
    assert list(columns) == ["chip", "seed", "time", "seconds", "error", "note"]
    assert columns["seed"][:4] == [-(2**63), -(2**63), 0, 0]
    assert columns["seconds"][:2] == [None, 86400.0]
    assert columns["error"] == found.values.flatten().tolist()


@pytest.mark.parametrize("name", ["chip", "seed", "time", "seconds", "note"])
def test_a_metric_called_as_a_column_has_a_column_of_its_own(name: str, tmp_path: Path) -> None:
    found = sweep([0.9, 0.8], metric=name)
    first = next(csv.DictReader(found.to_csv().splitlines()))
    assert list(first) == ["chip", "seed", "time", "seconds", f"metric {name}", "note"]
    assert list(first.values()) == ["0", "0", "0 s", "0.0", "0.9", ""]
    pytest.importorskip("pyarrow")
    columns = parquet_columns(found.to_parquet(tmp_path / "sweep.parquet"))
    assert columns[f"metric {name}"] == [0.9, 0.8]
    assert columns["seconds"] == [0.0, 86400.0]


def test_parquet_without_pyarrow_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "analogtorch\[parquet\]", or use to_csv'):
        GOOD.to_parquet(tmp_path / "sweep.parquet")
    assert not list(tmp_path.iterdir())


def test_tables_and_plots(tmp_path: Path) -> None:
    marked = at.Sweep(TIMES, GOOD.values, GOOD.seeds, notes=("", "beyond <2 days>"))
    header, first, later, note = str(marked).splitlines()
    assert header.split() == [
        "metric",
        "at",
        "mean",
        "std",
        "worst",
        *["95", "%", "interval,", "10", "chips"],
    ]
    assert first.split()[:5] == ["0", "s", "0.9090", "0.0061", "0.9000"]
    assert later.startswith("1 day*")
    assert note == "* 1 day is beyond <2 days>"
    page = marked._repr_html_()
    assert page.count("<tr>") == 3
    assert "beyond &lt;2 days&gt;" in page
    figure = marked.plot(tmp_path / "sweep.svg", limit=0.93)
    assert (tmp_path / "sweep.svg").stat().st_size > 1000
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0 s", "1 day*"]
    assert axes.get_xlabel().endswith("(*: beyond the device's data)")
    sweep([0.9, 0.8]).plot()  # one chip has no interval


@pytest.mark.parametrize(
    "times",
    [("0 s", "programmed", "1 day"), ("programmed", "0 s", "1 s"), ("1 h", "0.5 s", "0 s")],
)
def test_each_time_of_a_plot_has_a_place_of_its_own(times: tuple[str, ...]) -> None:
    values = torch.tensor([[0.9, 0.8, 0.7], [0.8, 0.7, 0.6]], dtype=torch.float64)
    figure = at.Sweep(times=times, values=values, seeds=(0, 1)).plot()
    axes = figure.axes[0]
    figure.canvas.draw()
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == sorted(times, key=lambda t: -1.0 if t == "programmed" else seconds(t) or 0.0)
    places = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks()]
    assert all(a.x1 < b.x0 for a, b in zip(places, places[1:], strict=False))
    for line in axes.lines:
        assert (line.get_xdata() == axes.get_xticks()).all()


def test_a_plot_takes_one_interval_of_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    found = at.Sweep.interval
    monkeypatch.setattr(at.Sweep, "interval", lambda self: calls.append(1) or found(self))
    GOOD.plot()
    assert len(calls) == 1
