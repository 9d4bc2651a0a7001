"""Intervals have the confidence that they name."""

import math

import numpy as np
import pytest
import torch

from analogtorch.evaluate import interval, share
from analogtorch.evaluate.interval import (
    _resampled_means,
    confidence_above,
    rate,
    same_but_for_rounding,
    student,
    student_quantile,
)


def test_student_as_in_any_table_of_it() -> None:
    table = {(0.975, 1): 12.706, (0.975, 4): 2.776, (0.995, 24): 2.797, (0.95, 30): 1.697}
    for (p, freedom), t in table.items():
        assert student_quantile(p, freedom) == pytest.approx(t, abs=5e-4)
    assert student_quantile(0.975, 10_000) == pytest.approx(1.960, abs=5e-4)  # the normal one


def test_interval_by_student() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.half_width) == pytest.approx((3.0, 1.9632), abs=1e-4)
    assert found.ends == pytest.approx((1.0368, 4.9632), abs=1e-4)
    assert str(found) == "3 ± 2"
    assert found.shown(2) == "3.00 ± 1.96"
    assert interval([1.0, 2.0, 3.0], 0.9).half_width == pytest.approx(2.920 / 3**0.5, abs=1e-3)
    alone = interval([1.0])
    assert alone.half_width == math.inf
    assert (str(alone), alone.shown(2), alone.finite_half_width) == ("1", "1.00", None)


def test_vectors_have_intervals() -> None:
    expected = interval([1.0, 2.0, 4.0])
    vectors = torch.tensor([1.0, 2.0, 4.0]), np.array([1, 2, 4]), list(torch.tensor([1, 2, 4]))
    for values in vectors:
        assert interval(values) == expected
        assert interval(values, method="bootstrap") == expected  # of so few


@pytest.mark.parametrize("values", [[-0.1458] * 3, [0.0] * 5, [0.1 + 0.2, 0.3, 0.3]])
def test_equal_values_are_shown_without_an_interval(values: list[float]) -> None:
    found = interval(values)
    assert (found.shown_ends, found.shown(2)) == (None, f"{values[-1]:.2f}")
    assert found.ends == pytest.approx((values[0], values[0]))  # for those who count with them
    narrow = interval([0.3, 0.3 + 1e-9, 0.3])
    assert narrow.shown_ends == narrow.ends


def test_an_interval_ends_at_the_bounds_of_its_values() -> None:
    found = interval([0.9, 1.0, 1.0], bounds=(0, 1))
    assert (found.low, found.high) == (interval([0.9, 1.0, 1.0]).low, 1)
    assert str(found) == "0.9667 [0.8232, 1]"
    assert interval([0.1, 0.2], bounds=(0, math.inf)).low == 0
    assert interval([0.5], bounds=(0, 1)).ends is None  # one value says nothing of a spread
    rounded = interval([1.0000001, 1.0000001], bounds=(-1, 1))  # as a correlation in float32
    assert rounded.high == rounded.mean


def test_a_bootstrap_of_few_values_is_students() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.3, 0.4, 0.8]
    assert interval(values, method="bootstrap") == interval(values)


def test_a_bootstrap_is_repeatable_and_follows_a_skewed_spread() -> None:
    values = [0.9] * 12 + [0.7, 0.5]  # two chips are far below
    found = interval(values, method="bootstrap")
    assert found == interval(values, method="bootstrap")
    assert found.high < 0.9 + 1e-12  # which the symmetric interval exceeds
    assert interval(values).high > 0.9
    assert found.mean - found.low > found.high - found.mean
    assert found.shown(2) == f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_a_bootstrap_covers_the_mean_as_often_as_it_says(confidence: float) -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        found = interval(generator.normal(size=10).tolist(), confidence, method="bootstrap")
        hits += found.low <= 0 <= found.high
    # bound: four standard deviations of a count, and a point for what the bootstrap lacks
    slack = 4 * math.sqrt(confidence * (1 - confidence) / 400) + 0.01
    assert abs(hits / 400 - confidence) < slack


def test_a_bootstrap_whose_ends_few_resamples_exceed_is_students() -> None:
    values = np.random.default_rng(7).normal(0.9, 0.01, 10).tolist()
    for confidence in (0.99, 0.998, 0.999):
        assert interval(values, confidence, "bootstrap") == interval(values, confidence)
    assert interval(values, 0.97, "bootstrap") != interval(values, 0.97)
    many = np.random.default_rng(7).exponential(size=40).tolist()
    found = interval(many, 0.99, "bootstrap")  # 61 of the resamples are beyond either end
    assert found.high - found.mean > 1.1 * (found.mean - found.low)


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.99, 0.999])
@pytest.mark.parametrize("number", [8, 25])
def test_a_bootstrap_covers_the_mean_at_a_high_confidence_too(
    number: int, confidence: float
) -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        found = interval(generator.normal(size=number).tolist(), confidence, method="bootstrap")
        hits += found.low <= 0 <= found.high
    # bound: four standard deviations of a count
    assert hits >= 400 * confidence - 4 * math.sqrt(400 * confidence * (1 - confidence))


def test_a_share_as_in_the_textbook() -> None:
    found = share(7, 10)
    assert (found.mean, found.low, found.high) == pytest.approx((0.7, 0.3475, 0.9333), abs=1e-4)
    assert str(found) == "0.7 [0.3475, 0.9333]"
    everyone = share(25, 25)
    assert (everyone.low, everyone.high) == pytest.approx((0.025 ** (1 / 25), 1.0))
    assert share(0, 25).ends == pytest.approx((0.0, 1 - 0.025 ** (1 / 25)))
    assert share(1, 1, 0.9).ends == pytest.approx((0.05, 1.0))


def test_of_many_trials_a_share_and_a_rate_are_normal() -> None:
    many = 10**7  # summing the probability of each number would take half an hour
    found = share(many // 2, many)
    assert found.half_width == pytest.approx(1.95996 * 0.5 / many**0.5, rel=1e-3)
    assert rate(many, 1.0).half_width == pytest.approx(1.95996 * many**0.5, rel=1e-3)


def test_the_interval_of_a_share_has_at_least_its_confidence_at_every_share() -> None:
    total = 12
    spans = [share(hits, total, 0.9) for hits in range(total + 1)]
    for p in np.linspace(0.005, 0.995, 100):
        covered = sum(
            math.comb(total, hits) * p**hits * (1 - p) ** (total - hits)
            for hits, span in enumerate(spans)
            if span.low <= p <= span.high
        )
        assert covered >= 0.9


def test_the_side_of_a_limit_is_wrong_as_seldom_as_it_says() -> None:
    generator = np.random.default_rng(2)
    found = [confidence_above(generator.normal(size=5).tolist(), 0.0) for _ in range(2000)]
    wrong = sum(c >= 0.95 for c in found) / len(found)
    assert wrong == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 2000))
    assert confidence_above([1.0, 3.0], 2.0) == 0.5
    assert confidence_above([1.0], 0.0) is None


def test_equal_values_show_no_spread_to_tell_from() -> None:
    for value in (1.0, 0.99, 0.97, 0.9123):
        for count in (2, 5, 29):
            assert confidence_above(count * [value], 0.5) is None
            # one step above or below the limit, as far as values that are a step apart
            assert confidence_above(count * [value], value, 0.01) == pytest.approx(0.5)
            above = confidence_above(count * [value], value - 0.01, 0.01)
            assert above == pytest.approx(student(math.sqrt(count), count - 1))
            below = confidence_above(count * [value], value + 0.01, 0.01)
            assert below == pytest.approx(1 - above)
    assert confidence_above([0.1 + 0.2, 0.3, 0.3], 0.3) is None  # equal up to rounding
    assert confidence_above([0.5, math.nextafter(0.5, 1)], 0.4) is None
    assert not same_but_for_rounding([0.1, math.nan], 1.0)


@pytest.mark.parametrize("count", [3, 5, 8, 10])
def test_a_metric_in_steps_is_on_the_wrong_side_as_seldom_as_it_says(count: int) -> None:
    # of 58 clips a fifth of the chips lose three, and the mean is below the limit
    def wrong(bad: int) -> float:
        values = [54 / 58] * (count - bad) + [51 / 58] * bad
        chance = math.comb(count, bad) * 0.2**bad * 0.8 ** (count - bad)
        return chance if confidence_above(values, 0.99 * 54 / 58, 1 / 58) >= 0.95 else 0.0

    assert sum(map(wrong, range(count + 1))) <= 0.05
    generator, trials = np.random.default_rng(3), 1000
    for std in (0.5, 1.0, 3.0):  # in steps; the limit is the mean of the rounded values
        drawn = np.round(53 + std * generator.normal(size=(trials, count)))
        found = [confidence_above(row.tolist(), 53.0, 1.0) for row in drawn]
        # bound: four standard deviations of a count
        assert sum(c >= 0.95 for c in found) / trials <= 0.05 + 4 * math.sqrt(0.0475 / trials)


def test_blocks_of_resamples_are_those_that_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).normal(size=37)
    module = _resampled_means.__globals__
    monkeypatch.setitem(module, "RESAMPLES", 501)
    chosen = np.random.default_rng(0).integers(0, 37, (501, 37))
    for most in (1, 37 * 7, 37 * 501):
        monkeypatch.setitem(module, "AT_ONCE", most)
        found = _resampled_means(values.tolist())
        assert np.array_equal(found, values[chosen].mean(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([]), "values is empty"),
        (lambda: interval(torch.zeros(0)), "values is empty"),
        (lambda: interval([1.0, math.nan]), r"values\[1\] must be a finite number, got nan"),
        (lambda: interval([math.inf]), r"interval: values\[0\] must be a finite number, got inf"),
        (lambda: interval(torch.ones(2, 2)), r"values\[0\] must be a finite number, got \[1.0, "),
        (
            lambda: interval([1.0], 95),
            r"interval: confidence must be a share in \[0.5, 0.999\], got 95",
        ),
        (lambda: interval([1.0], method="bayes"), "method must be one of .*, got 'bayes'"),
        (
            lambda: interval([0.5], bounds=5),
            r"interval: bounds must be a smallest and a largest .* 5",
        ),
        (
            lambda: interval([0.5], bounds=(1, 0)),
            r"such as \(0, 1\) or \(0, math.inf\), got \(1, 0",
        ),
        (
            lambda: interval([0.5, 1.5], bounds=(0, 1)),
            r"interval: values\[1\] is 1.5, beyond the bounds of the metric, 0 to 1; correct",
        ),
        (lambda: share(10**17, 10**17), r"share: total must be an integer in \[1, 1000000000\]"),
        (lambda: rate(10**17, 1.0), r"rate: events must be an integer in \[0, 1000000000\]"),
        (lambda: share(3, 2), r"share: hits must be an integer in \[0, 2\], got 3"),
        (lambda: share(0, 0), r"share: total must be an integer in \[1, 1000000000\], got 0"),
    ],
)
def test_wrong_arguments_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("events", "low", "high"),
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39), (100, 81.36, 121.6)],
)
def test_the_interval_of_a_rate_is_that_of_garwood(events: int, low: float, high: float) -> None:
    found = rate(events, 2.0)
    assert found.mean == events / 2
    assert found.low == pytest.approx(low / 2, rel=1e-3)
    assert found.high == pytest.approx(high / 2, rel=1e-3)
    assert rate(events, 2.0, 0.999).high > found.high


def test_the_interval_of_a_rate_covers() -> None:
    draw = np.random.default_rng(0)
    for mean in (0.5, 3.0, 20.0):
        draws, counts = np.unique(draw.poisson(mean, 20_000), return_counts=True)
        found = [rate(int(events), 1.0) for events in draws]
        inside = [each.low <= mean <= each.high for each in found]
        assert counts[inside].sum() / counts.sum() >= 0.95


def test_a_rate_that_is_none_is_refused() -> None:
    for bad in ((-1, 1.0), (1.5, 1.0), (1, 0.0), (1, math.inf), (1, 1.0, 1.0)):
        with pytest.raises(ValueError, match="rate"):
            rate(*bad)
