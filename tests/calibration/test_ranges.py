import copy
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset
from transformers.pytorch_utils import Conv1D

import analogtorch as at
from analogtorch.ops import rounded
from tests.crossbar import crossbar

CHIP = crossbar()


def _model() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(
        nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4)), CHIP
    )


def _batches(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 16, generator=generator) for _ in range(count)]


def _ranges(model: nn.Module) -> list[float]:
    return [layer.input_range.item() for _, layer in at.analog_layers(model)]


def test_absmax_is_the_largest_magnitude() -> None:
    model = at.calibrate(_model(), _batches(), method="absmax")
    assert _ranges(model)[0] == torch.cat(_batches()).abs().max().item()


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.9, 100.0])
def test_percentile_is_right_to_the_bin_width(percent: float) -> None:
    model = at.convert(nn.Linear(16, 4), CHIP)
    at.calibrate(model, _batches(20), method="percentile", percentile=percent)
    exact = torch.quantile(torch.cat(_batches(20)).abs(), percent / 100).item()
    assert _ranges(model)[0] == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_mse_finds_the_least_mean_relative_error(bits: int) -> None:
    torch.manual_seed(0)
    chip = crossbar(
        dac={"bits": bits}, adc={"noise": 0.0, "bits": None}, cell=at.chips.ideal().cell
    )
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(1000, 64)
    x[0, 0] = 9.0  # one vector that no range should be made for
    model = at.calibrate(at.convert(copy.deepcopy(layer), chip), [x])

    @torch.no_grad()
    def error(bound: torch.Tensor) -> float:
        y = layer(x)
        return ((layer(rounded(x, bound, bits)) - y).norm(dim=1) / y.norm(dim=1)).mean().item()

    best = min(error(b) for b in torch.linspace(0.3, 10, 100).split(1))
    assert model.calibrated == (bits < 8)
    if model.calibrated:
        assert error(model.input_range) <= best * 1.05  # candidates lie up to 26 % apart
    else:
        # finer steps gain more from a range that just holds each vector than from a clipping one
        assert error(x.abs().amax(1, keepdim=True)) < 0.7 * best


@pytest.mark.parametrize("per", ["layer", "tile"])
def test_mse_weighs_the_rounding_of_the_readings(per: str) -> None:
    torch.manual_seed(0)
    chip = CHIP.replace(adc={"range": 60.0, "noise": 0.0})
    digital, x = nn.Linear(600, 64, bias=False), torch.randn(500, 600)
    model = at.calibrate(at.convert(copy.deepcopy(digital), chip), [x], per=per).eval()
    found = model.input_range.detach().clone()

    def error(scale: float) -> float:
        model.set_input_range((found * scale).tolist())
        return (model(x) - digital(x)).square().mean().item()

    with torch.no_grad():
        errors = {scale: error(scale) for scale in (0.5, 0.7, 1.0, 1.4, 2.0)}
    assert errors[1.0] == pytest.approx(min(errors.values()), rel=0.05)
    exact = at.calibrate(
        at.convert(copy.deepcopy(digital), chip.replace(adc={"bits": None})),
        [x],
        per=per,
    )
    # it clips more than the inputs alone would ask for
    assert (found < 0.9 * exact.input_range).all()


@pytest.mark.parametrize("adc", [None, "absmax"])
def test_mse_weighs_the_noise_of_the_readings(adc: str | None) -> None:
    torch.manual_seed(0)
    chip = CHIP.replace(adc={"noise": 0.2}, cell=at.chips.ideal().cell)
    digital, x = nn.Linear(200, 64, bias=False), torch.randn(500, 200)
    model = at.calibrate(at.convert(copy.deepcopy(digital), chip), [x], adc=adc).eval()
    found = model.input_range.item()

    def error(scale: float) -> float:
        model.set_input_range([found * scale])
        return (
            (at.program(model, seed=0).at("0 s", compensation="none")(x) - digital(x))
            .square()
            .mean()
            .item()
        )

    with torch.no_grad():
        errors = {scale: error(scale) for scale in (0.5, 0.7, 1.0, 1.4, 2.0)}
    assert errors[1.0] == pytest.approx(min(errors.values()), rel=0.05)
    assert errors[2.0] > 1.5 * errors[1.0]


def test_state_of_the_model_is_as_before_and_the_result_repeats() -> None:
    model = _model().train()
    model[2].eval()
    state = torch.get_rng_state()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    at.calibrate(model, _batches())
    first = _ranges(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model] == [True, True, False, True]
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    at.calibrate(model, _batches()[:1], method="absmax")
    at.calibrate(model, _batches())
    assert _ranges(model) == first


def test_kinds_of_batches() -> None:
    expected = _ranges(at.calibrate(_model(), _batches()))
    for batches in (
        [(x, None) for x in _batches()],
        [[x] for x in _batches()],
        [{"input": x} for x in _batches()],
    ):
        assert _ranges(at.calibrate(_model(), iter(batches))) == expected
    model = at.calibrate(
        _model(), [{"audio": x} for x in _batches()], forward=lambda m, b: m(b["audio"])
    )
    assert _ranges(model) == expected


def test_mappings_that_are_no_dict_and_packed_sequences() -> None:
    expected = _ranges(at.calibrate(_model(), _batches()))
    # as Hugging Face's are
    assert _ranges(at.calibrate(_model(), [UserDict(input=x) for x in _batches()])) == expected
    torch.manual_seed(0)
    lstm = at.convert(nn.LSTM(16, 8), CHIP)
    met: list[type] = []
    handle = lstm.register_forward_pre_hook(lambda _, args: met.append(type(args[0])))
    at.calibrate(lstm, [nn.utils.rnn.pack_sequence([torch.randn(5, 16), torch.randn(3, 16)])])
    handle.remove()
    # not its first field, the steps of all sequences as one
    assert set(met) == {nn.utils.rnn.PackedSequence}


def test_layers_that_are_called_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Conv1D(16, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(input=self.first(x=x))

    model = at.calibrate(at.convert(Named(), CHIP), _batches(), effort="ranges")
    assert all(r > 0 for r in _ranges(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percentile": 50.0}, "percentile=50.0 has no effect with method='mse' and adc=None"),
        ({"percentile": 50.0, "method": "std"}, "percentile=50.0 has no effect with method='std'"),
        ({"deviations": 0.1}, "deviations=0.1 has no effect with method='mse'; pass method='std'"),
        ({"deviations": 0.1, "effort": "search"}, "deviations=0.1 has no effect"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    model = at.convert(_model(), CHIP)
    with pytest.raises(ValueError, match=message):
        at.calibrate(model, _batches(), **options)
    at.calibrate(model, _batches(), percentile=99.9, deviations=3)


def test_a_percentile_that_is_zero_is_refused() -> None:
    x = torch.zeros(1000, 16)
    x[::100, 0] = 1.0
    model = at.convert(nn.Sequential(nn.Linear(16, 4, bias=False)), CHIP)
    with pytest.raises(
        ValueError, match=r"layer '0'.*percentile=99.9 of the inputs is zero.*larger percentile"
    ):
        at.calibrate(model, [x], method="percentile")
    silent = at.convert(nn.Sequential(nn.Linear(16, 4)), CHIP.replace(adc={"noise": 0.0}))
    with pytest.raises(ValueError, match=r"layer '0'.*percentile=98 of the partial sums is zero"):
        at.calibrate(silent, [x], adc="percentile", percentile=98)
    assert not model[0].calibrated
    at.calibrate(model, [x], method="percentile", percentile=99.99)
    assert model[0].input_ranges == (1.0,)


class Bypassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) @ self.second.weight.T


@pytest.mark.parametrize(
    ("batches", "kwargs", "message"),
    [
        ([], {}, "batches is empty"),
        ([torch.full((2, 16), float("nan"))], {}, "input of layer '0' has NaN or infinite"),
        ([torch.full((2, 16), float("inf"))], {}, "input of layer '0' has NaN or infinite"),
        ([torch.zeros(2, 16)], {}, "layer '0' got only zeros"),
        ([torch.zeros(0, 16)], {}, "no batch has a sample"),
        (_batches(), {"method": "median"}, "method must be one of"),
        (_batches(), {"method": "percentile", "percentile": 0.0}, "percentile must be a number in"),
        (_batches(), {"percentile": "99"}, "percentile must be a number in .* got '99'"),
        (_batches(), {"per": "column"}, "per must be one of"),
        (_batches(), {"adc": "std"}, "adc must be one of"),
    ],
)
def test_bad_calls_are_refused_and_change_nothing(
    batches: list, kwargs: dict, message: str
) -> None:
    model = _model()
    with pytest.raises(ValueError, match=message):
        at.calibrate(model, batches, **kwargs)
    assert not any(layer.calibrated for _, layer in at.analog_layers(model))
    assert model.training
    assert not any(layer._forward_pre_hooks for _, layer in at.analog_layers(model))


def test_weights_without_a_number_are_named() -> None:
    model = _model()
    with torch.no_grad():
        model[0].weight[1, 2] = torch.nan
    with pytest.raises(ValueError, match="calibrate: the weight of layer '0' has NaN or infinite"):
        at.calibrate(model, _batches())


def test_the_state_of_a_cell_that_ran_one_step_is_zero() -> None:
    with pytest.raises(ValueError, match="layer 'hh' got only zeros.*more than one step"):
        at.calibrate(at.convert(nn.GRUCell(16, 4), CHIP), _batches())


@pytest.mark.parametrize("effort", ["ranges", "default", "search"])
def test_a_layer_that_gets_only_zeros_may_be_left_as_it_is(effort: str) -> None:
    """The first attention in a decoder of DETR adds its queries to zeros, which are its values."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(x + self.values(torch.zeros_like(x)))
            return y

    model, report = at.convert(Decoder(), CHIP), {"report": lambda _: None}
    with pytest.raises(
        ValueError, match="'values' got only zeros.*DETR.*exclude.*allow_unused=True"
    ):
        at.calibrate(model, _batches(), effort=effort, **report)
    at.calibrate(model, _batches(), effort=effort, allow_unused=True, **report)
    assert not model.values.calibrated
    assert model.head.calibrated or effort != "ranges"  # others may choose a range per vector
    with pytest.raises(ValueError, match="got only zeros"):
        at.calibrate(at.convert(nn.Linear(16, 4), CHIP), [torch.zeros(2, 16)], allow_unused=True)


def test_a_layer_that_is_bypassed_is_found() -> None:
    model = at.convert(Bypassed(), CHIP)
    with pytest.raises(ValueError, match=r"1 of 2 analog layers never ran: 'second'.*exclude"):
        at.calibrate(model, _batches())


class TiedAutoencoder(nn.Module):
    """Calls its layer, and decodes with the transpose of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.encoder(x).relu(), self.encoder.weight.t())


class Decoder(TiedAutoencoder):
    """Decodes with a scaled copy of the weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x) @ (self.encoder.weight * x.mean())


class Regularised(TiedAutoencoder):
    """Returns a loss with the size of the weight, and with its distance from another."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, weight = self.encoder(x), self.encoder.weight
        loss = y.mean() + weight.pow(2).sum() + (weight - torch.ones(4, 16)).abs().sum()
        return y, loss + x[0, 0] * weight.mean()


class Forces(TiedAutoencoder):
    """Returns the gradient of its output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.encoder(x).sin().sum(), x)[0]


@pytest.mark.parametrize(
    ("kind", "named"),
    [(TiedAutoencoder, True), (Decoder, True), (Forces, True), (Regularised, False)],
)
def test_products_with_the_weight_of_a_layer_that_runs_are_named(
    kind: type[nn.Module], named: bool
) -> None:
    model = at.convert(kind(), CHIP)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        at.calibrate(model, _batches(), effort="ranges")
    texts = [str(each.message) for each in caught]
    assert len(texts) == named
    for text in texts:
        assert f"'encoder': aten.mm in (root) ({kind.__name__}), {__file__}:" in text
        assert "Ignore this warning if" in text


class CalledBothWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(nn.functional.linear(x, self.layer.weight, self.layer.bias).relu())


@pytest.mark.parametrize("effort", ["ranges", "search"])
def test_a_layer_that_runs_and_is_bypassed_is_named_once(effort: str) -> None:
    model = at.convert(TiedAutoencoder(), CHIP)
    with pytest.warns(UserWarning, match="calibrate: 1 analog layers are bypassed in") as caught:
        at.calibrate(model, _batches(), effort=effort, report=None)
    (text,) = (str(each.message) for each in caught)
    assert f"'encoder': aten.mm in (root) (TiedAutoencoder), {__file__}:" in text


def test_a_layer_that_is_called_and_used_by_its_weight_is_routed() -> None:
    model = at.convert(CalledBothWays(), CHIP)
    at.calibrate(model, _batches(), effort="ranges")
    assert at.summary(model).routed == ("layer",)
    assert at.guard(model, _batches()[0]).layers[0].runs == 2


class Streaming(nn.Module):
    """Adds each input to those before."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.sum = nn.Linear(16, 4), torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sum = self.sum + x
        return self.layer(self.sum)


class Halving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.mul_(0.5))


@pytest.mark.parametrize(("kind", "largest"), [(Streaming, 2.0), (Halving, 0.5)])
def test_forwards_that_change_the_model_or_the_batch_count_each_batch_once(
    kind: type[nn.Module], largest: float
) -> None:
    batches = [torch.ones(2, 16), torch.ones(2, 16)]
    model = at.calibrate(at.convert(kind(), CHIP), batches, method="absmax")
    assert _ranges(model) == [largest]


def test_runs_that_try_a_route_do_not_count() -> None:
    batches = [10 * _batches()[0], *_batches()]
    tied, layer = at.convert(TiedAutoencoder(), CHIP), at.convert(nn.Linear(16, 4), CHIP)
    with pytest.warns(UserWarning, match="bypassed in part"):
        at.calibrate(tied, batches, method="percentile", percentile=70)
    at.calibrate(layer, batches, method="percentile", percentile=70)
    assert _ranges(tied) == _ranges(layer)


class Auxiliary(nn.Module):
    """A head that helps in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.helper = nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head(x) + self.helper(x) if self.training else self.head(x)


@pytest.mark.parametrize("options", [{}, {"adc": "mse"}, {"adc": "absmax", "method": None}])
def test_a_head_that_runs_in_training_only_may_stay_uncalibrated(options: dict) -> None:
    model = at.convert(Auxiliary(), CHIP)
    model.helper.set_input_range(3.0)
    with pytest.raises(ValueError, match="'helper'.*allow_unused=True"):
        at.calibrate(model, _batches(), **options)
    at.calibrate(model, _batches(), allow_unused=True, effort="ranges", **options)
    assert model.head.calibrated == (options.get("method", "mse") is not None)
    assert model.helper.input_ranges == (3.0,)
    assert (model.head.adc_ranges is None, model.helper.adc_ranges) == (not options, None)


def test_layers_that_may_be_unused_may_not_be_bypassed() -> None:
    with pytest.raises(ValueError, match="1 of 2 analog layers never ran: 'second'"):
        at.calibrate(at.convert(Bypassed(), CHIP), _batches(), allow_unused=True)


def test_a_model_of_which_nothing_runs_is_refused_with_allow_unused_too() -> None:
    with pytest.raises(ValueError, match="3 of 3 analog layers never ran"):
        at.calibrate(
            at.convert(Auxiliary(), CHIP),
            _batches(),
            allow_unused=True,
            forward=lambda model, batch: None,
        )


class Indirect(nn.Module):
    """Names the weight of a layer in a way that only a run shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(16, 16), nn.ModuleList([nn.Linear(16, 4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        second = next(iter(self.rest))
        return nn.functional.linear(self.first(x), second.weight)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_call_that_is_routed_is_so_no_longer_when_the_calibration_fails(
    error: type[BaseException],
) -> None:
    def batches() -> Iterator[torch.Tensor]:
        # else zeros, which are refused in the end
        yield _batches()[0] * (error is KeyboardInterrupt)
        if error is KeyboardInterrupt:
            raise KeyboardInterrupt

    model = at.convert(Indirect(), CHIP)
    with pytest.raises(error):
        at.calibrate(model, batches())
    assert "forward" not in vars(model)
    assert not any(layer.calibrated for _, layer in at.analog_layers(model))
    at.calibrate(model, _batches())
    assert "forward" in vars(model)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("calibrate", at.calibrate),
        ("correct_columns", at.correct_columns),
        ("adapt", at.hwa.adapt),
        ("Recovery", lambda model, batches: at.Recovery(batches=batches)),
        ("accuracy", at.accuracy),
        ("metrics.accuracy", lambda model, batches: at.metrics.accuracy(batches)),
    ],
)
def test_a_dataset_of_samples_is_refused(name: str, call: Callable) -> None:
    dataset = TensorDataset(torch.cat(_batches()), torch.zeros(256, dtype=torch.long))
    with pytest.raises(
        TypeError, match=rf"{name}: .* got TensorDataset, a dataset .*; pass DataLoader\(dataset, "
    ):
        call(_model(), dataset)


def test_a_dataset_that_yields_batches_gives_the_ranges_of_their_list() -> None:
    class Yields(IterableDataset):
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(_batches())

    models = [at.calibrate(_model(), given) for given in (Yields(), _batches())]
    assert _ranges(models[0]) == _ranges(models[1])


@pytest.mark.parametrize("call", [at.calibrate, at.correct_columns, at.reestimate_batch_norm])
def test_one_batch_or_a_chip_without_its_time_is_refused(call: Callable) -> None:
    model, x = _model(), _batches()[0]
    for batches, message in (
        (x, "got Tensor; pass .batch."),
        ({"input": x}, "got dict; pass .batch."),
        (None, "NoneType"),
    ):
        with pytest.raises(
            TypeError, match=f"{call.__name__}: batches must be an iterable of batches.*{message}"
        ):
            call(model, batches)
    with pytest.raises(
        TypeError,
        match=f"{call.__name__}: model must be .*ProgrammedChip; a programmed chip is a model",
    ):
        call(at.program(model, seed=1), [x])
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got list"):
        call([model], [x])


def test_wrong_batch_type_and_digital_model_are_refused() -> None:
    with pytest.raises(TypeError, match="a batch must be a tensor"):
        at.calibrate(_model(), [3])
    with pytest.raises(ValueError, match="no analog layer"):
        at.calibrate(nn.Linear(2, 2), _batches())


def test_a_mean_of_the_inputs_is_named_and_offsets_of_columns_make_up_for_it() -> None:
    """Bounds, for 3 chips a day old, are three standard errors and more from what was measured."""

    def shifted(mean: float) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        x = torch.randn(800, 64)
        y = net(x).argmax(-1)
        with torch.no_grad():  # the same function
            net[0].bias -= mean * net[0].weight.sum(1)
        return at.convert(net, at.chips.hermes64()), [(x + mean, y)]

    def mean_of(model: nn.Module, data: list, **options: Any) -> float:
        found = at.sweep(
            model, lambda chip: at.accuracy(chip, data), num_chips=3, times=["1 day"], **options
        )
        return found.to_dict()["1 day"]["mean"]

    plain, data = shifted(0)
    at.calibrate(plain, data)  # a warning would be an error
    assert mean_of(plain, data) > 0.87
    model, data = shifted(3.3)
    with pytest.warns(
        UserWarning, match=r"mean of over 2 standard deviations in '0' \(3\.3 times\)"
    ):
        at.calibrate(model, data)
    assert mean_of(model, data) < 0.83
    offsets = at.Recovery(batches=data, columns="offset", steps=0)
    assert mean_of(model, data, recovery=offsets) > 0.87
    ideal, data = shifted(3.3)
    at.calibrate(at.convert(at.to_digital(ideal), at.chips.ideal()), data)  # its cells do not err


@pytest.mark.parametrize("call", [at.calibrate, at.correct_columns])
def test_batches_without_numbers_are_refused(call: Callable) -> None:
    """An ``nn.Embedding`` takes tokens on meta, and returns what lies in memory."""
    words = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 4))
    model = at.convert(words, at.chips.hermes64())
    given = at.program(model, seed=0).at("1 day") if call is at.correct_columns else model
    with pytest.raises(ValueError, match="meta device, which hold no numbers"):
        call(given, [torch.zeros(2, 5, dtype=torch.long, device="meta")])


def test_progress_shows_a_bar(capsys: pytest.CaptureFixture) -> None:
    at.calibrate(_model(), _batches(), progress=True)
    assert "calibrate" in capsys.readouterr().err


def test_std_is_a_multiple_of_the_standard_deviation_over_all_batches() -> None:
    x = [b * 3 + 1000 for b in _batches()]  # a mean that sums of squares would drown in
    model = at.calibrate(at.convert(nn.Linear(16, 4), CHIP), x, method="std")
    assert _ranges(model)[0] == pytest.approx(
        3 * torch.cat(x).double().std(correction=0).item(), rel=1e-3
    )
    other = at.calibrate(at.convert(nn.Linear(16, 4), CHIP), x, method="std", deviations=1.5)
    assert _ranges(other)[0] == pytest.approx(_ranges(model)[0] / 2)
    with pytest.raises(ValueError, match="do not vary"):
        at.calibrate(model, [torch.ones(2, 16)], method="std")
    with pytest.raises(ValueError, match="deviations must be a positive number"):
        at.calibrate(model, x, method="std", deviations=0.0)


SMALL = CHIP.replace(array={"rows": 16})


def test_a_range_per_tile_suits_inputs_whose_halves_differ_in_size() -> None:
    torch.manual_seed(0)
    size = torch.cat([torch.full((16,), 100.0), torch.ones(16)])
    digital = nn.Linear(32, 8)
    digital.weight.data /= size  # so that both halves matter
    x = [torch.randn(200, 32) * size for _ in range(3)]
    errors = {}
    for per in ("layer", "tile"):
        model = at.convert(
            nn.Sequential(copy.deepcopy(digital)), SMALL.replace(adc={"bits": None})
        ).eval()
        at.calibrate(model, x, per=per)
        errors[per] = (model(x[0]) - digital(x[0])).square().mean().item()
    # with one range the DAC's step, 300 / 127, is twice the small half's standard deviation: all
    # its signal is lost
    assert errors["tile"] < errors["layer"] / 100
    a, b = model[0].input_ranges
    assert 50 < a / b < 200


TILED = {
    "linear": (nn.Linear(40, 6), (5, 40), 3),
    "linear_3d": (nn.Linear(40, 6), (2, 5, 40), 3),
    "conv1d": (nn.Conv1d(8, 6, 3, padding=1), (4, 8, 9), 2),
    "conv2d_cut": (nn.Conv2d(2, 4, 5, padding=2), (3, 2, 7, 7), 4),
    "conv2d_groups": (nn.Conv2d(8, 4, 3, groups=2, padding=1), (3, 8, 6, 6), 4),
    "transposed": (nn.ConvTranspose1d(40, 2, 3, stride=2), (3, 40, 6), 3),
    "conv2d_unbatched": (nn.Conv2d(8, 4, 3), (8, 6, 6), 8),
}


@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
@pytest.mark.parametrize("name", TILED)
def test_every_kind_of_layer_takes_a_range_per_tile(name: str, grouped: str) -> None:
    torch.manual_seed(0)
    digital, shape, blocks = TILED[name]
    exact = SMALL.replace(array={"grouped": grouped}, dac={"bits": 16}, adc={"bits": None})
    model = at.convert(nn.Sequential(copy.deepcopy(digital)), exact)
    x = torch.randn(*shape)
    at.calibrate(model, [x], per="tile", method="absmax").eval()
    layer = model[0]
    assert layer.row_blocks == blocks
    assert tuple(layer.input_range.shape) == (blocks,)
    assert max(layer.input_ranges) == x.abs().max().item()
    assert torch.allclose(model(x), digital(x), atol=2e-3)
    layer.set_input_range([v / 2 for v in layer.input_ranges])
    model.train()(x).square().sum().backward()
    assert layer.input_range.grad.shape == (blocks,)
    assert layer.input_range.grad.all()


def test_matrices_of_recurrent_layers_and_layers_of_one_block() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"lstm": nn.LSTM(40, 12), "head": nn.Linear(12, 3)})
    x = torch.randn(7, 5, 40)
    at.convert(model, SMALL)
    at.calibrate(
        model, [x], method="absmax", per="tile", forward=lambda m, b: m["head"](m["lstm"](b)[0])
    )
    counts = {name: len(layer.input_ranges) for name, layer in at.analog_layers(model)}
    assert counts == {"lstm.ih_l0": 3, "lstm.hh_l0": 1, "head": 1}


def test_a_row_block_that_meets_zeros_only_takes_the_largest_of_the_others() -> None:
    x = torch.randn(50, 48)
    x[:, 16:32], x[:, 32:] = 0, 2.0
    model = at.calibrate(
        at.convert(nn.Sequential(nn.Linear(48, 4)), SMALL), [x], per="tile", method="absmax"
    )
    assert model[0].input_ranges == (
        x[:, :16].abs().max().item(),
        pytest.approx(x.abs().max().item()),
        2.0,
    )


def _tiled() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4))
    return at.convert(net, SMALL.replace(adc={"noise": 0.0}))


def test_ranges_of_tiles_travel_and_go_back_to_one(tmp_path) -> None:
    x = torch.randn(30, 40)
    model = at.calibrate(_tiled(), [x], per="tile", effort="ranges").eval()
    ranges, y = [layer.input_ranges for _, layer in at.analog_layers(model)], model(x)
    assert [len(r) for r in ranges] == [3, 2]
    text = f"{min(ranges[0]):.4g} to {max(ranges[0]):.4g}"
    assert text in str(at.summary(model))
    assert f"range={text}" in repr(model)
    other = _tiled().eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), y)
    loaded = at.load(
        at.save(model, tmp_path), nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4))
    ).eval()
    assert torch.equal(loaded(x), y)
    assert loaded[0].input_ranges == ranges[0]
    from analogtorch.checkpoint import read

    assert text in str(read(tmp_path))
    assert torch.equal(copy.deepcopy(model)(x), y)
    at.program(model, seed=1).at("1 day")(x)
    parameter = model[0].input_range
    at.calibrate(
        model, [x], effort="ranges"
    )  # one range again, in the Parameter that an optimizer knows
    assert model[0].input_range is parameter
    assert tuple(parameter.shape) == (1,)
    assert _ranges(model) == _ranges(at.calibrate(_tiled(), [x], effort="ranges"))
    with pytest.raises(RuntimeError, match="one number; got 3: calibrate it anew"):
        at.convert(
            nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4)), CHIP
        ).load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="one number, or one for each of its 3 row blocks; got 2"):
        model[0].set_input_range([1.0, 2.0])


def test_an_ideal_chip_has_no_dac_to_give_ranges_to() -> None:
    model = at.calibrate(
        at.convert(nn.Sequential(nn.Linear(600, 4)), at.chips.ideal()),
        [torch.ones(2, 600)],
        per="tile",
    )
    assert model[0].row_blocks == 3
    assert model[0].input_ranges == (1.0,)


@pytest.mark.parametrize("effort", ["ranges", "default"])
def test_outputs_that_are_not_dense_ask_for_forward(effort: str) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).relu().to_sparse()

    model = at.convert(Sparse().eval(), CHIP)
    if effort != "ranges":  # which compares no outputs
        with pytest.raises(ValueError, match=r"returns a sparse_coo tensor.*pass forward="):
            at.calibrate(model, _batches(), effort=effort)
        with pytest.raises(ValueError, match=r"returns a sparse_coo tensor.*pass forward="):
            at.hwa.adapt(model, _batches(), steps=1)
    at.calibrate(model, _batches(), effort=effort, forward=lambda m, x: m(x).to_dense())
