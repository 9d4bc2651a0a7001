"""What ``calibrate`` promises by default: the least measured error, and no worse model."""

import copy
import dataclasses
import functools

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration import passes
from analogtorch.calibration.judge import Judge
from analogtorch.calibration.measured import VECTORS, Trial
from analogtorch.devices import DifferentialPair, OffsetCell, hermes_two_device
from tests.crossbar import crossbar

HERMES = at.chips.hermes64()


class _Recurrent(nn.Module):
    """Reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def _cnn() -> nn.Module:
    first = nn.Conv2d(1, 8, 3, padding=1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        first,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


NETS = {"mlp": _mlp, "cnn": _cnn, "lstm": _Recurrent}


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)


@functools.cache
def _trained(name: str) -> nn.Module:
    torch.manual_seed(0)
    (x, y), net = _digits(), NETS[name]()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(4):
        for i in torch.randperm(1200).split(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[i]), y[i]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def _accuracy(model: nn.Module) -> float:
    x, y = _digits()
    return (model(x[1200:]).argmax(1) == y[1200:]).float().mean().item()


@pytest.mark.parametrize(
    "chip", [HERMES, at.chips.hermes64(output_noise=0.04), crossbar()], ids=lambda c: c.name
)
@pytest.mark.parametrize("name", NETS)
def test_a_trained_model_is_no_worse_than_uncalibrated_and_nobody_is_warned(
    name: str, chip: at.Chip
) -> None:
    model = at.convert(copy.deepcopy(_trained(name)), chip).eval()
    before = _accuracy(model)
    at.calibrate(model, _digits()[0][:1200].split(200))
    assert before > 0.75
    assert _accuracy(model) > before - 0.012  # 7 of 597 recordings


@pytest.mark.parametrize("name", NETS)
def test_a_programmed_model_is_no_worse_than_uncalibrated(name: str) -> None:
    model = at.convert(copy.deepcopy(_trained(name)), at.chips.hermes64(output_noise=0.04)).eval()
    before = _accuracy(at.program(model, seed=1).at("1 day"))
    at.calibrate(model, _digits()[0][:1200].split(200))
    assert _accuracy(at.program(model, seed=1).at("1 day")) > before - 0.015


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _linear(chip: at.Chip = HERMES) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Sequential(nn.Linear(64, 32)), chip)


def test_heavy_tails_keep_a_range_per_vector_and_light_ones_do_not() -> None:
    sizes = torch.logspace(-2, 2, 400).unsqueeze(1)
    heavy = at.calibrate(_linear(), [_x(400, 64) * sizes])
    assert not heavy[0].calibrated
    light = at.calibrate(_linear(), [_x(400, 64).clamp(-1, 1)])
    assert light[0].calibrated
    assert light[0].input_ranges[0] <= 1.0


def test_sums_that_the_adc_would_clip_get_a_range_beyond_the_largest_input() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32, bias=False))
    net[0].weight.data = 1 + 0.1 * torch.randn(32, 64)  # sums of up to 64 / 1.3 in units of the ADC
    x = _x(400, 64).abs().clamp(0.5, 1)
    exact = net(x)
    model = at.calibrate(at.convert(net, HERMES), x.split(100), effort="ranges")
    assert model[0].input_ranges[0] > 2
    assert (model(x) - exact).norm() < 0.05 * exact.norm()


def test_sums_of_hundreds_of_positive_products_get_a_range_ten_times_the_largest_input() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(500, 8, bias=False)), 2 * torch.rand(256, 500)
    nn.init.uniform_(net[0].weight, 0.5, 1.0)
    exact = net(x)
    model = at.calibrate(at.convert(net, at.chips.ibm_speech34()), x.split(64), effort="ranges")
    assert model[0].input_ranges[0] > 20
    assert (model(x) - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        (OffsetCell(device=hermes_two_device()), 0.08),
        (OffsetCell(device=hermes_two_device(), reference="column"), 0.08),
        (DifferentialPair(device=dataclasses.replace(hermes_two_device(), g_min=5.0)), 0.04),
    ],
    ids=["reference", "column of references", "empty devices"],
)
def test_a_chip_that_reads_a_reference_apart_gets_ranges_that_suit_its_sums(
    cell: at.devices.Cell, error: float
) -> None:
    torch.manual_seed(1)
    digital, x = nn.Sequential(nn.Linear(256, 32, bias=False)), _x(200, 256)
    nn.init.normal_(digital[0].weight)
    exact = digital(x).detach()
    chip = at.chips.hermes64().replace(cell=cell, adc={"separate_phases": True})
    chip = chip.without("programming_noise", "drift", "read_noise", "adc_gain")
    measured: tuple[dict[str, str], ...] = (
        {"effort": "ranges"},
        {"method": "absmax", "adc": "mse"},
    )
    for options in measured:
        model = at.calibrate(at.convert(copy.deepcopy(digital), chip), x.split(50), **options)
        physical = at.program(model.eval(), seed=0).at("0 s", compensation="none")
        for each in (model, physical):
            assert (each(x) - exact).norm() < error * exact.norm()
    half = at.calibrate(at.convert(digital.to(torch.bfloat16), chip), [x.bfloat16()])
    assert (half(x.bfloat16()).float() - exact).norm() < 1.5 * error * exact.norm()
    digital.float()
    if isinstance(cell, OffsetCell):  # as the reference alone exceeds the ADC's range
        with pytest.warns(UserWarning, match=r"whose partial sums exceed it: .* '0' \(100 %\)"):
            at.calibrate(at.convert(digital, chip), [x], method="absmax")


def test_summary_names_the_layers_that_scale_each_vector_and_the_price() -> None:
    sizes = torch.logspace(-2, 2, 400).unsqueeze(1)
    text = str(at.summary(at.calibrate(_linear(), [_x(400, 64) * sizes])))
    assert (
        "1 of 1 layers (0) scale each input vector by its largest input. An MVM of n inputs and m "
        "outputs" in text
    )
    assert (
        "n comparisons and n multiplications of the inputs, and m multiplications of the outputs"
        in text
    )
    assert "scale each input vector" not in str(
        at.summary(at.calibrate(_linear(), [_x(400, 64).clamp(-1, 1)]))
    )
    # it has no DAC
    assert "scale each input vector" not in str(at.summary(_linear(at.chips.ideal())))


@pytest.mark.parametrize("name", NETS)
def test_the_split_into_batches_does_not_change_the_ranges(name: str) -> None:
    x = _digits()[0][:600]
    found = []
    for batches in (x.split(150), x.split(30)):  # the last quarter of either is held back
        model = at.calibrate(at.convert(copy.deepcopy(_trained(name)), HERMES), batches)
        found.append(
            [(layer.input_ranges, layer.output_ranges) for _, layer in at.analog_layers(model)]
        )
    for (ranges, limits), (others, other_limits) in zip(*found, strict=True):
        assert ranges == others
        assert torch.allclose(limits, other_limits, rtol=1e-4)


def test_what_is_held_back_serves_the_comparison_alone() -> None:
    # else rounding to 8 bits is compared as well
    chip = HERMES.replace(periphery={"output_bits": None})
    x = _x(800, 64).clamp(-1, 1)
    found = []
    for last in (0.1, 0.9, 1.0):
        x[600:] = last * x[:200]
        found.append(at.calibrate(_linear(chip), x.split(200))[0].input_ranges)
    assert found[0] == found[1] == found[2] is not None
    x[600:] = 100 * x[:200]  # clipped by these ranges
    assert not at.calibrate(_linear(chip), x.split(200))[0].calibrated
    # not compared
    assert at.calibrate(_linear(chip), x.split(200), method="absmax")[0].input_ranges == (100.0,)


def _hostile() -> tuple[nn.Module, Tensor]:
    """Return a model whose output is a small difference of large sums.

    Rounding to 8 bits by column destroys it.
    """
    torch.manual_seed(0)
    first, last = nn.Linear(64, 64, bias=False), nn.Linear(64, 8, bias=False)
    first.weight.data = torch.ones(64, 64) + 0.02 * torch.randn(64, 64)
    last.weight.data -= last.weight.data.mean(1, keepdim=True)
    return nn.Sequential(first, last), torch.randn(2000, 64) + 4


def test_a_model_that_calibration_would_harm_is_left_as_it_is_with_a_warning() -> None:
    digital, x = _hostile()
    chip = HERMES.replace(
        dac={"bits": 12}, adc={"range": 80.0, "steps": 2**15}, cell=at.chips.ideal().cell
    )
    model = at.convert(digital, chip).eval()
    before = model(x)
    for batches, which in ((x.split(500), "held back"), (x.split(1000), "given")):
        with pytest.warns(
            UserWarning,
            match=f"on the batches {which}, .* closer to the digital ones without calibration, so "
            "it is left uncalibrated",
        ):
            at.calibrate(model, batches)
    assert not any(layer.calibrated for _, layer in at.analog_layers(model))
    assert all(layer.output_ranges is None for _, layer in at.analog_layers(model))
    assert torch.equal(model(x), before)
    at.calibrate(model, x.split(500), method="absmax")  # is not compared
    assert all(layer.calibrated for _, layer in at.analog_layers(model))


@pytest.mark.parametrize(("outputs", "squeezed"), [(1, False), (1, True), (8, False)])
def test_the_judge_hears_of_large_errors_and_not_of_small_ones(
    outputs: int, squeezed: bool
) -> None:
    model, x = nn.Sequential(nn.Linear(64, outputs)), _x(400, 64)
    if squeezed:  # (samples,)
        model.append(nn.Flatten(0))
    model[0].weight.data = _x(outputs, 64)
    judge = Judge(at.convert(model, at.chips.ideal()), x.split(100), None)
    exact, weight = judge.error(), model[0].weight.data.clone()
    assert (exact.moved, exact.vectors) == (0, 400)
    model[0].weight.data = 1.3 * weight + 0.001 * weight.roll(1, 1)
    model[0].bias.data *= 1.3
    if outputs > 1:
        assert not judge.error().exceeds(exact)  # a common factor is no error of classes
    model[0].weight.data = weight + 0.3 * weight.roll(1, 1)
    worse = judge.error()
    assert worse.exceeds(exact)
    assert not exact.exceeds(worse)
    assert not worse.exceeds(worse)


def test_an_adc_that_decides_the_error_is_named_with_the_remedy() -> None:
    chip = crossbar(adc={"noise": 0.0, "range": 600.0})
    with pytest.warns(
        UserWarning,
        match=r"1 of 1 layers.* '0' \(\d+ %\).*adc='mse', adc_per='column'.*weight_scale",
    ):
        at.calibrate(_linear(chip), [_x(400, 64)], method="absmax")
    at.calibrate(_linear(chip), [_x(400, 64)], method="absmax", adc="mse")  # the remedy
    noisy = crossbar(adc={"noise": 5.0, "range": 600.0})  # which is worse than what the ADC does
    at.calibrate(_linear(noisy), [_x(400, 64)], method="absmax")


def test_the_digital_unit_leaves_room_where_few_vectors_were_seen() -> None:
    for vectors, most in ((120, 4.0), (40_000, 6.0)):
        layer = at.calibrate(_linear(HERMES), [x := _x(vectors, 64)], effort="ranges")[0]
        sums = x @ layer.weight.T / (layer.input_range * layer.weight.abs().amax())
        found = layer.output_ranges[0] / sums.square().mean(0).sqrt()
        assert found.min() > 3.9
        assert found.max() < 1.03 * most
    assert found.max() > 4.3  # the largest sum of many vectors


def test_ranges_per_vector_need_something_behind_the_array() -> None:
    model = at.calibrate(_linear(HERMES), [_x(400, 64)], method=None)
    assert (model[0].calibrated, model[0].ranged) == (False, True)
    assert model[0].output_ranges.shape == (1, 32)
    with pytest.raises(ValueError, match="method=None fixes no DAC range, so that it takes no"):
        at.calibrate(model, [_x(400, 64)], method=None, per="tile")
    bare = _linear(HERMES.replace(periphery={"output_bits": None}))
    with pytest.raises(ValueError, match="without a digital unit that rounds"):
        at.calibrate(bare, [_x(400, 64)], method=None)


def test_only_a_digital_unit_gets_output_ranges() -> None:
    layer = at.calibrate(_linear(), [_x(400, 64)])[0]
    assert layer.output_ranges.shape == (1, 32)
    assert len(layer.output_ranges.unique()) > 16  # each column its own
    assert layer.adc_ranges is None
    for chip in (crossbar(), HERMES.replace(periphery={"output_bits": None})):
        assert at.calibrate(_linear(chip), [_x(400, 64)])[0].output_ranges is None


class _Attends(nn.Module):
    """Takes queries alone, keys and values together, and has a head that no batch reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.unused = (
            nn.MultiheadAttention(32, 2, batch_first=True),
            nn.Linear(32, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        memory = x.flip(1) * 2
        return self.attention(x, memory, memory, need_weights=False)[0]


MODELS = {
    "attention": (_Attends, (30, 6, 32)),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        (10, 8, 7, 7),
    ),
    "recurrent": (lambda: nn.GRU(24, 12, batch_first=True), (20, 6, 24)),
}


@pytest.mark.parametrize("adc_per", [None, "layer", "tile", "column"])
@pytest.mark.parametrize("per", ["layer", "tile"])
@pytest.mark.parametrize("name", MODELS)
def test_all_kinds_of_layers_and_options_stay_near_the_digital_model(
    name: str, per: str, adc_per: str | None
) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    digital, x = make().eval(), _x(*shape)
    model = at.convert(copy.deepcopy(digital), HERMES.replace(array={"rows": 16})).eval()
    adc = {} if adc_per is None else {"adc": "mse", "adc_per": adc_per}
    at.calibrate(model, x.split(5), per=per, allow_unused=True, **adc)
    y, exact = (m(x)[0] if name == "recurrent" else m(x) for m in (model, digital))
    assert (y - exact).norm() < 0.06 * exact.norm()
    for layer_name, layer in at.analog_layers(model):
        used = layer_name != "unused"
        assert (layer.output_ranges is not None) == used
        assert (layer.adc_ranges is not None) == (used and adc_per is not None)


@pytest.mark.filterwarnings("ignore:.*left uncalibrated")  # of nets that nobody trained
def test_the_vectors_that_are_tried_are_limited_in_every_kind_of_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: dict[str, list[int]] = {}
    real = Trial._try

    def counting(self: Trial, x: Tensor, *rest: object) -> None:
        tried.setdefault(self.layer.layer_name, []).append(len(x))
        real(self, x, *rest)

    monkeypatch.setattr(Trial, "_try", counting)
    lstm = at.convert(nn.LSTM(6, 5, batch_first=True), HERMES)
    at.calibrate(lstm, _x(400, 49, 6).split(50), effort="ranges")
    attention = at.convert(_Attends(), HERMES)
    at.calibrate(attention, _x(400, 40, 32).split(50), allow_unused=True, effort="ranges")
    conv = at.convert(nn.Conv1d(6, 4, 3), HERMES)
    at.calibrate(conv, _x(400, 6, 102).split(50), effort="ranges")
    for name, counts in tried.items():
        most = 64 if name == "" else VECTORS
        assert most <= sum(counts) < 1.5 * most, name
    assert len(tried["hh_l0"]) <= VECTORS // 256 + 1  # 392 steps


@pytest.mark.parametrize(("outputs", "threads"), [(32, 1), (128, 2)])
def test_small_layers_are_looked_at_by_one_thread(
    outputs: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(passes, "_WORTH_A_TEAM", 512 * 64 * 128)
    monkeypatch.setattr(Trial, "__call__", lambda *_: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(Trial, "best", lambda _: [1.0])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        at.calibrate(at.convert(nn.Linear(64, outputs), crossbar()), [_x(512, 64)])
        assert seen == [threads]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
