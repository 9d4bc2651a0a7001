"""The layers of a model on the chip, those that stay digital and why, and the blocks and tiles."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from analogtorch.chips import Chip, get, names
from analogtorch.chips.choices import Choices
from analogtorch.chips.unit_cells import unit_cells
from analogtorch.conversion.fast_path import reader
from analogtorch.conversion.kinds import (
    added,
    analog_layers,
    check_module,
    lazy_layers,
    left_digital,
    makers,
    reason,
    refuse_flat,
    some_layers,
)
from analogtorch.conversion.multiplied import multiplied
from analogtorch.conversion.not_parameters import not_parameters
from analogtorch.conversion.route import routed_layers
from analogtorch.conversion.share import Share, share
from analogtorch.conversion.taken import taken
from analogtorch.nn import AnalogComposite, AnalogLayer, AnalogMultiheadAttention
from analogtorch.nn.converters import adc_ranges_text, dac_text
from analogtorch.nn.kinds import kind_of
from analogtorch.values.listed import listed
from analogtorch.values.shown import Shown


@dataclass(frozen=True)
class LayerRow:
    """One analog layer in a ``Summary``."""

    name: str
    kind: str
    shape: tuple[int, ...]
    blocks: int
    """Number of blocks: row blocks x column blocks, of all sections, for each unit cell of a
    weight."""
    cells: int
    """Number of unit cells, with those between the groups of a block-diagonal convolution. A weight
    takes several where the cell of the layer has several times the devices that others have."""
    input_range: str
    """The DAC range as text, or that each input sets it, as calibration chose or for want of it."""
    chip: Chip
    """The chip that it runs on."""
    adc_ranges: str | None = None
    """The ADC ranges as text if the layer has its own, a deviation from the chip; None: that of the
    chip."""
    by_vector: bool = False
    """Whether each input vector sets its own DAC range, which the digital side computes."""
    unrounded: bool = False
    """Whether ADC outputs leave the tile as they are, because no range of ``output_bits`` is known:
    ``calibrate`` finds it."""


@dataclass(frozen=True)
class Summary(Shown):
    """What of a model is analog and what is digital, as ``summary`` returns it; print it."""

    layers: tuple[LayerRow, ...]
    skipped: tuple[tuple[str, str, int], ...]
    """Modules with weights that stay digital: name, reason, number of weights, which is 0 where the
    model computes them from Parameters of other modules."""

    routed: tuple[str, ...] = ()
    """Layers whose weights the model passes to ``F.linear`` and the like, which are routed to the
    layer."""
    attention: tuple[str, ...] = ()
    """Names of the analog attention modules; their products of activations stay digital."""
    share: Share = field(default_factory=lambda: Share(0))
    """The share of the multiplying weights that is on the chip, and the modules that hold the
    others."""
    parameters: int = 0
    """Number of elements of the digital model's Parameters: ``model.parameters()`` without the DAC
    ranges."""
    ranges: int = 0
    """Number of DAC ranges, which ``model.parameters()`` holds as well because they learn."""
    lazy: tuple[str, ...] = ()
    """Layers that have no weights yet, because the model never ran."""

    @property
    def chips(self) -> tuple[Chip, ...]:
        """The chips of the layers, one for each name and size.

        Other fields are those of most layers.
        """
        return tuple(chip for chip, _ in self._builds())

    @property
    def tiles(self) -> int:
        """Number of tiles at one block per tile.

        It is an upper bound, as blocks that are smaller than a tile may share one.
        """
        return sum(row.blocks for row in self.layers)

    @property
    def tiles_lower_bound(self) -> int:
        """Number of tiles that the cells would fill without waste."""
        return sum(_least(chip, rows) for chip, rows in self._builds())

    def _builds(self) -> list[tuple[Chip, list[LayerRow]]]:
        """Return the chips, each with its layers."""
        found: dict[tuple[Any, ...], list[LayerRow]] = {}
        for row in self.layers:
            array = row.chip.array
            build = row.chip.name, array.tiles, array.rows, array.columns
            found.setdefault(build, []).append(row)
        return [(_usual([row.chip for row in rows]), rows) for rows in found.values()]

    def _by_vector(self) -> list[str]:
        """Return a text about the layers that scale each vector; empty if none does."""
        found = [row for row in self.layers if row.by_vector]
        if not found:
            return []
        return [
            f"{self._some(found)} scale each input vector by its largest input. An MVM of n inputs "
            "and m outputs then takes n comparisons and n multiplications of the inputs, and m "
            "multiplications of the outputs, all digital."
        ]

    def _unrounded(self) -> list[str]:
        """Return a text about the layers whose outputs are finer than the chip's; empty if none."""
        found = [row for row in self.layers if row.unrounded]
        if not found:
            return []
        bits = " or ".join(dict.fromkeys(str(row.chip.periphery.output_bits) for row in found))
        return [
            f"{self._some(found)} do not round their outputs to the {bits} bits that leave a tile: "
            "calibrate finds the ranges."
        ]

    def _some(self, rows: list[LayerRow]) -> str:
        names = [row.name for row in rows]
        return f"{len(names)} of {len(self.layers)} layers ({listed(names)})"

    def _choices(self) -> list[str]:
        """Return texts about what software, such as ``calibrate``, has chosen of the chips."""
        choices = [Choices.of(row.chip) for row in self.layers]
        found = {
            "have a weight scale per column, which the digital unit applies.": sum(
                c.weight_scale == "column" for c in choices
            ),
            "are written to targets that allow for drift.": sum(
                c.target_time is not None for c in choices
            ),
        }
        return [f"{n} of {len(choices)} layers {text}" for text, n in found.items() if n]

    def _share(self, name: str) -> str:
        weights = self.share.digital.get(name)
        return f", {self.share.percent(weights)} of those that multiply" if weights else ""

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.layers), default=4)
        lines = [
            f"{'layer':<{width}}  {'kind':<8}  {'weight':<18}  {'blocks':>6}  {'cells':>10}  DAC "
            "range"
        ]
        for row in self.layers:
            shape = "x".join(map(str, row.shape))
            lines.append(
                f"{row.name:<{width}}  {row.kind:<8}  {shape:<18}  {row.blocks:>6}  "
                f"{row.cells:>10,}  {row.input_range}"
            )
        for chip, rows in self._builds():
            lines.append(_fit(chip, rows))
            lines += [
                f"differs from {chip.name}: {row.name} ({differences(row.chip, chip)})"
                for row in rows
                if row.chip != chip
            ]
        lines.append(str(self.share))
        if self.lazy:
            count = len(self.lazy)
            layers = "layer has" if count == 1 else "layers have"
            lines.append(
                f"{count} lazy {layers} no weights yet, which count nowhere; run the model once "
                f"first: {', '.join(self.lazy)}"
            )
        lines.append(f"{self.parameters:,} parameters, and {self.ranges:,} DAC ranges beside them.")
        if self.routed:
            lines.append(
                f"routed: {len(self.routed)} layers that the model calls by their weights, as "
                f"{self.routed[0]}"
            )
        lines += self._by_vector()
        lines += self._unrounded()
        lines += self._choices()
        calibrated = [row for row in self.layers if row.adc_ranges is not None]
        if calibrated:
            of_chip = dict.fromkeys(f"{row.chip.adc.range:g}" for row in calibrated)
            ranges = ", ".join(f"{row.name} {row.adc_ranges}" for row in calibrated)
            lines.append(
                f"ADC range calibrated, that of the chip is {' or '.join(of_chip)}: {ranges}"
            )
        lines += [
            f"digital: {name} ({count:,} weights{self._share(name)}; {why})"
            for name, why, count in self.skipped
        ]
        if self.attention:
            others = len(self.attention) - 1
            where = self.attention[0] + (f" and {others} more" if others else "")
            lines.append(f"digital: q k^T, softmax and the product with v of {where} (no weights)")
        return "\n".join(lines)


def _fit(chip: Chip, rows: list[LayerRow]) -> str:
    tiles, cells = sum(row.blocks for row in rows), sum(row.cells for row in rows)
    text = f"{tiles} of {chip.array.tiles} tiles of {chip.name} at one block per tile"
    if tiles > chip.array.tiles >= _least(chip, rows):
        text += f": fits only if blocks share tiles (at least {_least(chip, rows)})"
    elif tiles > chip.array.tiles:
        text += f": TOO LARGE for one chip (at least {_least(chip, rows)} tiles)"
    return f"{text}; {cells:,} of {chip.array.cells:,} cells."


def _usual(chips: list[Chip]) -> Chip:
    """Return the chip that most of them are, of as many the preset of that name.

    A user's device may have no hash.
    """
    distinct: list[Chip] = []
    numbers = Counter[int]()
    for chip in chips:
        if chip not in distinct:
            distinct.append(chip)
        numbers[distinct.index(chip)] += 1
    preset = [chip.name in names() and chip == get(chip.name) for chip in distinct]
    return distinct[max(numbers, key=lambda i: (numbers[i], preset[i]))]


def _least(chip: Chip, rows: list[LayerRow]) -> int:
    return math.ceil(sum(row.cells for row in rows) / (chip.array.rows * chip.array.columns))


def differences(chip: Chip, usual: Chip) -> str:
    """Return the fields of ``chip`` and its parts that differ from ``usual``, with short values."""
    return ", ".join(_differences(chip, usual, ""))


def _differences(part: Any, usual: Any, where: str) -> Iterator[str]:
    for each in fields(part):
        value, other = getattr(part, each.name), getattr(usual, each.name)
        if not each.compare or value == other:
            continue
        name = f"{where}{each.name}"
        if is_dataclass(value) and type(value) is type(other) and not where:
            yield from _differences(value, other, f"{name}.")
        else:
            yield f"{name} {value}" if isinstance(value, int | float | str | None) else name


def summary(model: nn.Module) -> Summary:
    """List the analog layers of a converted model, and what stays digital with the reason.

    Returns:
        The summary; print it for a table.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: the model has no analog layer, or is sharded by ``FullyShardedDataParallel``.
    """
    check_module("summary", model)
    refuse_flat(model, "summary", "call it before that")
    layers = some_layers(model, "summary")
    cells = cells_of(model)
    rows = tuple(_row(name, layer, cells[name]) for name, layer in layers.items())
    swapped, made, others = taken(model), makers(model), not_parameters(model)
    asked = any(layer.on_request for layer in layers.values())
    used = {name: (why, count) for name, _, why, count in multiplied(model)}
    skipped = []
    for name, module in model.named_modules():
        weights = [*module.parameters(recurse=False), *others.get(module, {}).values()]
        analog = isinstance(module, AnalogLayer | AnalogComposite) or module in made
        if (weights or kind_of(module)) and not analog:
            why = swapped.get(name) or used.pop(name or "(root)", ("",))[0]
            why = why or reason(model, name, module, asked) or _left(model, name)
            skipped.append((name or "(root)", why, _count(weights)))
    skipped += [(name, _added(layer), p.numel()) for name, layer, p in added(model)]
    skipped += [(name, *of) for name, of in used.items()]
    skipped += [(name, "not converted", p.numel()) for name, p in left_digital(model)]
    ranges = {id(layer.input_range): layer.input_range.numel() for layer in layers.values()}
    return Summary(
        layers=rows,
        skipped=tuple(skipped),
        routed=tuple(routed_layers(model)),
        attention=tuple(
            n or "(root)"
            for n, m in model.named_modules()
            if isinstance(m, AnalogMultiheadAttention)
        ),
        share=share(model),
        parameters=_count([p for p in model.parameters() if id(p) not in ranges]),
        ranges=sum(ranges.values()),
        lazy=tuple(name or "(root)" for name in lazy_layers(model)),
    )


def cells_of(model: nn.Module) -> dict[str, int]:
    """Return how many unit cells hold a weight of each analog layer, by the layers with fewer."""
    layers = dict(analog_layers(model))
    chips = {id(layer.chip): layer.chip for layer in layers.values()}.values()
    return {name: unit_cells(layer.chip, chips) for name, layer in layers.items()}


def _left(model: nn.Module, name: str) -> str:
    """Return why a layer that could be analog is not."""
    attention = reader(model, name)
    if attention is None:
        return "not converted"
    user = attention[0] or "(root)"
    return f"not converted: {user!r}, which reads its weight without calling it, is digital"


def _added(layer: AnalogLayer) -> str:
    """Return why a Parameter that a layer has beside those of its kind is digital."""
    of = layer.digital_class.__name__
    if hasattr(layer, "analog_of"):
        return f"the forward of {of} computes with it"
    return f"no weight of a {of}"


def _row(name: str, layer: AnalogLayer, unit_cells: int) -> LayerRow:
    of_adcs = layer.adc_ranges
    converters = bool(layer.chip.dac.bits or layer.chip.adc.levels)
    if not layer.chip.adc.levels:
        of_adcs = None
    return LayerRow(
        name=name or "(root)",
        kind=type(layer).__name__.removeprefix("Analog"),
        shape=layer.matrix_shape,
        blocks=unit_cells * sum(section.tile_blocks for section in layer.sections),
        cells=unit_cells * sum(section.cells for section in layer.sections),
        input_range=dac_text(layer)
        or f"absmax of each input ({'chosen' if layer.ranged else 'not calibrated'})",
        by_vector=layer.takes_range and not layer.calibrated and converters,
        unrounded=layer.unrounded,
        chip=layer.chip,
        adc_ranges=None if of_adcs is None else adc_ranges_text(of_adcs),
    )


def _count(weights: Iterable[Tensor]) -> int:
    return sum(0 if is_lazy(w) else w.numel() for w in weights)
