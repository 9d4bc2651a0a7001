import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration.column_fit import ColumnSums, _shrunk
from analogtorch.devices import DifferentialPair, ideal_device
from tests.crossbar import crossbar

CHIP = crossbar()
EXACT = CHIP.replace(
    dac={"bits": None},
    adc={"noise": 0.0, "bits": None},
    cell=DifferentialPair(device=ideal_device()),
)


def _x(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class _Attends(nn.Module):
    """Reads queries alone, keys and values together."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        memory = x.flip(1) * 2 + 1
        return self.attention(x, memory, memory, need_weights=False)[0]


def _made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name == "linear":
        return nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 8)), _x(400, 40)
    if name == "conv":
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 5, groups=2)
        ), _x(20, 3, 10, 10)
    if name == "block_diagonal":
        return nn.Sequential(nn.Conv1d(40, 40, 9, groups=20)), _x(40, 40, 20)
    if name == "transposed":
        return nn.Sequential(nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2)), _x(20, 6, 7, 7)
    if name == "attention":
        return _Attends(), _x(20, 10, 16)
    return nn.Sequential(nn.LSTM(12, 8, bidirectional=True)), _x(10, 40, 12)


def _out(y: object) -> Tensor:
    return y[0] if isinstance(y, tuple) else y  # type: ignore[return-value]


def _view(
    name: str, chip: at.Chip = CHIP, time: str = "1 day", **options
) -> tuple[nn.Module, nn.Module, Tensor]:
    digital, x = _made(name)
    grouped = "block_diagonal" if name == "block_diagonal" else "sequential"
    model = at.convert(copy.deepcopy(digital), chip.replace(array={"grouped": grouped}))
    at.calibrate(model, [x])
    return at.program(model, seed=7).at(time, **options), digital.eval(), x


def _error(view: nn.Module, digital: nn.Module, x: Tensor) -> float:
    y = _out(digital(x))
    return ((_out(view(x)) - y).square().mean() / y.var()).sqrt().item()


def _mean_error(view: nn.Module, digital: nn.Module, x: Tensor, reads: int = 8) -> float:
    """The error over several runs, each of which has its own read noise."""
    return sum(_error(view, digital, x) for _ in range(reads)) / reads


def _layers(view: nn.Module) -> list[at.nn.AnalogLayer]:
    return [layer for _, layer in at.analog_layers(view)]


@pytest.mark.parametrize(
    ("name", "factor"), [("linear", 1.9), ("conv", 1.8), ("block_diagonal", 1.3), ("lstm", 1.2)]
)
def test_the_error_after_a_day_without_compensation_falls(name: str, factor: float) -> None:
    view, digital, x = _view(name, compensation="none")
    fresh = x.flip(0) * 0.9  # inputs that were not fitted
    before = _error(view, digital, fresh)
    assert at.correct_columns(view, [x]) is view
    # what is left is the error of single weights
    assert _error(view, digital, fresh) < before / factor


@pytest.mark.parametrize("fit", ["gain", "offset"])
def test_one_of_them_alone_helps(fit: str) -> None:
    view, digital, x = _view("linear", compensation="none" if fit == "gain" else "global")
    x = x + 1.0  # errors of weights shift the outputs
    before = _error(view, digital, x)
    at.correct_columns(view, [x], fit=fit)
    assert _error(view, digital, x) < before * 0.95
    for layer in _layers(view):
        assert layer.programmed.offset.any() == (fit == "offset")


def _injected(view: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Gains and offsets put on the columns of every layer of a view without any other error."""
    put = []
    for layer in _layers(view):
        outputs = layer.sections[-1].outputs.stop
        gain, offset = torch.linspace(0.5, 2.0, outputs), torch.linspace(-1.0, 1.0, outputs)
        held = layer.programmed
        gains = tuple(g * gain[s.outputs] for g, s in zip(held.gains, layer.sections, strict=True))
        layer.programmed = dataclasses.replace(held, gains=gains, offset=offset)
        put.append((gain, offset))
    return put


@pytest.mark.parametrize(
    "name", ["linear", "conv", "block_diagonal", "lstm", "transposed", "attention"]
)
def test_known_gains_and_offsets_are_found(name: str) -> None:
    view, digital, x = _view(name, EXACT, "programmed")
    assert _error(view, digital, x) < 1e-5
    _injected(view)
    assert _error(view, digital, x) > 0.1
    at.correct_columns(view, list(x.split(len(x) // 2, dim=1 if name == "lstm" else 0)), rounds=1)
    for layer in _layers(view):
        for gains in layer.programmed.gains:
            assert torch.allclose(gains, torch.ones_like(gains), atol=1e-4)
        assert layer.programmed.offset.abs().max() < 1e-4
    assert _error(view, digital, x) < 1e-4


@pytest.mark.parametrize(
    "name", ["linear", "conv", "block_diagonal", "lstm", "transposed", "attention"]
)
def test_offsets_of_the_adcs_are_taken_back(name: str) -> None:
    """By the affine correction of columns; the gains of a digital unit do not take them back."""
    fine = {"bits": None, "steps": 20_000, "range": 40.0, "offset_std": 0.01}
    plain, offset = (EXACT.replace(adc=fine | changes) for changes in ({"offset_std": 0.0}, {}))
    view, digital, x = _view(name, offset, "programmed")
    exact, *_ = _view(name, plain, "programmed")
    before, least = _error(view, digital, x), _error(exact, digital, x)
    assert before > 50 * least
    gains, batches = copy.deepcopy(view), list(x.split(len(x) // 2, dim=1 if name == "lstm" else 0))
    at.correct_columns(gains, batches, fit="gain")
    assert _error(gains, digital, x) > 0.5 * before
    at.correct_columns(view, batches)
    assert _error(view, digital, x) < 3 * least + 1e-4


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_output_noise_does_not_shrink_the_gains(name: str) -> None:
    chip = EXACT.replace(adc={"noise": 1.3 if name == "linear" else 0.9})
    view, _, x = _view(name, chip, "programmed")
    layer = view[0]
    x = torch.cat([_x(*x.shape, seed=s) for s in range(8)])
    y, clean = layer(x), layer._digital(x, layer.weight, layer.bias)
    kept = clean.var() / y.var()
    assert kept < 0.85  # what a fit to single readings would leave of every gain
    at.correct_columns(view, [x])
    gains = layer.programmed.gains[0]
    # 8 columns or more, 3,200 readings or more, noise of at most 1.2 times the signal: a standard
    # error below 3 % each
    assert abs(gains.mean().item() - 1) < 0.03
    assert (gains - 1).abs().max() < 0.12


@pytest.mark.parametrize("converter", ["ADC", "digital unit"])
@pytest.mark.parametrize("name", ["linear", "conv", "block_diagonal", "transposed", "attention"])
def test_what_the_converters_clip_is_no_error_of_a_column(name: str, converter: str) -> None:
    """A chip whose weights are exact gives what the model does, whose outputs are clipped too."""
    narrow = 0.4 if name == "transposed" else 1.0  # it sums few products
    fine = {"bits": None, "steps": 20_000, "range": narrow if converter == "ADC" else 40.0}
    unit = {"output_bits": 12 if converter == "digital unit" else None}
    digital, x = _made(name)
    grouped = "block_diagonal" if name == "block_diagonal" else "sequential"
    chip = EXACT.replace(dac={"bits": 8}, adc=fine, periphery=unit, array={"grouped": grouped})
    model = at.convert(copy.deepcopy(digital), chip)
    at.calibrate(model, [x], effort="ranges")
    for layer in _layers(model):
        layer.set_input_range(3.0)
        if converter == "digital unit":
            layer.set_output_ranges(narrow)
    y = _out(model.eval()(x))
    assert (y - _out(digital.eval()(x))).std() > 0.1 * y.std()  # by clipping
    view = at.program(model, seed=7).at("programmed")
    at.correct_columns(view, [x])
    assert (_out(view(x)) - y).abs().max() < 0.05 * y.std()
    for layer in _layers(view):
        for gains in layer.programmed.gains:
            assert torch.allclose(gains, torch.ones_like(gains), atol=0.01)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.1, 0.03])
def test_columns_that_are_clipped_are_not_made_worse(share: float) -> None:
    """On devices with errors, a fit to what clipping leaves has the slope of the errors."""
    torch.manual_seed(0)
    digital, x = nn.Linear(64, 16), _x(300, 64)
    model = at.calibrate(at.convert(copy.deepcopy(digital), at.chips.hermes64()), [x]).eval()
    model.set_output_ranges(share * digital(x).std().item())
    view = at.program(model, seed=3).at("1 day")
    before = _error(view, model, x)
    at.correct_columns(view, [x])
    assert _error(view, model, x) < 1.01 * before
    assert view.programmed.gains[0].min() > 0.9


@pytest.mark.parametrize("zeros", [1, 2, 8])
def test_outputs_without_weights_decide_nothing_for_the_others(zeros: int) -> None:
    """As structured pruning leaves them: their gain of 0 seems exact."""
    torch.manual_seed(0)
    digital, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), _x(256, 64)
    digital[0].weight.data[:zeros] = 0
    model = at.convert(copy.deepcopy(digital), at.chips.hermes64())
    at.calibrate(model, [x], effort="ranges")
    view, fresh = at.program(model, seed=7).at("1 day"), _x(300, 64, seed=2)
    before = _error(view, digital, fresh)
    at.correct_columns(view, [x])
    assert _error(view, digital, fresh) < 0.97 * before
    assert view[0].programmed.offset.any()


def test_jitter_of_the_dacs_is_in_the_outputs_alone() -> None:
    """The exact product has none, which takes keys of noise."""
    view, digital, x = _view("linear", CHIP.replace(dac={"jitter": 0.3}), compensation="none")
    before = _error(view, digital, x)
    at.correct_columns(view, [x])
    assert _error(view, digital, x) < before / 1.5


class _Pools(nn.Module):
    """One query for each sample: its projection runs on few vectors, those of the keys on many."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x[:, :1], x, x, need_weights=False)[0]


def test_outputs_of_few_vectors_are_corrected_beside_those_of_many() -> None:
    torch.manual_seed(0)
    digital, x = _Pools(), _x(8, 40, 16)
    chip = EXACT.replace(adc={"bits": None, "steps": 20_000, "range": 40.0, "offset_std": 0.02})
    model = at.calibrate(at.convert(copy.deepcopy(digital), chip), [x], effort="ranges")
    view, digital = at.program(model, seed=7).at("programmed"), digital.eval()
    before = _error(view, digital, x)
    at.correct_columns(view, [x])
    assert _error(view, digital, x) < 0.01 * before


@pytest.mark.parametrize("unit", [None, 12])
@pytest.mark.parametrize("scale", [1e-2, 1e-3])
def test_small_outputs_are_not_taken_for_clipped(scale: float, unit: int | None) -> None:
    torch.manual_seed(0)
    digital, x = nn.Linear(64, 16), _x(300, 64)
    digital.weight.data[:4] *= scale
    adc = {"bits": None, "steps": 200_000, "range": 40.0, "offset_std": 0.01}
    chip = EXACT.replace(adc=adc, periphery={"output_bits": unit})
    model = at.calibrate(at.convert(copy.deepcopy(digital), chip), [x], effort="ranges")
    if unit is not None:
        model.set_output_ranges(40.0)
    view = at.program(model, seed=7).at("programmed")
    small = (digital(x) - view(x))[:, :4].abs().max()
    at.correct_columns(view, [x])
    assert (digital(x) - view(x))[:, :4].abs().max() < 0.2 * small


def test_two_inputs_fit_no_gain() -> None:
    view, digital, x = _view("linear", compensation="least_squares")
    before = _error(view, digital, x)
    gains = [layer.programmed.gains[0].clone() for layer in _layers(view)]
    at.correct_columns(view, [x[:2]])
    assert _error(view, digital, x) < 1.2 * before
    for layer, gain in zip(_layers(view), gains, strict=True):
        assert torch.equal(layer.programmed.gains[0], gain)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_gain_and_offset_are_those_of_a_fit_in_numpy(noise: float) -> None:
    """Without noise a fit to one reading; with it to the mean of 64, whose noise biases little."""
    torch.manual_seed(0)
    digital, x = nn.Linear(60, 12), _x(3000, 60) + 0.5
    model = at.convert(
        copy.deepcopy(digital), CHIP.replace(dac={"bits": None}, adc={"noise": noise})
    )
    at.calibrate(model, [x])
    view = at.program(model, seed=3).at("30 days", compensation="none")
    before = view.programmed.gains[0].double().numpy()
    y = torch.stack([view(x).double() for _ in range(64 if noise else 1)]).mean(0)
    seen = (y - digital.bias.double()).detach().numpy()
    exact = (x @ digital.weight.T).detach().double().numpy()
    fits = [np.polyfit(*column, 1) for column in zip(seen.T, exact.T, strict=True)]
    slopes, intercepts = np.array(fits).T
    assert slopes.std() > 0.01
    at.correct_columns(view, [x], rounds=1)
    found, spread = view.programmed.gains[0].double().numpy() / before, exact.std()
    # 3,000 outputs of each column: the standard error of a gain is below 0.004, at a noise of 0.2
    assert np.abs(found - slopes).max() < (0.01 if noise else 0.001)
    assert (
        np.abs(view.programmed.offset.numpy() - intercepts).max()
        < (0.01 if noise else 0.001) * spread
    )


@pytest.mark.parametrize("count", [1, 2, 6])
def test_inputs_that_repeat_count_once(count: int) -> None:
    digital = nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 4))
    chip = at.chips.hermes64()
    model = at.calibrate(at.convert(copy.deepcopy(digital), chip), [_x(200, 20)])
    few, fresh = _x(count, 20), _x(400, 20)
    errors = []
    for batch in (None, few, few.repeat(50, 1)):
        views = [at.program(model, seed=seed).at("1 year") for seed in range(4)]
        for view in views if batch is not None else ():
            at.correct_columns(view, [batch])
        off = torch.stack([view(fresh) - digital(fresh) for view in views])
        errors.append(off.square().mean().sqrt().item())
    bare, once, often = errors
    assert often < 1.1 * once  # more of them only average their noise
    assert once < 1.2 * bare


def test_numbers_that_half_precision_rounds_to_the_same_are_no_repeats() -> None:
    # a map of two classes: the few of the foreground would decide as much as all others
    generator = torch.Generator().manual_seed(0)
    front = torch.rand(20_000, 1, generator=generator) < 0.1
    noise = torch.randn(20_000, 1, generator=generator)
    target = torch.where(front, 4 + noise, 1.5 * noise - 6).bfloat16()
    sums = ColumnSums(1, target.device)
    sums.add(slice(0, 1), first=target, second=target, target=target, clipped=None, bias=None)
    assert sums.n.item() == len(target) > 2 * len(target.unique())


def test_columns_that_never_vary_keep_their_gain() -> None:
    digital = nn.Sequential(nn.Linear(20, 6))
    digital[0].weight.data[2] = 0
    view = at.program(
        at.calibrate(at.convert(copy.deepcopy(digital), EXACT), [_x(9, 20)]), seed=1
    ).at("programmed")
    held = view[0].programmed
    view[0].programmed = dataclasses.replace(
        held, gains=(held.gains[0] * 3,), offset=torch.full((6,), 0.5)
    )
    constant = copy.deepcopy(view)
    at.correct_columns(view, [_x(50, 20)])
    assert torch.allclose(
        view[0].programmed.gains[0][0], torch.tensor([1.0, 1, 3, 1, 1, 1]), atol=1e-5
    )
    assert view[0].programmed.offset.abs().max() < 1e-5
    at.correct_columns(constant, [torch.ones(50, 20)])  # nothing varies: it says nothing of others
    assert torch.equal(constant[0].programmed.gains[0], held.gains[0] * 3)
    assert torch.equal(constant[0].programmed.offset, torch.full((6,), 0.5))
    noisy = at.program(at.calibrate(at.convert(digital, CHIP), [_x(9, 20)]), seed=1).at(
        "programmed"
    )
    gains = noisy[0].programmed.gains[0].clone()
    at.correct_columns(noisy, [torch.ones(500, 20)])  # only the noise varies
    assert torch.equal(noisy[0].programmed.gains[0], gains)


@pytest.mark.parametrize("spread", [3e-2, 3e-3, 1e-3, 1e-5])
def test_inputs_that_hardly_vary_say_nothing_of_gains(spread: float) -> None:
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 5))
    x = 1 + torch.randn(12) + spread * torch.randn(64, 12)  # from part of a DAC step to one
    batches = list(x.split(16))
    model = at.convert(copy.deepcopy(digital), at.chips.hermes64())
    at.calibrate(model, batches, report=None)
    physical = at.program(model, seed=3)
    before = physical.at("1 month")
    view = at.Recovery(batches=batches).correct(physical.at("1 month"))
    for layer, same in zip(view, before, strict=True):
        gains = layer.programmed.gains[0] / same.programmed.gains[0]
        assert gains.abs().max() < 10
    with torch.no_grad():
        assert (view(x) - digital(x)).abs().max() < 0.2 * (before(x) - digital(x)).abs().max()


def test_a_few_inputs_do_not_make_a_compensated_chip_worse() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 20)]
    digital, fresh = nn.Sequential(*layers), _x(300, 128, seed=2)
    model = at.calibrate(at.convert(copy.deepcopy(digital), CHIP), [_x(500, 128)])
    for seed in range(2):
        physical, errors = at.program(model, seed=seed), []
        for count in (0, 8, 16, 500):
            view = physical.at("1 day", compensation="least_squares")
            if count:
                at.correct_columns(view, [_x(count, 128, seed=3)])
            errors.append(_error(view, digital, fresh))
        assert errors[0] > errors[1] > errors[2] > errors[3]


def test_estimates_are_drawn_to_their_mean_by_how_much_of_their_spread_is_error() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = 1.3 + 0.1 * torch.randn(2000, generator=generator).double()
    error = torch.where(torch.arange(2000) % 2 == 0, 0.2, 0.01).double()
    seen = truth + error * torch.randn(2000, generator=generator)
    used = torch.arange(2000) < 1990
    found = _shrunk(seen, error.square(), used)
    # the best there is: (1 / 0.1^2 + 1 / 0.2^2) ** -0.5 = 0.089 for the first half
    assert (found - truth)[:1990:2].square().mean().sqrt() == pytest.approx(0.089, rel=0.06)
    assert torch.allclose(found[1:1990:2], seen[1:1990:2], atol=0.01)
    assert torch.equal(found[1990:], seen[1990:])
    assert torch.allclose(
        _shrunk(truth, torch.full_like(truth, 1.0), used)[:1990], truth[:1990].mean()
    )
    assert not _shrunk(truth - 1.3, torch.full_like(truth, 0.1), used, around=0.0)[:1990].any()
    assert torch.equal(_shrunk(truth[:1], error[:1], used[:1]), truth[:1])
    assert torch.allclose(_shrunk(truth, torch.zeros_like(truth), used), truth)


def test_two_runs_over_all_layers_come_near_to_layer_by_layer() -> None:
    torch.manual_seed(0)
    digital = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(48, 48), nn.Tanh())])
    for layer in digital[::2]:
        layer.weight.data *= 2
    x, fresh = _x(500, 48), _x(500, 48, seed=2)
    physical = at.program(at.calibrate(at.convert(copy.deepcopy(digital), CHIP), [x]), seed=7)
    once, twice, apart = (physical.at("1 year", compensation="none") for _ in range(3))
    at.correct_columns(once, [x], rounds=1)
    at.correct_columns(twice, [x], rounds=2)
    for number in range(0, 10, 2):
        seen = apart[:number](x) if number else x
        at.correct_columns(apart[number], [seen], rounds=1)
    errors = [
        _error(view, digital, fresh)
        for view in (physical.at("1 year", compensation="none"), once, twice, apart)
    ]
    assert errors[2] < errors[0] / 1.4
    assert errors[2] < 1.05 * errors[3]
    assert errors[2] < 1.02 * errors[1]


def test_it_repeats_and_counts_what_the_chip_reads() -> None:
    first, second = (_view("lstm")[0] for _ in range(2))
    x = _made("lstm")[1]
    state = torch.get_rng_state()
    for view in (first, second):
        at.correct_columns(view, iter([x, (x, None)]))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(_layers(first), _layers(second), strict=True):
        assert torch.equal(a.programmed.gains[0], b.programmed.gains[0])
        assert torch.equal(a.programmed.offset, b.programmed.offset)
        # two rounds of two batches, whose second read is not counted, then 30 steps of one batch,
        # which both batches judge, before and after
        assert a.vectors_read.item() == (2 * 2 + 30 + 2 + 2) * 40
    assert torch.equal(first(x)[0], second(x)[0])
    assert all(not layer.taps for layer in _layers(first))
    half = copy.deepcopy(first).bfloat16()
    assert _layers(half)[0].programmed.offset.dtype == torch.bfloat16
    assert half(x[:2, :3].bfloat16())[0].dtype == torch.bfloat16


def test_embeddings_are_left_as_they_are() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4)), CHIP, embeddings=True)
    view = at.program(model, seed=1).at("1 day")
    held = view[0].programmed
    at.correct_columns(view, [torch.arange(20).view(5, 4)])
    assert view[0].programmed is held
    assert view[1].programmed.offset is not None


def test_more_corrections_add_up() -> None:
    view, digital, x = _view("linear")
    at.correct_columns(view, [x])
    error = _error(view, digital, x)
    at.correct_columns(view, [x], fit="offset")
    assert _error(view, digital, x) == pytest.approx(error, rel=0.05)


class _Routed(nn.Module):
    """Two experts, of which the second gets batches of large numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x) if x.abs().max() > 20 else self.first(x)


_LEFT = r"correct_columns: 1 of 2 analog layers did not run, and keep the columns .*: 'second'"


def test_layers_that_no_batch_reaches_stay_and_are_named_once() -> None:
    model = at.convert(_Routed(), CHIP)
    small, large = _x(40, 8), 20 * _x(40, 8, seed=2)
    view = at.program(model, seed=1).at("1 h")
    held = view.second.programmed
    with pytest.warns(UserWarning, match=_LEFT) as caught:
        at.correct_columns(view, [small], rounds=2)
    assert len(caught) == 1
    assert view.second.programmed is held
    assert view.first.programmed.offset is not None
    # the first is corrected as it is where another batch reaches the second: no warning then
    both = at.correct_columns(at.program(model, seed=1).at("1 h"), [large, small], steps=0)
    assert torch.equal(both.first.programmed.gains[0], view.first.programmed.gains[0])
    assert both.second.programmed.offset is not None


@pytest.mark.filterwarnings("ignore:1 of 2 analog layers of this programmed chip did not run")
def test_a_recovery_of_many_chips_names_them_once() -> None:
    model, x = at.convert(_Routed(), CHIP), _x(40, 8)
    at.program(model, seed=5).at("1 h")(x)  # what did not run there may run elsewhere
    with pytest.warns(UserWarning, match=_LEFT) as caught:
        at.sweep(
            model, lambda view: view(x).mean().item(), num_chips=3, times=["1 h", "1 day"],
            higher_is_better=True, recovery=at.Recovery(batches=[x]),
        )  # fmt: skip
    assert len([each for each in caught if "correct_columns" in str(each.message)]) == 1
    copied = copy.deepcopy(model)  # another model, of which nothing is known
    with pytest.warns(UserWarning, match=_LEFT):
        at.correct_columns(at.program(copied, seed=0).at("1 h"), [x])


def _view_of(net: nn.Module) -> nn.Module:
    return at.program(at.convert(net, CHIP), seed=1).at("1 h")


def test_counts_are_those_of_numpy_too() -> None:
    view, _, x = _view("linear")
    other, _, _ = _view("linear")
    at.correct_columns(view, [x], rounds=np.int64(1), steps=np.int64(1))  # type: ignore[arg-type]
    at.correct_columns(other, [x], rounds=1, steps=1)
    assert torch.equal(view(x), other(x))


BAD: dict[str, tuple[Callable[[], nn.Module], list, dict, str]] = {
    "no batches": (lambda: _view("linear")[0], [], {}, "batches is empty"),
    "nan": (
        lambda: _view("linear")[0],
        [_x(3, 40), torch.full((3, 40), float("nan"))],
        {},
        "input of layer '0' has NaN",
    ),
    "fit": (lambda: _view("linear")[0], [_x(3, 40)], {"fit": "both"}, "fit must be one of"),
    "rounds": (
        lambda: _view("linear")[0],
        [_x(3, 40)],
        {"rounds": 0},
        "rounds must be an integer >= 1",
    ),
    "never ran": (
        lambda: _view_of(_Routed()),
        [_x(3, 8)],
        {"forward": lambda model, x: x},
        "2 of 2 analog layers never ran: 'first', 'second'",
    ),
    "not programmed": (
        lambda: at.convert(nn.Linear(8, 8), CHIP),
        [_x(3, 8)],
        {},
        "the model is not programmed",
    ),
    "digital": (lambda: nn.Linear(8, 8), [_x(3, 8)], {}, "the model is not programmed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls_are_refused_and_change_nothing(name: str) -> None:
    make, batches, options, message = BAD[name]
    view = make()
    before = [
        (layer.programmed, getattr(layer, "vectors_read", torch.zeros(1)).clone())
        for layer in _layers(view)
    ]
    with pytest.raises(ValueError, match=message):
        at.correct_columns(view, batches, **options)
    for layer, (held, count) in zip(_layers(view), before, strict=True):
        assert layer.programmed is held
        assert torch.equal(getattr(layer, "vectors_read", torch.zeros(1)), count)
        assert not layer.taps


@pytest.mark.parametrize("per", ["layer", "tile"])
def test_what_the_dac_clips_is_no_fault_of_the_columns(per: str) -> None:
    torch.manual_seed(0)
    x = _x(600, 300)
    x[:20] *= 40  # a few tokens far beyond the rest, as in transformers
    chip = CHIP.replace(
        adc={"noise": 0.0, "bits": None}, cell=DifferentialPair(device=ideal_device())
    )
    model = at.convert(nn.Sequential(nn.Linear(300, 16)), chip)
    at.calibrate(model, [x[20:]], method="absmax", per=per)
    view = at.program(model, seed=0).at("0 s", compensation="none")
    before = view(x)
    at.correct_columns(view, [x])
    assert torch.allclose(view(x), before, atol=1e-4 * before.abs().max().item())


def test_offsets_are_shrunk_alike_in_all_units() -> None:
    """Columns of the smallest unit, whose errors are as small, would decide for all others."""
    units = torch.tensor([1e3, 1.0, 1e-3, 1.0], dtype=torch.float64)
    target = _x(400, 4).double()
    measured = [1.1 * target + 0.3 + 0.2 * _x(400, 4, seed=s).double() for s in (1, 2)]

    def solved(factor: Tensor) -> tuple[Tensor, Tensor]:
        sums = ColumnSums(4, target.device)
        first, second = (factor * y for y in measured)
        exact = factor * target
        sums.add(slice(4), first=first, second=second, target=exact, clipped=None, bias=None)
        return sums.solve("affine")

    gain, offset = solved(torch.ones(4, dtype=torch.float64))
    assert (offset < -0.2).all()
    other_gain, other_offset = solved(units)
    torch.testing.assert_close(other_gain, gain)
    torch.testing.assert_close(other_offset / units, offset, rtol=0.1, atol=0.0)
