"""The rows of ``benchmarks.mvm``: named layers, their chips, and their largest accepted cost.

A bar is the largest accepted ratio to torch.nn's time, on a quiet machine with the CPU kernels
built. It holds for AnalogTorch; rows without one are for information.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

import analogtorch as at
from analogtorch.chips.wires import WireModel
from analogtorch.devices import SquareRoot

NOISE = 0.05
"""Standard deviation of the weight noise in units of the largest weight of a tile."""
SLICED = 1.3
"""What a row with slices may cost, in units of the product of its columns per weight, its pulses
per input and the bar of the same row without slices."""
BOUND = 12.0
"""Full scale of the ADC in units of (DAC range x largest weight of the tile)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One row of the table: a digital layer, its input, and the setting of its analog twins."""

    layer: Callable[[], nn.Module]
    """Makes the digital layer."""
    input: tuple[int, ...]
    """Shape of its input."""
    train_bar: float | None = None
    """Largest ratio to torch.nn accepted for forward + backward."""
    eval_bar: float | None = None
    """Largest ratio accepted for the forward in evaluation mode."""
    rows: int = 512
    """Rows of a tile; 512 columns."""
    adc: bool = True
    """Whether partial sums go through an 8-bit ADC."""
    train: bool = True
    """Whether a training step is measured too, or only evaluation."""
    autocast: torch.dtype | None = None
    """Type of the products under autocast."""
    preset: bool = False
    """The chip ``hermes64`` as published instead: 256x256 tiles, devices a month old in
    training. The peers sit this row out: none has the same setting."""
    read_noise: bool = False
    """Whether every MVM has the read noise of the standard crossbar model; evaluation is then that
    of a programmed chip, which has it too. The peers sit it out."""
    device_noise: bool = False
    """Whether every step programs, drifts and reads every device, instead of Gaussian noise; only
    training is measured with it. The peers sit it out."""
    wires: WireModel | None = None
    """The model of IR drop, in columns of 0.35 ohm; evaluation is then that of a programmed chip,
    which has it too. None: ideal wires. The peers sit it out: none has the same setting."""
    slices: dict[str, int] = dataclasses.field(default_factory=dict)
    """Fields of ``Slices``. The peers sit it out too."""
    by_tile: bool = False
    """A DAC range for each row block, and an ADC bound for each column of it. The peers sit it
    out too."""

    @property
    def ours_alone(self) -> bool:
        """Whether the peers have no such setting."""
        return bool(self.preset or self.by_tile or self.device_noise or self.slices or self.on_chip)

    @property
    def on_chip(self) -> bool:
        """Whether evaluation is that of a programmed chip."""
        return self.read_noise or self.wires is not None


SHAPES: dict[str, Shape] = {
    "linear_512": Shape(
        layer=lambda: nn.Linear(512, 512), input=(128, 512), train_bar=1.35, eval_bar=1.3
    ),
    "linear_1024": Shape(
        layer=lambda: nn.Linear(1024, 1024), input=(256, 1024), train_bar=1.2, eval_bar=1.2
    ),
    "linear_2048": Shape(
        layer=lambda: nn.Linear(2048, 2048), input=(64, 2048), train_bar=1.3, eval_bar=1.25
    ),
    "linear_1024_no_adc": Shape(
        layer=lambda: nn.Linear(1024, 1024), input=(256, 1024), train_bar=1.15, adc=False
    ),
    # 288 rows: two blocks of 32 of the 64 input channels
    "conv2d_64_128": Shape(
        layer=lambda: nn.Conv2d(64, 128, 3, padding=1),
        input=(32, 64, 32, 32),
        train_bar=1.25,
        eval_bar=1.4,
        rows=288,
    ),
    "conv1d_64_128": Shape(layer=lambda: nn.Conv1d(64, 128, 5, padding=2), input=(32, 64, 256)),
    "conv2d_depthwise": Shape(
        layer=lambda: nn.Conv2d(64, 64, 3, padding=1, groups=64), input=(32, 64, 32, 32)
    ),
    "linear_1024_by_tile": Shape(
        layer=lambda: nn.Linear(1024, 1024),
        input=(256, 1024),
        train_bar=1.2,
        eval_bar=1.2,
        by_tile=True,
    ),
    "linear_1024_hermes64": Shape(
        layer=lambda: nn.Linear(1024, 1024), input=(256, 1024), preset=True
    ),
    "linear_512_read_noise": Shape(
        layer=lambda: nn.Linear(512, 512),
        input=(128, 512),
        train_bar=2.2,
        eval_bar=1.8,
        read_noise=True,
    ),
    "conv2d_64_128_read_noise": Shape(
        layer=lambda: nn.Conv2d(64, 128, 3, padding=1),
        input=(32, 64, 32, 32),
        train_bar=2.2,
        eval_bar=1.8,
        rows=288,
        read_noise=True,
    ),
    "linear_512_device_noise": Shape(
        layer=lambda: nn.Linear(512, 512), input=(128, 512), train_bar=4.0, device_noise=True
    ),
    "conv2d_64_128_device_noise": Shape(
        layer=lambda: nn.Conv2d(64, 128, 3, padding=1),
        input=(32, 64, 32, 32),
        train_bar=4.0,
        rows=288,
        device_noise=True,
    ),
    "linear_512_ir_drop": Shape(
        layer=lambda: nn.Linear(512, 512),
        input=(128, 512),
        train_bar=2.5,
        eval_bar=2.0,
        wires="ladder",
    ),
    "linear_512_ir_drop_pulses": Shape(
        layer=lambda: nn.Linear(512, 512), input=(128, 512), wires="pulses"
    ),
    "linear_512_ir_drop_standard": Shape(
        layer=lambda: nn.Linear(512, 512), input=(128, 512), wires="standard"
    ),
    # 4 columns of 2 bits per weight; then 2 pulses of 4 bits per input as well
    "linear_1024_slices": Shape(
        layer=lambda: nn.Linear(1024, 1024),
        input=(256, 1024),
        train_bar=SLICED * 4 * 1.2,
        eval_bar=SLICED * 4 * 1.2,
        slices={"weight_bits": 8, "bits_per_slice": 2},
    ),
    "linear_1024_pulses": Shape(
        layer=lambda: nn.Linear(1024, 1024),
        input=(256, 1024),
        train_bar=SLICED * 8 * 1.2,
        eval_bar=SLICED * 8 * 1.2,
        slices={"weight_bits": 8, "bits_per_slice": 2, "bits_per_pulse": 4},
    ),
    "linear_1024_bf16": Shape(
        layer=lambda: nn.Linear(1024, 1024), input=(256, 1024), autocast=torch.bfloat16
    ),
    "linear_1024_batch1": Shape(layer=lambda: nn.Linear(1024, 1024), input=(1, 1024), train=False),
}


def chip(shape: Shape) -> at.Chip:
    """Return this row's chip; one that is no preset has the noise of weights alone."""
    kind = {"weight": "device"} if shape.device_noise else {"weight": "gaussian", "scale": NOISE}
    preset = at.chips.hermes64()
    if shape.preset:
        return preset
    return preset.replace(
        array={"rows": shape.rows, "columns": 512},
        adc={"noise": 0.0, "bits": 8 if shape.adc else None, "steps": None, "range": BOUND},
        periphery={"output_bits": None},
        slices=shape.slices,
        mvm_read_noise={"std": SquareRoot(scale=0.0175) if shape.read_noise else None},
        wires={"column_resistance": 0.35, "model": shape.wires} if shape.wires else {},
        name="benchmark",
        training=at.TrainingNoise(**kind),
    )
