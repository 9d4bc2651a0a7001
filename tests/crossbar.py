"""A plain chip for tests that need some chip; other tests check the figures of ``hermes64``."""

from typing import Any

import analogtorch as at


def crossbar(
    *, device: Any = "two_device", training: at.TrainingNoise | None = None, **parts: Any
) -> at.Chip:
    """Return a chip with the cells and tiles of ``hermes64`` behind ADCs of 8 bits.

    It has output noise, equal gains, no calibration, and trains with noise shaped like programming.

    Args:
        device: of ``hermes64``.
        training: in place of that noise.
        parts: other parts, or fields of them, as ``Chip.replace`` takes them.
    """
    plain = at.chips.hermes64(device=device, training=training or at.TrainingNoise()).replace(
        name="crossbar",
        adc={"bits": 8, "steps": None, "range": 12.0, "noise": 0.04, "gain_std": 0.0},
        periphery={"output_bits": None, "column_calibration": False},
    )
    return plain.replace(**parts)
