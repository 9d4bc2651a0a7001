"""What of a model runs on the chip, what does not and why, and how many blocks and tiles it
takes.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from analogtorch.chips import Chip
from analogtorch.conversion.fast_path import reader
from analogtorch.conversion.kinds import analog_layers, check_module, left_digital, reason
from analogtorch.conversion.route import routed_layers
from analogtorch.conversion.share import Share, share
from analogtorch.conversion.taken import taken
from analogtorch.nn import AnalogComposite, AnalogLayer, AnalogMultiheadAttention
from analogtorch.nn.converters import bounds_text, range_text

_BUILD = ("name", "tiles", "rows", "cols")
"""Fields of a chip that tell which it is and how much fits on it."""


@dataclass(frozen=True)
class LayerRow:
    """One analog layer."""

    name: str
    kind: str
    shape: tuple[int, ...]
    blocks: int
    """Blocks to place: row blocks x column blocks, of all sections."""
    cells: int
    """Unit cells that it occupies, those between the groups of a block-diagonal convolution
    included."""
    input_range: str
    """The DAC's full scale, or how it is found while the layer is not calibrated."""
    chip: Chip
    """The chip that it runs on."""
    output_bounds: str | None = None
    """The ADC's bounds where the layer has its own, a deviation from the chip; None: the chip's."""
    by_vector: bool = False
    """Whether each input vector sets its own DAC range, which the digital side computes."""


@dataclass(frozen=True)
class Summary:
    """What ``summary`` returns; print it."""

    layers: tuple[LayerRow, ...]
    skipped: tuple[tuple[str, str, int], ...]
    """Modules with weights that stay digital: name, reason, number of weights."""

    routed: tuple[str, ...] = ()
    """Layers whose weights the model passes to ``F.linear`` and the like, brought back to the
    layer."""
    attention: tuple[str, ...] = ()
    """Analog attention, by name: its products of activations stay digital."""
    share: Share = field(default_factory=lambda: Share(0))
    """How many of the weights that multiply are on the chip, and which modules hold the others."""
    parameters: int = 0
    """Numbers in the Parameters of the digital model: ``model.parameters()`` without the input
    ranges."""
    ranges: int = 0
    """Numbers in the input ranges, which ``model.parameters()`` holds as well because they
    learn."""

    @property
    def chips(self) -> tuple[Chip, ...]:
        """The chips that the layers run on, one of each name and build; its other fields are those
        of most layers.
        """
        return tuple(chip for chip, _ in self._builds())

    @property
    def tiles(self) -> int:
        """Tiles at one block per tile: an upper bound, as blocks that are smaller than a tile may
        share one.
        """
        return sum(row.blocks for row in self.layers)

    @property
    def tiles_lower_bound(self) -> int:
        """Tiles that the cells would fill without any waste."""
        return sum(_least(chip, rows) for chip, rows in self._builds())

    def _builds(self) -> list[tuple[Chip, list[LayerRow]]]:
        """The chips, and the layers of each."""
        found: dict[tuple[Any, ...], list[LayerRow]] = {}
        for row in self.layers:
            found.setdefault(tuple(getattr(row.chip, name) for name in _BUILD), []).append(row)
        return [(_usual([row.chip for row in rows]), rows) for rows in found.values()]

    def _by_vector(self) -> list[str]:
        """Which layers scale each vector, and what that costs; nothing where no layer does."""
        names = [row.name for row in self.layers if row.by_vector]
        if not names:
            return []
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return [
            f"{len(names)} of {len(self.layers)} layers scale each input vector by its largest "
            f"input: {shown}. An MVM of n inputs and m outputs then takes n comparisons and n "
            "multiplications of the inputs, and m multiplications of the outputs, all digital."
        ]

    def _share(self, name: str) -> str:
        weights = self.share.digital.get(name)
        return f", {self.share.percent(weights)} of those that multiply" if weights else ""

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.layers), default=4)
        lines = [
            f"{'layer':<{width}}  {'kind':<8}  {'weight':<18}  {'blocks':>6}  {'cells':>10}  input "
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
        lines.append(
            f"{self.parameters:,} parameters, and {self.ranges:,} input ranges beside them."
        )
        if self.routed:
            lines.append(
                f"routed: {len(self.routed)} layers that the model calls by their weights, as "
                f"{self.routed[0]}"
            )
        lines += self._by_vector()
        bounded = [row for row in self.layers if row.output_bounds is not None]
        if bounded:
            own = " or ".join(
                f"{bound:g}" for bound in dict.fromkeys(row.chip.output_bound for row in bounded)
            )
            bounds = ", ".join(f"{row.name} {row.output_bounds}" for row in bounded)
            lines.append(f"ADC bound calibrated, the chip's own is {own}: {bounds}")
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
    text = f"{tiles} of {chip.tiles} tiles of {chip.name} at one block per tile"
    if tiles > chip.tiles >= _least(chip, rows):
        text += f": fits only if blocks share tiles (at least {_least(chip, rows)})"
    elif tiles > chip.tiles:
        text += f": TOO LARGE for one chip (at least {_least(chip, rows)} tiles)"
    return f"{text}; {cells:,} of {chip.cells:,} cells."


def _usual(chips: list[Chip]) -> Chip:
    """The chip that most of them are; a device of the user's may have no hash."""
    distinct: list[Chip] = []
    numbers = Counter[int]()
    for chip in chips:
        if chip not in distinct:
            distinct.append(chip)
        numbers[distinct.index(chip)] += 1
    return distinct[numbers.most_common(1)[0][0]]


def _least(chip: Chip, rows: list[LayerRow]) -> int:
    return math.ceil(sum(row.cells for row in rows) / (chip.rows * chip.cols))


def differences(chip: Chip, usual: Chip) -> str:
    """The fields of ``chip`` that are not as ``usual``, with those values that are short."""
    told = []
    for name in (f.name for f in fields(Chip)):
        value = getattr(chip, name)
        if value != getattr(usual, name):
            told.append(f"{name} {value}" if isinstance(value, int | float | str | None) else name)
    return ", ".join(told)


def summary(model: nn.Module) -> Summary:
    """List the analog layers of a converted model and everything that stays digital, with the
    reason.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: the model has no analog layer.
    """
    check_module("summary", model)
    layers = dict(analog_layers(model))
    if not layers:
        raise ValueError(
            "summary: the model has no analog layer; call analogtorch.convert(model, chip) first"
        )
    rows = tuple(_row(name, layer) for name, layer in layers.items())
    swapped = taken(model)
    skipped = tuple(
        (
            name or "(root)",
            swapped.get(name) or reason(model, name, module) or _left(model, name),
            _count(own),
        )
        for name, module in model.named_modules()
        if not isinstance(module, AnalogLayer | AnalogComposite)
        and (own := list(module.parameters(recurse=False)))
    )
    skipped += tuple(
        (
            f"{name}.{own}".lstrip("."),
            f"the forward of {layer.digital_class.__name__} computes with it",
            p.numel(),
        )
        for name, layer in layers.items()
        for own, p in layer._parameters.items()
        if hasattr(layer, "analog_of")
        and p is not None
        and own not in ("weight", "bias", "input_range")
    )
    skipped += tuple((name, "not converted", p.numel()) for name, p in left_digital(model))
    ranges = {id(layer.input_range): layer.input_range.numel() for layer in layers.values()}
    return Summary(
        layers=rows,
        skipped=skipped,
        routed=tuple(routed_layers(model)),
        attention=tuple(
            n or "(root)"
            for n, m in model.named_modules()
            if isinstance(m, AnalogMultiheadAttention)
        ),
        share=share(model),
        parameters=_count([p for p in model.parameters() if id(p) not in ranges]),
        ranges=sum(ranges.values()),
    )


def _left(model: nn.Module, name: str) -> str:
    """Why a layer that could be analog is not."""
    attention = reader(model, name)
    if attention is None:
        return "not converted"
    user = attention[0] or "(root)"
    return f"not converted: {user!r}, which reads its weight without calling it, is digital"


def _row(name: str, layer: AnalogLayer) -> LayerRow:
    ranges, bounds = layer.input_ranges, layer.output_bounds
    return LayerRow(
        name=name or "(root)",
        kind=type(layer).__name__.removeprefix("Analog"),
        shape=layer.matrix_shape,
        blocks=sum(section.tile_blocks for section in layer.sections),
        cells=sum(section.cells for section in layer.sections),
        input_range="absmax of each input (not calibrated)"
        if ranges is None
        else range_text(ranges),
        by_vector=layer.takes_range
        and not layer.calibrated
        and bool(layer.chip.input_bits or layer.chip.output_steps),
        chip=layer.chip,
        output_bounds=None
        if bounds is None or layer.chip.output_bits is None
        else bounds_text(bounds),
    )


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(0 if is_lazy(p) else p.numel() for p in parameters)
