"""What each non-ideality costs a metric, alone, together, and when it grows."""

import csv
import dataclasses
import io
import json
import math

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.evaluate.interval import interval
from analogtorch.evaluate.shares import Budget, Share

torch.manual_seed(0)
X, LAYER = torch.rand(64, 96) - 0.5, nn.Linear(96, 48, bias=False)
EXACT = LAYER(X).detach()


def quality(model):
    """1 less the relative error of the outputs."""
    return 1 - ((model(X) - EXACT).norm() / EXACT.norm()).item()


def converted(chip):
    layer = nn.Linear(96, 48, bias=False)
    layer.load_state_dict(LAYER.state_dict())
    return at.convert(nn.Sequential(layer), chip)


def noisy_chip(**more):
    return at.chips.ideal().replace(adc={"noise": 0.02}, **more)


def test_one_non_ideality_is_the_whole_budget():
    found = at.budget(converted(noisy_chip()), quality, num_chips=4, growth=0.01)
    (row,) = found.rows
    assert row.name == "output_noise"
    assert found.reference == pytest.approx(1, abs=1e-6)
    assert row.alone == found.total
    assert row.saved.mean == pytest.approx(found.total.mean, abs=1e-6)
    # the error is proportional to the noise: 0.01 more is lost at 1 + 0.01 / loss times the noise
    assert row.growth == pytest.approx(1 + 0.01 / found.total.mean, rel=0.05)


def test_an_error_of_zero_has_no_share_to_grow_by():
    def error(model):
        return 0.0 if not any(c.chip.non_idealities() for _, c in at.analog_layers(model)) else 1.0

    with pytest.warns(UserWarning, match="growth=0.01 is a share of .*, which is 0, so that no f"):
        found = at.budget(converted(noisy_chip()), error, num_chips=1, higher_is_better=False)
    assert found.growth is None
    assert found.rows[0].growth is None
    assert found.total.mean == 1.0


def test_a_folder_keeps_each_value_and_more_may_be_added(tmp_path):
    chip = at.chips.hermes64(output_noise=0.02)
    calls, stop = 0, 9

    def fragile(model):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return quality(model)

    def run(**options):
        arguments = {"num_chips": 2, "growth": None, "folder": tmp_path / "b"} | options
        return at.budget(converted(chip), fragile, **arguments)

    whole = at.budget(converted(chip), quality, num_chips=2, growth=0.05)
    part = run(names="drift", num_chips=1, time="1 year")
    assert calls == 1 + 3
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run().total == whole.total
    count = 1 + 2 * (1 + 2 * len(whole.rows))
    assert calls == 4 + count + 1  # of another time; one was broken off
    assert run(growth=0.05).to_dict() == whole.to_dict() | {"metric": "fragile"}
    grown = calls
    assert run(growth=0.05).to_dict() == whole.to_dict() | {"metric": "fragile"}
    assert run(names="drift", num_chips=1, time="1 year").to_dict() == part.to_dict()
    assert calls == grown
    with pytest.raises(ValueError, match=r"budget: .* holds another experiment"):
        at.budget(converted(noisy_chip()), fragile, folder=tmp_path / "b")


def test_losses_of_a_whole_chip():
    chip = at.chips.hermes64(output_noise=0.02)
    model = converted(chip)
    found = at.budget(model, quality, num_chips=3, growth=None, time="1 year")
    assert {row.name for row in found.rows} == set(chip.non_idealities())
    assert [row.alone.mean for row in found.rows] == sorted(
        (row.alone.mean for row in found.rows), reverse=True
    )
    lost = {row.name: row.alone.mean for row in found.rows}
    assert lost["drift"] > lost["dac"] > 0
    # independent errors add as squares: together less than their sum, more than any alone
    assert max(lost.values()) < found.total.mean < found.sum
    assert all(row.saved.mean < found.total.mean for row in found.rows)
    seen = at.sweep(model, quality, num_chips=3, times=["1 year"]).values[:, 0]
    assert found.total.mean == pytest.approx(found.reference - seen.mean().item())
    assert model[0].chip == chip


def test_converters_grow_by_powers_of_two():
    chip = at.chips.ideal().replace(dac={"bits": 8})
    (row,) = at.budget(converted(chip), quality, num_chips=1, growth=0.02).rows
    errors = {
        2**k: 1 - quality(converted(chip.replace(dac={"bits": 8 - k})).eval()) for k in range(5)
    }
    allowed = [factor for factor, error in errors.items() if error <= errors[1] + 0.02]
    assert row.growth == max(allowed)
    assert math.isinf(row.alone.half_width)


def test_what_may_grow_without_end():
    found = at.budget(converted(noisy_chip()), lambda model: 1.0, num_chips=2)
    assert math.isinf(found.rows[0].growth)
    assert found.to_dict()["rows"][0]["growth"] is None


def test_a_loss_that_falls():
    up = at.budget(converted(noisy_chip()), quality, num_chips=2, growth=None)
    down = at.budget(
        converted(noisy_chip()),
        lambda m: 1 - quality(m),
        num_chips=2,
        growth=None,
        higher_is_better=False,
    )
    assert down.total.mean == pytest.approx(up.total.mean)


def test_names_are_chosen():
    model = converted(at.chips.hermes64())
    found = at.budget(model, quality, names=["drift", "dac"], num_chips=1, growth=None)
    assert {row.name for row in found.rows} == {"dac", "drift"}


def test_it_prints_draws_and_is_json(tmp_path):
    found = at.budget(converted(noisy_chip()), quality, num_chips=2)
    assert "output_noise" in str(found)
    assert "may grow" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["seeds"] == list(found.seeds)
    rows = list(csv.DictReader(io.StringIO(found.to_csv(tmp_path / "budget.csv"))))
    assert [row["name"] for row in rows] == [*(row.name for row in found.rows), "all together"]
    assert float(rows[0]["alone"]) == found.rows[0].alone.mean
    assert float(rows[0]["saved_half_width"]) == found.rows[0].saved.finite_half_width
    assert float(rows[0]["growth"]) == found.rows[0].growth
    assert float(rows[-1]["alone"]) == found.total.mean
    assert (tmp_path / "budget.csv").read_text().count("\n") == len(rows) + 1
    found.plot(tmp_path / "budget.png")
    assert (tmp_path / "budget.png").read_bytes()[:4] == b"\x89PNG"


def test_one_chip_has_no_interval():
    found = at.budget(converted(noisy_chip()), quality, num_chips=1, growth=None)
    assert str(found).startswith("loss of quality at 1 day, 1 chip; 1.000000 on a chip ")
    assert found.plot().axes[0].get_title() == "Error budget, 1 chip"
    two = at.budget(converted(noisy_chip()), quality, num_chips=2, growth=None)
    assert "at 1 day, 2 chips, mean and 95 % interval; " in str(two)
    assert two.plot().axes[0].get_title() == "Error budget, 2 chips, 95 % intervals"


def test_the_temperature_is_named():
    hot = at.chips.hermes64().replace(thermal={"activation_energy": 0.2})
    given = {"names": ["drift"], "num_chips": 1, "growth": None}
    found = at.budget(converted(hot), quality, temperature="85 C", **given)
    assert found.conditions == ("the temperature is 358.15 K",)
    assert "on the chips, the temperature is 358.15 K" in str(found)
    assert at.budget(converted(hot), quality, **given).conditions == ()


@pytest.mark.parametrize(("growth", "shown"), [(0.005, "0.5 %"), (0.01, "1 %"), (0.07, "7 %")])
def test_the_note_names_the_share_of_growth(growth, shown):
    found = at.budget(converted(noisy_chip()), quality, num_chips=1, growth=None)
    text = str(dataclasses.replace(found, growth=growth))
    assert f"factor at which it costs {shown} of the metric more" in text


def test_a_time_beyond_the_data_is_marked():
    model = converted(at.chips.neurram48())
    found = at.budget(model, quality, names="drift", num_chips=1, growth=None, time="1 year")
    assert "beyond the device's data" in found.note
    assert "beyond the device's data" in str(found)


def test_names_that_are_no_list_are_refused():
    with pytest.raises(TypeError, match=r"budget: names must be a list such as \['.*, got 5"):
        at.budget(converted(at.chips.hermes64()), quality, names=5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"names": ["drft"]}, "'drft', did you mean 'drift'"),
        ({"names": "output_noise"}, "no chip of the model has the non-ideality 'output_noise'"),
        ({"num_chips": 0}, "num_chips"),
        ({"growth": 0.0}, "growth"),
        ({"growth": -1}, "growth"),
        ({"compensation": "globl"}, "compensation"),
        ({"time": "1 parsec"}, "parsec"),
        ({"higher_is_better": 1}, "higher_is_better"),
    ],
)
def test_refused(options, told):
    with pytest.raises(ValueError, match=told):
        at.budget(converted(at.chips.hermes64()), quality, **options)


def test_refused_models():
    with pytest.raises(ValueError, match="no analog layer"):
        at.budget(nn.Linear(2, 2), quality)
    physical = at.program(converted(noisy_chip()), seed=0).at("0 s")
    with pytest.raises(ValueError, match="programmed"):
        at.budget(physical, quality)
    with pytest.raises(TypeError, match="metric"):
        at.budget(converted(noisy_chip()), 3)
    with pytest.raises(ValueError, match="metric is nan"):
        at.budget(converted(noisy_chip()), lambda model: float("nan"))


def test_defects_are_non_idealities_of_their_own():
    model, defects = converted(noisy_chip()), at.Defects(stuck_on=0.02, open_rows=0.02)
    found = at.budget(model, quality, num_chips=3, defects=defects, growth=0.01)
    rows = {row.name: row for row in found.rows}
    assert set(rows) == {"output_noise", "defects.stuck_on", "defects.open_rows"}
    assert found.reference == pytest.approx(1, abs=1e-6)  # nothing is broken
    only = at.Defects(stuck_on=0.02)
    seen = at.sweep(
        converted(at.chips.ideal()), quality, num_chips=3, times=["1 day"], defects=only
    )
    lost = rows["defects.stuck_on"].alone.mean
    assert lost == pytest.approx(found.reference - seen.mean.item(), abs=1e-6)
    assert 0.1 < lost < found.total.mean
    assert rows["defects.stuck_on"].saved.mean > 0
    assert 1 < rows["defects.stuck_on"].growth < 2
    (one,) = at.budget(
        model, quality, names="defects.open_rows", num_chips=2, defects=defects, growth=None
    ).rows
    assert one.name == "defects.open_rows"
    assert "defects.stuck_on" in str(found)


@pytest.mark.parametrize(("share", "most"), [(0.4, 2.5), (0.3, 10 / 3), (0.6, 5 / 3)])
def test_growth_ends_where_everything_is_broken(share, most):
    model, defects = converted(at.chips.ideal()), at.Defects(stuck_off=share)
    (row,) = at.budget(model, lambda _: 1.0, num_chips=1, defects=defects, growth=0.01).rows
    defects.scaled(stuck_off=row.growth)  # is possible
    assert row.growth == pytest.approx(most, rel=0.05)


def test_converters_grow_until_no_bits_are_left():
    chip = at.chips.ideal().replace(dac={"bits": 4})
    (row,) = at.budget(converted(chip), lambda _: 1.0, num_chips=1, growth=0.01).rows
    assert row.growth == 4  # with a bit for the sign and one for the size
    assert chip.scaled(dac=row.growth).dac.bits == 2


@pytest.mark.parametrize(("name", "defects"), [("output_noise", None), ("defects.stuck_on", 0.001)])
@pytest.mark.parametrize("worse", ["error", "nan"])
def test_errors_of_a_metric_are_no_limit_of_growth(name, defects, worse):
    def metric(model):
        if (value := quality(model)) > 0.9:
            return value
        if worse == "nan":
            return math.nan
        raise ValueError("no positive predictions")

    broken = None if defects is None else at.Defects(stuck_on=defects)
    with pytest.raises(ValueError, match="no positive predictions|metric is nan") as error:
        at.budget(
            converted(noisy_chip()), metric, names=name, num_chips=1, defects=broken, growth=10.0
        )
    assert f"with {name} grown" in error.value.__notes__[0]


def test_unknown_defects_are_refused():
    model = converted(noisy_chip())
    with pytest.raises(ValueError, match=r"'defects.stuck_onn', did you mean 'defects.stuck_on'"):
        at.budget(model, quality, names="defects.stuck_onn", defects=at.Defects(stuck_on=0.1))
    for measure in (at.budget, at.sweep):
        with pytest.raises(TypeError, match="defects must be a Defects"):
            measure(model, quality, defects=0.1)


def test_losses_that_no_decimals_show_have_an_exponent() -> None:
    row = Share(name="adc", alone=interval([2e-8]), saved=interval([1e-8]), growth=None)
    found = Budget(
        rows=(row,), reference=1e-6, total=interval([3e-8]), time="1 day", growth=None, seeds=(0,)
    )
    assert "adc                2e-08  1e-08" in str(found)
    assert "all together       3e-08" in str(found)
