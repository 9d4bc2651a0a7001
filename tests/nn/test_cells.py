"""Recurrent cells: torch's numbers on an ideal chip, two products on tiles on another."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from tests.nn import lasting

EXACT = at.chips.ideal().replace(array={"rows": 7, "columns": 5})


def _cells() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "rnn": nn.RNNCell(5, 6),
        "rnn_relu": nn.RNNCell(5, 6, nonlinearity="relu", bias=False),
        "gru": nn.GRUCell(5, 6),
        "gru_no_bias": nn.GRUCell(5, 6, bias=False),
        "lstm": nn.LSTMCell(5, 6),
        "lstm_no_bias": nn.LSTMCell(5, 6, bias=False),
    }


_each = pytest.mark.parametrize("name", _cells())


def _state(cell: nn.Module, *batch: int) -> object:
    h, c = torch.randn(
        2, *batch, 6, generator=torch.Generator().manual_seed(2), dtype=cell.weight_ih.dtype
    )
    return (h, c) if isinstance(cell, nn.LSTMCell) else h


def _x(*batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*batch, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)


@_each
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("batch", [(4,), ()], ids=["batch", "one"])
def test_an_ideal_chip_gives_torchs_numbers_and_gradients(
    name: str, given: bool, batch: tuple[int, ...]
) -> None:
    digital = _cells()[name].double()
    analog = at.convert(copy.deepcopy(digital), EXACT)
    x, hx = _x(*batch, dtype=torch.float64), _state(digital, *batch) if given else None
    assert lasting.same(analog(x, hx), digital(x, hx), 1e-12)
    for cell in (analog, digital):
        sum(t.square().sum() for t in lasting.flat(cell(x, hx))).backward()
    for key, parameter in digital.named_parameters():
        assert torch.allclose(analog.get_parameter(key).grad, parameter.grad, atol=1e-10), key


@_each
def test_a_loop_on_eight_bits_stays_near(name: str) -> None:
    digital = _cells()[name]
    analog, xs = at.convert(copy.deepcopy(digital), at.chips.hermes64()), _x(8, 16)

    def run(cell: nn.Module) -> Tensor:
        state = None
        for x in xs:
            state = cell(x, state)
        return lasting.flat(state)[0]

    at.calibrate(analog, [xs], forward=lambda model, _: run(model))
    exact = run(digital)
    assert (run(analog.eval()) - exact).norm() < 0.15 * exact.norm()


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_a_chip_computes_both_products_and_digital_gates(name: str) -> None:
    model = lasting.converted(nn.Sequential(_cells()[name]), _x(4))
    view, x, state = at.program(model, seed=3).at("1 day"), _x(4), _state(model[0], 4)
    ih, hh = (copy.deepcopy(view[0].get_submodule(child)) for child in ("ih", "hh"))
    a, b = ih(x), hh(state[0] if name == "lstm" else state)
    if name == "lstm":
        i, f, g, o = (a + b).chunk(4, 1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        expected: object = (torch.sigmoid(o) * torch.tanh(c), c)
    else:
        (ar, az, an), (br, bz, bn) = a.chunk(3, 1), b.chunk(3, 1)
        n, z = torch.tanh(an + torch.sigmoid(ar + br) * bn), torch.sigmoid(az + bz)
        expected = (1 - z) * n + z * state
    assert lasting.same(view[0](x, state), expected)


def test_every_call_has_noise_of_its_own() -> None:
    cell = lasting.converted(_cells()["rnn"], _x(4))
    with at.noise(1):
        first, second = cell(_x(4)), cell(_x(4))
    assert not torch.allclose(first, second)
    with at.noise(1):
        assert torch.equal(cell(_x(4)), first)
    view = at.program(cell, seed=1).at("1 day")
    assert not torch.allclose(view(_x(4)), view(_x(4)))


@_each
def test_a_mapping_places_both_matrices(name: str) -> None:
    model = at.convert(nn.Sequential(_cells()[name]), lasting.SMALL)
    mapping = at.map_to_chip(model, _x(4), chip=lasting.SMALL)
    assert [m.name for m in mapping.matrices] == ["0.weight_ih", "0.weight_hh"]
    physical = at.program(model, seed=1, mapping=mapping, defects=at.Defects(tiles=1.0))
    assert set(physical.yield_map()) == set(mapping.tile_utilisation)
    assert not any(
        layer.programmed.weights[0].any() for _, layer in at.analog_layers(physical.at("1 h"))
    )


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_inputs_and_states_of_another_shape_are_refused(name: str) -> None:
    cell = at.convert(_cells()[name], lasting.SMALL)
    for shape in ((4, 6), (2, 4, 5)):
        with pytest.raises(
            ValueError, match=r"takes \(N, 5\) inputs, or one sample without N, got shape"
        ):
            cell(torch.zeros(shape))
    for hx in (torch.zeros(3, 6), (torch.zeros(4, 6), torch.zeros(4, 7)), torch.zeros(6)):
        with pytest.raises(ValueError, match=r"takes . states? of shape \(4, 6\), got"):
            cell(_x(4), hx)


def test_types_and_ranges() -> None:
    model = lasting.converted(nn.Sequential(_cells()["lstm"]), _x(4))
    state = model.state_dict()
    assert model.double()(_x(4, dtype=torch.float64))[0].dtype == torch.float64
    assert all(m.weight is model[0]._parameters[m.names.weight] for m in model[0].matrices())
    fresh = at.convert(nn.Sequential(_cells()["lstm"]), lasting.SMALL)
    fresh.load_state_dict(state)
    assert [layer.input_range.item() for _, layer in at.analog_layers(fresh)] == [2.5, 2.5]
    assert at.to_digital(fresh)[0].__class__ is nn.LSTMCell
    with torch.device("meta"):
        empty = nn.Sequential(nn.GRUCell(5, 6))
    assert at.convert(empty, lasting.SMALL).eval()(_x(4).to("meta")).shape == (4, 6)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_copies_reports_and_replay(name: str) -> None:
    digital, x = nn.Sequential(_cells()[name]), _x(4)
    lasting.check_copies(digital, x)
    lasting.check_reports(digital, x, ["0.ih", "0.hh"])
    lasting.check_replay(digital, x)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_checkpoints(name: str, tmp_path: Path) -> None:
    lasting.check_checkpoint(nn.Sequential(_cells()[name]), _x(4), tmp_path)


@pytest.mark.parametrize("name", [pytest.param("rnn", marks=pytest.mark.slow), "gru", "lstm"])
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_compilers(name: str) -> None:
    lasting.check_compilers(nn.Sequential(_cells()[name]), _x(4))
