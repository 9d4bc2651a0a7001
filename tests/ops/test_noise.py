"""Fixed seeds; bounds in standard errors, 4.5 of which chance passes 1 time in 150,000."""

import math

import numpy as np
import pytest
import torch

from analogtorch.ops import (
    Noise,
    constants,
    draw_keys,
    fold,
    happens,
    normal,
    random_bits,
    seed_number,
    seed_tensor,
    stream,
)
from analogtorch.ops.generator import normal_reference

SIGMAS = 4.5


def _key(seed: int = 0, name: str = "layer") -> torch.Tensor:
    return fold(seed_tensor(seed), stream(Noise.TRAINING, name))


def _from_zero(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(rows), torch.zeros(rows, dtype=torch.int64)


def _field(key: torch.Tensor, rows: int = 1024, cols: int = 1024) -> torch.Tensor:
    return normal(key, *_from_zero(rows), cols).double()


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return a correlation in standard errors of independent standard normals."""
    return (a * b).mean().item() * math.sqrt(a.numel())


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1])
def test_moments_to_fourth_order(seed: int) -> None:
    z = _field(_key(seed))
    n = z.numel()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = (z.pow(power).mean().item() - expected) / math.sqrt(variance / n)
        assert abs(error) < SIGMAS, (power, error)


def test_tails_hold_as_many_as_they_should() -> None:
    z = torch.cat([_field(_key(seed)).flatten() for seed in range(4)])
    for cut in (1.0, 2.0, 3.0, 4.0, 4.7):
        p = math.erfc(cut / math.sqrt(2))
        expected = p * z.numel()
        assert abs(int((z.abs() > cut).sum()) - expected) < SIGMAS * math.sqrt(expected), cut


def test_bits_are_balanced_and_independent() -> None:
    bits = random_bits(_key(3), *_from_zero(512), 2048)
    planes = torch.stack([((bits >> i) & 1).flatten().float() * 2 - 1 for i in range(32)])
    together = planes @ planes.T / math.sqrt(planes.shape[1])
    together.fill_diagonal_(0)
    assert (planes.mean(1) * math.sqrt(planes.shape[1])).abs().max() < SIGMAS
    assert together.abs().max() < SIGMAS


@pytest.mark.parametrize("step", [1, 2, 3, 16, 64, 256])
def test_neighbouring_positions_are_independent(step: int) -> None:
    z = _field(_key(5))
    for field in (z, z.square() - 1, z.abs() - math.sqrt(2 / math.pi)):
        unit = field / field.std()
        assert abs(_correlation(unit[:, step:], unit[:, :-step])) < SIGMAS
        assert abs(_correlation(unit[step:], unit[:-step])) < SIGMAS


def test_seeds_streams_and_kinds_are_independent() -> None:
    keys = [
        fold(seed_tensor(s), stream(k, n))
        for s in (0, 1, 2)
        for k in (Noise.READ, Noise.DRIFT)
        for n in ("a", "b")
    ]
    fields = torch.stack([_field(k, 256, 1024).flatten() for k in keys])
    together = fields @ fields.T / math.sqrt(fields.shape[1])
    together.fill_diagonal_(0)
    assert together.abs().max() < SIGMAS


def test_streams_are_no_permutations_of_each_other() -> None:
    a, b = (random_bits(_key(0, name), *_from_zero(1), 2**16).flatten() for name in "ab")
    # two independent sets of 2^16 of 2^32 numbers share one on average
    assert len(set(a.tolist()) & set(b.tolist())) < 12


@pytest.mark.parametrize("draw", [random_bits, normal])
def test_a_part_is_a_slice_of_the_whole(draw) -> None:
    key = _key(9)
    whole = draw(key, *_from_zero(64), 100)
    part = draw(key, torch.arange(10, 21), torch.full((11,), 37), 53)
    assert torch.equal(part, whole[10:21, 37:90])
    scattered = draw(key, torch.tensor([5, 63, 5]), torch.tensor([1, 0, 97]), 3)
    assert torch.equal(scattered, torch.stack([whole[5, 1:4], whole[63, :3], whole[5, 97:]]))


def test_numbers_are_pinned() -> None:
    # the definition in the docstring, in plain Python integers
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        x = (x ^ x >> 27) * 0x94D049BB133111EB & 2**64 - 1
        return x ^ x >> 31

    def fold_int(key: int, word: int) -> int:
        return mix(mix(key + word * 0x9E3779B97F4A7C15 & 2**64 - 1) + key & 2**64 - 1)

    def bits(key: int, row: int, col: int) -> int:
        word = fold_int(key, row)
        a, b = word & 2**32 - 1, word >> 32
        x = col * (b | 1) + a & 2**32 - 1
        x = (x ^ x >> 16) * 0x21F0AAAD & 2**32 - 1
        x = (x ^ x >> 15 ^ b) * 0xD35A2D97 & 2**32 - 1
        return x ^ x >> 15

    key = fold_int(7, 12345)
    ours = random_bits(fold(seed_tensor(7), 12345), torch.arange(5), torch.full((5,), 70000), 3)
    assert [[b & 2**32 - 1 for b in row] for row in ours.tolist()] == [
        [bits(key, row, col) for col in range(70000, 70003)] for row in range(5)
    ]


@pytest.mark.parametrize("draw", [normal_reference, normal])
def test_normals_are_the_inverse_distribution_of_the_bits(draw) -> None:
    key, positions = _key(2), (*_from_zero(256), 4096)
    bits = random_bits(key, *positions).double()
    exact = torch.special.ndtri((torch.where(bits < 0, bits + 2**31, bits) + 0.5) / 2**32)
    exact = torch.where(bits < 0, exact, -exact)
    assert torch.allclose(draw(key, *positions).double(), exact, atol=2e-6, rtol=0)


def test_normals_of_the_extreme_bits() -> None:
    twice_tail = torch.tensor([0.5, 1.5, 2**31 - 0.5], dtype=torch.float64) * 2.0**-31
    exact = -torch.special.ndtri(twice_tail / 2)
    t = (
        torch.sqrt(constants.LOG_OFFSET - torch.log(twice_tail)) * constants.SLOPE
        + constants.OFFSET
    )
    z = sum(c * t**i for i, c in enumerate(constants.INVERSE))
    assert torch.allclose(z, exact, atol=1.2e-6, rtol=0)
    assert exact[0] > 6.3


def test_stream_names_do_not_run_together() -> None:
    assert stream("ab", "c") != stream("a", "bc")
    assert stream("layer", 1) != stream("layer", "1")


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_seed_outside_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must lie in"):
        seed_tensor(seed)


def test_a_seed_of_numpy_is_pythons_own() -> None:
    assert seed_tensor(np.int64(-7)).item() == -7
    assert type(seed_number(np.uint8(7))) is int


@pytest.mark.parametrize("seed", [1.0, "7", None, True, np.True_, np.float32(1)])
def test_seed_of_another_type_is_refused(seed: object) -> None:
    with pytest.raises(TypeError, match="seed must be an integer"):
        seed_tensor(seed)  # type: ignore[arg-type]


def test_draw_keys_follows_manual_seed() -> None:
    torch.manual_seed(11)
    first, second = draw_keys(torch.zeros(2), (1, 2)), draw_keys(torch.zeros(2), (1, 2))
    torch.manual_seed(11)
    assert torch.equal(draw_keys(torch.zeros(2), (1, 2)), first)
    assert torch.equal(draw_keys(torch.zeros(2), (1, 2)), second)
    assert len(torch.cat([first, second]).unique()) == 4
    torch.manual_seed(11)
    # a key does not depend on the others
    assert torch.equal(draw_keys(torch.zeros(2), (2,)), first[1:])


def test_draw_keys_is_a_well_formed_op() -> None:
    torch.library.opcheck(torch.ops.analogtorch.draw_keys.default, (torch.zeros(2), [1, 2]))


@pytest.mark.parametrize("probability", [0.0, 0.01, 0.5, 1 - 1e-12])
def test_events_happen_with_their_probability(probability: float) -> None:
    rows = torch.arange(256)
    found = happens(fold(seed_tensor(1), 2), rows, torch.zeros_like(rows), 256, probability)
    assert found.dtype == torch.bool
    assert (
        abs(found.float().mean() - probability)
        <= 4.5 * (probability * (1 - probability) / found.numel()) ** 0.5
    )
    part = happens(fold(seed_tensor(1), 2), rows[7:9], torch.full((2,), 5), 10, probability)
    assert torch.equal(part, found[7:9, 5:15])
