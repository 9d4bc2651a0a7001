"""Training noise of chips that correct gain and offset of their columns."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from tests.crossbar import crossbar

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(64, 32), (256, 64)),
    "three row blocks": (nn.Linear(600, 32), (256, 600)),
    "no bias": (nn.Linear(64, 32, bias=False), (256, 64)),
    "sequences": (nn.Linear(64, 32), (4, 60, 64)),
    "conv": (nn.Conv2d(8, 16, 3, padding=1), (32, 8, 12, 12)),
    "groups": (nn.Conv2d(8, 16, 3, groups=8), (32, 8, 12, 12)),
    "transposed": (nn.ConvTranspose2d(8, 16, 3, stride=2), (32, 8, 6, 6)),
    "lstm": (nn.LSTM(32, 48, batch_first=True), (32, 16, 32)),
    "gru": (nn.GRU(32, 48), (16, 32, 32)),
}


def _trains(layer: nn.Module, x: Tensor, chip: at.Chip | None = None, **noise: Any) -> nn.Module:
    chip = at.chips.hermes64() if chip is None else chip
    noise = {"weight": "device", "output": False, "corrected": True} | noise
    chip = chip.replace(training=at.TrainingNoise(**noise))
    model = at.convert(copy.deepcopy(layer), chip)
    return at.calibrate(model, [x], method="absmax").train()


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _forwards(model: nn.Module, x: Tensor, count: int = 4) -> Tensor:
    with torch.no_grad():
        return torch.stack([_first(model(x)) for _ in range(count)])


@pytest.mark.parametrize("weight", ["device", "programming"])
@pytest.mark.parametrize("name", LAYERS)
def test_corrected_outputs_are_closer_and_have_no_offset(name: str, weight: str) -> None:
    """Inputs of one sign: what all cells of a column have in common is most of its error."""
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    x = torch.rand(shape)
    exact = _first(layer(x)).detach()
    plain = _forwards(_trains(layer, x, weight=weight, corrected=False), x) - exact
    fitted = _forwards(_trains(layer, x, weight=weight), x) - exact
    assert fitted.std() < 0.75 * plain.std()  # 0.25 to 0.7, with seeds 0 to 4
    assert fitted.mean().abs() < 0.02 * plain.std()


def test_gain_and_offset_are_those_of_a_line_through_the_vectors() -> None:
    """Without converters, outputs are left with no slope and no offset to the exact ones."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.rand(300, 64)
    chip = crossbar().replace(dac={"bits": None}, adc={"bits": None, "noise": 0.0})
    y = _forwards(_trains(layer, x, chip), x, 1)[0].double()
    error, t = y - layer(x).detach().double(), y - y.mean(0)
    assert error.mean(0).abs().max() < 1e-6
    assert ((t * error).mean(0) / t.square().mean(0)).abs().max() < 1e-5


def test_a_chip_with_corrected_columns_errs_as_training_does() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(128, 64), torch.rand(512, 128)
    model = _trains(layer, x, time="1 day")
    exact = layer(x).detach()
    trained = (_forwards(model, x, 12) - exact).std()
    chips = []
    for seed in range(12):
        view = at.program(model.eval(), seed=seed).at("1 day")
        chips.append(at.correct_columns(view, [x])(x).detach() - exact)
    # 12 x 64 columns each: standard errors of some 3 %
    assert trained.item() == pytest.approx(torch.stack(chips).std().item(), rel=0.1)


@pytest.mark.parametrize("weight", ["device", "programming"])
def test_slices_are_fitted_behind_the_adcs_that_round_their_errors_away(weight: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 8), torch.rand(128, 32)
    exact = layer(x).detach()
    errors = [
        (_forwards(_trains(layer, x, at.chips.reram_4mb(), **noise), x, 16) - exact).std()
        for noise in ({"weight": weight, "corrected": False}, {"weight": weight})
    ]
    assert errors[1] < 0.95 * errors[0]  # 0.8 for devices, 0.7 for programming


def test_what_a_whole_batch_has_decides_in_all_of_it() -> None:
    """The vectors of the fit are spread over the batch: its last part has its mean, too."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    x = torch.cat((torch.rand(4096, 64), 3 + torch.rand(4096, 64)))
    error = _forwards(_trains(layer, x), x) - layer(x).detach()
    late, early = error[:, 4096:], error[:, :4096]
    assert late.mean((0, 1)).abs().mean() < 0.5 * late.std()
    assert early.mean((0, 1)).abs().mean() < 0.5 * late.std()


@pytest.mark.parametrize("vectors", [1, 9])
def test_few_vectors_leave_columns_as_they_are_with_a_warning(vectors: int) -> None:
    torch.manual_seed(0)
    layer, many = nn.Linear(64, 32), torch.rand(256, 64)
    plain, model = (_trains(layer, many, corrected=corrected) for corrected in (False, True))
    with at.noise(3):
        expected = plain(many[:vectors])
    with (
        pytest.warns(UserWarning, match="fewer than 10 vectors.* at least 10 samples"),
        at.noise(3),
    ):
        assert torch.equal(model(many[:vectors]), expected)
    model(many[:10])


def test_the_steps_of_a_recurrent_layer_count_together() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 16, 32)
    _trains(nn.GRU(32, 8, batch_first=True), x)(x)  # without a warning


def test_gradients_are_those_of_fixed_gains() -> None:
    """With respect to the input: the noisy weights, times the gain of each output."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.rand(256, 64)
    chip = crossbar().replace(dac={"bits": None}, adc={"bits": None, "noise": 0.0})
    model, given = _trains(layer, x, chip), x.clone().requires_grad_()
    y = model(given)
    y[:, 0].sum().backward()
    slopes = torch.linalg.lstsq(x - x.mean(0), (y[:, 0] - y[:, 0].mean()).detach()).solution
    assert torch.allclose(given.grad, slopes.expand_as(x), atol=1e-4)
    assert model.bias.grad[0] == 256
    assert model.weight.grad[0].abs().sum() > 0


def test_a_seed_gives_the_same_correction_compiled_or_not() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 32)
    model = _trains(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)), x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = []
    for run in (model, compiled, model):
        with at.noise(1):
            found.append(run(x))
    assert torch.equal(found[0], found[2])
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_steps_of_a_recurrent_layer_share_their_correction() -> None:
    """A chip does not correct its columns step by step: it has one gain and one offset."""
    torch.manual_seed(0)
    layer = nn.RNN(8, 32)
    x = torch.rand(40, 16, 8)
    chip = crossbar().replace(dac={"bits": None}, adc={"bits": None, "noise": 0.0})
    model = _trains(layer, x, chip)
    y = _forwards(model, x, 1)[0]
    # after the last step that is measured, the 32nd, one affine map gives all sums
    before = torch.cat((y[33:-1].flatten(0, 1), x[34:].flatten(0, 1)), 1)
    linear = torch.cat((before, torch.ones(len(before), 1)), 1).double()
    sums = y[34:].flatten(0, 1).double().atanh()
    found = torch.linalg.lstsq(linear, sums).solution
    assert (linear @ found - sums).abs().max() < 1e-4
    early = torch.cat((y[:7].flatten(0, 1), x[1:8].flatten(0, 1), torch.ones(112, 1)), 1)
    assert (early.double() @ found - y[1:8].flatten(0, 1).double().atanh()).abs().max() > 1e-3


def test_samples_with_chips_of_their_own_have_no_common_correction() -> None:
    with pytest.raises(ValueError, match="per_sample=True.*leave one of them out"):
        at.TrainingNoise(weight="device", corrected=True, per_sample=True)
    with pytest.raises(ValueError, match="TrainingNoise.corrected"):
        at.TrainingNoise(corrected=1)
