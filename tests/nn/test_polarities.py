"""Chips of 4 separate phases whose cells conduct in both polarities: references, empty devices."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.devices import (
    DifferentialPair,
    OffsetCell,
    QuantisedPair,
    SignificancePairs,
    hermes_two_device,
)
from tests.crossbar import crossbar
from tests.nn.test_phases import _kinds, _run

CONDUCTS = dataclasses.replace(hermes_two_device(), g_min=8.0)
CELLS = {
    "reference": OffsetCell(device=hermes_two_device()),
    "column of references": OffsetCell(device=CONDUCTS, reference="column"),
    "empty devices": DifferentialPair(device=CONDUCTS),
    "several empty devices": DifferentialPair(
        device=CONDUCTS, devices_per_polarity=2, split="sequential"
    ),
    "significance pairs": SignificancePairs(device=CONDUCTS),
}
"""Cells that hold something in both polarities."""
NOISELESS = at.TrainingNoise(weight="none", output=False)


def _chip(cell: at.devices.Cell, **parts: object) -> at.Chip:
    """Return a chip of 4 separate phases without errors of devices and without noise."""
    chip = crossbar(
        array={"rows": 24, "columns": 7},
        adc={"noise": 0.0, "separate_phases": True},
        cell=cell,
        training=NOISELESS,
    )
    return chip.without("programming_noise", "drift", "read_noise").replace(**parts)


def _far(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("scale", ["block", "column"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", _kinds())
def test_a_layer_reads_the_polarities_of_a_chip_without_errors(
    kind: str, cell: str, scale: str
) -> None:
    digital, arguments = _kinds()[kind]
    model = at.convert(
        digital, _chip(CELLS[cell], periphery={"weight_scale": scale}), embeddings=True
    )
    with torch.no_grad():
        evaluated = _run(model.eval(), arguments)
        physical = _run(at.program(model, seed=3).at("0 s", compensation="none"), arguments)
        trained = _run(model.train(), arguments)
    # sums at a step of the ADC may fall on either side
    assert _far(evaluated, physical) < 0.02
    assert ((evaluated - physical).abs() > 1e-4 * physical.abs().max()).double().mean() < 0.1
    assert torch.equal(trained, evaluated)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "slices",
    [{"weight_bits": 6, "bits_per_slice": 2}, {"bits_per_pulse": 2}],
    ids=["weights", "inputs"],
)
def test_slices_have_the_polarities_of_their_cells(cell: str, slices: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Linear(40, 9), _chip(CELLS[cell], slices=slices)).eval()
    x = torch.randn(50, 40)
    with torch.no_grad():
        physical = at.program(model, seed=3).at("0 s", compensation="none")(x)
        assert _far(model(x), physical) < 0.02


@pytest.mark.parametrize("weight", ["none", "programming", "gaussian", "device"])
@pytest.mark.parametrize("cell", CELLS)
def test_noise_of_training_is_that_of_one_adc_output(cell: str, weight: str) -> None:
    """Without an ADC, the phases add up to the same sums, and have the same gradients."""
    torch.manual_seed(0)
    found = []
    digital, x = nn.Linear(30, 9), torch.randn(20, 30)
    scale = 0.05 if weight == "gaussian" else None
    noise = at.TrainingNoise(weight=weight, scale=scale, output=False)
    for separate in (True, False):
        adc = {"bits": None, "separate_phases": separate}
        chip = crossbar(cell=CELLS[cell], training=noise).replace(adc=adc)
        model = at.convert(copy.deepcopy(digital), chip).train()
        with at.noise(1):
            y = model(x)
        y.square().sum().backward()
        found.append((y.detach(), model.weight.grad))
    for apart, at_once in zip(*found, strict=True):
        assert torch.allclose(apart, at_once, rtol=1e-3, atol=1e-3 * at_once.abs().max().item())


def test_training_clips_what_the_chip_clips() -> None:
    torch.manual_seed(0)
    digital, x = nn.Linear(24, 7, bias=False), torch.rand(20, 24)
    y = {}
    for bound in (2.0, 40.0):
        chip = _chip(CELLS["reference"], adc={"range": bound})
        model = at.convert(copy.deepcopy(digital), chip).train()
        model.set_input_range(1.0)
        model(x).sum().backward()
        y[bound] = model.weight.grad.abs().sum().item()
    assert y[2.0] == 0  # the reference alone adds up to 12
    assert y[40.0] > 0


@pytest.mark.parametrize("model_of_wires", ["ladder", "standard", "pulses"])
def test_empty_devices_lose_in_the_wires(model_of_wires: str) -> None:
    torch.manual_seed(0)
    wires = {"column_resistance": 20.0, "model": model_of_wires}
    chip = _chip(CELLS["empty devices"], wires=wires, array={"rows": 64, "columns": 16})
    model = at.convert(nn.Linear(60, 9), chip)
    model.set_input_range(1.0)
    x = torch.rand(50, 60).mul(2).sub(1)
    with torch.no_grad():
        trained = model.train()(x)
        physical = at.program(model.eval(), seed=3).at("0 s", compensation="none")(x)
        ideal = model(x)
    assert _far(trained, physical) < 0.02
    assert _far(ideal, physical) > 0.03


def test_a_pair_that_conducts_in_one_polarity_reads_as_before() -> None:
    for cell in (
        DifferentialPair(device=hermes_two_device()),
        QuantisedPair(device=hermes_two_device()),
    ):
        model = at.convert(nn.Linear(30, 9), _chip(cell))
        assert not any(execution.negatives for execution in model.executions)
    model = at.convert(nn.Linear(30, 9), _chip(CELLS["reference"], adc={"separate_phases": False}))
    assert not any(execution.negatives for execution in model.executions)


def test_exported_layers_read_both_polarities() -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 30)
    for cell in CELLS.values():
        model = at.convert(nn.Sequential(nn.Linear(30, 9)), _chip(cell)).eval()
        with torch.no_grad():
            exported = torch.export.export(model, (x,)).module()
            assert torch.allclose(exported(x), model(x), atol=1e-5)
