"""Currents that bend over the voltage of the inputs."""

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.devices import Polynomial
from analogtorch.ops import Plan, mvm

MILO = at.chips.IVCurve(**at.devices.milo_curves(), read_voltage=0.3)
PLAIN = at.Chip(
    name="milo",
    array=at.chips.Array(rows=16, columns=12, tiles=20),
    dac=at.chips.DAC(bits=None, encoding="amplitude"),
    cell=at.devices.DifferentialPair(device=at.devices.rram_milo()),
    adc=at.chips.ADC(),
)
CURVED = PLAIN.replace(iv=MILO)


def _view(chip: at.Chip, layer: nn.Module) -> nn.Module:
    model = at.convert(nn.Sequential(layer), chip, embeddings=True)
    view = at.program(model, seed=3).at("programmed")[0]
    if not isinstance(layer, nn.Embedding):
        view.set_input_range(2.0)
    return view


def test_the_curves_of_milo_are_its_current() -> None:
    g = torch.linspace(50, 225, 40, dtype=torch.float64)
    volt = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64).unsqueeze(1)
    r, curves = g / 225, at.devices.milo_curves()
    found = 225 * (r * volt + curves["square"](r) * volt**2 + curves["cube"](r) * volt**3)
    assert torch.allclose(found, at.devices.milo_current(g, volt), rtol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "by block", "convolution", "embedding"])
def test_a_partial_sum_is_that_of_the_currents_of_its_devices(kind: str) -> None:
    torch.manual_seed(0)
    digital, x = {
        "linear": (nn.Linear(40, 20, bias=False), torch.randn(9, 40)),
        "by block": (nn.Linear(40, 20, bias=False), torch.randn(9, 40)),
        "convolution": (nn.Conv2d(4, 20, 3, bias=False), torch.randn(2, 4, 5, 5)),
        "embedding": (nn.Embedding(40, 20), torch.arange(40)),
    }[kind]
    chip = CURVED.without("programming_noise")
    view, straight = _view(chip, digital), _view(chip.without("iv_curve"), digital)
    full = torch.tensor(1.0 if kind == "embedding" else 2.0)
    if kind == "by block":
        ranges = [2.0, 1.5, 1.0]
        view.set_input_range(ranges)
        full = torch.tensor(ranges).repeat_interleave(torch.tensor([16, 16, 8]))
    x = x.clamp(-full, full) if kind != "embedding" else x
    held = view.programmed
    scale = torch.cat(
        [
            held.scales[0][b].repeat(n, 1)
            for b, n in enumerate(
                [
                    b - a
                    for a, b in zip(
                        view.sections[0].bounds, view.sections[0].bounds[1:], strict=False
                    )
                ]
            )
        ]
    ).T
    w = held.weights[0].flatten(1) / scale
    targets = chip.cell.targets(w)  # conductances of the two devices, uS

    def current(volt: torch.Tensor) -> torch.Tensor:
        both = at.devices.milo_current(targets.unsqueeze(-3), volt.unsqueeze(-2))
        return (both[0] - both[1]) / (225 - 50) * scale / 0.3

    if kind == "embedding":
        expected = current(torch.full((1, 40), 0.3))[0].T
        assert torch.allclose(view(x), expected, atol=1e-4)
        return
    rows = x if kind != "convolution" else nn.functional.unfold(x, 3).mT.flatten(0, 1)
    expected = (current(0.3 * rows / full) * full).sum(-1)
    found = view(x) if kind != "convolution" else view(x).flatten(2).mT.flatten(0, 1)
    assert torch.allclose(found, expected, atol=1e-3)
    assert not torch.allclose(view(x), straight(x), atol=1e-2)


def test_devices_that_conduct_nothing_have_no_curve_and_defects_and_times_are_seen() -> None:
    torch.manual_seed(0)
    pcm = at.chips.hermes64().replace(
        dac={"encoding": "amplitude", "lsb_time": None},
        iv={"square": Polynomial(coefficients=(0.4,)), "read_voltage": 0.4},
    )
    model = at.convert(nn.Sequential(nn.Linear(64, 30)), pcm)
    physical = at.program(model, seed=1, defects=at.Defects(cells=0.3))
    now, later = (physical.at(t)[0].programmed for t in ("programmed", "1 day"))
    gone = now.weights[0] == 0
    assert gone.any()
    assert not now.curvatures[0][:, gone].any()
    assert not now.curvatures[0][1].any()  # no cube
    assert now.curvatures[0][0].any()
    assert later.curvatures is not None


def test_gains_of_rows_act_on_the_voltage() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 12)
    even, uneven = (_view(CURVED.replace(dac={"gain_std": s}), layer).programmed for s in (0, 0.1))
    gain = uneven.weights[0] / even.weights[0]
    for power, a, b in zip((2, 3), even.curvatures[0], uneven.curvatures[0], strict=True):
        assert torch.allclose(b, a * gain**power, rtol=1e-3, atol=1e-6)


def test_training_and_evaluation_are_straight_and_files_keep_it(tmp_path) -> None:
    outputs = []
    for chip in (PLAIN, CURVED):
        torch.manual_seed(0)
        layer, x = at.convert(nn.Linear(20, 8), chip), torch.ones(2, 20)
        with at.noise(1):
            outputs.append((layer(x), layer.eval()(x)))
    assert all(map(torch.equal, *outputs))
    at.chips.save(CURVED, tmp_path / "chip.json")
    assert at.chips.load(tmp_path / "chip.json") == CURVED
    assert CURVED.without("iv_curve").iv == at.chips.IVCurve(read_voltage=0.3)
    assert "iv_curve" in CURVED.non_idealities()
    r = torch.linspace(0.3, 1, 5)
    assert torch.allclose(CURVED.scaled(iv_curve=2).iv.square(r), 2 * MILO.square(r))


WRONG = {
    "pulses": (
        {"dac": {"encoding": "pulse_width"}},
        r"it needs dac=\{'encoding': 'amplitude'\}, got 'pulse_width'",
    ),
    "unstated": ({"dac": {"encoding": None}}, "got None"),
    "wires": ({"wires": {"row_resistance": 1.0}}, "Chip.iv and Chip.wires exclude each other"),
    "voltage": ({"iv": {"read_voltage": None}}, "read_voltage must be the voltage of a full-scale"),
    "curve": (
        {"iv": {"square": Polynomial(coefficients=(3e38, 3e38, 3e38))}},
        "IVCurve.square must be finite",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        CURVED.replace(**changes)


def test_separate_polarities_and_wrong_shapes_are_refused() -> None:
    hermes = at.chips.hermes64().replace(dac={"encoding": "amplitude", "lsb_time": None})
    with pytest.raises(ValueError, match="that of both polarities together"):
        hermes.replace(iv=MILO, adc={"separate_phases": True})
    x, w = torch.randn(2, 8), torch.randn(4, 8)
    for plan, wrong in (
        (Plan(bounds=(0, 8)), torch.zeros(2, 4, 7)),
        (Plan(bounds=(0, 8), phases=4), torch.zeros(2, 4, 8)),
    ):
        with pytest.raises(ValueError, match=r"curvatures must be torch.float32 \(2, 4, 8\)"):
            mvm(x, torch.ones(1), w, plan, curvatures=wrong)


def test_devices_at_0_conduct_nothing_whatever_their_curves_are_there() -> None:
    cell = at.devices.DifferentialPair(device=at.devices.ideal_device())
    bend = at.chips.IVCurve(square=Polynomial(coefficients=(0.5,)), read_voltage=1.0)
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)  # one device at g_max, and the other at 0
    view = _view(PLAIN.replace(cell=cell, iv=bend), layer)
    view.set_input_range(1.0)
    assert view(torch.ones(1, 1)).item() == pytest.approx(1 + 0.5, rel=1e-4)
