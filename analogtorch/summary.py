"""What of a model runs on the chip, what does not and why, and how many blocks and tiles it takes."""

import math
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from analogtorch.chips import Chip
from analogtorch.convert import analog_layers, reason
from analogtorch.convert.fast_path import reader
from analogtorch.convert.route import routed_layers
from analogtorch.nn import AnalogComposite, AnalogLayer, AnalogMultiheadAttention
from analogtorch.nn.base import range_text


@dataclass(frozen=True)
class LayerRow:
    """One analog layer."""

    name: str
    kind: str
    shape: tuple[int, ...]
    blocks: int
    """Blocks to place: row blocks x column blocks, of all sections."""
    cells: int
    """Unit cells that it occupies, those between the groups of a block-diagonal convolution included."""
    input_range: str
    """The DAC's full scale, or how it is found while the layer is not calibrated."""
    output_bound: float | None = None
    """The ADC's bound where it was calibrated for the layer, a deviation from the chip; None: the chip's own."""


@dataclass(frozen=True)
class Summary:
    """What ``summary`` returns; print it."""

    chip: Chip
    layers: tuple[LayerRow, ...]
    skipped: tuple[tuple[str, str, int], ...]
    """Modules with weights that stay digital: name, reason, number of weights."""

    routed: tuple[str, ...] = ()
    """Layers whose weights the model passes to ``F.linear`` and the like, brought back to the layer."""
    attention: tuple[str, ...] = ()
    """Analog attention, by name: its products of activations stay digital."""

    @property
    def tiles(self) -> int:
        """Tiles at one block per tile: an upper bound, as blocks that are smaller than a tile may share one."""
        return sum(row.blocks for row in self.layers)

    @property
    def tiles_lower_bound(self) -> int:
        """Tiles that the cells would fill without any waste."""
        return math.ceil(sum(row.cells for row in self.layers) / (self.chip.rows * self.chip.cols))

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.layers), default=4)
        lines = [f"{'layer':<{width}}  {'kind':<8}  {'weight':<18}  {'blocks':>6}  {'cells':>10}  input range"]
        for row in self.layers:
            shape = "x".join(map(str, row.shape))
            lines.append(
                f"{row.name:<{width}}  {row.kind:<8}  {shape:<18}  {row.blocks:>6}  {row.cells:>10,}  {row.input_range}"
            )
        lines.append(f"{self._fit()} {sum(row.cells for row in self.layers):,} of {self.chip.cells:,} cells.")
        if self.routed:
            lines.append(
                f"routed: {len(self.routed)} layers that the model calls by their weights, as {self.routed[0]}"
            )
        bounds = [f"{row.name} {row.output_bound:.4g}" for row in self.layers if row.output_bound is not None]
        if bounds:
            lines.append(f"ADC bound calibrated, the chip's own is {self.chip.output_bound:g}: {', '.join(bounds)}")
        lines += [f"digital: {name} ({count:,} weights; {why})" for name, why, count in self.skipped]
        if self.attention:
            others = len(self.attention) - 1
            where = self.attention[0] + (f" and {others} more" if others else "")
            lines.append(f"digital: q k^T, softmax and the product with v of {where} (no weights)")
        return "\n".join(lines)

    def _fit(self) -> str:
        text = f"{self.tiles} of {self.chip.tiles} tiles of {self.chip.name} at one block per tile"
        if self.tiles <= self.chip.tiles:
            return f"{text};"
        if self.tiles_lower_bound <= self.chip.tiles:
            return f"{text}: fits only if blocks share tiles (at least {self.tiles_lower_bound});"
        return f"{text}: TOO LARGE for one chip (at least {self.tiles_lower_bound} tiles);"


def summary(model: nn.Module) -> Summary:
    """List the analog layers of a converted model and everything that stays digital, with the reason.

    Raises:
        ValueError: the model has no analog layer, or layers on different chips.
    """
    layers = dict(analog_layers(model))
    if not layers:
        raise ValueError("summary: the model has no analog layer; call analogtorch.convert(model, chip) first")
    if len(chips := {layer.chip.name for layer in layers.values()}) > 1:
        raise ValueError(
            f"summary: the layers are on different chips ({', '.join(sorted(chips))}); summarise them apart"
        )
    rows = tuple(_row(name, layer) for name, layer in layers.items())
    skipped = tuple(
        (name or "(root)", reason(model, name, module) or _left(model, name), _count(own))
        for name, module in model.named_modules()
        if not isinstance(module, AnalogLayer | AnalogComposite) and (own := list(module.parameters(recurse=False)))
    )
    return Summary(
        chip=next(iter(layers.values())).chip.nominal,
        layers=rows,
        skipped=skipped,
        routed=tuple(routed_layers(model)),
        attention=tuple(n or "(root)" for n, m in model.named_modules() if isinstance(m, AnalogMultiheadAttention)),
    )


def _left(model: nn.Module, name: str) -> str:
    """Why a layer that could be analog is not."""
    attention = reader(model, name)
    if attention is None:
        return "not converted"
    return f"not converted: {attention[0] or '(root)'!r}, which reads its weight without calling it, is digital"


def _row(name: str, layer: AnalogLayer) -> LayerRow:
    ranges, chip = layer.input_ranges, layer.chip
    return LayerRow(
        name=name or "(root)",
        kind=type(layer).__name__.removeprefix("Analog"),
        shape=layer.matrix_shape,
        blocks=sum(section.blocks for section in layer.sections),
        cells=sum(section.cells for section in layer.sections),
        input_range="absmax of each input (not calibrated)" if ranges is None else range_text(ranges),
        output_bound=None if chip.nominal_bound is None else chip.output_bound,
    )


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(0 if is_lazy(p) else p.numel() for p in parameters)
