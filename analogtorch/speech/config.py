"""The configuration of one keyword-spotting run.

Its fields are the options of ``analogtorch kws`` and the keys of its YAML files.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

import analogtorch as at
from analogtorch.chips import Chip, TrainingNoise
from analogtorch.devices import seconds
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.speech.augment import Augment
from analogtorch.speech.data import FRAMES, Source
from analogtorch.speech.folder import Folder
from analogtorch.speech.models import ConvNet, FullyConnected, KeywordTransformer
from analogtorch.speech.speech_commands import SpeechCommands
from analogtorch.speech.synthetic import Synthetic
from analogtorch.speech.training.phase import Phase


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The source of the speech."""

    source: Literal["synthetic", "folder", "speech_commands"] = "synthetic"
    """Which of the three sources below is used; the settings of the others have no effect."""
    synthetic: Synthetic = field(default_factory=Synthetic)
    """Source synthetic: words spoken by eSpeak NG, made on this machine"""
    folder: Folder = field(default_factory=lambda: Folder(root="data"))
    """Source folder: labelled recordings with a manifest"""
    speech_commands: SpeechCommands = field(default_factory=lambda: SpeechCommands(root="data"))
    """Source speech_commands: Google Speech Commands v0.02"""

    @property
    def selected(self) -> Source:
        """The source that is used."""
        return getattr(self, self.source)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Raises:
        ValueError: a field is out of range.
    """

    name: Literal["conv", "fully_connected", "transformer"] = "conv"
    """conv: residual net of full convolutions; fully_connected: the shape of the 34-tile chip's
    net; transformer: keyword transformer of KWT-1's size."""
    widths: tuple[int, ...] = (16, 24, 48, 96)
    """conv: channels of the stem and of each block, not decreasing."""
    stem_stride: tuple[int, int] = (1, 2)
    """conv: strides of the stem over time and frequency."""
    hidden: tuple[int, ...] = (512, 512)
    """fully_connected: outputs of each hidden layer."""
    patch: int = 1
    """transformer: frames in a token, 1 to 49."""
    dropout: float = 0.2
    """Dropout before the last layer, 0 to below 1; transformer: of attention and hidden layers."""

    def __post_init__(self) -> None:
        for name in ("widths", "stem_stride", "hidden"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"model.{name}={getattr(self, name)}; use one or more integers >= 1"
                )
        if tuple(sorted(self.widths)) != self.widths:
            raise ValueError(
                f"model.widths={self.widths}; shortcuts only add channels: do not let widths "
                "decrease"
            )
        if not 1 <= self.patch <= FRAMES:
            raise ValueError(f"model.patch={self.patch}; use 1 to {FRAMES} frames in a token")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout}; use 0 to below 1")

    def build(self) -> nn.Module:
        """Return a new network, drawn from torch's default generator."""
        if self.name == "fully_connected":
            return FullyConnected(hidden=self.hidden, dropout=self.dropout)
        if self.name == "transformer":
            return KeywordTransformer(patch=self.patch, dropout=self.dropout)
        return ConvNet(widths=self.widths, stem_stride=self.stem_stride, dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class ChipConfig:
    """The chip.

    Raises:
        ValueError: the chip or an option is unknown.
    """

    name: str = "hermes64"
    """A preset; `analogtorch info` lists them."""
    options: dict[str, str] = field(default_factory=dict)
    """Options of the preset, such as {device: one_device} for hermes64."""
    training: TrainingNoise = field(default_factory=lambda: TrainingNoise(scale=2.5))
    """Noise of hardware-aware training"""
    compensation: Compensation = "least_squares"
    """Digital correction of the drift"""
    defects: Defects = field(default_factory=Defects)
    """What is broken on the chips that the nets are measured on"""

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> Chip:
        """Return the chip, with this training noise."""
        return at.chips.get(self.name, **self.options).replace(training=self.training)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The measurement of the accuracy on chips.

    Raises:
        ValueError: a field is out of range.
    """

    num_chips: int = 10
    """Number of chips to program, >= 1."""
    times: tuple[str, ...] = at.TIMES
    """Times after programming, such as "1 day" or "30 s"."""
    seed: int = 0
    """Seed of the chips: the same seed gives the same chips to every network."""

    def __post_init__(self) -> None:
        if self.num_chips < 1:
            raise ValueError(f"sweep.num_chips={self.num_chips}; use 1 or more")
        if not self.times:
            raise ValueError("sweep.times is empty; give at least one time, such as '1 day'")
        for time in self.times:
            seconds(time)


@dataclass(frozen=True, kw_only=True)
class KWSConfig:
    """A run from speech to accuracy on a chip.

    Its steps are data, digital training, direct mapping, HWA training and report.

    Raises:
        ValueError: fields do not fit together.
    """

    seed: int = 0
    """Seed of initial weights, order of the clips, augmentation, dropout and training noise; 0 or
    more."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data"""
    augment: Augment = field(
        default_factory=lambda: Augment(
            gain_db=0.0,
            speeds=(0.85, 0.92, 1.0, 1.08, 1.15),
            noise_probability=0.5,
            time_masks=0,
            frequency_masks=0,
        )
    )
    """Augmentation of the training clips"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Network"""
    digital: Phase = field(default_factory=lambda: Phase(epochs=45, mixup=0.2))
    """Digital training, from random weights"""
    hwa: Phase = field(
        default_factory=lambda: Phase(epochs=24, warmup=0.1, distill=0.7, clip_sigma=1.5)
    )
    """Hardware-aware training, from the digital net, which is its teacher if it distils"""
    chip: ChipConfig = field(default_factory=ChipConfig)
    """Chip"""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """Measurement on chips"""
    threads: int = 1
    """Threads of torch, >= 1. They are part of the run: other numbers of threads round
    differently."""
    workers: int = 1
    """Processes that prepare training clips ahead, >= 0; the results do not depend on them."""
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    """Device that Lightning trains on; auto takes a GPU if there is one. Chips are measured on the
    CPU."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}; use 0 to 2**63 - 1")
        if self.threads < 1 or self.workers < 0:
            raise ValueError(
                f"threads={self.threads}, workers={self.workers}; use at least 1 thread and 0 "
                "workers"
            )
        if self.accelerator == "gpu" and not torch.accelerator.is_available():
            raise ValueError("accelerator=gpu, but torch finds no GPU here; use cpu or auto")
        if self.digital.distill > 0:
            raise ValueError(
                f"digital.distill={self.digital.distill}; digital training has no teacher: use 0"
            )
        if self.digital.clip_sigma is not None:
            given = self.digital.clip_sigma
            raise ValueError(
                f"digital.clip_sigma={given}; only analog layers are clipped: use null, or "
                "hwa.clip_sigma"
            )
