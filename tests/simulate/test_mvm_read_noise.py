"""Read noise of every MVM on programmed chips: fixed seeds, bounds in standard errors."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.chips import MVMReadNoise
from analogtorch.devices import (
    Composed,
    DifferentialPair,
    LogClip,
    Polynomial,
    SquareRoot,
    hermes_one_device,
    rram_cmo,
)
from tests.crossbar import crossbar

STANDARD = SquareRoot(scale=0.0175)
SHAPED = Polynomial(coefficients=(0.01, 0.03, -0.02))
SIGMAS = 4.5
# neither converters nor noise but that of the devices
QUIET = at.chips.ideal().replace(mvm_read_noise={"std": SHAPED})
DRAWS = 4000


def _noise(view: nn.Module, quiet: nn.Module, x: Tensor) -> Tensor:
    """(DRAWS, *outputs): the noise of so many MVMs of one input."""
    with torch.no_grad():
        return view(x.expand(DRAWS, *x.shape)) - quiet(x[None])


def _pair(chip: at.Chip, layer: nn.Module, time: str = "1 day") -> tuple[nn.Module, nn.Module]:
    """The same programmed chip with and without read noise."""
    found = []
    for each in (chip, chip.without("mvm_read_noise")):
        model = at.convert(nn.Sequential(layer), each)
        found.append(at.program(model, seed=3).at(time, compensation="none"))
    return found[0], found[1]


def _close(variance: Tensor, expected: Tensor, errors: int = 1) -> None:
    bound = SIGMAS * math.sqrt(2 * errors / DRAWS)
    assert ((variance - expected) / expected).abs().max() < bound


@pytest.mark.parametrize(
    "cell",
    [
        DifferentialPair(device=hermes_one_device()),
        DifferentialPair(device=hermes_one_device(), devices_per_polarity=2, split="sequential"),
        DifferentialPair(device=hermes_one_device(), devices_per_polarity=3),
        DifferentialPair(device=rram_cmo()),  # its g_min is not 0
    ],
    ids=["pair", "sequential", "equal", "g_min"],
)
def test_both_polarities_of_all_devices_count_as_they_have_drifted(cell: DifferentialPair) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 6, bias=False)
    with torch.no_grad():
        layer.weight[:, :5] = 0.0  # empty cells are noisy too
    chip = QUIET.replace(cell=cell, array={"rows": 12, "columns": 4})
    view, quiet = _pair(chip, layer, "1 h")
    x = torch.rand(30) - 0.3
    noise = _noise(view, quiet, x)
    # by the definition, from the conductances that the chip holds
    physical = at.program(at.convert(nn.Sequential(layer), chip), seed=3)
    section = physical._placed["0"][0]
    g = torch.empty_like(section.g)
    for part in section._parts():
        g[:, part] = section._read(part, 3600.0)
    std = SHAPED(g / cell.device.g_max).clamp_min(0) * cell.device.g_max / cell.g_total
    scales = torch.repeat_interleave(section.scale, torch.tensor([12, 12, 6]), 0).T
    expected = (std.square().sum(0) * scales.square()) @ x.square()
    _close(noise.var(0), expected)
    assert (noise.mean(0) / noise.std(0)).abs().max() < SIGMAS / math.sqrt(DRAWS)
    assert (torch.corrcoef(noise.T) - torch.eye(6)).abs().max() < SIGMAS / math.sqrt(DRAWS)


def test_a_draw_per_device_gives_the_same_distribution() -> None:
    """Every device of a pair is drawn anew for every input, as a user would by hand."""
    torch.manual_seed(0)
    layer, x = nn.Linear(20, 5, bias=False), torch.randn(20)
    chip = QUIET.replace(array={"rows": 8, "columns": 3})
    view, quiet = _pair(chip, layer, "programmed")
    noise = _noise(view, quiet, x)
    held = quiet[0].programmed
    full = torch.repeat_interleave(held.scales[0], torch.tensor([8, 8, 4]), 0).T
    w = held.weights[0] / full
    plus, minus = w.clamp_min(0), (-w).clamp_min(0)
    z = torch.randn(DRAWS, 2, 5, 20, generator=torch.Generator().manual_seed(1))
    drawn = full * (SHAPED(plus) * z[:, 0] - SHAPED(minus) * z[:, 1]) @ x
    _close(noise.var(0), drawn.var(0), errors=2)


def test_convolution_and_groups() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 6, 3, groups=2, bias=False)
    chip = QUIET.replace(array={"rows": 18, "columns": 8, "grouped": "sequential"})
    view, quiet = _pair(chip, layer)
    x = torch.randn(8, 4, 5)
    held = view[0].programmed
    scale = torch.stack([s.repeat_interleave(18) for s in held.scales[0].T]).view(6, 4, 3, 3)
    variance = held.read_variances[0][0] * scale.square()
    expected = nn.functional.conv2d(x[None].square(), variance, groups=2)[0]
    noise = _noise(view, quiet, x)
    _close(noise.var(0), expected)
    flat = noise.flatten(1)
    others = torch.corrcoef(flat.T) - torch.eye(flat.shape[1])
    assert others.abs().max() < (SIGMAS + 1) / math.sqrt(DRAWS)


def test_zeros_of_a_block_diagonal_matrix_are_noisy() -> None:
    layer = nn.Conv1d(4, 4, 1, groups=4, bias=False)
    flat = QUIET.replace(mvm_read_noise={"std": Polynomial(coefficients=(0.02,))})
    found = []
    for grouped in ("sequential", "block_diagonal"):
        view, quiet = _pair(flat.replace(array={"grouped": grouped}), layer)
        found.append(_noise(view, quiet, torch.ones(4, 1)).var(0).mean().item())
    scales = [
        at.program(at.convert(nn.Sequential(layer), flat.replace(array={"grouped": g})), seed=3)
        .at("1 day")[0]
        .programmed.scales[0]
        .square()
        .mean()
        .item()
        for g in ("sequential", "block_diagonal")
    ]
    ratio = found[1] / found[0] / (scales[1] / scales[0])
    assert ratio == pytest.approx(4.0, rel=0.1)


def test_the_standard_crossbar_of_rasch() -> None:
    """2.80 % of the output for W ~ N(0, 0.246) and inputs in U(-1, 1) at 512 rows."""
    torch.manual_seed(0)
    layer = nn.Linear(512, 512, bias=False)
    with torch.no_grad():
        w = (0.246 * torch.randn(512, 512)).clamp(-1, 1)
        layer.weight.copy_(w / w.abs().amax(1, keepdim=True))
    chip = QUIET.replace(
        mvm_read_noise={"std": STANDARD},
        array={"rows": 512, "columns": 512},
        periphery={"weight_scale": "column"},
    )
    view = at.program(at.convert(nn.Sequential(layer), chip), seed=1).at("programmed")
    x = 2 * torch.rand(200, 512) - 1
    with torch.no_grad():
        exact, y = layer(x), view(x)
    error = ((y - exact).norm(dim=1) / exact.norm(dim=1)).mean().item()
    assert error == pytest.approx(0.0280, abs=0.003)
    # and by its formula: y_i += 0.0175 sqrt(sum_j |w_ij| x_j^2) N
    expected = 0.0175 * (x.square() @ layer.weight.abs().T).sqrt()
    z = (y - exact) / expected
    assert z.std().item() == pytest.approx(1.0, abs=SIGMAS / math.sqrt(2 * z.numel()))


def test_output_noise_adds_in_quadrature_and_is_the_same_normal() -> None:
    layer, x = nn.Linear(40, 8, bias=False).double(), torch.randn(3, 40).double()
    both = QUIET.replace(adc={"noise": 0.05})
    outputs = {}
    for name, chip in {
        "none": QUIET.without("mvm_read_noise"),
        "read": QUIET,
        "output": both.without("mvm_read_noise"),
        "both": both,
    }.items():
        view = at.program(at.convert(nn.Sequential(layer), chip), seed=3).at("programmed")
        view[0].set_input_range(4.0)
        outputs[name] = view(x)
    read, output, together = (outputs[n] - outputs["none"] for n in ("read", "output", "both"))
    assert torch.allclose(together.square(), read.square() + output.square(), rtol=1e-6)
    assert torch.equal(read.sign(), output.sign())


def test_it_repeats_and_does_not_depend_on_batches_or_tiles() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(300, 20), nn.ReLU(), nn.Linear(20, 4)), QUIET)
    physical, x = at.program(model, seed=5), torch.randn(9, 300)
    whole, again = physical.at("1 h"), physical.at("1 h")
    first = whole(x)
    assert torch.equal(torch.cat([again(x[:2]), again(x[2:3]), again(x[3:])]), first)
    assert not torch.equal(whole(x), first)  # the next MVMs have other noise
    assert not torch.equal(at.program(model, seed=6).at("1 h")(x), first)


def test_four_phases_read_each_polarity_with_its_noise() -> None:
    layer, x = nn.Linear(12, 4, bias=False), torch.randn(12)
    cost = at.chips.hermes64().cost
    chip = QUIET.replace(cost=cost, adc={"separate_phases": True, "bits": 16, "range": 40.0})
    view, quiet = _pair(chip, layer)
    for each in (view, quiet):
        each[0].set_input_range(4.0)
    held = view[0].programmed
    assert held.read_variances[0].shape == (2, 4, 12)
    expected = (held.read_variances[0].float().sum(0) * held.scales[0].T.square()) @ x.square()
    # without phases the variance is the same, as all are independent; the ADC rounds finely
    noise = _noise(view, quiet, x)
    bound = SIGMAS * math.sqrt(2 / DRAWS)
    assert (noise.var(0) / expected - 1).abs().max() < bound + 0.01


@pytest.mark.parametrize("kind", ["embedding", "lstm", "attention", "bfloat16", "double"])
def test_every_kind_of_layer_has_it(kind: str) -> None:
    torch.manual_seed(0)
    model: nn.Module
    dtype = {"bfloat16": torch.bfloat16, "double": torch.float64}.get(kind, torch.float32)
    x: object = torch.randn(2, 5, 8, dtype=dtype)
    if kind == "embedding":
        model, x = nn.Embedding(400, 8), torch.randint(400, (2, 5))
    elif kind == "lstm":
        model = nn.LSTM(8, 6, batch_first=True)
    elif kind == "attention":
        model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    else:
        model = nn.Linear(8, 6).to(dtype)
    root = nn.ModuleDict({"a": model})
    chip = QUIET.replace(array={"rows": 256})
    at.convert(root, chip, embeddings=True)
    physical = at.program(root, seed=1)
    quiet = at.program(
        at.convert(
            nn.ModuleDict({"a": at.to_digital(root)["a"]}),
            chip.without("mvm_read_noise"),
            embeddings=True,
        ),
        seed=1,
    ).at("1 day")

    def run(net: nn.Module) -> Tensor:
        y = net["a"](x)
        return y[0] if isinstance(y, tuple) else y

    first, second = run(physical.at("1 day")), run(physical.at("1 day"))
    assert torch.equal(first, second)
    assert first.dtype == dtype
    difference = (first - run(quiet)).double()
    assert 1e-4 < difference.std() < 0.5 * first.double().std()


@pytest.mark.parametrize(("bits", "inl", "driven"), [(None, None, 1.0), (3, (0.0, 0.0, 1.5), 1.5)])
def test_an_embedding_has_the_noise_of_its_tokens_row(bits, inl, driven: float) -> None:
    torch.manual_seed(0)
    root = nn.ModuleDict({"a": nn.Embedding(40, 6)})
    chip = QUIET.replace(array={"rows": 16, "columns": 4}, dac={"bits": bits, "inl": inl})
    view = at.program(at.convert(root, chip, embeddings=True), seed=2).at("1 day")["a"]
    token = 20
    y = view(torch.full((DRAWS,), token))
    held = view.programmed
    expected = held.read_variances[0][0, :, token] * held.scales[0][1].square()
    _close(y.var(0), driven**2 * expected)


def test_open_and_short_devices_have_no_noise() -> None:
    layer = nn.Linear(32, 16, bias=False)
    physical = at.program(
        at.convert(nn.Sequential(layer), QUIET),
        seed=1,
        defects=at.Defects(open_devices=0.999999999),
    )
    assert not physical.at("1 day")[0].programmed.read_variances[0].any()
    physical = at.program(
        at.convert(nn.Sequential(layer), QUIET), seed=1, defects=at.Defects(stuck_off=0.999999999)
    )
    assert physical.at("1 day")[0].programmed.read_variances[0].all()


def test_the_variances_follow_the_conductances_over_time() -> None:
    chip = at.chips.hermes64().replace(mvm_read_noise={"std": STANDARD})
    physical = at.program(at.convert(nn.Sequential(nn.Linear(64, 64)), chip), seed=1)
    means = [
        physical.at(t)[0].programmed.read_variances[0].mean().item()
        for t in ("programmed", "1 year")
    ]
    assert means[1] < 0.9 * means[0]  # drift lowers conductances


def test_names_files_and_bad_input(tmp_path: Path) -> None:
    chip = at.chips.hermes64().replace(
        mvm_read_noise={"std": STANDARD, "sources": {"std": "Rasch"}}
    )
    names = chip.non_idealities()
    assert names.index("read_noise") < names.index("mvm_read_noise") < names.index("adc")
    plain = at.chips.hermes64()
    assert chip.without("mvm_read_noise") == plain
    assert "read_noise" in chip.without("mvm_read_noise").non_idealities()
    assert "mvm_read_noise" in chip.without("read_noise").non_idealities()
    for preset in at.chips.names():
        has = "mvm_read_noise" in at.chips.get(preset).non_idealities()
        assert has == (preset == "standard_crossbar")
    twice = chip.scaled(mvm_read_noise=2.0).scaled(mvm_read_noise=1.5).mvm_read_noise.std
    r = torch.linspace(0, 1, 9)
    assert isinstance(twice, Composed)
    assert torch.allclose(twice(r), 3 * STANDARD(r))
    path = tmp_path / "chip.json"
    at.chips.save(chip.scaled(mvm_read_noise=2.0), path)
    assert at.chips.load(path) == chip.scaled(mvm_read_noise=2.0)
    data = at.chips.to_dict(plain)
    del data["mvm_read_noise"]  # a file from before
    assert at.chips.from_dict(data) == plain
    bad = {
        "which is -0.01 at r = 0": Polynomial(coefficients=(-0.01, 0.1)),
        "finite and >= 0": LogClip(slope=-1.0, offset=-0.5, low=-1.0, high=1.0),
    }
    for message, std in bad.items():
        with pytest.raises(ValueError, match=message):
            MVMReadNoise(std=std)
    with pytest.raises(TypeError, match="MVMReadNoise.std must be a curve"):
        chip.replace(mvm_read_noise={"std": 0.0175})
    with pytest.raises(ValueError, match="MVMReadNoise has no field 'sigma'"):
        chip.replace(mvm_read_noise={"sigma": STANDARD})
    with pytest.raises(ValueError, match="SquareRoot.scale"):
        SquareRoot(scale=-0.1)
    with pytest.raises(TypeError, match="Chip.mvm_read_noise"):
        chip.replace(mvm_read_noise=STANDARD)


def test_the_budget_lists_it() -> None:
    torch.manual_seed(0)
    model = at.convert(
        nn.Sequential(nn.Linear(64, 8, bias=False)),
        crossbar().replace(mvm_read_noise={"std": SHAPED}, adc={"noise": 0.0}),
    )
    x = torch.randn(20, 64)
    target = model[0].weight.detach() @ x.T

    def metric(net: nn.Module) -> float:
        return -(net(x) - target.T).square().mean().item()

    found = at.budget(model, metric, num_chips=2)
    assert "mvm_read_noise" in str(found)
