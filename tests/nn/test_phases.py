"""Layers of a chip whose phases, or passes of one sign, have ADC outputs of their own."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch.ops import Plan, fold, in_steps, mvm, seed_tensor
from tests.crossbar import crossbar

FOUR = crossbar(array={"rows": 24, "columns": 7}, adc={"noise": 0.0, "separate_phases": True})
TWO = dataclasses.replace(
    FOUR,
    cost=dataclasses.replace(at.chips.ibm_speech34().cost, phases=1, signed_passes=2),
    name="two passes",
)
EXACT = {"adc": {"bits": None, "noise": 0.0}}
TOKENS = torch.tensor([[0, 23, 24], [49, 7, 7]])


def _kinds() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    sequence = torch.randn(4, 2, 20)
    return {
        "linear": (nn.Linear(60, 11), (torch.randn(5, 60),)),
        "conv1d": (nn.Conv1d(9, 8, 5, padding=2), (torch.randn(2, 9, 12),)),
        "conv2d": (nn.Conv2d(6, 8, 3, groups=2, padding=1), (torch.randn(2, 6, 5, 6),)),
        "conv3d": (nn.Conv3d(4, 6, 2), (torch.randn(2, 4, 3, 3, 4),)),
        "transposed": (nn.ConvTranspose2d(6, 5, 3, stride=2), (torch.randn(2, 6, 4, 3),)),
        "recurrent": (nn.LSTM(20, 6), (sequence,)),
        "attention": (nn.MultiheadAttention(20, 2), (sequence, sequence, sequence)),
        "embedding": (nn.Embedding(50, 11), (TOKENS,)),
    }


def _run(model: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
    y = model(*arguments)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("chip", [TWO, FOUR], ids=["two", "four"])
@pytest.mark.parametrize("kind", _kinds())
def test_every_kind_of_layer_reads_its_phases(kind: str, chip: at.Chip) -> None:
    digital, arguments = _kinds()[kind]
    single, exact = (
        chip.replace(**changes) for changes in ({"adc": {"separate_phases": False}}, EXACT)
    )
    found = {}
    for name, one in (
        ("phases", chip),
        ("single", single),
        ("exact", exact),
        ("exact single", None),
    ):
        chosen = single.replace(**EXACT) if one is None else one
        model = at.convert(copy.deepcopy(digital), chosen, embeddings=True)
        physical = at.program(model.eval(), seed=3).at("1 h")
        found[name] = _run(model, arguments), _run(physical, arguments)
        y = _run(model.train(), arguments)
        y.square().sum().backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    for mode in (0, 1):
        phases, one, without, digital = (found[name][mode] for name in found)
        assert torch.allclose(without, digital, atol=1e-4)
        assert (phases - one).norm() < 0.2 * one.norm()
        # one-hot inputs have no negative part, which reads 0; nor has a weight two polarities
        # before it is programmed
        same = kind == "embedding" and (chip is TWO or mode == 0)
        assert torch.allclose(phases, one, atol=1e-4) == same


def test_a_programmed_chip_reads_the_two_polarities_of_its_cells() -> None:
    layer = nn.Linear(20, 7, bias=False)
    model = at.convert(nn.Sequential(layer), FOUR.replace(adc={"gain_std": 0.1})).eval()
    model[0].set_input_range(1.0)
    view = at.program(model, seed=3).at("1 day")
    held, x = view[0].programmed, torch.rand(9, 20).mul(2).sub(1)
    minus, plus = held.negatives[0].double(), held.weights[0].double() + held.negatives[0].double()
    assert min(minus.min(), plus.min()) > -1e-6
    # noise leaves few cells with one polarity at 0
    assert ((minus > 0) & (plus > 0)).double().mean() > 0.5
    xq = torch.round(x.double() * 127) / 127
    scale = held.scales[0][0].double()
    bound = 12.0 * scale / held.adc_errors[0][0][0].double()
    expected = torch.zeros(9, 7, dtype=torch.float64)
    for a, seen in ((1, xq.clamp_min(0)), (-1, (-xq).clamp_min(0))):
        for b, read in ((1, plus), (-1, minus)):
            expected += a * b * in_steps(seen @ read.T, bound, 127)
    expected *= held.gains[0][0].double()
    # a sum in float32 may fall on the other side of a step of the ADC
    off = (view(x).double() - expected).abs() / (bound / 127)
    assert off.median() < 1e-3
    assert (off > 0.1).double().mean() < 0.05
    moved = copy.deepcopy(view).double()[0].programmed
    assert moved.negatives[0].dtype == torch.float64
    assert (
        at.program(at.convert(nn.Sequential(nn.Linear(20, 7)), TWO), seed=3)
        .at("1 day")[0]
        .programmed.negatives
        is None
    )


@pytest.mark.parametrize("chip", [TWO, FOUR], ids=["two", "four"])
def test_output_noise_is_that_of_as_many_outputs_and_does_not_depend_on_the_batch(
    chip: at.Chip,
) -> None:
    chip = chip.replace(adc={"noise": 0.1, "bits": None}, training=at.TrainingNoise(weight="none"))
    model = at.convert(nn.Sequential(nn.Linear(20, 7)), chip)
    layer, x = model[0], torch.rand(4000, 20).mul(2).sub(1)
    layer.set_input_range(1.0)
    with torch.no_grad(), at.noise(1):
        noise = (model.train()(x) - model.eval()(x)) / layer.weight.abs().max()
    assert noise.std().item() == pytest.approx(0.1 * chip.phases**0.5, rel=0.02)
    physical = at.program(model, seed=1)
    whole, parts = physical.at("1 h"), physical.at("1 h")
    assert torch.allclose(whole(x[:9]), torch.cat([parts(x[:4]), parts(x[4:9])]), atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_an_embedding_is_the_product_of_one_hot_vectors(noise: float) -> None:
    chip = FOUR.replace(array={"rows": 64, "columns": 64}, adc={"noise": noise, "range": 0.8})
    layer = at.convert(nn.Embedding(50, 11), chip, embeddings=True)
    keys = fold(seed_tensor(3), torch.tensor(layer.executions.training.streams))
    samples = torch.arange(100, 106)
    y = layer.analog_forward(TOKENS, keys, samples)
    plan: Plan = layer.executions.training.plans[0]
    hot, rest = (
        F.one_hot(TOKENS.flatten(), 50).float(),
        {"output_keys": keys[1:], "samples": samples},
    )
    expected = mvm(hot, torch.ones(1), layer.weight.detach().T, plan, key=keys[0], **rest)
    assert torch.allclose(y, expected.view_as(y), atol=1e-5)
    view = at.program(layer.eval(), seed=3).at("1 day")
    held, plan = view.programmed, view.execution.plans[0]
    known = {"scale": held.scales[0], "gain": held.gains[0], "negatives": held.negatives[0]}
    samples = torch.arange(6)
    expected = mvm(
        hot, torch.ones(1), held.weights[0], plan, output_keys=held.keys, samples=samples, **known
    )
    assert torch.allclose(view(TOKENS), expected.view_as(y), atol=1e-5)


def test_calibration_looks_at_what_the_adc_meets() -> None:
    torch.manual_seed(0)
    digital, x = nn.Sequential(nn.Linear(24, 7, bias=False)), torch.rand(500, 24).mul(2).sub(1)
    bounds = {}
    for chip in (FOUR, FOUR.replace(adc={"separate_phases": False})):
        model = at.calibrate(
            at.convert(copy.deepcopy(digital), chip), [x], method="absmax", adc="absmax"
        )
        bounds[chip.phases] = model[0].adc_ranges
    w, half = digital[0].weight.detach(), x / x.abs().max()
    sums = [
        s @ v.T
        for s in (half.clamp_min(0), (-half).clamp_min(0))
        for v in (w.clamp_min(0), (-w).clamp_min(0))
    ]
    assert bounds[4].max().item() == pytest.approx(
        max(s.max() for s in sums).item() / w.abs().max().item(), rel=0.02
    )
    assert bounds[1].max().item() == pytest.approx(
        ((half @ w.T).abs().max() / w.abs().max()).item(), rel=0.02
    )


def test_which_chips_have_phases() -> None:
    found = [
        chip.replace(adc={"separate_phases": True}).phases
        for chip in (
            at.chips.hermes64(),
            at.chips.hermes64(phases=1),
            at.chips.ibm_speech34(),
            at.chips.neurram48(input_bits=2, output_bits=4),
        )
    ]
    assert found == [4, 1, 2, 1]
    assert at.chips.hermes64().phases == at.chips.ibm_speech34().phases == 1
    with pytest.raises(ValueError, match="separate_phases=True needs cost, .*got cost=None"):
        at.chips.ideal().replace(adc={"separate_phases": True})
    with pytest.raises(
        ValueError, match="the 2 phases of this chip are bits.*leave separate_phases False"
    ):
        at.chips.neurram48(input_bits=5, output_bits=7).replace(adc={"separate_phases": True})
    with pytest.raises(ValueError, match="ADC.separate_phases must be True or False, got 1"):
        at.chips.hermes64().replace(adc={"separate_phases": 1})


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_keeps_the_option(suffix: str, tmp_path) -> None:
    assert at.chips.load(at.chips.save(FOUR, tmp_path / f"mine{suffix}")) == FOUR
