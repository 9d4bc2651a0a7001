"""The operator of the noise of devices against the methods of cells and devices."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import analogtorch as at
from analogtorch import devices
from analogtorch.chips.tiling import Section, sections
from analogtorch.devices import DifferentialPair, Scaled
from analogtorch.nn.drawn import drawn
from analogtorch.ops import fold, seed_tensor
from analogtorch.ops.device_noise import choice, device_noise, device_noise_of
from analogtorch.ops.formula import record
from analogtorch.ops.instructions import Op
from analogtorch.ops.native import devices as kernel
from analogtorch.ops.native import structures
from tests.crossbar import crossbar

KEY = fold(seed_tensor(3), 11)
DAY = 86_400.0
DEVICES = {
    "pcm_like": devices.pcm_like(),
    "hermes_one_device": devices.hermes_one_device(),
    "hermes_two_device": devices.hermes_two_device(),
    "ideal_device": devices.ideal_device(),
    "pcm_afm": devices.pcm_afm(),
    "pcm_projected": devices.pcm_projected(),
    "state_independent": devices.state_independent(),
    "rram_wan": devices.rram_wan(),
    "rram_cmo": devices.rram_cmo(),
    "rram_milo": devices.rram_milo(),
    "rram_binary": devices.rram_binary(),
    "sonos": devices.sonos(),
    "sonos_held": devices.sonos(drift_until=1400),
    "memcapacitor": devices.memcapacitor(),
    "ecram": devices.ecram(),
    "ecram_metal_oxide": devices.ecram_metal_oxide(),
    "capacitor": devices.capacitor(leak_time=1e5),
    "scaled": Scaled(
        device=devices.pcm_like(), programming_scale=0.5, drift_scale=2.0, read_scale=0.3
    ),
    "scaled_times": Scaled(device=devices.rram_cmo(), drift_scale=0.5, read_scale=2.0),
    "exact_times": Scaled(device=devices.rram_wan(), programming_scale=0.0),
    "no_drift": Scaled(device=devices.pcm_like(), drift_scale=0.0),
    "drift_aware": devices.DriftAware(device=devices.hermes_two_device()),
}
WEIGHTS = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)) / 8
WEIGHTS[:, ::9] = 0.0


def _drawn(
    weight: Tensor,
    section: Section,
    chip: at.Chip,
    t: float | tuple[float | None, ...] | None,
    fast: bool,
    key: Tensor = KEY,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weights drawn by the operator, or by the methods of the cell."""
    moments = t if isinstance(t, tuple) else (t,)
    noise = device_noise_of(chip.cell, moments, chip.periphery.column_calibration)
    assert noise is not None
    return drawn(weight, section, chip, key, 0.7, moments, noise if fast else None)


def _chip(cell: DifferentialPair, **training) -> at.Chip:
    noise = at.TrainingNoise(weight="device", **training)
    return crossbar(array={"rows": 128, "columns": 24}, cell=cell, training=noise)


def _assert_same(found, expected, most: float) -> None:  # type: ignore[no-untyped-def]
    (w, known), (expected_w, expected_known) = found, expected
    assert known.keys() == expected_known.keys()
    assert (w - expected_w).abs().max() < most * expected_w.abs().max()
    for name, tensor in known.items():
        assert torch.allclose(tensor, expected_known[name], rtol=1e-5)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("t", [None, DAY])
def test_calibrated_columns_have_factors_of_their_own(
    t: float | None, calibrated: bool, capability: str
) -> None:
    cell = DifferentialPair(device=DEVICES["hermes_two_device"])
    chip = _chip(cell).replace(periphery={"column_calibration": calibrated})
    (section,) = sections(tuple(WEIGHTS.shape), 1, chip)
    found, expected = (_drawn(WEIGHTS, section, chip, t, fast) for fast in (True, False))
    _assert_same(found, expected, 3e-6)
    different = len(set(found[1]["gain"][0, :24].tolist()))
    assert different == (24 if calibrated else 1)


@pytest.mark.parametrize("t", [None, 1.5 * DAY])
@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.filterwarnings("ignore:.* beyond the device's data:UserWarning")
def test_every_device_is_that_of_its_methods(name: str, t: float | None, capability: str) -> None:
    # the published polynomials of SONOS, of degree 10, cancel four digits of single precision
    most = 2e-4 if name.startswith("sonos") else 3e-6
    for count, split in ((1, "equal"), (2, "equal"), (3, "sequential")):
        cell = DifferentialPair(device=DEVICES[name], devices_per_polarity=count, split=split)  # type: ignore[arg-type]
        chip = _chip(cell)
        (section,) = sections(tuple(WEIGHTS.shape), 1, chip)
        assert kernel.takes(WEIGHTS)
        found, expected = (_drawn(WEIGHTS, section, chip, t, fast) for fast in (True, False))
        _assert_same(found, expected, most)


@pytest.mark.parametrize("t", [None, DAY])
def test_without_kernels_the_operator_runs_its_formulas_on_torch(
    t: float | None, monkeypatch
) -> None:
    chip = _chip(DifferentialPair(device=DEVICES["hermes_one_device"], devices_per_polarity=2))
    (section,) = sections(tuple(WEIGHTS.shape), 1, chip)
    monkeypatch.setattr(kernel, "takes", lambda _: False)
    _assert_same(*(_drawn(WEIGHTS, section, chip, t, fast) for fast in (True, False)), most=3e-6)


def test_on_a_gpu_it_is_one_operator_too() -> None:
    """So torch.compile has one node to follow in place of a thousand."""
    chip = _chip(DifferentialPair(device=devices.pcm_like()))
    (section,) = sections(WEIGHTS.shape, 1, chip)
    known = device_noise_of(chip.cell, (DAY,), calibrated=False)
    called = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(), Seen():
        weight = torch.empty(WEIGHTS.shape, device="cuda")
        key = torch.empty((), dtype=torch.int64, device="cuda")
        found, operands = drawn(weight, section, chip, key, 1.0, (DAY,), known)
    assert found.device.type == operands["gain"].device.type == "cuda"
    assert [name for name in called if name.startswith("analogtorch")] == [
        "analogtorch.device_noise.default"
    ]


def test_of_several_moments_the_key_draws_one(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = (None, DAY, 400 * DAY)
    chip = _chip(DifferentialPair(device=DEVICES["hermes_two_device"]))
    (section,) = sections(tuple(WEIGHTS.shape), 1, chip)
    seen = []
    for word in range(30):
        key = fold(KEY, word)
        seen.append(number := int(choice(key, len(moments))))
        found = _drawn(WEIGHTS, section, chip, moments, True, key)
        alone = _drawn(WEIGHTS, section, chip, moments[number], True, key)
        assert torch.equal(found[0], alone[0])
        assert torch.equal(found[1]["gain"], alone[1]["gain"])
        _assert_same(found, _drawn(WEIGHTS, section, chip, moments, False, key), most=3e-6)
    # 30 fair draws of three leave one of them below 2 in fewer than 1 of 5,000 sets of keys
    assert min(seen.count(number) for number in range(3)) >= 2
    monkeypatch.setattr(kernel, "takes", lambda _: False)
    _assert_same(found, _drawn(WEIGHTS, section, chip, moments, True, key), most=3e-6)


@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
@pytest.mark.parametrize("scale", ["block", "column"])
def test_groups_kernels_and_scales_of_columns(grouped: str, scale: str, capability: str) -> None:
    weight = torch.randn(12, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    chip = _chip(DifferentialPair(device=devices.pcm_like())).replace(
        array={"rows": 40, "columns": 5, "grouped": grouped}, periphery={"weight_scale": scale}
    )
    for section in sections(tuple(weight.shape), 3, chip):
        part = section.weight(weight)
        _assert_same(*(_drawn(part, section, chip, DAY, fast) for fast in (True, False)), most=3e-6)


def test_threads_change_no_bit(capability: str) -> None:
    chip, weight = _chip(DifferentialPair(device=devices.pcm_like())), WEIGHTS.repeat(4, 1)
    (section,) = sections(tuple(weight.shape), 1, chip)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(_drawn(weight, section, chip, DAY, fast=True)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_weights_of_zeros_and_nan(capability: str) -> None:
    weight = torch.zeros(3, 20)
    weight[1, 2], weight[2, 3] = float("nan"), 1.0
    chip = _chip(DifferentialPair(device=devices.pcm_like()))
    (section,) = sections((3, 20), 1, chip.replace(periphery={"weight_scale": "column"}))
    found = _drawn(weight, section, chip, DAY, fast=True)[0]
    assert found[1, 2].isnan()
    assert torch.equal(found[0], weight[0])
    assert found[2].isfinite().all()


def test_the_sign_of_a_zero_changes_nothing(capability: str) -> None:
    # pruned weights, and cells off the diagonal of grouped convolutions, are -0.0
    chip = _chip(DifferentialPair(device=devices.pcm_like()))
    (section,) = sections((3, 20), 1, chip)
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(5))
    weight[:, ::2] = 0.0
    negative = torch.where(weight == 0, -0.0, weight)
    assert negative.signbit().sum() > weight.signbit().sum()
    found = [_drawn(w, section, chip, DAY, fast=True)[0] for w in (weight, negative)]
    assert found[0][:, ::2].abs().max() > 0
    assert torch.equal(*found)


def test_the_gradient_is_that_of_the_value_after_the_compensation() -> None:
    chip = _chip(DifferentialPair(device=devices.pcm_like()))
    (section,) = sections(tuple(WEIGHTS.shape), 1, chip)
    weight, g, found = WEIGHTS.clone().requires_grad_(), torch.randn_like(WEIGHTS), []
    for fast in (True, False):
        (gradient,) = torch.autograd.grad(
            (_drawn(weight, section, chip, DAY, fast)[0] * g).sum(), weight
        )
        found.append(gradient)
    assert torch.allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("cell", [at.chips.hermes64().cell, at.chips.neurram48().cell])
def test_the_operator_is_registered_as_torch_wants(cell: DifferentialPair) -> None:
    chip = _chip(cell, time="1 day")
    (section,) = sections((6, 40), 1, chip)
    noise = device_noise_of(cell, (DAY,), False)
    assert noise is not None
    weight = WEIGHTS[:6, :40].clone().requires_grad_()
    together, where = (0, 6), (0, 0, 1)
    noises = noise.integers, noise.numbers, noise.counts
    given = section.bounds, section.columns, together, where, 1.0, *noises
    operator = torch.ops.analogtorch.device_noise.default
    torch.library.opcheck(
        operator, (weight, KEY, *given), test_utils=("test_schema", "test_faketensor")
    )
    assert torch.equal(
        operator(weight, KEY, *given)[0], device_noise(weight, KEY, section, 1.0, noise)[0]
    )


@dataclasses.dataclass(frozen=True)
class _Own:
    """A device of a user's own."""

    curve: object
    g_min, g_max, valid_until, name = 0.0, 1.0, float("inf"), "own"

    def programming_sigma(self, g: Tensor) -> Tensor:
        return self.curve(g)  # type: ignore[operator]

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        return (g + self.curve(g) * z).clamp_min(0)  # type: ignore[operator]

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        return z

    def drift(self, g: Tensor, nu: Tensor, t: float) -> Tensor:
        return g - 0.01 * nu.square()

    def read(self, then: Tensor, now: Tensor, t: float, z: Tensor) -> Tensor:
        return now


def test_a_device_of_ones_own_is_known_if_its_functions_are(capability: str) -> None:
    own = DifferentialPair(device=_Own(lambda g: 0.1 + 0.2 * torch.sqrt(g)))
    chip = _chip(own)
    (section,) = sections(tuple(WEIGHTS.shape), 1, chip)
    _assert_same(*(_drawn(WEIGHTS, section, chip, DAY, fast) for fast in (True, False)), most=3e-6)
    for curve in (
        torch.sin,
        lambda g: g.mean() + g,
        lambda g: g if g[0] > 0 else -g,
        lambda g: 1 / 0,
    ):
        assert device_noise_of(DifferentialPair(device=_Own(curve)), (DAY,), False) is None


@pytest.mark.parametrize(
    "cell",
    [
        devices.OffsetCell(device=devices.rram_wan()),
        devices.SignificancePairs(device=devices.pcm_like()),
        devices.QuantisedPair(device=devices.pcm_like()),
    ],
)
def test_cells_that_are_no_pair_run_on_torch(cell: at.devices.Cell) -> None:
    assert device_noise_of(cell, (DAY,), False) is None


def test_failed_cells_run_on_torch() -> None:
    chip = _chip(DifferentialPair(device=devices.pcm_like()), drop_connect=0.5)
    (section,) = sections(tuple(WEIGHTS.shape), 1, chip)
    assert (_drawn(WEIGHTS, section, chip, DAY, fast=True)[0] == 0).float().mean() > 0.3


def test_kernels_and_python_number_the_operations_alike() -> None:
    assert tuple(op.name for op in Op) == structures.OPERATIONS


def test_a_formula_is_what_it_was_recorded_from() -> None:
    x = torch.linspace(0.01, 3, 400)
    y = x.flip(0)

    def function(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        r = a / 3
        both = torch.where((a > 0.5) & (b <= 2), torch.lerp(a, b, 0.3), 1 - r)
        return (
            both.masked_fill(a < 0.1, 7.0).clamp(0.2, 4.0),
            (2 * a * b - 1).clamp_max(3.0) + a * a + torch.full_like(a, 2.0),
            torch.pow(1.5, -b) - a.pow(0.7) + b.pow(3) - a**0.5,
            torch.expm1(-r) / (b + 1) + 1 / a + (b - 2).abs() - a.log(),
            torch.where(a >= 1, 2.0, b) + torch.zeros_like(a) - torch.stack((a, b))[1],
        )

    formula = record(function, (None, None))
    assert formula is not None
    for found, expected in zip(formula(x, y), function(x, y), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    fixed = record(lambda a, b: (a * 2 + b, a), (0.5, None))
    assert fixed is not None
    assert fixed.uses == (False, True)
    assert torch.equal(fixed(x, y)[0], 1 + y)
    for unknown in (
        torch.sin,
        lambda a: a.clamp_(0),
        lambda a: torch.randn_like(a),
        lambda a: a @ a,
    ):
        assert record(lambda a, f=unknown: (f(a),), (None,)) is None
