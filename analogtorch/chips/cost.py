"""Time and energy of a chip's computation: every figure with its kind and its source."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from analogtorch.devices import register
from analogtorch.devices.serial import LATER
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

Scope = Literal["tile", "chip", "system"]
Kind = Literal["measured", "derived", "fitted", "modelled", "assumed"]
Charge = Literal["model", "column", "tile"]
DigitalKind = Literal[
    "relu", "sigmoid", "gates", "activation", "batch_norm", "norm", "add", "pool", "attention",
    "matmul", "fft", "embedding", "other",
]  # fmt: skip
"""Kinds of digital operations; ``Digital.kinds`` says what is in them."""
_RUNS_WITH = {
    **dict.fromkeys(("relu", "sigmoid", "gates"), "activation"),
    "batch_norm": "norm",
    "rounding": "matmul",
}
"""The kind that has this one in it, or whose units run it."""


@register
@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with its kind and source; the field that holds it names the unit."""

    value: float
    """Finite, >= 0."""
    kind: Kind
    """``measured``: published as measured. ``derived``: computed from measured figures. ``fitted``:
    fitted to published data. ``modelled``: published as the result of a model or simulation, or
    computed from such; never measured. ``assumed``: an estimate, or a figure of another chip."""
    source: str
    """The source: a paper, the computation, or why it is assumed."""

    def __post_init__(self) -> None:
        checks.numbers(self, "value", least=0, what="finite number")
        checks.choice("Figure.kind", self.kind, get_args(Kind))
        if not (isinstance(self.source, str) and self.source):
            raise ValueError(
                "Figure.source must say where the number comes from; 'an estimate' is an answer"
            )


@register
@dataclass(frozen=True, kw_only=True)
class Network:
    """The cost of moving a number (an element: one 8-bit activation) between tiles and chips."""

    grid_columns: int
    """Number of columns, >= 1, of the grid on which tiles lie, row by row; hops are counted by
    Manhattan distance."""
    hop_energy: Figure
    """J per element and hop between neighbouring tiles."""
    link_rate: Figure | None
    """Elements per second into one tile; None: the transfer is part of the time of the MVM."""
    chip_energy: Figure
    """J per element that enters or leaves a chip."""
    chip_rate: Figure
    """Elements per second through the ports of one chip, > 0."""

    def __post_init__(self) -> None:
        checks.counts(self, "grid_columns")
        _check_figures(self, positive=("link_rate", "chip_rate"))


@register
@dataclass(frozen=True, kw_only=True)
class Digital:
    """A unit on which digital operations run."""

    energy: Figure
    """J per arithmetic operation."""
    rate: Figure
    """Arithmetic operations per second, > 0: of the unit of one chip; of the host for each chip in
    use."""
    kinds: tuple[str, ...] = ()
    """Kinds of ``Operation`` that run here; on the host, () means all that the chip does not take.
    ``relu``: ReLU, hard sigmoid and other clamps. ``sigmoid``: sigmoid and tanh. ``gates``: gates
    and new states of recurrent layers. ``activation``: these three, all other functions of each
    number, and softmax. ``batch_norm``: with fixed statistics. ``norm``: also those that find mean
    and variance. ``add``: pointwise arithmetic. ``pool``: also means and other reductions.
    ``attention``, ``matmul``, ``fft``, ``embedding``, and ``other``. The kind ``rounding`` is not
    named: it runs where ``matmul`` does."""
    sources: Sources = field(default=Sources(), compare=False, metadata={LATER: True})
    """Source of ``kinds``."""

    def __post_init__(self) -> None:
        _check_figures(self, positive=("rate",))
        check_sources(self)
        if not (isinstance(self.kinds, tuple) and all(isinstance(k, str) for k in self.kinds)):
            raise ValueError(
                "Digital.kinds must be a tuple of strings such as ('activation',), got "
                f"{self.kinds!r}"
            )
        if "rounding" in self.kinds:
            raise ValueError(
                f"Digital.kinds must not have 'rounding', got {self.kinds!r}: rounding runs where "
                "matmul does; name 'matmul' instead"
            )
        for kind in self.kinds:
            checks.choice("Digital.kinds: each", kind, get_args(DigitalKind))

    def runs(self, kind: str) -> bool:
        """Return whether operations of a kind run here."""
        return kind in self.kinds or _RUNS_WITH.get(kind) in self.kinds


@register
@dataclass(frozen=True, kw_only=True)
class Published:
    """A published energy efficiency of one scope, from a tile to the whole system."""

    scope: Scope
    """What the figure covers."""
    tops_per_watt: Figure
    """1e12 operations per joule (2 operations per MAC), > 0."""
    excluded: str
    """What the figure leaves out."""

    def __post_init__(self) -> None:
        checks.choice("Published.scope", self.scope, get_args(Scope))
        _check_figures(self, positive=("tops_per_watt",))
        if not (isinstance(self.excluded, str) and self.excluded):
            raise ValueError(
                "Published.excluded must say what the figure leaves out; 'nothing' is an answer"
            )


@register
@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the energy of a full tile's MVM divides, and so how it falls with less use.

    The shares add up to 1.
    """

    control: Figure
    """Share that is charged whatever is used."""
    dac: Figure
    """Share of input encoding, charged per used row."""
    array: Figure
    """Share of the cells, charged per used cell in proportion to its conductance."""
    adc: Figure
    """Share of output encoding, charged per used column."""

    def __post_init__(self) -> None:
        _check_figures(self)
        shares = [figure.value for figure in self.figures]
        if abs(sum(shares) - 1) > 1e-9:
            raise ValueError(
                "Shares: control, dac, array and adc must add up to 1, got "
                f"{' + '.join(f'{s:g}' for s in shares)} = {sum(shares):g}; scale them"
            )

    @property
    def figures(self) -> tuple[Figure, Figure, Figure, Figure]:
        """The four shares: control, input encoding, cells, output encoding."""
        return self.control, self.dac, self.array, self.adc


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of a tile's MVMs, J, by consumer."""

    control: float = 0.0
    """Energy that does not depend on how much of a tile is used."""
    dac: float = 0.0
    """Energy of input encoding, per used row."""
    array: float = 0.0
    """Energy of the current through the cells, which falls with their conductance."""
    adc: float = 0.0
    """Energy of output encoding, per used column."""

    @property
    def total(self) -> float:
        """Sum of all parts, J."""
        return self.control + self.dac + self.array + self.adc

    def plus(self, other: "Energy", times: float = 1.0) -> "Energy":
        """Return the sum of this energy and ``times`` the other."""
        return Energy(
            **{f.name: getattr(self, f.name) + times * getattr(other, f.name) for f in fields(self)}
        )


@register
@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time and energy of a chip.

    Energies hold for full use of a tile; the shares describe how they fall with less use.
    """

    phases: int
    """Number of phases of one MVM, >= 1; their time and energy are in ``mvm_time`` and
    ``mvm_energy``."""
    precision: str
    """Bits of inputs and outputs of the figures, such as ``8-bit inputs, 8-bit outputs``."""
    mvm_time: Figure
    """Seconds of one MVM of a tile, however much of it is used, > 0."""
    mvm_energy: Figure
    """Energy of one MVM of a full tile, J, > 0."""
    excluded: str
    """What ``mvm_energy`` leaves out."""
    shares: Shares
    """How ``mvm_energy`` divides."""
    network: Network
    """The cost of moving activations."""
    on_chip: Digital
    """Digital operations on the chip, among them additions of partial sums unless
    ``sums_on_host``."""
    host: Digital
    """All other digital operations."""
    signed_passes: int = 1
    """MVMs of a matrix with signed inputs, 1 or 2: 2 if the rows take unsigned inputs only."""
    covers_slices: bool = False
    """Whether ``mvm_time`` and ``mvm_energy`` are those of all pulses of the inputs
    (``Slices.bits_per_pulse``), with the digital shifts and additions behind the ADCs. Otherwise
    each pulse takes them once more, and the additions are charged as digital operations.
    ``Chip.replace`` scales them with the pulses."""
    sums_on_host: bool = field(default=False, metadata={LATER: True})
    """Whether the host adds the partial sums of several blocks, which then all leave the chip.
    Pulses and slices are added where they are converted all the same."""
    published: tuple[Published, ...] = ()
    """Published efficiencies, from the smallest scope to the largest."""
    area: Figure | None = field(default=None, compare=False)
    """Area of one chip with all its tiles, mm2, > 0; None: not known. Chips that differ in nothing
    else are equal: files of before it describe the same chip."""

    def __post_init__(self) -> None:
        checks.counts(self, "phases")
        checks.counts(self, "signed_passes", least=1, most=2)
        checks.flag("Cost.covers_slices", self.covers_slices)
        checks.flag("Cost.sums_on_host", self.sums_on_host)
        for name in ("precision", "excluded"):
            if not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise ValueError(
                    f"Cost.{name} must be a text such as '8-bit inputs, 8-bit outputs' or 'nothing'"
                )
        _check_figures(self, positive=("mvm_time", "mvm_energy", "area"))
        for name, kind in (
            ("shares", Shares),
            ("network", Network),
            ("on_chip", Digital),
            ("host", Digital),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"Cost.{name} must be a {kind.__name__}, got {getattr(self, name)!r}"
                )
        if not (
            isinstance(self.published, tuple)
            and all(isinstance(p, Published) for p in self.published)
        ):
            raise ValueError(f"Cost.published must be a tuple of Published, got {self.published!r}")

    def mvm(
        self,
        *,
        rows: float,
        cols: float,
        cells: float,
        conductance: float = 1.0,
        charge: Charge = "model",
    ) -> Energy:
        """Return the energy of one MVM that uses these fractions (0..1) of a tile.

        Args:
            rows: fraction of the rows that are driven.
            cols: fraction of the columns that are read.
            cells: fraction of the cells that hold weights of this MVM.
            conductance: mean conductance of the cells, as a multiple of that after programming, >=
                0.
            charge: ``model`` charges by the shares; ``column`` charges the full tile's energy times
                ``cols``; ``tile`` charges the full tile's energy. The last two are the bounds of
                the unknown split.

        Raises:
            ValueError: a fraction is beyond [0, 1], the conductance is negative, or ``charge`` is
                unknown.
        """
        checks.choice("charge", charge, get_args(Charge))
        for name, share in (("rows", rows), ("cols", cols), ("cells", cells)):
            checks.number(name, share, least=0, most=1, what="fraction")
        checks.number("conductance", conductance, least=0)
        if charge != "model":
            control = rows = cells = cols = cols if charge == "column" else 1.0
        else:
            control = 1.0
        full = self.mvm_energy.value
        return Energy(
            control=full * self.shares.control.value * control,
            dac=full * self.shares.dac.value * rows,
            array=full * self.shares.array.value * cells * conductance,
            adc=full * self.shares.adc.value * cols,
        )

    def resized(self, rows: float, columns: float) -> "Cost":
        """Return the cost of tiles with this many times the rows and columns.

        Nothing is published of them. By assumption, the energy of input encoding grows with the
        rows, that of output encoding with the columns, that of the cells with both, and the time
        stays. Published efficiencies and the area are left out.
        """
        growth = (1.0, rows, rows * columns, columns)
        parts = [f.value * g for f, g in zip(self.shares.figures, growth, strict=True)]
        what = f"of tiles with {rows:g} times the rows and {columns:g} times the columns"
        names = [f.name for f in fields(Shares)]
        shares = (
            _rested(old, part / sum(parts), what)
            for part, old in zip(parts, self.shares.figures, strict=True)
        )
        return replace(
            self,
            mvm_time=_rested(self.mvm_time, self.mvm_time.value, what),
            mvm_energy=_rested(self.mvm_energy, self.mvm_energy.value * sum(parts), what),
            shares=Shares(**dict(zip(names, shares, strict=True))),
            published=(),
            area=None,
        )

    def of_tiles(self, before: int, tiles: int) -> "Cost":
        """Return the cost of a chip with another number of tiles.

        Nothing is published of it. By assumption, its digital unit grows with the tiles, and the
        grid on which they lie keeps its proportions. The area is left out.

        Args:
            before: the number of tiles that the cost is of.
            tiles: the new one.
        """
        ratio, network = tiles / before, self.network
        rate = _rested(self.on_chip.rate, ratio * self.on_chip.rate.value, f"with {tiles} tiles")
        columns = min(tiles, max(1, round(network.grid_columns * ratio**0.5)))
        return replace(
            self,
            on_chip=replace(self.on_chip, rate=rate),
            network=replace(network, grid_columns=columns),
            area=None,
        )

    def resliced(self, pulses: float, what: str, precision: str) -> "Cost":
        """Return the cost of tiles that cut weights and inputs otherwise, where it covers both.

        Nothing is published of them. By assumption, time and energy grow with the pulses of an
        input, and a column takes as much whatever it holds. Published efficiencies are left out.

        Args:
            pulses: this many times the pulses of an input.
            what: the columns and pulses, for the sources.
            precision: bits of inputs and weights.
        """
        figures = {
            name: _rested(old, pulses * old.value, what)
            for name, old in (("mvm_time", self.mvm_time), ("mvm_energy", self.mvm_energy))
        }
        return replace(self, precision=precision, published=(), **figures)  # type: ignore[arg-type]


def _rested(old: Figure, value: float, what: str) -> Figure:
    """Return a value that is assumed and rests on another figure."""
    return Figure(value=value, kind="assumed", source=f"ASSUMED {what}, from: {old.source}")


def _check_figures(owner: Any, positive: tuple[str, ...] = ()) -> None:
    """Raise an error unless fields annotated as ``Figure`` hold one.

    Those in ``positive`` must be above 0.
    """
    for each in fields(owner):
        value, kind = getattr(owner, each.name), str(each.type)
        if "Figure" not in kind or (value is None and "None" in kind):
            continue
        name = f"{type(owner).__name__}.{each.name}"
        if not isinstance(value, Figure):
            raise ValueError(
                f"{name} must be a Figure(value=..., kind=..., source=...), got {value!r}"
            )
        if each.name in positive and value.value == 0:
            raise ValueError(f"{name} must be above 0, got {value.value!r}")
