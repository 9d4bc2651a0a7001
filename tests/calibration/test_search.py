"""What ``calibrate(effort="search")`` promises: the least error, never worse, and reported."""

import copy
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration.choice import CalibrationReport
from analogtorch.calibration.output_error import NoisyJudge
from analogtorch.calibration.search import _JUDGING_SEED, parts
from analogtorch.calibration.settings import held_back
from analogtorch.calibration.worth import worth

HERMES = at.chips.hermes64()
COLUMNS = at.chips.hermes64(weight_scale="column")


@functools.cache
def _net() -> nn.Module:
    """Columns of very different size, as in transformers: one scale per block suits them badly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        net[0].weight *= torch.logspace(-1, 0.5, 64).unsqueeze(1)
        net[2].weight /= torch.logspace(-1, 0.5, 64)
    return net.eval()


def _batches(count: int = 4, size: int = 40, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 48, generator=generator) for _ in range(count)]


def _search(
    chip: at.Chip = HERMES, batches: Any = None, **options: Any
) -> tuple[nn.Module, CalibrationReport]:
    found: list[CalibrationReport] = []
    model = at.convert(copy.deepcopy(_net()), chip)
    at.calibrate(model, batches or _batches(), effort="search", report=found.append, **options)
    return model, found[0]


@functools.cache
def _searched() -> tuple[nn.Module, CalibrationReport]:
    return _search()


def _error(model: nn.Module) -> float:
    """Return the error of the outputs on chips and inputs that no calibration has seen."""
    x = _batches(1, 200, seed=9)[0]
    exact = _net()(x)
    off = [(at.program(model, seed=s).at("1 day")(x) - exact) for s in range(4)]
    return (torch.stack(off).square().mean((0, 1)) / exact.var(0)).mean().item()


def _state(model: nn.Module) -> list[Any]:
    return [
        (x.chip, x.calibrated, x.input_range.tolist(), x.adc_ranges, x.output_ranges)
        for _, x in at.analog_layers(model)
    ]


@torch.no_grad()
def test_the_search_errs_less_than_ranges_alone_and_no_calibration_on_new_chips() -> None:
    searched, found = _searched()
    ranges = at.convert(copy.deepcopy(_net()), HERMES)
    at.calibrate(ranges, _batches(), effort="ranges")
    plain = at.convert(copy.deepcopy(_net()), HERMES)
    # columns that differ by 30 times: a scale of their own saves over a quarter of the error
    assert _error(searched) < 0.75 * min(_error(ranges), _error(plain))
    assert found.kept == "search"
    assert found.gain > 0.3
    assert {row.weight_scale for row in found.layers} == {"column"}
    assert {x.chip.periphery.weight_scale for _, x in at.analog_layers(searched)} == {"column"}


def test_two_searches_give_the_same_bits_and_change_no_weight_nor_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    other, again = _search()
    assert torch.equal(torch.get_rng_state(), before)
    one, found = _searched()
    x = _batches(1, seed=3)[0]
    assert torch.equal(one(x), other(x))
    assert found == again
    for name, tensor in _net().state_dict().items():
        assert torch.equal(one.state_dict()[name], tensor)


def test_the_report_says_what_was_tried_chosen_and_gained() -> None:
    _, found = _searched()
    assert found.batches == (2, 1, 1)
    assert [row.name for row in found.layers] == ["0", "2"]
    assert sum(row.share or 0.0 for row in found.layers) == pytest.approx(1)
    text = str(found)
    for part in ("search (kept)", "default", "weight scale per column", "ADC range: that of"):
        assert part in text
    assert json.loads(json.dumps(found.to_dict()))["gain"] == pytest.approx(found.gain)


def test_the_report_is_printed_unless_that_is_declined(capsys: pytest.CaptureFixture) -> None:
    model, x = at.convert(nn.Linear(48, 3), HERMES), _batches(3, 9)
    assert at.calibrate(model, x, effort="search", report=None) is model
    at.calibrate(model, x)
    assert capsys.readouterr().out == ""
    at.calibrate(model, x, effort="search")
    assert "(kept)" in capsys.readouterr().out


def test_what_the_chip_lacks_is_not_chosen_and_said() -> None:
    lacking = HERMES.replace(periphery={"output_bits": None, "column_calibration": False})
    model, found = _search(lacking)
    assert {x.chip.periphery.weight_scale for _, x in at.analog_layers(model)} == {"block"}
    assert all(x.adc_ranges is None for _, x in at.analog_layers(model))
    assert any("scales no columns" in note for note in found.notes)


def test_a_scale_per_column_is_none_that_the_chip_lacks() -> None:
    model, found = _search(at.chips.standard_crossbar())
    assert {x.chip.periphery.weight_scale for _, x in at.analog_layers(model)} == {"column"}
    assert not any("scales no columns" in note for note in found.notes)


def test_adc_ranges_are_tried_where_they_are_asked_for() -> None:
    _, found = _search(COLUMNS, adc="mse", adc_per="column")
    tried = [step.what for step in found.steps]
    assert any("ADC ranges found" in what for what in tried)
    assert {row.adc for row in found.layers} == {"mse"}
    assert any("deviation" in note for note in found.notes)


class _Pooled(nn.Module):
    """An encoder whose outputs a few loud samples decide."""

    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(8, 16)
        self.e = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.o = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.e(self.i(x)).mean(1))


def _by_both(
    seed: int, samples: int, size: int
) -> tuple[dict[str, nn.Module], dict[str, CalibrationReport], Tensor]:
    """Return models of both efforts, their reports, and inputs of no batch."""
    torch.manual_seed(seed)
    net, models, found = _Pooled().eval(), {}, list[CalibrationReport]()
    batches, x = ((torch.randn(n, 12, 8) * torch.randn(n, 1, 1).exp()) for n in (samples, 200))
    for effort in ("default", "search"):
        models[effort] = at.convert(copy.deepcopy(net), HERMES)
        at.calibrate(models[effort], batches.split(size), effort=effort, report=found.append)
    return models | {"exact": net}, dict(zip(models, found, strict=True)), x


@pytest.mark.parametrize("seed", [1, 5])
@pytest.mark.slow
def test_on_few_samples_the_search_ends_with_the_default(seed: int) -> None:
    """Of 64 samples 32 find the ranges of a search, and all those of the default."""
    models, found, x = _by_both(seed, 64, 16)
    assert found["search"].kept == "default"
    assert list(found["search"].errors) == ["search", "default", "uncalibrated"]
    dac = {effort: [row.dac for row in report.layers] for effort, report in found.items()}
    assert dac["search"] == dac["default"]
    aged = {effort: at.program(models[effort], seed=1).at("1 day") for effort in found}
    for each in (models, aged):
        assert torch.equal(each["search"](x), each["default"](x))


@torch.no_grad()
def test_the_search_is_kept_where_it_errs_less_than_the_default() -> None:
    models, found, x = _by_both(4, 192, 24)
    report = found["search"]
    assert report.kept == "search"
    assert report.errors["search"] == min(report.errors.values())
    off = {
        n: [at.program(models[n], seed=s).at("1 day")(x) - models["exact"](x) for s in range(3)]
        for n in found
    }
    errors = {n: torch.stack(each).square().mean() for n, each in off.items()}
    assert errors["search"] < 0.8 * errors["default"]


def test_what_errs_less_uncalibrated_is_left_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def errors(
        judge: NoisyJudge, alone: Any = None, chips: int = 4, shared: bool = False
    ) -> Tensor:
        layers = [layer for _, layer in at.analog_layers(judge.model)]
        bare = not any(x.calibrated or x.output_ranges is not None for x in layers)
        return torch.full((80,), 0.1 if bare else 0.2, dtype=torch.float64)

    monkeypatch.setattr(NoisyJudge, "errors", errors)
    model, found = _search()
    assert found.kept == "uncalibrated"
    assert _state(model) == _state(at.convert(copy.deepcopy(_net()), HERMES))


def test_a_searched_model_can_be_saved_and_calibrated_anew(tmp_path: Any) -> None:
    model = copy.deepcopy(_searched()[0])
    at.save(model, tmp_path / "model.safetensors")
    loaded = at.load(tmp_path / "model.safetensors", copy.deepcopy(_net()))
    x = _batches(1)[0]
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    at.calibrate(model, _batches(seed=2))  # from the chip that it has now
    fresh = at.calibrate(at.convert(copy.deepcopy(_net()), COLUMNS), _batches(seed=2))
    assert torch.equal(model(x), fresh(x))
    assert not torch.equal(model(x), loaded(x))


def _nan(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch) * float("nan")


def _boxes(model: nn.Module, batch: Tensor) -> Tensor:
    y = model(batch)
    return y[y > 0]


def _raises(model: nn.Module, batch: Tensor) -> Tensor:
    if batch.shape[0] == 7:
        raise OSError("no such clip")
    return model(batch)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([], {}, ValueError, "batches is empty"),
        (_batches(2), {}, ValueError, "needs at least 3 batches.*got 2"),
        ([*_batches(3), torch.full((40, 48), torch.nan)], {}, ValueError, "nothing but NaN"),
        (_batches(), {"forward": _nan}, ValueError, "infinite values, or nothing but NaN"),
        (_batches(), {"forward": lambda m, x: [m(x), None][1]}, ValueError, "got NoneType; pass"),
        (_batches(), {"forward": _boxes}, ValueError, "and outputs have other shapes"),
        (
            _batches(),
            {"forward": lambda m, x: m(x)[:0]},
            ValueError,
            "outputs .* are empty",
        ),
        ([*_batches(3), torch.zeros(7, 48)], {"forward": _raises}, OSError, "no such clip"),
        ([torch.ones(4, 5)] * 4, {}, ValueError, r"'0' takes \(\*, 48\) inputs, got .*\(4, 5\)"),
        (_batches(), {"method": "absmax"}, ValueError, "takes no method"),
        (_batches(), {"per": "tile"}, ValueError, "takes no method and per"),
    ],
)
def test_bad_input_is_named_and_leaves_the_model_as_it_was(
    batches: list[Tensor], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = at.calibrate(at.convert(copy.deepcopy(_net()), HERMES), _batches(1, 8, seed=4))
    before = _state(model)
    with pytest.raises(error, match=message):
        at.calibrate(model, batches, effort="search", **options)
    assert all(
        all(
            torch.equal(a, b) if isinstance(a, Tensor) else a == b
            for a, b in zip(x, y, strict=True)
        )
        for x, y in zip(_state(model), before, strict=True)
    )


def test_an_effort_that_does_not_exist_is_named() -> None:
    model = at.convert(copy.deepcopy(_net()), HERMES)
    with pytest.raises(ValueError, match="effort"):
        at.calibrate(model, _batches(), effort="most")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", range(3, 14))
def test_no_batch_serves_two_purposes(count: int) -> None:
    fitted, choosing, judging = parts(list(range(count)))
    assert len(fitted) >= len(judging) >= len(choosing) >= 1
    assert not set(fitted) & set(choosing) | set(choosing) & set(judging)
    assert set(fitted).isdisjoint(judging)


@pytest.mark.parametrize("count", [4, 5, 9, 40])
@pytest.mark.parametrize("make", [lambda x: x, lambda x: {"id": 3, "x": x}, lambda x: (x, x[0])])
def test_what_is_left_for_a_last_batch_does_not_decide_alone(
    count: int, make: Callable[[Tensor], Any]
) -> None:
    rest = list(map(make, torch.randn(64 * (count - 1) + 2, 3).split(64)))
    whole = list(map(make, torch.randn(64 * count, 3).split(64)))
    for most in (None, 1, 16):
        fitted, judged = held_back(rest, most)
        assert len(fitted) + len(judged) == count
        assert len(judged) == len(held_back(whole, most)[1]) + 1 <= len(fitted)
    fitted, choosing, judging = parts(rest)
    assert min(len(fitted), len(choosing)) >= 1
    assert len(judging) == len(parts(whole)[2]) + 1


def test_a_gain_that_may_be_chance_is_not_worth_a_setting() -> None:
    generator = torch.Generator().manual_seed(0)
    before = 1 + torch.rand(400, generator=generator)
    noise = torch.randn(400, generator=generator)
    assert worth(0.9 * before, before)
    assert not worth(0.999 * before, before)
    assert not worth(before - (0.05 + 2 * noise - 2 * noise.mean()), before)


def test_a_setting_is_worth_it_that_makes_infinite_errors_finite() -> None:
    finite, infinite = torch.ones(6), torch.tensor([1.0, 1, 1, 1, 1, torch.inf])
    assert worth(finite, infinite)
    assert worth(finite, torch.full((6,), torch.inf))
    assert not worth(infinite, finite)
    assert not worth(infinite, infinite)


def test_weight_expansion_can_be_searched() -> None:
    _, found = _search(HERMES.replace(expansion={"factor": 2.0}), _batches(3, 9))
    assert [row.name for row in found.layers] == ["0", "2"]
    assert all(0 < error < 1 for error in found.errors.values())


def test_a_report_that_raises_leaves_the_model_as_it_was() -> None:
    model = at.convert(copy.deepcopy(_net()), HERMES)
    before = _state(model)
    with pytest.raises(ZeroDivisionError):
        at.calibrate(model, _batches(3, 9), effort="search", report=lambda found: 1 / 0)
    assert _state(model) == before


_SEARCH = {"effort": "search", "report": None}


@pytest.mark.parametrize(
    ("failing", "options"), [(1, {}), (3, {}), (0, _SEARCH), (2, _SEARCH), (3, _SEARCH)]
)
def test_an_error_of_the_model_names_the_batch_and_a_batch_of_a_bad_type_is_none(
    failing: int, options: dict[str, Any]
) -> None:
    batches: list[Any] = _batches(4, 5)
    batches[failing] = torch.zeros(7, 48)
    model = at.convert(copy.deepcopy(_net()), HERMES)
    with pytest.raises(OSError, match="no such clip") as caught:
        at.calibrate(model, batches, forward=_raises, **options)
    notes = getattr(caught.value, "__notes__", [])
    assert any(f"failed on batch {failing}, counted from 0" in note for note in notes)
    batches[failing] = 7
    with pytest.raises(TypeError, match="a batch must be a tensor") as bad:
        at.calibrate(model, batches, **options)
    assert not getattr(bad.value, "__notes__", [])


@pytest.mark.parametrize("make", [lambda: at.chips.ideal(), at.chips.sonos40, at.chips.reram_4mb])
def test_other_chips_can_be_searched(make: Callable[[], at.Chip]) -> None:
    batches = _batches(3, 9)
    model, found = _search(make(), batches)
    # the model has the settings whose error on the last batches and chips is reported as the least
    _, _, judging = parts(batches)
    judge = NoisyJudge(model, judging, None, _JUDGING_SEED)
    assert judge.errors().mean().item() == found.errors[found.kept] == min(found.errors.values())


class _Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 6, 8))[0][:, -1])


def test_a_recurrent_net_with_one_output_can_be_searched() -> None:
    torch.manual_seed(0)
    found: list[CalibrationReport] = []
    model = at.convert(_Reader(), HERMES)
    at.calibrate(model, _batches(3, 9), effort="search", report=found.append)
    assert len(found[0].layers) == 3


class _Alarmed(nn.Module):
    """Two outputs, of which the second one is the same for all inputs on an exact chip."""

    def __init__(self, net: nn.Module, bound: float) -> None:
        super().__init__()
        self.net, self.bound = net, bound

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.net(x)
        return y, (y - self.bound).relu()


def test_an_output_that_never_varies_does_not_count_as_an_error() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(32, 8), torch.randn(64, 32)
    bound = net(x).max().item()
    alone = at.convert(copy.deepcopy(net), HERMES)
    both = _Alarmed(at.convert(copy.deepcopy(net), HERMES), bound)
    found = [NoisyJudge(model, [x], None, seed=0).errors() for model in (alone, both)]
    assert torch.equal(*found)


def test_padding_does_not_count_as_an_error() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Linear(32, 8), HERMES)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    batch = {"input": torch.randn(2, 3, 32)}

    def run(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["input"])

    every = NoisyJudge(model, [batch], run, seed=0)
    padded = NoisyJudge(model, [batch | {"attention_mask": mask}], run, seed=0)
    assert torch.equal(padded.exact[0][0][0], every.exact[0][0][mask.bool()])
    every._scales = padded._scales  # of other vectors
    errors = every.errors().view(-1, 2, 3)[:, mask.bool()]
    torch.testing.assert_close(padded.errors().view(-1, 4), errors)
