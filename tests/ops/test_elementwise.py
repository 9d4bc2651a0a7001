"""The physics of programmed cells by the kernel against the methods of cells and devices."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import analogtorch as at
from analogtorch import devices
from analogtorch.chips.tiling import sections
from analogtorch.devices.cell import Cell, is_signed
from analogtorch.devices.drift_aware import bare
from analogtorch.ops import Noise, fold, normal, seed_tensor
from analogtorch.ops.elementwise import elementwise
from analogtorch.ops.native import elementwise as kernel
from analogtorch.simulate.cell_life import CellMethod, Draws, Programming, Reading
from analogtorch.simulate.faults import CODES, FAULTS
from analogtorch.simulate.stuck import Broken
from tests.crossbar import crossbar
from tests.devices.test_cells import SLICED, _shipped

DAY = 86_400.0
W = (torch.randn(40, 300, generator=torch.Generator().manual_seed(0)) / 3).clamp(-1, 1)
W[:, ::9] = 0.0


class _Life:
    """Cells of one kind that are programmed, and read after a day, by the kernel and by torch."""

    def __init__(
        self, cell: Cell, temperature: float | None = None, defects: at.Defects | None = None
    ) -> None:
        self.cell, self.temperature = cell, temperature
        self.broken = None if defects is None else Broken(defects, cell.device)
        of_devices, generator = (cell.devices, *W.shape), torch.Generator().manual_seed(1)
        codes = torch.randint(len(FAULTS) + 1, of_devices, generator=generator)
        works = torch.rand(of_devices, generator=generator) < 0.5
        self.codes = codes.masked_fill(works, 0).float()
        self.levels = torch.rand(of_devices, generator=generator)
        chip = crossbar(array={"rows": 512, "columns": 64})
        self.thermal = chip.replace(thermal={"activation_energy": 0.2}).thermal
        (section,) = sections(tuple(W.shape), 1, chip)
        self.draws = Draws(cell, section, "layer", 3, W.device)
        self.w = W if is_signed(cell) else W.abs()

    def programmed(self, part: slice = slice(0, 40)) -> tuple[Tensor, Tensor]:
        draws, faults = self.draws.of(part, Noise.PROGRAMMING), ()
        if self.broken is not None:
            levels = self.levels[:, part] if self.broken.defects.on_level < 1 else ()
            faults = (*self.codes[:, part], *levels)
        programming = Programming(self.cell, self.broken)
        return self._both(programming, (self.w[part], *faults), draws, self.cell.devices)

    def read(
        self, g: Tensor, method: CellMethod | None = None, part: slice = slice(0, 40)
    ) -> tuple[Tensor, Tensor]:
        drifting, codes = bare(self.cell.device), () if self.broken is None else self.codes[:, part]
        reading = Reading(
            self.cell, drifting, self.thermal, DAY, self.temperature, method, self.broken
        )
        draws = self.draws.of(part, Noise.DRIFT) + self.draws.of(part, Noise.READ, str(DAY))
        results = self.cell.devices if method is None else 1
        return self._both(reading, (self.w[part], *g[:, part], *codes), draws, results)

    def _both(
        self, function: Callable, numbers: tuple[Tensor, ...], draws: list, results: int
    ) -> tuple[Tensor, Tensor]:
        """Return what the kernel gives, and what the function does."""
        found = torch.full((results, *numbers[0].shape), torch.nan)
        assert elementwise(function, numbers, draws, found)
        expected = function(*numbers, *self.draws.normals(draws))
        return found, expected if isinstance(expected, Tensor) else torch.stack([*expected])


@pytest.mark.filterwarnings("ignore:.* beyond the device's data:UserWarning")
@pytest.mark.parametrize("kind", SLICED)
def test_every_cell_of_every_device_is_that_of_its_methods(kind: str, capability: str) -> None:
    for name, device in _shipped(kind).items():
        # the published polynomials of SONOS, of degree 10, cancel four digits of single precision
        most = 5e-4 if name.startswith("sonos") else 2e-5
        life = _Life(SLICED[kind](device), temperature=320.0)
        g, expected = life.programmed()
        assert (g - expected).abs().max() < most * expected.abs().max()
        for method in (None, "weights", "negatives"):
            found, expected = life.read(g, method)
            assert (found - expected).abs().max() < most * max(1.0, expected.abs().max()), name


@pytest.mark.parametrize("kind", SLICED)
@pytest.mark.parametrize("on", [{}, {"on_level": 0.2, "on_drifts": True}])
def test_broken_devices_leave_no_kernel(kind: str, on: dict[str, Any], capability: str) -> None:
    defects = at.Defects(stuck_on=0.1, stuck_off=0.1, off_level=0.3, **on)
    lives = [
        _Life(SLICED[kind](devices.hermes_one_device()), 320.0, each) for each in (None, defects)
    ]
    (whole, _), (g, expected) = (life.programmed() for life in lives)
    assert (g - expected).abs().max() < 2e-5 * expected.max()
    works = lives[1].codes == 0
    alone = kind != "significances"  # in which devices know of broken ones before them
    if alone:
        assert torch.equal(g[works], whole[works])
    stuck = lives[1].codes == CODES["stuck_off"]
    assert torch.equal(g[stuck], torch.full_like(g[stuck], 0.3 * lives[0].cell.device.g_max))
    (whole, _), (found, expected) = lives[0].read(g), lives[1].read(g)
    assert (found - expected).abs().max() < 2e-5 * expected.max()
    if alone:
        assert (found - whole)[works].abs().max() < 1e-6 * expected.max()
    for method in ("weights", "negatives"):
        found, expected = lives[1].read(g, method)
        assert (found - expected).abs().max() < 2e-5 * max(1.0, expected.abs().max())


def test_devices_that_change_another_are_known_too(capability: str) -> None:
    for device in (
        devices.Scaled(device=devices.pcm_like(), programming_scale=0.5, read_scale=2.0),
        devices.Scaled(device=devices.pcm_like(), drift_scale=0.0),
        devices.DriftAware(device=devices.hermes_two_device()),
    ):
        life = _Life(devices.DifferentialPair(device=device))
        g, expected = life.programmed()
        assert (g - expected).abs().max() < 2e-5 * expected.max()
        found, expected = life.read(g)
        assert (found - expected).abs().max() < 2e-5 * expected.max()


def test_a_run_of_outputs_is_that_of_all_to_the_bit(capability: str) -> None:
    life = _Life(devices.DifferentialPair(device=devices.hermes_two_device()))
    g, _ = life.programmed()
    whole, _ = life.read(g, "weights")
    for part in (slice(0, 1), slice(3, 20), slice(39, 40)):
        assert torch.equal(life.programmed(part)[0], g[:, part])
        assert torch.equal(life.read(g, "weights", part)[0], whole[:, part])


@pytest.mark.parametrize("columns", [1, 7, 16, 100, 127, 128, 255, 256, 257, 600])
def test_rows_of_any_width(columns: int, capability: str) -> None:
    x, draw = torch.linspace(1, 2, 5 * columns).view(5, columns), _draw(5)
    out = torch.full((3, 5, columns), torch.nan)
    assert elementwise(_three, (x, x + 1), (draw,), out)
    z = normal(*draw, columns)
    torch.testing.assert_close(out, torch.stack((x * z, x - 1, x + 1 + z)), rtol=1e-5, atol=1e-6)


def test_what_the_kernel_does_not_know_is_left_to_torch() -> None:
    x, out = torch.ones(2, 3), torch.zeros(1, 2, 3)
    assert not elementwise(torch.sin, (x,), (), out)
    assert not elementwise(_negative, (x.double(),), (), out.double())
    assert not elementwise(_negative, (x[:0],), (), out[:, :0])
    assert not out.any()
    assert elementwise(_negative, (x,), (), out)
    assert torch.equal(out, -torch.ones(1, 2, 3))


def test_without_kernels_it_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 3)
    monkeypatch.setattr(kernel.loading, "available", lambda: False)
    assert not elementwise(_negative, (x,), (), torch.zeros(1, 2, 3))


def test_the_logarithm_of_a_negative_number_is_no_number(capability: str) -> None:
    x = torch.tensor([[-1.0, -1e-40, 0.0, 1.0]])
    out = torch.zeros(2, 1, 4)
    assert elementwise(_roots, (x,), (), out)
    assert out[0].isnan().tolist() == [[True, True, False, False]]
    assert out[1, 0, 2:].tolist() == [0.0, 1.0]


def _draw(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return fold(seed_tensor(1), 5), torch.arange(rows) + 7, torch.arange(rows) * 1000


def _three(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x * z, y - 2, y + z


def _negative(x: Tensor) -> tuple[Tensor]:
    return (-x,)


def _roots(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.log(), x.pow(0.3)


def _stacked(g: Tensor, z: Tensor) -> Tensor:
    both = torch.stack((g, z)) + torch.stack((z, z))
    return both[0] - both[1]


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "equal": lambda g, z: torch.where(g == 0, z, g),
    "equal, as a factor": lambda g, z: g + 3.0 * (g == 0),
    "not equal": lambda g, z: g.masked_fill(g != 0, 5.0) + z,
    "not equal, as a factor": lambda g, z: g + z * (g != 0),
    "method where": lambda g, z: g.where(g > 0.1, z),
    "conditions in common": lambda g, z: torch.where((g > 0.1) & (z < 0), g, 0.0),
    "factors": lambda g, z: (g > 0.1) * z,
    "expm1 of small numbers": lambda g, z: 1e6 * torch.expm1(1e-6 * g),
    "expm1": lambda g, z: torch.expm1(5 * g),
}
UNKNOWN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum of conditions": lambda g, z: ((g > 0.1) + (z > 0)) * 5.0,
    "sum of stacks": _stacked,
    "stacks twice": lambda g, z: (2 * torch.stack((g, z)))[1],
    "bounds in the other order": lambda g, z: g.clamp(0.5, 0.2),
    "decides by numbers": lambda g, z: g if g == 0 else z,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_kernel_computes_what_torch_does(name: str, capability: str) -> None:
    draw = _draw(len(W))
    g, z = W, normal(*draw, W.shape[1])
    found = torch.full((1, *g.shape), torch.nan)
    assert elementwise(lambda *x: (FUNCTIONS[name](*x),), (g,), [draw], found)
    torch.testing.assert_close(found[0], FUNCTIONS[name](g, z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_kernel_leaves_to_torch_what_it_would_compute_otherwise(name: str) -> None:
    found = torch.full((1, *W.shape), torch.nan)
    assert not elementwise(lambda *x: (UNKNOWN[name](*x),), (W,), [_draw(len(W))], found)
    assert found.isnan().all()


def test_the_kernel_gives_as_many_results_as_there_are() -> None:
    found = torch.full((2, *W.shape), torch.nan)
    assert not elementwise(lambda g, z: (g + z,), (W,), [_draw(len(W))], found)
    assert found.isnan().all()
