"""Devices, curves and unit cells of a user's own: in chips that compute, and in files."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.devices import Cell, Curve, Device, Polynomial, Spread, register


@register
@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A curve: ``start + slope * r``."""

    start: float
    slope: float

    def __call__(self, r: Tensor) -> Tensor:
        return self.start + self.slope * r


@register
@dataclass(frozen=True, kw_only=True)
class Leaky:
    """A device that loses a share of its conductance with the logarithm of time."""

    name: str = "leaky"
    g_max: float = 30.0
    g_min: float = 0.0
    std: Curve = Ramp(start=0.2, slope=0.4)
    loss: float = 0.005

    @property
    def valid_until(self) -> float:
        return math.inf

    def programming_sigma(self, g: Tensor) -> Tensor:
        return self.std(g / self.g_max)

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        return (g + self.programming_sigma(g) * z).clamp_min(0.0)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        return torch.full_like(g, self.loss)

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        return g_programmed * (1 - nu * math.log10(1 + t))

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        return g_drifted


@register
@dataclass(frozen=True, kw_only=True)
class Offset:
    """A unit cell of one device beside a reference conductance that is half of its range."""

    device: Device
    stuck: float = field(default=0.0, metadata=at.chips.non_ideality("stuck", absent=0.0))
    """An error of every weight."""

    @property
    def devices(self) -> int:
        return 1

    @property
    def g_total(self) -> float:
        return self.device.g_max / 2

    @property
    def spread(self) -> Spread | None:
        return None

    def targets(self, w: Tensor) -> Tensor:
        return ((w + 1) * self.device.g_max / 2).unsqueeze(0)

    def weights(self, g: Tensor) -> Tensor:
        return 2 * g[0] / self.device.g_max - 1 + self.stuck

    def negatives(self, g: Tensor) -> Tensor:
        return torch.ones_like(g[0])

    def programming_sigma(self, w: Tensor) -> Tensor:
        return 2 * self.device.programming_sigma(self.targets(w))[0] / self.device.g_max

    def changes(self, change: Tensor, target: Tensor) -> Tensor:
        return (change * self.device.g_max / 2).unsqueeze(0)

    def enlarged(self, times: int) -> Self:
        raise NotImplementedError


CHIP = at.chips.hermes64().replace(name="mine", cell=Offset(device=Leaky()))


def _model(chip: at.Chip = CHIP) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 3)), chip)


def test_they_keep_the_protocols() -> None:
    assert isinstance(CHIP.cell, Cell)
    assert isinstance(CHIP.cell.device, Device)
    assert isinstance(at.chips.hermes64().cell, Cell)


@pytest.mark.parametrize("method", [None, at.ProgramAndVerify(rounds=3)])
def test_a_chip_of_ones_own_cells_trains_is_programmed_and_evaluated(method) -> None:
    model, x = _model(), torch.randn(64, 40)
    exact = model(x)
    model.train()(x).sum().backward()
    at.calibrate(model.eval(), [x])
    physical = at.program(model, seed=3, method=method)
    for time in ("programmed", "1 day", "1 year"):
        y = physical.at(time)(x)
        assert not torch.equal(y, exact)
        assert (y - exact).norm() < 0.3 * exact.norm()
    found = at.sweep(model, lambda view: view(x).mean().item(), num_chips=2, times=["1 h"])
    assert len(found.seeds) == 2
    assert "tiles of mine at one block per tile" in str(at.summary(model))
    assert at.map_to_chip(model, x[:1]).chip == CHIP.drift_aware()  # calibrate chose that


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_files_hold_what_is_registered(suffix: str, tmp_path: Path) -> None:
    assert at.chips.load(at.chips.save(CHIP, tmp_path / f"mine{suffix}")) == CHIP
    device = dataclasses.replace(at.devices.pcm_like(), programming_std=Ramp(start=0.1, slope=0.0))
    chip = at.chips.hermes64().replace(cell={"device": device})
    assert at.chips.load(at.chips.save(chip, tmp_path / f"other{suffix}")) == chip


def test_checkpoints_and_mappings_hold_it(tmp_path: Path) -> None:
    model, x = _model(), torch.randn(4, 40)
    folder = at.save(model, tmp_path / "model")
    fresh = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 3))
    assert at.load(folder, fresh)[0].chip == CHIP
    mapping = at.map_to_chip(model, x)
    assert at.ChipMapping.from_json(mapping.to_json()) == mapping


def test_their_non_idealities_are_listed_and_switched_off() -> None:
    chip = CHIP.replace(cell={"stuck": 0.1})
    assert chip.non_idealities() == (
        *("dac", "programming_noise", "drift", "stuck", "adc_gain", "adc", "digital_unit"),
    )
    assert chip.without("stuck") == CHIP
    assert "drift" not in CHIP.without("drift").non_idealities()


@dataclass(frozen=True, kw_only=True)
class Unregistered:
    """A curve that no file knows."""

    value: float = 0.1

    def __call__(self, r: Tensor) -> Tensor:
        return torch.full_like(r, self.value)


def test_what_is_not_registered_is_named_when_a_chip_is_saved(tmp_path: Path) -> None:
    chip = CHIP.replace(cell={"device": Leaky(std=Unregistered())})
    _model(chip)  # which needs no file
    path = tmp_path / "mine.json"
    with pytest.raises(
        TypeError,
        match=r"chip.cell.device.std is Unregistered\(value=0.1\).*"
        r"analogtorch.devices.register\(Unregistered\)",
    ):
        at.chips.save(chip, path)
    assert not path.exists()


def test_a_file_of_a_class_that_is_not_imported_says_so(tmp_path: Path) -> None:
    path = at.chips.save(CHIP, tmp_path / "mine.json")
    path.write_text(path.read_text().replace('"Leaky"', '"Leakier"'))
    with pytest.raises(
        ValueError, match="unknown type 'Leakier', did you mean 'Leaky'.*once its module"
    ):
        at.chips.load(path)


def test_names_are_given_once_and_only_to_frozen_dataclasses() -> None:
    own = type("PCM", (), {"__annotations__": {"value": float}, "__module__": __name__})
    with pytest.raises(ValueError, match=r"'PCM' is the name of analogtorch.devices.pcm.PCM in"):
        register(dataclass(frozen=True)(own))
    with pytest.raises(ValueError, match=r"'ADC' is the name of analogtorch.chips.converters.ADC"):
        register(dataclass(frozen=True)(type("ADC", (), {"__module__": __name__})))
    for thing in (own, dataclass(own), 3, Ramp(start=0.0, slope=0.0), lambda r: r):
        with pytest.raises(TypeError, match=r"register: give a class made by @dataclass\(frozen"):
            register(thing)
    assert register(Ramp) is Ramp  # again, as when a notebook's cell runs twice
    assert at.devices.registered()["Polynomial"] is Polynomial


def test_fields_that_cannot_be_given_are_refused() -> None:
    @dataclass(frozen=True)
    class Derived:
        value: float = field(init=False, default=1.0)

    with pytest.raises(TypeError, match=r"Derived has fields that cannot be given"):
        register(Derived)


def test_what_a_cell_lacks_is_named() -> None:
    class Half:
        device, devices = Leaky(), 1

        def targets(self, w: Tensor) -> Tensor:
            return w

    with pytest.raises(
        TypeError,
        match=r"Chip.cell: Half lacks weights, negatives, programming_sigma, changes, enlarged, "
        "g_total, spread, which every unit cell has: see analogtorch.devices.Cell",
    ):
        CHIP.replace(cell=Half())
    with pytest.raises(TypeError, match="Chip.cell must be a unit cell such as.*call it"):
        CHIP.replace(cell=Offset)
    with pytest.raises(TypeError, match=r"Offset.device must be a device such as"):
        CHIP.replace(cell=Offset(device="pcm"))
