"""Training noise that no kernel draws: whole devices, failed cells, a chip per sample."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import analogtorch as at
from analogtorch.ops import block_scales, over_rows
from tests.crossbar import crossbar
from tests.nn.layers import Case, cases

KINDS = {"programming": {}, "gaussian": {"scale": 0.1}, "device": {}, "none": {}}
AGES = ("0 s", "1 year")
SOME = ("linear_3d", "conv1d_same_dilated", "conv2d_groups")


def _chip(chip: at.Chip | None = None, rows: int = 256, cols: int = 256, **noise) -> at.Chip:
    """Return a chip without converters, so that an identity returns the weights."""
    training = at.TrainingNoise(**{"output": False, **noise})
    base = chip or crossbar()
    return base.replace(
        array={"rows": rows, "columns": cols},
        dac={"bits": None},
        adc={"noise": 0.0, "bits": None},
        training=training,
    )


def _layer(chip: at.Chip, rows: int = 256, outputs: int = 256) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Linear(rows, outputs, bias=False), chip)


def _read(layer: nn.Module) -> Tensor:
    """The weights as the layer multiplies by them."""
    return layer(torch.eye(layer.in_features)).T


@pytest.mark.parametrize("chip", [crossbar(), at.chips.neurram48(), crossbar(device="one_device")])
@pytest.mark.parametrize("time", ["programmed", "1 h", "1 year"])
@pytest.mark.filterwarnings("ignore:.* beyond the device's data:UserWarning")
def test_device_noise_is_that_of_a_programmed_chip(chip: at.Chip, time: str) -> None:
    layer = _layer(_chip(chip, 256, 64, weight="device", time=time))
    held = at.program(layer, seed=1).at(time, readout="ideal")
    full = over_rows(block_scales(layer.weight, (0, 256), (0, 64, 128, 192, 256)), (0, 256))
    r = layer.weight / full
    with at.noise(3):
        trained = (_read(layer) - layer.weight) / full
    programmed = (_read(held) - layer.weight) / full
    assert not torch.allclose(trained, programmed)
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.01)):
        some = (low <= r.abs()) & (r.abs() < high)
        a, b = (deviation[some] * r[some].sign() for deviation in (trained, programmed))
        # some 20,000 cells: the standard errors of a std are 0.5 %, here with 4.5 of the
        # difference's, and tails
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.04)
        assert abs(a.mean() - b.mean()) < 4.5 * (2 / some.sum()) ** 0.5 * b.std()


@pytest.mark.parametrize("cell", ["two_device", "two_sequential", "pcm_like", "rram_wan"])
@pytest.mark.parametrize("w", [0.0, 0.02, -0.1, 0.5])
def test_programming_noise_has_the_variance_of_programmed_devices(cell: str, w: float) -> None:
    chip = at.chips.neurram48() if cell == "rram_wan" else crossbar(device=cell)
    deviations = []
    for weight, scale in (("programming", 1.0), ("device", 1.0)):
        time = {"time": "programmed"} if weight == "device" else {}
        layer = _layer(_chip(chip, 256, 256, weight=weight, scale=scale, **time))
        with torch.no_grad():
            layer.weight.fill_(w)
            layer.weight[:, 0] = 1.0
        with at.noise(1):
            deviations.append((_read(layer) - w)[:, 1:])
    drawn, devices = deviations
    # 65,280 cells: the standard errors of both are 0.3 to 0.4 %, and the kernels are within 1.4 %
    assert drawn.std().item() == pytest.approx(devices.std().item(), rel=0.035)


def test_the_correction_of_the_drift_is_exact_in_each_placed_block() -> None:
    device = dataclasses.replace(crossbar().cell.device, programming_scale=0.0)
    chip = crossbar(cell=at.devices.DifferentialPair(device=device))
    layer = _layer(_chip(chip, 24, 9, weight="device", time="1 year"), 50, 20)
    weight, read = layer.weight, _read(layer)
    assert not torch.allclose(weight, read, atol=1e-3)
    for rows in (slice(0, 24), slice(24, 48), slice(48, 50)):
        for outputs in (slice(0, 9), slice(9, 18), slice(18, 20)):
            # least squares: what is left has no part of what was read
            found, target = read[outputs, rows], weight[outputs, rows]
            assert (found * (target - found)).sum().abs() < 1e-5 * target.square().sum()


def test_the_adc_meets_the_current_before_the_correction() -> None:
    chip = _chip(weight="device", time="1 year").replace(adc={"range": 1.0, "bits": 4})
    layer = _layer(chip, 32, 16)
    layer.set_input_range(1.0)
    y = layer(torch.rand(500, 32) * 2 - 1)
    unit = y[y != 0].abs().min()  # one step of the ADC, corrected
    assert torch.allclose(y / unit, (y / unit).round(), atol=1e-3)
    # from a year's drift with a coefficient of about 0.06 per device, (3.15e7 / 300)^0.06 = 2.0,
    # which least squares draws to 0 by the share of the noise
    assert 1.2 < unit / (layer.weight.abs().max() / 7) < 1.9


def test_device_noise_is_scaled_by_its_deviation() -> None:
    weights = []
    for scale in (0.0, 0.5, 1.0):
        layer = _layer(_chip(weight="device", scale=scale))
        with at.noise(1):
            weights.append(_read(layer).detach())
    assert torch.equal(weights[0], layer.weight)
    assert torch.allclose(weights[1], (weights[0] + weights[2]) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("case", [c for c in cases() if c.name in SOME])
def test_gradients_take_the_noise_for_a_constant(case: Case, kind: str, drop: float) -> None:
    chip = _chip(None, 16, 5, weight=kind, drop_connect=drop, **KINDS[kind])
    layer, x = (
        at.convert(copy.deepcopy(case.layer), chip).double(),
        case.x.double().requires_grad_(),
    )
    with at.noise(1):
        y = layer(x)
    g = torch.randn_like(y)
    y.backward(g)
    with at.noise(1):  # linear in x, so its gradient is that of the noisy weights
        assert torch.allclose(
            (layer(x + 0.5 * x.grad) - y).mul(g).sum(), 0.5 * x.grad.square().sum(), rtol=1e-6
        )
    learnt = layer.weight.grad
    digital = at.to_digital(layer)
    digital.weight.grad = None
    digital(case.x.double()).backward(g)
    dropped = learnt == 0
    assert torch.allclose(
        learnt, digital.weight.grad.masked_fill(dropped, 0.0), rtol=1e-5, atol=1e-8
    )
    assert dropped.any().item() == (drop > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_failed_cells_are_zero_and_the_others_as_if_none_had_failed(kind: str) -> None:
    layer = _layer(_chip(weight=kind, drop_connect=0.125, **KINDS[kind]))
    with at.noise(1):
        read = _read(layer)
    read.sum().backward()
    zero = layer.weight.grad == 0
    assert (read[zero] == 0).all()
    assert abs(zero.float().mean() - 0.125) < 4.5 * (0.125 * 0.875 / 65536) ** 0.5
    # no columns that fail together
    assert abs(zero.float().mean(0).std() - (0.125 * 0.875 / 256) ** 0.5) < 0.005
    layer.chip = _chip(weight=kind, **KINDS[kind])
    with at.noise(1):
        whole = _read(layer)
    if kind == "device":  # the correction meets other cells
        whole = whole * (read[0, 1] / whole[0, 1])
    assert not zero[0, 1]
    assert torch.allclose(read[~zero], whole[~zero], atol=1e-6)


def test_which_cells_fail_depends_neither_on_tiles_nor_on_how_groups_lie() -> None:
    torch.manual_seed(0)
    digital, x = nn.Conv1d(12, 24, 3, groups=6), torch.randn(2, 12, 20)
    results = []
    for rows, grouped in (
        (256, "sequential"),
        (7, "sequential"),
        (4, "sequential"),
        (256, "block_diagonal"),
    ):
        chip = _chip(None, rows, 30, weight="none", drop_connect=0.4).replace(
            array={"grouped": grouped}
        )
        with at.noise(1):
            results.append(at.convert(nn.Sequential(digital), chip)(x))
        digital = at.to_digital(nn.Sequential(digital))[0]
    assert all(torch.allclose(y, results[0], atol=1e-5) for y in results[:3])
    assert not torch.allclose(results[0], digital(x), atol=1e-2)


def _per_sample(kind: str, output: bool = False, **more) -> at.TrainingNoise:
    options = {"output": output, "per_sample": True, "drop_connect": 0.1}
    return at.TrainingNoise(weight=kind, **options, **KINDS[kind], **more)


@pytest.mark.parametrize("kind", ["programming", "device"])
@pytest.mark.parametrize(
    "case", [c for c in cases() if c.name in ("linear", "linear_3d", "conv1d", "conv2d_groups")]
)
def test_parts_of_a_batch_meet_the_chips_of_the_whole(case: Case, kind: str) -> None:
    chip = crossbar(array={"rows": 16, "columns": 5}, training=_per_sample(kind, output=True))
    layer, x = at.convert(nn.Sequential(copy.deepcopy(case.layer)), chip), case.x
    for calibrated in (False, True):
        with at.noise(1):
            whole = layer(x)
        layer.zero_grad()
        whole.square().sum().backward()
        gradient = layer[0].weight.grad.clone()
        layer.zero_grad()
        for i in range(len(x)):
            with at.noise(1, first_sample=i):
                part = layer(x[i : i + 1])
            assert torch.allclose(part, whole[i : i + 1], atol=1e-5)
            part.square().sum().backward()
        assert torch.allclose(layer[0].weight.grad, gradient, atol=1e-4)
        if not calibrated:
            at.calibrate(layer, [x])


def test_every_sample_has_weights_of_its_own_that_its_vectors_share() -> None:
    layer = _layer(_chip(per_sample=True), 32, 16)
    x = torch.randn(32)
    y = layer(x.expand(400, 5, 32)).detach()
    assert torch.allclose(y, y[:, :1].expand_as(y), atol=1e-6)
    noise = y[:, 0] - F.linear(x, layer.weight).detach()
    full = layer.weight.abs().max()
    sigma = full * 2 * layer.chip.cell.programming_sigma(layer.weight.detach() / full)
    z = noise / (x.square() * sigma.square()).sum(1).sqrt()  # 400 chips, 16 outputs
    assert z.std().item() == pytest.approx(1.0, abs=4.5 / (2 * 6400) ** 0.5)
    assert abs((z[1:] * z[:-1]).mean()) < 4.5 / 6384**0.5
    assert layer(torch.randn(32)).shape == (16,)
    assert layer(torch.zeros(0, 32)).shape == (0, 16)


def test_without_weight_noise_there_is_nothing_of_a_sample_s_own() -> None:
    x, results = torch.randn(4, 32), []
    for per_sample in (False, True):
        training = at.TrainingNoise(weight="none", per_sample=per_sample)
        layer = _layer(crossbar(training=training), 32, 16)
        with at.noise(1):
            results.append(layer(x))
    assert torch.equal(*results)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_every_sequence_of_a_recurrent_layer_has_a_chip_for_all_its_steps(
    kind, batch_first: bool
) -> None:
    torch.manual_seed(0)
    chip = crossbar(training=_per_sample("programming", output=True))
    layer = at.convert(
        nn.Sequential(kind(5, 6, 2, bidirectional=True, batch_first=batch_first)), chip
    )[0]
    x = torch.randn(3, 7, 5)
    with at.noise(1):
        whole, last = layer(x if batch_first else x.transpose(0, 1))
    whole = whole if batch_first else whole.transpose(0, 1)
    last = last[0] if isinstance(last, tuple) else last
    for i in range(3):
        with at.noise(1, first_sample=i):
            part = layer(x[i])[0]  # without a batch
        assert torch.allclose(part, whole[i], atol=1e-5)
    assert not torch.allclose(whole[0], whole[1], atol=1e-2)
    with at.noise(1):
        same = layer(torch.zeros(3, 7, 5) if batch_first else torch.zeros(7, 3, 5))[0]
    same = same if batch_first else same.transpose(0, 1)
    assert not torch.allclose(same[0], same[1], atol=1e-4)


def test_packed_sequences_keep_their_chips_when_they_are_sorted() -> None:
    torch.manual_seed(0)
    deep = nn.LSTM(5, 6, num_layers=2, bidirectional=True, proj_size=3)
    for chip in (_chip(per_sample=True), crossbar(training=_per_sample("device", output=True))):
        layer = at.convert(nn.Sequential(copy.deepcopy(deep)), chip)[0]
        parts = [torch.randn(n, 5) for n in (4, 7, 2)]
        with at.noise(1):
            last = layer(pack_sequence(parts, enforce_sorted=False))[1][0]
        for i, part in enumerate(parts):
            with at.noise(1, first_sample=i):
                assert torch.allclose(layer(part)[1][0], last[:, i], atol=1e-5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_meet_their_output_noise_in_any_batch(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(kind(5, 6)), crossbar())
    parts = [torch.randn(n, 5) for n in (4, 7, 2)]
    programmed = at.program(model.eval(), seed=1)
    view, model = programmed.at("1 day"), model.train()

    def last(layer: nn.Module, sequences: list[torch.Tensor]) -> torch.Tensor:
        hidden = layer(pack_sequence(sequences, enforce_sorted=False))[1]
        return (hidden[0] if isinstance(hidden, tuple) else hidden)[0]

    with at.noise(1):
        whole = last(model[0], parts)
    held = last(programmed.at("1 day")[0], parts)
    for i, part in enumerate(parts):
        with at.noise(1, first_sample=i):
            assert torch.allclose(last(model[0], [part])[0], whole[i], atol=1e-5)
        assert torch.allclose(last(view[0], [part])[0], held[i], atol=1e-5)


@pytest.mark.parametrize("kind", ["programming", "device"])
@pytest.mark.parametrize("cross", [False, True])
def test_every_sample_of_attention_has_a_chip_of_its_own(kind: str, cross: bool) -> None:
    torch.manual_seed(0)
    chip = crossbar(training=_per_sample(kind, output=True))
    layer = at.convert(nn.Sequential(nn.MultiheadAttention(8, 2)), chip)[0]
    q = torch.randn(5, 3, 8)
    k = torch.randn(5, 3, 8) if cross else q
    with at.noise(1):
        whole = layer(q, k, k)[0]
    for i in range(3):
        part = slice(i, i + 1)
        own = q[:, part]
        other = k[:, part] if cross else own
        with at.noise(1, first_sample=i):
            assert torch.allclose(layer(own, other, other)[0], whole[:, part], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_reads_the_cells_that_a_product_would_multiply(kind: str) -> None:
    training = {
        "weight": kind,
        "drop_connect": 0.2,
        "time": "1 year" if kind == "device" else "1 day",
    }
    chip = _chip(None, 24, 9, **training, **KINDS[kind])
    torch.manual_seed(0)
    embedding = at.convert(nn.Sequential(nn.Embedding(50, 20)), chip, embeddings=True)[0]
    linear = at.convert(nn.Sequential(nn.Linear(50, 20, bias=False)), chip)[0]
    linear.layer_name = embedding.layer_name
    linear.chip = chip
    with torch.no_grad():
        linear.weight.copy_(embedding.weight.T)
    tokens = torch.randint(50, (6, 7))
    with at.noise(1):
        read = embedding(tokens)
    with at.noise(1):
        expected = linear(F.one_hot(tokens, 50).float())
    assert torch.allclose(read, expected, atol=1e-5)
    for y in (read, expected):
        y.square().sum().backward()
    assert torch.allclose(embedding.weight.grad, linear.weight.grad.T, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 7), (3,)])
@pytest.mark.parametrize("kind", ["programming", "device"])
def test_every_sample_of_an_embedding_has_a_chip_of_its_own(
    kind: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    chip = crossbar(training=_per_sample(kind, output=True))
    layer, tokens = (
        at.convert(nn.Sequential(nn.Embedding(50, 20)), chip, embeddings=True)[0],
        torch.randint(50, shape),
    )
    with at.noise(1):
        whole = layer(tokens)
    assert whole.shape == (*shape, 20)
    for i in range(3):
        with at.noise(1, first_sample=i):
            assert torch.allclose(layer(tokens[i : i + 1]), whole[i : i + 1], atol=1e-5)
    same = layer(torch.zeros(shape, dtype=torch.int64))
    assert not torch.allclose(same[0], same[1], atol=1e-3)


@pytest.mark.parametrize(
    "training",
    [_per_sample("programming", output=True), at.TrainingNoise(weight="device", time=AGES)],
)
def test_checkpointing_draws_the_same_again(training: at.TrainingNoise) -> None:
    torch.manual_seed(0)
    model = at.convert(
        nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)), crossbar(training=training)
    )
    x, gradients = torch.randn(3, 8), []
    for again in (True, False):
        model.zero_grad()
        with at.noise(5, step=71, first_sample=2):
            y = checkpoint(model, x, use_reentrant=False) if again else model(x)
        y.square().sum().backward()
        gradients.append(model[0].weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.slow
def test_one_graph_has_the_eager_numbers() -> None:
    torch.manual_seed(0)
    model = at.convert(
        nn.Sequential(nn.Linear(8, 4)), crossbar(training=_per_sample("device", time=AGES))
    )
    at.calibrate(model, [torch.randn(3, 8)])
    torch._dynamo.reset()
    compiled, x, results = (
        torch.compile(model, fullgraph=True, backend="aot_eager"),
        torch.randn(3, 8),
        [],
    )
    for f in (model, compiled):
        model.zero_grad()
        with at.noise(1):
            y = f(x)
        y.square().sum().backward()
        results.append((y.detach(), model[0].weight.grad.clone()))
    torch._dynamo.reset()  # versions that are kept count against those of other tests
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*results, strict=True))


def test_evaluation_and_programming_do_not_know_of_it() -> None:
    x, results = torch.randn(4, 32), []
    for training in (
        at.TrainingNoise(),
        at.TrainingNoise(weight="device", time=AGES, drop_connect=0.5, per_sample=True),
    ):
        layer = _layer(crossbar(training=training), 32, 16)
        results.append((layer.eval()(x), at.program(layer, seed=1).at("1 day")(x)))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_train_with_it(dtype: torch.dtype) -> None:
    layer = _layer(crossbar(training=_per_sample("device", output=True)), 32, 16).to(dtype)
    y = layer(torch.randn(4, 32, dtype=dtype))
    y.float().sum().backward()
    assert y.dtype == layer.weight.grad.dtype == dtype
    assert torch.isfinite(layer.weight.grad).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(layer.float()(torch.randn(4, 32))).all()


def test_the_relative_noise_of_a_weight_does_not_depend_on_the_unit_of_the_weights() -> None:
    """Nothing is to be remapped: weights find their conductances anew in every forward."""
    for weight in ("programming", "device"):
        layer = _layer(_chip(weight=weight), 64, 64)
        with at.noise(1):
            before = (_read(layer) / layer.weight).detach()
        with torch.no_grad():
            layer.weight.mul_(1000.0)
        with at.noise(1):
            assert torch.allclose(_read(layer) / layer.weight, before, rtol=1e-3)
        with torch.no_grad():
            # one outlier takes the conductance of all others
            layer.weight[0, 0] = 50 * layer.weight.abs().max()
        with at.noise(1):
            outlier = (_read(layer) - layer.weight)[1:].std()
        at.hwa.clip_weights_(layer, 2.0)
        with at.noise(1):
            # least squares shrink a block that is mostly noise: that of the outlier
            least = 5 if weight == "programming" else 4
            assert (_read(layer) - layer.weight)[1:].std() < outlier / least
