"""What a chip is: one frozen description that drives training noise, programming, drift,
quantisation and placement.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from analogtorch.chips.cost import Cost
from analogtorch.chips.non_idealities import non_idealities, without
from analogtorch.devices import UnitCell, seconds
from analogtorch.devices.device import beyond
from analogtorch.values import checks

WeightScale = Literal["block", "column"]
Grouped = Literal["sequential", "block_diagonal"]
WeightNoise = Literal["none", "gaussian", "programming", "device"]


@dataclass(frozen=True, kw_only=True)
class TrainingNoise:
    """The noise that hardware-aware (HWA) training injects in ``train()``; redrawn in every
    forward.
    """

    weight: WeightNoise = "programming"
    """``programming``: shaped like the cell's own programming noise, weight by weight;
    ``gaussian``: the same standard deviation for every cell; ``device``: every cell programmed,
    drifted to ``time`` and read with noise, and the drift corrected by one exact factor per placed
    block, as ``program(...).at(time)`` does; ``none``: exact weights. ``device`` is drawn in plain
    torch: several normals for each cell and forward."""
    scale: float | None = None
    """``programming``: multiple of the cell's programming noise, 2 if not given (Le Gallo 2023,
    Methods); ``gaussian``: standard deviation in units of the largest weight of the placed block,
    must be given; ``device``: multiple of each weight's deviation from its target, 1 if not given;
    the drift's correction is taken to this power. >= 0."""
    output: bool = True
    """Whether the chip's output noise is added before the ADC in training as well."""
    time: float | str = "1 day"
    """``device``: time after programming, in seconds or as text such as ``"1 h"``;
    ``"programmed"``: before any drift and read."""
    drop_connect: float = 0.0
    """Probability that a cell fails in a forward, in [0, 1): its weight is exactly zero, without
    noise, and learns nothing from that forward. Nothing is rescaled. NeuRRAM's keyword spotter
    trains with 0.125 (Wan 2022)."""
    per_sample: bool = False
    """Whether every sample of the batch meets weight noise and failed cells of its own, as if on a
    chip of its own, instead of one draw per forward. A layer's samples are counted by the first
    dimension of its input, in recurrent layers by the batch's. Each sample is a product of its own,
    which takes as many times longer to draw."""

    def __post_init__(self) -> None:
        checks.choice("TrainingNoise.weight", self.weight, get_args(WeightNoise))
        if self.weight == "gaussian" and self.scale is None:
            raise ValueError(
                "TrainingNoise(weight='gaussian') needs scale, such as 0.05 of the largest weight"
            )
        checks.numbers(
            self, "scale", optional=True, least=0, remedy="weight='none' trains without noise"
        )
        try:
            time = seconds(self.time)
        except ValueError as error:
            raise ValueError(f"TrainingNoise.time: {error}") from error
        if self.weight != "device" and time != seconds("1 day"):
            raise ValueError(
                f"TrainingNoise.time={self.time!r} needs weight='device', got "
                f"weight={self.weight!r}"
            )
        checks.numbers(
            self,
            "drop_connect",
            least=0,
            below=1,
            what="probability",
            remedy="write one such as 0.01",
        )
        for name in ("output", "per_sample"):
            checks.flag(f"TrainingNoise.{name}", getattr(self, name))

    @property
    def strength(self) -> float:
        """``scale``, or its default."""
        default = 1.0 if self.weight == "device" else 2.0
        return default if self.scale is None else self.scale

    @property
    def seconds(self) -> float | None:
        """``time`` in seconds; None: as programmed."""
        return seconds(self.time)


@dataclass(frozen=True, kw_only=True)
class Chip:
    """An analog in-memory-computing chip: tiles of unit cells with DACs on the rows and ADCs on the
    columns.

    Change a field with ``dataclasses.replace(chip, rows=512)``. Every preset names the source of
    its numbers in ``sources``; what a preset does not know it marks there as assumed.
    """

    name: str
    """Identifier for reports."""
    tiles: int
    """Arrays of ``rows`` x ``cols`` cells on the chip, >= 1."""
    rows: int
    """Rows of a tile: inputs of one matrix-vector multiply (MVM), >= 1."""
    cols: int
    """Columns of a tile: outputs of one MVM, >= 1."""
    cell: UnitCell
    """The devices that hold one weight."""
    input_bits: int | None
    """DAC bits, sign included, 2..16: ``2^bits - 2`` steps over [-range, range]. None: inputs are
    not quantised."""
    output_bits: int | None
    """Bits of a tile's outputs, 2..16. Those of its ADC, ``2^bits - 2`` steps over [-bound, bound];
    or, with ``adc_steps``, those that its digital unit passes on. None: outputs are not rounded to
    bits."""
    adc_steps: int | None = None
    """Steps of an ADC on each side of zero that is finer than ``output_bits``, >= 1: a digital unit
    behind it scales each column before it rounds to ``output_bits``, in ranges that
    ``analogtorch.calibrate`` finds for every column. Before that the ADC outputs are passed on as
    they are. None: the ADC has ``output_bits``."""
    output_bound: float = 12.0
    """ADC range in units of (full-scale input x largest conductance), > 0; fixed by the chip, but a
    layer may be given others: see ``analogtorch.calibrate``."""
    adc_gain_std: float = 0.0
    """Standard deviation of the gain of a column's ADC around 1, >= 0: drawn once for each column
    of a manufactured chip, by its seed and physical place. Programmed chips have it; training and
    evaluation before do not."""
    column_calibration: bool = False
    """Whether the chip calibrates the gain of each column digitally after programming, from
    multiplies of random inputs, as a digital unit with a scale per column can: see
    ``analogtorch.program``."""
    output_noise: float = 0.0
    """Standard deviation of the noise of one partial sum, before rounding, in the units of
    ``output_bound``, >= 0."""
    weight_scale: WeightScale = "block"
    """What shares one scale of weights to conductances: the ``block`` placed on a tile, or each
    ``column`` of it."""
    grouped: Grouped = "sequential"
    """Grouped convolutions. ``sequential``: one group per MVM (as many MVMs as groups).
    ``block_diagonal``: groups share an MVM, and the cells between them, programmed to zero, add
    their noise."""
    training: TrainingNoise = field(default_factory=TrainingNoise)
    """Noise of hardware-aware training."""
    sources: tuple[str, ...] = ()
    """Where the numbers come from."""
    planes: int = 1
    """Tiles that share one set of DACs and ADCs, so that only one of them computes at a time: tile
    ``i`` belongs to set ``i // planes``. >= 1, divides ``tiles``."""
    cost: Cost | None = None
    """What an MVM costs in time and energy; None: not known, and nothing that needs it can be
    asked."""
    separate_phases: bool = False
    """Whether each phase of an MVM, or pass of one sign of the inputs, is computed as an ADC output
    of its own: clipped and rounded by itself, with output noise of its own, then added up digitally
    with its sign. What there is follows from ``cost``: with 4 ``phases`` one per pair of signs of
    inputs and weights, where each polarity of a cell is read by itself; with 2 ``signed_passes``
    one per sign of the inputs, both also where none is negative; else nothing. It multiplies the
    work, and runs in plain torch, without the kernels: a forward takes about 4 times longer with
    two outputs and 6 to 10 times with four. Measured by ``python -m benchmarks.phases``, 256x256
    Gaussian weights and uniform inputs, one output against separate ones: MVM errors of 0.96 and
    1.18 % on ``hermes64`` with exact devices, 18.75 and 18.77 % a day after programming; 2.22 and
    3.13 %, 19.37 and 19.62 % on ``ibm_speech34``, whose output noise is then met twice. With
    weights that are uniform in [-1, 1] it decides (``--weights uniform``): the phases of
    ``hermes64`` add up weights of one sign and overflow its ADC, so that 7 % become 97 %, while the
    passes of ``ibm_speech34`` stay within the range that one output leaves: 13 % become 4. What a
    chip reads of itself after programming, to fit its gains, is one ADC output per partial sum
    either way."""

    def __post_init__(self) -> None:
        checks.text("Chip.name", self.name, "my chip")
        checks.counts(self, "tiles", "rows", "cols", "planes")
        checks.numbers(self, "output_bound", above=0)
        checks.numbers(self, "output_noise", least=0)
        _check(
            "planes",
            self.planes,
            lambda v: self.tiles % v == 0,
            f"a divisor of the {self.tiles} tiles",
        )
        _check("cost", self.cost, lambda v: v is None or isinstance(v, Cost), "None or a Cost")
        _check("cell", self.cell, lambda v: isinstance(v, UnitCell), "a UnitCell")
        _check("training", self.training, lambda v: isinstance(v, TrainingNoise), "a TrainingNoise")
        strings = isinstance(self.sources, tuple) and all(
            isinstance(source, str) for source in self.sources
        )
        _check("sources", self.sources, lambda _: strings, "a tuple of strings")
        checks.flag("Chip.separate_phases", self.separate_phases)
        if self.separate_phases:
            _check_phases(self.cost)
        for name in ("input_bits", "output_bits"):
            _check(name, getattr(self, name), _is_bits, "None or an integer from 2 to 16")
        _check(
            "adc_steps",
            self.adc_steps,
            lambda v: v is None or (type(v) is int and v >= 1),
            "None or an integer >= 1",
        )
        _check(
            "adc_gain_std",
            self.adc_gain_std,
            lambda v: v >= 0 and math.isfinite(v),
            "a number >= 0",
        )
        _check(
            "column_calibration",
            self.column_calibration,
            lambda v: type(v) is bool,
            "True or False",
        )
        _check(
            "output_bound",
            self.output_bound,
            lambda v: v > 0 and math.isfinite(v),
            "a positive number",
        )
        _check(
            "output_noise",
            self.output_noise,
            lambda v: v >= 0 and math.isfinite(v),
            "a number >= 0",
        )
        for name, kind in (("weight_scale", WeightScale), ("grouped", Grouped)):
            _check(
                name, getattr(self, name), get_args(kind).__contains__, f"one of {get_args(kind)}"
            )

        note = (
            beyond(self.cell.device, self.training.seconds)
            if self.training.weight == "device"
            else ""
        )
        if note:
            warnings.warn(
                f"{self.name}: TrainingNoise.time={self.training.time!r} is {note}", stacklevel=3
            )

    @property
    def output_steps(self) -> int:
        """Steps of the ADC on each side of zero; 0: no ADC."""
        if self.adc_steps is not None:
            return self.adc_steps
        return 0 if self.output_bits is None else 2 ** (self.output_bits - 1) - 1

    @property
    def unit_bits(self) -> int:
        """Bits that the digital unit behind the ADC passes on; 0: it passes on what the ADC
        gives.
        """
        return 0 if self.adc_steps is None or self.output_bits is None else self.output_bits

    @property
    def phases(self) -> int:
        """ADC outputs that one partial sum is computed from: 1, or by ``separate_phases`` 2 or
        4.
        """
        if not self.separate_phases or self.cost is None:
            return 1
        return self.cost.phases if self.cost.phases > 1 else self.cost.signed_passes

    def non_idealities(self) -> tuple[str, ...]:
        """Names of what this chip does to a product beside computing it, in the order in which a
        signal meets them.

        ``dac``: inputs are clipped and rounded. ``programming_noise``, ``drift`` and
        ``read_noise``: of the devices, of which an error that grows with time, as that of ReRAM,
        counts as drift. ``adc_gain``: columns have gains of their own. ``output_noise``: on partial
        sums. ``adc``: partial sums are clipped and rounded. ``digital_unit``: it rounds what the
        ADC gives once more. A programmed chip has them all; ``eval()`` before has the converters;
        for ``train()`` see ``TrainingNoise``.

        Example:
            >>> analogtorch.chips.hermes64().non_idealities()
            ('dac', 'programming_noise', 'drift', 'read_noise', 'adc_gain', 'adc', 'digital_unit')
        """
        return non_idealities(self)

    def without(self, *names: str) -> "Chip":
        """The chip without these non-idealities, all else unchanged; what it does not have is no
        error.

        Without ``adc`` there is no ``digital_unit`` that rounds either. Programming noise and drift
        are drawn from the same normals with and without the others, so that two chips of one seed
        differ in what is named alone.

        Args:
            names: some of those that ``non_idealities`` may list.

        Raises:
            ValueError: a name that is not known.

        Example:
            >>> chip = analogtorch.chips.hermes64().without("drift", "read_noise")
        """
        return without(self, *names)

    @property
    def cells(self) -> int:
        """Unit cells on the chip: the weights it can hold."""
        return self.tiles * self.rows * self.cols


def _check_phases(cost: Cost | None) -> None:
    if cost is None:
        raise ValueError(
            "Chip.separate_phases=True needs cost, whose phases and signed_passes say what is "
            "separate; got cost=None"
        )
    if cost.phases not in (1, 4):
        raise ValueError(
            "Chip.separate_phases=True needs a cost of 4 phases, one per pair of signs of inputs "
            f"and weights, or of 1; the {cost.phases} phases of this chip are bits, or anything "
            "but signs: leave separate_phases False"
        )


def _is_bits(value: object) -> bool:
    return value is None or (type(value) is int and 2 <= value <= 16)


def _check(name: str, value: Any, ok: Callable[[Any], bool], allowed: str) -> None:
    try:
        good = ok(value)
    except TypeError:  # a text that should be a number
        good = False
    if not good:
        raise ValueError(f"Chip.{name} must be {allowed}, got {value!r}")
