"""The configuration of one keyword-spotting run.

Its fields are the options of ``analogtorch kws`` and the keys of its YAML files.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

import analogtorch as at
from analogtorch.calibration.choice import Effort
from analogtorch.chips import Chip, TrainingNoise
from analogtorch.chips.unit_cells import checked_cells, enlarged
from analogtorch.conversion.restored import switched
from analogtorch.evaluate.times import checked_times
from analogtorch.files import is_code
from analogtorch.hwa.clip import SIGMA
from analogtorch.ops import derived, seed_number
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.writing import GradientDescent, Method, ProgramAndVerify
from analogtorch.speech.augment import Augment
from analogtorch.speech.choice import Maker, arguments, maker, settled, stated, takes_any
from analogtorch.speech.data import FRAMES, MELS, Source
from analogtorch.speech.effects import check_correction
from analogtorch.speech.features import FRONT_ENDS
from analogtorch.speech.folder import Folder
from analogtorch.speech.labels import LABELS
from analogtorch.speech.models import NETWORKS
from analogtorch.speech.own_chip import chip_of, chip_options
from analogtorch.speech.report_config import ReportConfig
from analogtorch.speech.speech_commands import SpeechCommands
from analogtorch.speech.synthetic import Synthetic
from analogtorch.speech.training.phase import Phase
from analogtorch.values import checks

_GIVEN = ("classes", "input_shape")
"""Arguments of a network that the data decide, unless they are options."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The source of the speech."""

    source: Literal["synthetic", "folder", "speech_commands"] = "synthetic"
    """Which of the three sources below is used; the settings of the others have no effect."""
    synthetic: Synthetic = field(default_factory=Synthetic)
    """Source synthetic: words spoken by eSpeak NG, made on this machine"""
    folder: Folder = field(default_factory=lambda: Folder(root="data"))
    """Source folder: labelled recordings, in a folder for each word or with a manifest"""
    speech_commands: SpeechCommands = field(default_factory=lambda: SpeechCommands(root="data"))
    """Source speech_commands: Google Speech Commands v0.02"""

    @property
    def selected(self) -> Source:
        """The source that is used."""
        return getattr(self, self.source)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """The front end: from waveforms to features.

    Raises:
        ValueError: the front end or an option is unknown.
        FileNotFoundError: there is no such file of code.
        ImportError: the module of code is not installed.
    """

    name: str = "logmel"
    """logmel; mfcc; or code of yours, a class or function, as my_features.py:Features or
    my_package.features:Features. It returns a module from waveforms (B, 16000) in [-1, 1] at 16 kHz
    to features (B, ...)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the front end, such as {coefficients: 10} for mfcc."""

    def __post_init__(self) -> None:
        make = maker("features.name", self.name, FRONT_ENDS)
        checks.settle(self, "options", settled("features.options", make, self.options, given=()))

    @property
    def all_options(self) -> dict[str, Any]:
        """The options with the defaults of those that are not given; of code, the given ones."""
        make = maker("features.name", self.name, FRONT_ENDS)
        return self.options if is_code(self.name) else stated(make, self.options, ())

    def build(self) -> nn.Module:
        """Return the front end, in evaluation mode; its state is drawn from torch's generator.

        Raises:
            ValueError: it refuses the options, or is no module.
        """
        made = _built("features", maker("features.name", self.name, FRONT_ENDS), self)
        return switched(made)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Raises:
        ValueError: the network or an option is unknown, or a value is out of range.
        FileNotFoundError: there is no such file of code.
        ImportError: the module of code is not installed.
    """

    name: str = "conv"
    """conv, fully_connected, hermes_conv, neurram_lstm, analognet, tc_resnet, bc_resnet,
    transformer, ds_cnn, hello_edge_dnn, hello_edge_cnn, hello_edge_lstm or hello_edge_gru; or code
    of yours: a class or a function that returns a module, as my_net.py:Net or my_package.nets:Net,
    which is called with the options, and with classes (their number) and input_shape (that of the
    features of a clip) if it has such arguments, or takes any (**options)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the network, such as {widths: [16, 24, 48, 96]} for conv."""

    def __post_init__(self) -> None:
        make = maker("model.name", self.name, NETWORKS)
        checks.settle(self, "options", settled("model.options", make, self.options, given=_GIVEN))
        if self.options and not is_code(self.name):
            with torch.device("meta"):  # checks the values
                self.build()

    @property
    def all_options(self) -> dict[str, Any]:
        """The options with the defaults of those that are not given; of code, the given ones."""
        make = maker("model.name", self.name, NETWORKS)
        return self.options if is_code(self.name) else stated(make, self.options, _GIVEN)

    def build(
        self, *, classes: int = len(LABELS), input_shape: tuple[int, ...] = (1, FRAMES, MELS)
    ) -> nn.Module:
        """Return a new network, drawn from torch's default generator.

        Args:
            classes: number of classes.
            input_shape: shape of the features of a clip.

        Raises:
            ValueError: it refuses the options or the shape, or is no module.
        """
        make = maker("model.name", self.name, NETWORKS)
        values = {"classes": classes, "input_shape": tuple(input_shape)}
        names = values if takes_any(make) else arguments(make)
        wanted = {n: v for n, v in values.items() if n in names and n not in self.options}
        return _built("model", make, self, **wanted)


def _built(field: str, make: Maker, config: Any, **values: Any) -> nn.Module:
    try:
        module = make(**values, **config.options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{field}: {config.name} cannot be made with {values | config.options}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"{field}: {config.name} gives a {type(module).__name__}, not a torch.nn.Module"
        )
    return module


Writing = Literal["once", "program_and_verify", "gradient_descent"]
_METHODS: dict[Writing, Method | None] = {
    "once": None,
    "program_and_verify": ProgramAndVerify(),
    "gradient_descent": GradientDescent(),
}


@dataclass(frozen=True, kw_only=True)
class ChipConfig:
    """The chip.

    Raises:
        ValueError: the chip or an option is unknown, a level is refused, or a value has no effect.
        TypeError: the levels are no list.
        OSError: the file of the chip cannot be read.
    """

    name: str = "hermes64"
    """A preset, which `analogtorch info` lists, or a file of a chip of yours, such as
    my_chip.yaml."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the preset, such as {device: one_device} for hermes64; of a file all that is in
    it, which is read from it unless it is given."""
    digital: tuple[str, ...] = ()
    """Names of layers that stay digital, with * for anything, such as [dw*]"""
    cells: int = 1
    """Unit cells of the chip that hold one weight, in all layers, 1 to 64: errors average over
    them, and weights take as many times the cells. Defects but those of devices strike all of a
    weight at once"""
    drift_aware: str | None = None
    """Time after programming, such as "1 day", at which conductances are to be right
    (Chip.drift_aware); null: at once, as published"""
    calibration: Effort = "default"
    """Effort of calibrate for digital nets: default or search, which choose weight scales per
    column and targets that allow for drift where outputs gain by them; or ranges alone"""
    training: TrainingNoise = field(default_factory=lambda: TrainingNoise(weight="device"))
    """Noise of hardware-aware training"""
    levels: tuple[float, ...] = ()
    """Values of training.scale, such as [1.0, 1.5, 2.0], to train with one after the other; the
    validation clips alone choose, on noisy chips of their own after a day and a year. Each takes
    the time of a training. Empty: training.scale as it is."""
    compensation: Compensation = "least_squares"
    """Digital correction of the drift"""
    correct: bool = True
    """Whether each chip corrects gain and offset of its columns each time it is looked at, from
    training clips without their labels (Recovery)"""
    correct_batches: int = 1
    """Batches of 64 clips by which it does, if ``correct``, >= 1. With 2 or more the columns of all
    layers learn from the outputs of the net, too, which takes a chip several times as long"""
    writing: Writing = "once"
    """How cells are written: once, with the error that the published chip reached; or on from
    there, by program_and_verify, cell by cell, or gradient_descent, by the error of whole MVMs
    (GDP, arXiv 2305.16647)"""
    defects: Defects = field(default_factory=Defects)
    """What is broken on the chips that the nets are measured on"""

    def __post_init__(self) -> None:
        digital = checks.items("chip.digital", self.digital, "['dw*']")
        for i, pattern in enumerate(digital):
            checks.text(f"chip.digital[{i}]", pattern, "dw*")
        checks.settle(self, "digital", digital)
        levels = checks.items("chip.levels", self.levels, "[1.0, 1.5, 2.0]")
        levels = tuple(checks.number("chip.levels", level, least=0) for level in levels)
        checks.settle(self, "levels", levels)
        if self.levels and self.training.weight == "none":
            raise ValueError(
                "chip.levels scale the training noise, but chip.training.weight is none; leave out "
                "chip.levels, or choose a noise such as chip.training.weight=device"
            )
        if len(levels) == 1 or len({f"{level:g}" for level in levels}) < len(levels):
            raise ValueError(f"chip.levels={list(levels)}; give two or more that differ, or none")
        checks.flag("chip.correct", self.correct)
        checks.count("chip.correct_batches", self.correct_batches)
        checks.choice("chip.writing", self.writing, get_args(Writing))
        check_correction(self.correct, self.correct_batches)
        checks.settle(self, "options", chip_options(self.name, self.options))
        checked_cells("chip.cells", self.cells)
        enlarged(self.build(), self.cells)

    @property
    def method(self) -> Method | None:
        """The writing method, as ``program`` takes it."""
        return _METHODS[self.writing]

    def build(self) -> Chip:
        """Return the chip, with this training noise."""
        chip = chip_of(self.name, self.options)
        if chip.light.on:
            raise ValueError(
                f"chip.name: {self.name} senses light, and speech is none; choose another chip, "
                "such as hermes64"
            )
        if self.drift_aware is not None:
            chip = chip.drift_aware(self.drift_aware)
        return chip.replace(training=self.training)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The measurement of the accuracy on chips.

    Raises:
        ValueError: a field is out of range.
    """

    num_chips: int = 25
    """Number of chips to program, >= 1."""
    times: tuple[str, ...] = (*at.TIMES, "10 years")
    """Times after programming, such as "1 day" or "30 s"."""
    seed: int = 0
    """Seed of the chips: the same seed gives the same chips to every network."""
    processes: int = 1
    """Processes that measure chips at the same time, >= 1; above 1, ``threads`` must be 1."""

    def __post_init__(self) -> None:
        for name in ("num_chips", "processes"):
            checks.settle(self, name, checks.count(f"sweep.{name}", getattr(self, name)))
        try:
            seed_number(self.seed)
        except (TypeError, ValueError) as error:
            raise ValueError(f"sweep.{error}") from error
        checked_times("sweep", self.times)


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
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    """Front end"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Network"""
    digital: Phase = field(default_factory=lambda: Phase(epochs=45, mixup=0.2))
    """Digital training, from random weights"""
    hwa: Phase = field(
        default_factory=lambda: Phase(epochs=24, warmup=0.1, distill=0.7, clip_sigma=SIGMA)
    )
    """Hardware-aware training, from the digital net, which is its teacher if it distils"""
    chip: ChipConfig = field(default_factory=ChipConfig)
    """Chip"""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """Measurement on chips"""
    report: ReportConfig = field(default_factory=ReportConfig)
    """Report"""
    threads: int = 1
    """Threads of torch, >= 1. They are part of the run: other numbers of threads round
    differently."""
    workers: int = 1
    """Processes that prepare training clips ahead, >= 0; the results do not depend on them."""
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    """Device that Lightning trains on; auto takes a GPU if there is one. Chips are measured on the
    CPU."""
    devices: int = 1
    """Devices that share each batch of training, >= 1: GPUs, or with accelerator=cpu processes.
    They are part of the run: each has noise of its own."""
    tensorboard: str | None = None
    """A folder for TensorBoard's logs of the trainings, such as runs/tensorboard; null: none."""

    def __post_init__(self) -> None:
        remedy = "use 0 to 2**63 - 1"
        seed = checks.count("seed", self.seed, least=0, most=2**63 - 1, remedy=remedy)
        checks.settle(self, "seed", seed)
        for name, least in (("threads", 1), ("workers", 0), ("devices", 1)):
            checks.settle(self, name, checks.count(name, getattr(self, name), least=least))
        if self.sweep.processes > 1 and self.threads > 1:
            given = f"sweep.processes={self.sweep.processes} have one thread each"
            raise ValueError(f"{given}, but threads={self.threads}; use threads=1, or one process")
        if self.accelerator == "gpu" and not torch.accelerator.is_available():
            raise ValueError("accelerator=gpu, but torch finds no GPU here; use cpu or auto")
        self._check_devices()
        if self.digital.distill > 0:
            raise ValueError(
                f"digital.distill={self.digital.distill}; digital training has no teacher: use 0"
            )
        for name, off, why in (
            ("clip_sigma", None, "are clipped: use null"),
            ("ramp", 0.0, "have noise that grows: use 0"),
        ):
            given = getattr(self.digital, name)
            if given != off:
                raise ValueError(f"digital.{name}={given}; only analog layers {why}, or hwa.{name}")

    def _check_devices(self) -> None:
        """Raise ValueError if batches cannot be shared among the devices, or there are too few."""
        for name, phase in (("digital", self.digital), ("hwa", self.hwa)):
            if phase.batch_size % self.devices:
                raise ValueError(
                    f"{name}.batch_size={phase.batch_size} cannot be shared by {self.devices} "
                    "devices; use a multiple of their number"
                )
        found = torch.accelerator.device_count() if self.accelerator == "gpu" else self.devices
        if self.devices > found:
            raise ValueError(f"devices={self.devices}, but torch finds {found} GPU here")

    def front_end(self) -> nn.Module:
        """Return the front end, in evaluation mode, with the random state of the seed.

        A run does not save it: every process that goes on with the run makes the same one.

        Raises:
            ValueError: it refuses the options, or is no module.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived(self.seed, "front end"))
            return self.features.build()

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON gives them, those of features and network in full."""
        found = json.loads(json.dumps(asdict(self)))
        found["features"]["options"] = self.features.all_options
        found["model"]["options"] = self.model.all_options
        return found
