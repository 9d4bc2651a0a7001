"""The camera of ``benchmarks.sensor``: digits through a sensor, and what it prints."""

from pathlib import Path

import pytest

import analogtorch as at
from benchmarks import sensor

pytest.importorskip("sklearn")


@pytest.mark.slow
def test_digits_keep_95_percent_of_the_digital_accuracy_in_the_dark() -> None:
    """The light of Jang 2022 is not known: 0.1 lux for a millisecond, 20 electrons of white."""
    x, y, test_x, test_y = sensor.digits()
    digital = sensor.train(sensor.network(), x, y, 30, 3e-3, seed=0)
    trained = sensor.train(sensor.on_chips(digital, x, 0.1), x, y, 15, 1e-3, seed=1)
    whole = at.accuracy(digital, [(test_x, test_y)])
    assert whole > 0.95
    assert sensor.measured(trained, test_x, test_y, 3) >= 95 * whole


@pytest.mark.slow
def test_it_prints_accuracy_against_light_and_energy(capsys, tmp_path: Path) -> None:
    sensor.main(["--epochs", "1", "--chips", "1", "--plots", str(tmp_path)])
    printed = capsys.readouterr().out
    for wanted in ("lux on the sensor", "| 1000 |", "camera and hermes64"):
        assert wanted in printed
    assert (tmp_path / "sensor_light.png").stat().st_size > 1000


def test_the_sensor_takes_the_convolution_off_the_chip() -> None:
    table, _ = sensor.energies()
    rows = {row[0]: [float(cell) for cell in row[1:]] for row in table[1:]}
    assert rows["hermes64"][1] < rows["hermes64"][0]
    # 252 outputs of 1.667 pJ each
    assert rows["outputs of the sensor converted"] == [0.0, pytest.approx(0.42, abs=1e-3)]
