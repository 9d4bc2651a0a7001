"""A plain chip for tests that need some chip: the figures of ``hermes64`` itself are in the tests
about it."""

import dataclasses
from typing import Any

import analogtorch as at


def crossbar(
    *, device: Any = "two_device", training: at.TrainingNoise | None = None, **changes: Any
) -> at.Chip:
    """The cells and tiles of ``hermes64`` behind ADCs of 8 bits, with output noise, equal gains and
    no calibration.

    Args:
        device: of ``hermes64``.
        training: of ``hermes64``.
        changes: any other field of ``Chip``.
    """
    plain = {
        "name": "crossbar",
        "adc_steps": None,
        "output_noise": 0.04,
        "adc_gain_std": 0.0,
        "column_calibration": False,
    }
    return dataclasses.replace(
        at.chips.hermes64(device=device, training=training), **{**plain, **changes}
    )
