"""Recurrent layers: equal to torch's on an ideal chip, with noise by its rules on another."""

import copy
import dataclasses
import io
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import analogtorch as at
from analogtorch.nn.training import Training
from analogtorch.ops import native, recurrence
from tests.crossbar import crossbar

pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN:UserWarning"
)

EXACT = at.chips.ideal().replace(array={"rows": 7, "columns": 5})
SMALL = crossbar(array={"rows": 24, "columns": 16})


def _layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "rnn": nn.RNN(5, 6),
        "rnn_relu": nn.RNN(5, 6, nonlinearity="relu", num_layers=2, bias=False),
        "gru": nn.GRU(5, 6, batch_first=True),
        "gru_deep": nn.GRU(5, 6, num_layers=3, bidirectional=True),
        "lstm": nn.LSTM(5, 6),
        "lstm_deep": nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True),
        "lstm_projected": nn.LSTM(5, 6, num_layers=2, proj_size=3, bidirectional=True),
        "lstm_no_bias": nn.LSTM(5, 6, bias=False),
    }


def test_a_sequence_without_steps_is_refused() -> None:
    for layer, shape in (
        (nn.LSTM(5, 6), (0, 4, 5)),
        (nn.GRU(5, 6, batch_first=True), (4, 0, 5)),
        (nn.RNN(5, 6), (0, 5)),
    ):
        with pytest.raises(ValueError, match="layer '0' takes at least one time step"):
            at.convert(nn.Sequential(layer), EXACT)(torch.zeros(shape))


_each = pytest.mark.parametrize("name", _layers())


def _x(layer: nn.RNNBase, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x if layer.batch_first else x.transpose(0, 1)


def _states(layer: nn.RNNBase) -> object:
    n = layer.num_layers * (1 + layer.bidirectional)
    h = torch.randn(n, 4, layer.proj_size or layer.hidden_size)
    return (h, torch.randn(n, 4, layer.hidden_size)) if isinstance(layer, nn.LSTM) else h


def _flat(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in _flat(part)]  # type: ignore[attr-defined]


def _equal(a: object, b: object, tolerance: float = 1e-5) -> None:
    for x, y in zip(_flat(a), _flat(b), strict=True):
        assert x.shape == y.shape
        assert torch.allclose(x, y, atol=tolerance)


@_each
@pytest.mark.parametrize("given", [False, True])
def test_an_ideal_chip_gives_torchs_numbers_and_gradients(name: str, given: bool) -> None:
    digital = _layers()[name]
    analog = at.convert(copy.deepcopy(digital), EXACT)
    x, hx = _x(digital), _states(digital) if given else None
    _equal(analog(x, hx), digital(x, hx))
    for model in (analog, digital):
        sum(t.square().sum() for t in _flat(model(x, hx))).backward()
    for key, parameter in digital.named_parameters():
        assert torch.allclose(analog.get_parameter(key).grad, parameter.grad, atol=1e-4), key


@_each
def test_packed_sequences_of_any_order(name: str) -> None:
    digital = _layers()[name]
    analog = at.convert(copy.deepcopy(digital), EXACT)
    sequences = [torch.randn(length, 5) for length in (3, 9, 1, 6)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    hx = _states(digital)
    (ours, last), (theirs, expected) = analog(packed, hx), digital(packed, hx)
    assert torch.equal(ours.batch_sizes, theirs.batch_sizes)
    _equal(ours.data, theirs.data)
    _equal(last, expected)
    _equal(pad_packed_sequence(ours)[0], pad_packed_sequence(theirs)[0])
    for y, h in ((ours, last), (theirs, expected)):
        (y.data.square().sum() + sum(t.square().sum() for t in _flat(h))).backward()
    for key, parameter in digital.named_parameters():
        assert torch.allclose(analog.get_parameter(key).grad, parameter.grad, atol=1e-4), key
    ordered = pack_padded_sequence(torch.randn(6, 2, 5), torch.tensor([6, 4]))
    _equal(analog(ordered)[0].data, digital(ordered)[0].data)


@_each
def test_the_chip_multiplies_no_padding_of_packed_sequences(name: str) -> None:
    lengths, vectors = (3, 9, 1, 6), {}
    model = at.convert(_layers()[name], SMALL)

    def count(matrix: str, x: Tensor) -> None:
        vectors[matrix] = vectors.get(matrix, 0) + len(x)

    taps = {m: at.nn.Tap(input=partial(count, m.layer_name)) for m in model.matrices()}
    with at.nn.tapped(taps):
        model(pack_sequence([torch.randn(n, 5) for n in lengths], enforce_sorted=False))
    assert vectors == dict.fromkeys((m.layer_name for m in model.matrices()), sum(lengths))


def test_dropout_between_layers_draws_for_packed_sequences_as_torch_does() -> None:
    torch.manual_seed(0)
    digital = nn.LSTM(5, 6, num_layers=2, dropout=0.5)
    analog = at.convert(copy.deepcopy(digital), EXACT)
    packed, found = pack_sequence([torch.randn(n, 5) for n in (9, 6, 1)]), []
    for layer in (digital, analog):
        torch.manual_seed(1)
        found.append(layer(packed)[0].data)
    _equal(*found)


@_each
def test_one_sample_without_a_batch(name: str) -> None:
    digital = _layers()[name]
    analog = at.convert(copy.deepcopy(digital), EXACT)
    _equal(analog(torch.ones(7, 5)), digital(torch.ones(7, 5)))


@_each
def test_keys_checkpoints_and_the_way_back(name: str) -> None:
    digital = nn.ModuleDict({"net": _layers()[name]})
    analog = at.convert(copy.deepcopy(digital), SMALL)
    assert list(analog.state_dict()) == list(digital.state_dict())
    at.calibrate(
        analog, [_x(digital["net"])], method="absmax", forward=lambda model, x: model["net"](x)
    )
    file = io.BytesIO()
    torch.save(analog.state_dict(), file)
    file.seek(0)
    fresh = at.convert(nn.ModuleDict({"net": _layers()[name]}), SMALL)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    ranges = [layer.input_range.item() for _, layer in at.analog_layers(fresh)]
    assert ranges == [layer.input_range.item() for _, layer in at.analog_layers(analog)]
    assert all(r > 0 for r in ranges)
    for layer in (analog["net"], fresh["net"], copy.deepcopy(analog)["net"]):
        assert all(m.weight is layer._parameters[m.names.weight] for m in layer.matrices())
    copy.deepcopy(digital).load_state_dict(analog.state_dict(), strict=True)
    assert type(at.to_digital(analog)["net"]) is type(digital["net"])
    assert not list(at.analog_layers(analog))
    _equal(analog["net"](_x(digital["net"])), digital["net"](_x(digital["net"])))


def test_converting_again_changes_nothing_and_the_summary_is_complete() -> None:
    model = nn.Sequential(nn.LSTM(5, 6, num_layers=2, bidirectional=True))
    at.convert(model, SMALL)
    layer = model[0]
    assert at.convert(model, SMALL)[0] is layer
    with pytest.raises(ValueError, match="'0' is on another chip"):
        at.convert(model, EXACT)
    summary = at.summary(model)
    assert [row.name for row in summary.layers][:3] == ["0.ih_l0", "0.hh_l0", "0.ih_l0_reverse"]
    assert not summary.skipped
    assert sum(row.cells for row in summary.layers) == sum(
        p.numel() for n, p in layer.named_parameters() if "weight" in n
    )


def test_weights_keep_their_noise_for_all_time_steps_and_change_with_the_forward() -> None:
    noise = at.TrainingNoise(weight="gaussian", scale=0.1, output=False)
    chip = SMALL.replace(dac={"bits": None}, adc={"bits": None}, training=noise)
    torch.manual_seed(0)
    layer = at.convert(nn.RNN(5, 6, nonlinearity="relu", bias=False), chip)
    with torch.no_grad():  # the state only passes through the recurrent matrix, at every step alike
        layer.weight_ih_l0.zero_(), layer.weight_hh_l0.copy_(torch.eye(6))
    x, h = torch.zeros(5, 2, 5), torch.ones(1, 2, 6)
    with at.noise(1):
        y, _ = layer(x, h)
    with at.noise(1):
        again, _ = layer(x, h)
    assert torch.equal(y, again)
    w = y[0, 0] / 1.0  # row sums of the noisy matrix; and so of its powers, if it does not change
    step = torch.linalg.lstsq(
        torch.stack([torch.ones(6), y[0, 0], y[1, 0], y[2, 0]]), y[:4, 0]
    ).solution.T
    assert torch.allclose(step @ y[3, 0], y[4, 0], rtol=0.2)
    with at.noise(2):
        assert not torch.allclose(layer(x, h)[0][0, 0], w)


def test_output_noise_is_its_own_at_every_step_and_sample() -> None:
    chip = SMALL.replace(dac={"bits": None}, adc={"noise": 0.1, "bits": None})
    layer = at.convert(
        nn.RNN(5, 6, nonlinearity="relu"),
        dataclasses.replace(chip, training=at.TrainingNoise(weight="none")),
    )
    with torch.no_grad():
        layer.bias_ih_l0.fill_(5.0)
        layer.weight_hh_l0.zero_()
    x = torch.ones(4, 3, 5)
    with at.noise(1):
        whole, _ = layer(x)
    assert len(whole.flatten().unique()) == whole.numel()
    with at.noise(1, first_sample=1):
        part, _ = layer(x[:, 1:])
    assert torch.allclose(part, whole[:, 1:], atol=1e-5)
    programmed = at.program(nn.Sequential(layer), seed=1).at("1 h")
    first, second = programmed(x)[0], programmed(x)[0]
    assert not torch.allclose(first, second)
    again = at.program(nn.Sequential(layer), seed=1).at("1 h")
    parts = torch.cat([again(x[:, :1])[0], again(x[:, 1:])[0]], 1)
    assert torch.allclose(parts, first, atol=1e-5)


def test_a_chip_holds_drifts_and_is_corrected() -> None:
    torch.manual_seed(0)
    digital = nn.LSTM(20, 30, batch_first=True)
    model, x = at.convert(nn.Sequential(copy.deepcopy(digital)), SMALL), torch.randn(8, 12, 20)
    at.calibrate(model, [x])
    exact = digital(x)[0]

    def error(**options: object) -> float:
        y = at.program(model, seed=3).at("1 month", **options)(x)[0]
        return ((y - exact).norm() / exact.norm()).item()

    assert 0.02 < error(compensation="global") < error(compensation="none") < 0.8


def test_a_mapping_places_every_matrix() -> None:
    model = at.convert(nn.Sequential(nn.LSTM(40, 32, num_layers=2, bidirectional=True)), crossbar())
    x = torch.zeros(5, 1, 40)
    mapping = at.map_to_chip(model, x, chip=crossbar())
    assert {m.name for m in mapping.matrices} == {
        f"0.{n}" for n, _ in model[0].named_parameters() if "weight" in n
    }
    physical = at.program(model, seed=1, mapping=mapping, defects=at.Defects(tiles=1.0))
    assert set(physical.yield_map()) == set(mapping.tile_utilisation)
    held = [layer.programmed for _, layer in at.analog_layers(physical.at("1 h"))]
    assert len(held) == 8
    assert not any(programmed.weights[0].any() for programmed in held)


def test_training_lowers_the_loss_and_teaches_the_ranges() -> None:
    torch.manual_seed(0)
    model, x = at.convert(nn.GRU(5, 8, batch_first=True), SMALL), torch.randn(16, 6, 5)
    target = x.cumsum(1)[..., :1].tanh()
    at.calibrate(model, [x], method="absmax")
    head = nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        loss = (head(model(x)[0]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(layer.input_range.grad is not None for _, layer in at.analog_layers(model))


def test_bad_inputs_are_refused() -> None:
    layer = at.convert(nn.LSTM(5, 6), SMALL)
    with pytest.raises(ValueError, match=r"takes \(L, N, 5\) inputs.*got shape \(3, 4, 6\)"):
        layer(torch.zeros(3, 4, 6))
    with pytest.raises(ValueError, match="first states of shapes"):
        layer(torch.zeros(3, 4, 5), torch.zeros(1, 4, 6))


def test_half_moved_and_compiled() -> None:
    layer = at.convert(nn.LSTM(5, 6), SMALL)
    assert layer.double()(torch.zeros(3, 2, 5, dtype=torch.float64))[0].dtype == torch.float64
    assert all(m.weight.dtype == torch.float64 for m in layer.matrices())
    layer.float().eval()
    # without it, torch refuses its own recurrent layers too
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        _equal(compiled(torch.ones(3, 2, 5)), layer(torch.ones(3, 2, 5)))


@pytest.mark.parametrize(
    "change",
    [
        {"training": at.TrainingNoise(weight="device")},
        {"expansion": {"factor": 2.0}},
        {"training": at.TrainingNoise(drop_connect=0.1)},
    ],
    ids=["devices", "expansion", "drop_connect"],
)
def test_the_weights_of_a_forward_are_made_once_for_all_steps(
    change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were drawn, or expanded, in each of 9 steps, to the same numbers."""
    torch.manual_seed(0)
    chip = at.chips.hermes64().replace(**change)
    layer = at.convert(nn.Sequential(nn.LSTM(5, 6, num_layers=2, proj_size=3)), chip)[0].train()
    made, x = [], torch.randn(9, 4, 5)
    weights = Training.weights

    def counted(*given, **options) -> dict:
        made.append(given[1].layer_name)
        return weights(*given, **options)

    monkeypatch.setattr(Training, "weights", counted)
    with at.noise(1):
        y, _ = layer(x)
    y.square().sum().backward()
    assert sorted(made) == [f"0.{kind}_l{i}" for kind in ("hh", "hr", "ih") for i in (0, 1)]
    gradients = [p.grad for p in layer.parameters()]

    # apart from rounding, as if each step made its own
    monkeypatch.setattr(Training, "sharing", lambda self: self)
    made.clear()
    layer.zero_grad()
    with at.noise(1):
        again, _ = layer(x)
    again.square().sum().backward()
    assert len(made) == 2 * (9 + 9 + 1)
    assert torch.equal(again, y)
    for p, g in zip(layer.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, g)


# all steps at once

CHIPS = {
    "hermes64": at.chips.hermes64(),
    "row blocks": SMALL,
    "noise in the kernel": SMALL.replace(training={"weight": "gaussian", "scale": 0.1}),
    "read noise": SMALL.replace(mvm_read_noise={"std": at.devices.SquareRoot(scale=0.02)}),
}
built = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")


def _run(layer: nn.Module, given: list[Tensor], packed: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return outputs and states of a layer, and the gradients of what it is given and learns."""
    x, *states = (t.clone().requires_grad_() for t in given)
    sequences = x
    if packed:
        first, lengths = layer.batch_first, torch.tensor([5, 9, 1, 5])
        sequences = pack_padded_sequence(x, lengths, first, enforce_sorted=False)
    with at.noise(4):
        y, last = layer(sequences, states[0] if len(states) == 1 else tuple(states))
    found = [y.data if packed else y, *_flat(last)]
    # gradients that are not contiguous
    wanted = [torch.linspace(-1, 2, t.numel()).view(t.mT.shape).mT for t in found]
    learning = [p for p in layer.parameters() if p.requires_grad]
    return found, list(torch.autograd.grad(found, [x, *states, *learning], wanted))


@built
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mode", ["training", "evaluation", "on a chip"])
@pytest.mark.parametrize(
    ("name", "chip"),
    [
        *((name, "hermes64") for name in ("rnn", "rnn_relu", "gru_deep", "lstm")),
        *((name, chip) for name in ("gru", "lstm_deep") for chip in CHIPS if chip != "hermes64"),
    ],
)
def test_all_steps_at_once_are_the_steps_one_by_one(
    name: str, mode: str, chip: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    digital = _layers()[name]
    model, x = at.convert(nn.Sequential(digital), CHIPS[chip]).eval(), _x(digital)
    at.calibrate(model, [x])
    given, asked, takes = [x, *_flat(_states(digital))], [], recurrence.takes

    def counted(*operands) -> bool:
        asked.append(takes(*operands))
        return asked[-1]

    def results() -> tuple[list[Tensor], list[Tensor]]:
        ready = at.program(model, seed=2).at("1 day") if mode == "on a chip" else model
        return _run(ready[0].train(mode == "training"), given, packed)

    monkeypatch.setattr(recurrence, "takes", counted)
    y, gradients = results()
    assert asked == [True] * len(asked)
    assert len(asked) == digital.num_layers * (1 + digital.bidirectional)
    monkeypatch.setattr(recurrence, "takes", lambda *_: False)
    one_by_one, theirs = results()
    assert all(map(torch.equal, y, one_by_one))
    for found, expected in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@built
def test_who_looks_at_the_state_sees_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = at.convert(nn.Sequential(nn.GRU(5, 6)), SMALL).eval()
    at.calibrate(model, [_x(model[0])])
    at_once, ran = recurrence.run, []

    def counted(*given):
        ran.append("at once")
        return at_once(*given)

    monkeypatch.setattr(recurrence, "run", counted)
    x, hh = _x(model[0]), model[0].hh_l0
    y, _ = model(x)
    assert ran == ["at once"]
    with at.nn.tapped({hh: at.nn.Tap(product=lambda *_: ran.append("tap"))}):
        assert torch.equal(model(x)[0], y)
    handle = hh.register_forward_hook(lambda *_: ran.append("hook"))
    assert torch.equal(model(x)[0], y)
    handle.remove()
    assert ran == ["at once", *["tap"] * len(x), *["hook"] * len(x)]


@built
def test_outputs_may_be_changed_in_place() -> None:
    model = at.convert(nn.Sequential(nn.LSTM(5, 6)), SMALL)
    at.calibrate(model, [_x(model[0])])

    def gradient(change) -> Tensor:
        model.zero_grad()
        with at.noise(1):
            y, (h, _) = model(_x(model[0]))
        (change(y).sum() + h.sum()).backward()
        return model[0].weight_hh_l0.grad

    assert torch.equal(gradient(torch.relu_), gradient(torch.relu))


@built
def test_a_gradient_of_the_gradient_of_all_steps_is_refused() -> None:
    model, x = at.convert(nn.Sequential(nn.GRU(5, 6)), SMALL), torch.randn(3, 2, 5)
    at.calibrate(model, [x])
    weight = model[0].weight_hh_l0
    (g,) = torch.autograd.grad(model(x)[0].sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        g.sum().backward()


def test_several_gradients_at_once_are_refused() -> None:
    layer = at.convert(nn.Sequential(nn.LSTM(6, 5)), at.chips.hermes64())
    x = torch.randn(3, 4, 6, requires_grad=True)
    y = layer(x)[0].sum((0, 2))
    with pytest.raises(NotImplementedError, match="one gradient of its outputs at a time"):
        torch.autograd.grad(y, x, torch.eye(4), is_grads_batched=True, retain_graph=True)
    rows = [torch.autograd.grad(part, x, retain_graph=True)[0] for part in y]
    assert torch.stack(rows).shape == (4, 3, 4, 6)
