"""What one read of the drift compensation of a programmed chip costs."""

from collections.abc import Iterator, Mapping
from typing import get_args

from analogtorch.cost_model.recalibration import ReadCost, Reads, read_cost
from analogtorch.nn import AnalogLayer
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.readout import compensation_mvms
from analogtorch.simulate.tiles import Spot
from analogtorch.values import checks


def recalibration_cost(
    layers: Mapping[str, AnalogLayer],
    spots: Mapping[str, list[list[Spot]]],
    compensation: Compensation,
) -> ReadCost:
    """Return the cost of a read of all layers; see ``ProgrammedChip.recalibration_cost``."""
    checks.choice("recalibration_cost: compensation", compensation, get_args(Compensation))
    chip, *others = list(dict.fromkeys(layer.chip for layer in layers.values()))
    if any((each.cost, each.array) != (chip.cost, chip.array) for each in others):
        raise ValueError(
            "recalibration_cost: the layers are on chips of different costs; program those of one "
            "chip at a time"
        )
    return read_cost(
        chip, (read for name in layers for read in _reads(layers[name], spots[name], compensation))
    )


def _reads(
    layer: AnalogLayer, spots: list[list[Spot]], compensation: Compensation
) -> Iterator[Reads]:
    """Yield the MVMs that read each block of a layer."""
    array = layer.chip.array
    for section, of_section in zip(layer.sections, spots, strict=True):
        for spot in of_section:
            rows = section.bounds[spot.block + 1] - section.bounds[spot.block]
            mvms, driven = compensation_mvms(layer.chip, compensation, rows)
            columns = spot.outputs.stop - spot.outputs.start
            yield Reads((spot.chip, spot.tile), mvms, driven / array.rows, columns / array.columns)
