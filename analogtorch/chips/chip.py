"""What a chip is: one frozen description that drives training noise, programming, drift, quantisation and placement."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from analogtorch.chips.cost import Cost
from analogtorch.devices import UnitCell

WeightScale = Literal["block", "column"]
Grouped = Literal["sequential", "block_diagonal"]
WeightNoise = Literal["none", "gaussian", "programming"]


@dataclass(frozen=True, kw_only=True)
class TrainingNoise:
    """The noise that hardware-aware (HWA) training injects in ``train()``; redrawn in every forward."""

    weight: WeightNoise = "programming"
    """``programming``: shaped like the cell's own programming noise, weight by weight; ``gaussian``: the same standard
    deviation for every cell; ``none``: exact weights."""
    scale: float | None = None
    """``programming``: multiple of the cell's programming noise, 2 if not given (Le Gallo 2023, Methods);
    ``gaussian``: standard deviation in units of the largest weight of the placed block, must be given. >= 0."""
    output: bool = True
    """Whether the chip's output noise is added before the ADC in training as well."""

    def __post_init__(self) -> None:
        if self.weight not in get_args(WeightNoise):
            raise ValueError(f"TrainingNoise.weight must be one of {get_args(WeightNoise)}, got {self.weight!r}")
        if self.weight == "gaussian" and self.scale is None:
            raise ValueError("TrainingNoise(weight='gaussian') needs scale, such as 0.05 of the largest weight")
        if self.scale is not None and not (self.scale >= 0 and math.isfinite(self.scale)):
            raise ValueError(f"TrainingNoise.scale must be >= 0, got {self.scale}; weight='none' trains without noise")

    @property
    def strength(self) -> float:
        """``scale``, or its default."""
        return 2.0 if self.scale is None else self.scale


@dataclass(frozen=True, kw_only=True)
class Chip:
    """An analog in-memory-computing chip: tiles of unit cells with DACs on the rows and ADCs on the columns.

    Change a field with ``dataclasses.replace(chip, rows=512)``. Every preset names the source of its numbers in
    ``sources``; what a preset does not know it marks there as assumed.
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
    """DAC bits, sign included, 2..16: ``2^bits - 2`` steps over [-range, range]. None: inputs are not quantised."""
    output_bits: int | None
    """ADC bits, 2..16, ``2^bits - 2`` steps over [-bound, bound]. None: partial sums are not quantised or clipped."""
    output_bound: float = 12.0
    """ADC bound in units of (full-scale input x largest conductance), > 0; fixed by the chip."""
    output_noise: float = 0.0
    """Standard deviation of the noise of one partial sum, before rounding, in the units of ``output_bound``, >= 0."""
    weight_scale: WeightScale = "block"
    """What shares one scale of weights to conductances: the ``block`` placed on a tile, or each ``column`` of it."""
    grouped: Grouped = "sequential"
    """Grouped convolutions. ``sequential``: one group per MVM (as many MVMs as groups). ``block_diagonal``: groups
    share an MVM, and the cells between them, programmed to zero, add their noise."""
    training: TrainingNoise = field(default_factory=TrainingNoise)
    """Noise of hardware-aware training."""
    sources: tuple[str, ...] = ()
    """Where the numbers come from."""
    nominal_bound: float | None = None
    """The chip's own ADC bound where ``output_bound`` was calibrated for a layer instead, which is a deviation from the
    chip that ``summary`` lists; None: ``output_bound`` is the chip's own."""
    planes: int = 1
    """Tiles that share one set of DACs and ADCs, so that only one of them computes at a time: tile ``i`` belongs to
    set ``i // planes``. >= 1, divides ``tiles``."""
    cost: Cost | None = None
    """What an MVM costs in time and energy; None: not known, and nothing that needs it can be asked."""

    def __post_init__(self) -> None:
        for name in ("tiles", "rows", "cols", "planes"):
            _check(name, getattr(self, name), lambda v: type(v) is int and v >= 1, "an integer >= 1")
        _check("planes", self.planes, lambda v: self.tiles % v == 0, f"a divisor of the {self.tiles} tiles")
        _check("cost", self.cost, lambda v: v is None or isinstance(v, Cost), "None or a Cost")
        _check("cell", self.cell, lambda v: isinstance(v, UnitCell), "a UnitCell")
        _check("training", self.training, lambda v: isinstance(v, TrainingNoise), "a TrainingNoise")
        _check("sources", self.sources, lambda v: isinstance(v, tuple), "a tuple of strings")
        for name in ("input_bits", "output_bits"):
            _check(name, getattr(self, name), _is_bits, "None or an integer from 2 to 16")
        _check("output_bound", self.output_bound, lambda v: v > 0 and math.isfinite(v), "a positive number")
        bound = self.nominal_bound
        _check("nominal_bound", bound, lambda v: v is None or (v > 0 and math.isfinite(v)), "None or a positive number")
        _check("output_noise", self.output_noise, lambda v: v >= 0 and math.isfinite(v), "a number >= 0")
        for name, kind in (("weight_scale", WeightScale), ("grouped", Grouped)):
            _check(name, getattr(self, name), get_args(kind).__contains__, f"one of {get_args(kind)}")

    @property
    def cells(self) -> int:
        """Unit cells on the chip: the weights it can hold."""
        return self.tiles * self.rows * self.cols

    @property
    def nominal(self) -> "Chip":
        """The chip with its own ADC bound, where another was calibrated."""
        if self.nominal_bound is None:
            return self
        return replace(self, output_bound=self.nominal_bound, nominal_bound=None)


def _is_bits(value: object) -> bool:
    return value is None or (type(value) is int and 2 <= value <= 16)


def _check(name: str, value: Any, ok: Callable[[Any], bool], allowed: str) -> None:
    try:
        good = ok(value)
    except TypeError:  # a text that should be a number
        good = False
    if not good:
        raise ValueError(f"Chip.{name} must be {allowed}, got {value!r}")
