"""Zero-forcing detection of massive MIMO: the bit error rate of float32 within three passes."""

from pathlib import Path

import pytest
import torch

import analogtorch as at
from benchmarks.solver.__main__ import main
from benchmarks.solver.mimo import analog, bit_errors, digital, equations, receive


def test_detection_without_noise_finds_what_was_sent() -> None:
    given = receive(16, 4, 256, 200.0, 20, seed=0)
    assert bit_errors(given, digital(given)).sum() == 0
    assert bit_errors(given, 0 * digital(given)).mean() > 0.2
    assert equations(given)[0].shape == (20, 4, 4)


@pytest.mark.parametrize(
    ("antennas", "users", "order", "decibels"), [(128, 8, 64, 10.0), (16, 4, 256, 24.0)]
)
def test_bit_error_rate_of_float32_within_three_passes(
    antennas: int, users: int, order: int, decibels: float
) -> None:
    """Published arrays of 3 bits, as Zuo 2025 reports for three iterations.

    Channels and noise are the same for both: three bits in ten thousand may differ.
    """
    given = receive(antennas, users, order, decibels, 400, seed=1)
    expected = bit_errors(given, digital(given)).mean()
    chip = at.solver.rram_solver()
    found = bit_errors(given, analog(given, chip, 3)).mean()
    assert 5e-4 < expected < 5e-3
    assert torch.allclose(found, expected, rtol=0, atol=3e-4)
    added = bit_errors(given, analog(given, chip.replace(corrections="added"), 3)).mean()
    assert added > expected + 1e-4
    assert bit_errors(given, analog(given, chip, 1)).mean() > 10 * expected


_SLOW = [
    pytest.param(table, said, marks=pytest.mark.slow)
    for table, said in (
        ("refusals", "condition number"),
        ("errors", "spread of a cell"),
        ("costs", "| 128 |"),
        ("speed", "1,000 of 16x16"),
        ("detection", "| 128x8 |"),
        ("ridge", "| breast_cancer |"),
        ("second_order", "one pass"),
    )
]


@pytest.mark.parametrize(("table", "said"), [("residuals", "bits a pass"), *_SLOW])
def test_tables_of_the_benchmark(
    table: str, said: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    main(["--table", table, "--count", "2", "--plots", str(tmp_path)])
    assert said in capsys.readouterr().out
    drawn = {"residuals": ["solver_residual.png"], "detection": ["solver_ber.png"]}
    assert [file.name for file in tmp_path.iterdir()] == drawn.get(table, [])
