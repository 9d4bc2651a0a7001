"""Read noise of every MVM in hardware-aware training: fixed seeds, bounds in standard errors."""

import math

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.devices import Polynomial, SquareRoot

SHAPED = Polynomial(coefficients=(0.01, 0.03, -0.02))
EXACT = at.TrainingNoise(weight="none")
CHIP = at.chips.ideal().replace(
    array={"rows": 16, "columns": 8}, mvm_read_noise={"std": SHAPED}, training=EXACT
)
SIGMAS, DRAWS = 4.5, 4000


def _layer(chip: at.Chip = CHIP, layer: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Sequential(layer or nn.Linear(20, 6, bias=False)), chip)


def _expected(layer: nn.Module, x: Tensor, rows: int = 16) -> Tensor:
    """The variance of the outputs for weights that the cells hold exactly."""
    w, total = layer.weight.detach(), 0.0
    for a in range(0, w.shape[1], rows):
        part = w[:, a : a + rows]
        full = part.abs().amax()
        r = (part / full).abs()
        variance = SHAPED(r).square() + SHAPED(torch.zeros_like(r)).square()
        total = total + full.square() * x[..., a : a + rows].square() @ variance.T
    return total


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_it_follows_the_weights_of_the_step(fraction: float) -> None:
    model, x = _layer(), torch.randn(20)
    model[0].set_noise_fraction(fraction)
    for factor in (1.0, 3.0):
        with torch.no_grad():
            model[0].weight.mul_(factor)
            model[0].weight[0, 0] += 0.1
        exact = model[0].weight.detach() @ x
        noise = model(x.expand(DRAWS, 20)).detach() - exact
        ratio = noise.var(0) / (fraction**2 * _expected(model[0], x))
        assert (ratio - 1).abs().max() < SIGMAS * math.sqrt(2 / DRAWS)
        assert (noise.mean(0) / noise.std(0)).abs().max() < SIGMAS / math.sqrt(DRAWS)


def test_devices_of_two_states_have_the_noise_of_their_programmed_chip() -> None:
    cell = at.devices.DifferentialPair(device=at.devices.rram_binary())
    model, x = _layer(CHIP.replace(cell=cell).without("programming_noise")), torch.rand(20)
    model[0].weight.data.clamp_(-0.05, 0.05)[:, [0, 16]] = 0.2  # most are written as 0
    y = model(x.expand(DRAWS, 20)).detach()
    chip = at.program(model.eval(), seed=0).at("programmed", compensation="none")
    ratio = y.var(0) / chip(x.expand(DRAWS, 20)).var(0)
    assert (ratio - 1).abs().max() < SIGMAS * math.sqrt(4 / DRAWS)  # both are sampled


def test_convolution() -> None:
    model = _layer(layer=nn.Conv1d(4, 6, 3, bias=False))
    x = torch.randn(4, 5)
    noise = model(x.expand(DRAWS, 4, 5)).detach() - nn.functional.conv1d(x[None], model[0].weight)
    patches = x.unfold(1, 3, 1).permute(1, 0, 2).reshape(3, 12)
    flat = nn.Linear(12, 6, bias=False)
    flat.weight = nn.Parameter(model[0].weight.detach().flatten(1))
    ratio = noise.var(0) / _expected(flat, patches).T
    assert (ratio - 1).abs().max() < SIGMAS * math.sqrt(2 / DRAWS)


def test_it_is_there_in_train_only_and_only_if_the_noise_of_outputs_is() -> None:
    x = torch.randn(3, 20)
    model = _layer()
    assert not torch.equal(model(x), model(x))
    digital = x @ model[0].weight.T
    assert torch.allclose(model.eval()(x), digital, atol=1e-6)
    for chip in (
        CHIP.replace(training=at.TrainingNoise(weight="none", output=False)),
        CHIP.without("mvm_read_noise"),
    ):
        assert torch.allclose(_layer(chip)(x), digital, atol=1e-6)


def test_it_repeats_and_does_not_depend_on_micro_batches() -> None:
    model, x = _layer(), torch.randn(9, 20)
    with at.noise(3, step=1):
        whole = model(x)
    with at.noise(3, step=1):
        assert torch.equal(model(x), whole)
    parts = []
    for a, b in ((0, 2), (2, 3), (3, 9)):
        with at.noise(3, step=1, first_sample=a):
            parts.append(model(x[a:b]))
    assert torch.equal(torch.cat(parts), whole)
    with at.noise(3, step=2):
        assert not torch.equal(model(x), whole)


def test_the_gradient_takes_it_as_a_constant() -> None:
    found = []
    for chip in (CHIP, CHIP.without("mvm_read_noise")):
        model, x = _layer(chip), torch.ones(5, 20, requires_grad=True)
        model(x).sum().backward()
        found.append((x.grad, model[0].weight.grad))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("weight", ["programming", "gaussian", "device"])
def test_beside_the_noise_of_the_weights(weight: str) -> None:
    """Weights are drawn once for a forward: read noise alone differs between its vectors."""
    training = at.TrainingNoise(weight=weight, scale=0.05 if weight == "gaussian" else None)
    chip = at.chips.hermes64().replace(
        mvm_read_noise={"std": SHAPED}, training=training, dac={"bits": None}, adc={"steps": None},
        periphery={"output_bits": None}, array={"rows": 16},
    )  # fmt: skip
    model, x = _layer(chip), torch.randn(20)
    y = model(x.expand(DRAWS, 20)).detach()
    # a correction of drift multiplies it
    gain = 1.0 if weight != "device" else (y.var(0) / _expected(model[0], x)).mean()
    ratio = y.var(0) / _expected(model[0], x) / gain
    assert (ratio - 1).abs().max() < SIGMAS * math.sqrt(2 / DRAWS) + (0.1 if gain != 1 else 0)


@pytest.mark.parametrize("kind", ["lstm", "attention", "embedding", "bfloat16", "per_sample"])
def test_every_kind_of_layer_trains_with_it(kind: str) -> None:
    torch.manual_seed(0)
    x: object = torch.randn(2, 5, 8)
    model: nn.Module = nn.Linear(8, 6)
    chip = CHIP
    if kind == "lstm":
        model = nn.LSTM(8, 6, batch_first=True)
    elif kind == "attention":
        model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    elif kind == "embedding":
        model, x = nn.Embedding(40, 8), torch.randint(40, (2, 5))
    elif kind == "bfloat16":
        model, x = model.bfloat16(), torch.randn(2, 5, 8).bfloat16()
    else:
        chip = CHIP.replace(
            training=at.TrainingNoise(weight="gaussian", scale=0.01, per_sample=True)
        )
    root = at.convert(nn.ModuleDict({"a": model}), chip, embeddings=True)

    def run() -> Tensor:
        y = root["a"](x)
        return y[0] if isinstance(y, tuple) else y

    with at.noise(1):
        first = run()
    with at.noise(1):
        second = run()
    with at.noise(2):
        third = run()
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    first.square().sum().backward()
    learning = [p for name, p in root.named_parameters() if not name.endswith("input_range")]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)


def test_compiled_it_is_the_same() -> None:
    chip = at.chips.hermes64().replace(mvm_read_noise={"std": SquareRoot(scale=0.02)})
    model, x = _layer(chip), torch.randn(4, 20)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for net in (model.train(), model.eval()):
        with at.noise(1):
            eager = net(x)
        with at.noise(1):
            assert torch.allclose(compiled(x), eager, atol=1e-6)
    view = at.program(model, seed=1)
    eager = view.at("1 day")(x)
    assert torch.allclose(torch.compile(view.at("1 day"), backend="aot_eager")(x), eager, atol=1e-6)
