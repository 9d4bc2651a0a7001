"""The weights of a programmed section as they act behind the wires of their tiles."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from analogtorch.ops import input_drop, ir_drop

if TYPE_CHECKING:
    from analogtorch.simulate.section import ProgrammedSection


class BeforeWires(NamedTuple):
    """Weights before wires whose IR drop depends on the inputs."""

    weights: Tensor
    lost: Tensor
    """``InputDrop.lost``."""
    negatives: Tensor
    """``InputDrop.negatives``."""


def behind(section: "ProgrammedSection", plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of two polarities as ladders leave them."""
    chip = section.chip
    left = ir_drop.behind_wires(
        plus.flatten(1), minus.flatten(1), section.blocks, chip.wires, chip.cell, chip.array
    )
    return left[0].view_as(plus), left[1].view_as(plus)


def at_full_inputs(section: "ProgrammedSection", plus: Tensor, minus: Tensor) -> Tensor:
    """Return the weights of two polarities as inputs of the full range find them."""
    chip = section.chip
    if chip.wires.model == "standard":
        load = input_drop.unit_load(chip.wires, chip.cell)
        left = input_drop.full_inputs((plus - minus).flatten(1), section.blocks, load)
        return left.view_as(plus)
    plus, minus = behind(section, plus, minus)
    return plus - minus


def before_wires(
    section: "ProgrammedSection", t: float | None, temperature: float | None
) -> BeforeWires:
    """Return the weights at ``t`` before the wires, and what the wires take from them."""
    plus, minus = section.polarities(t, temperature)
    if section.chip.wires.model == "standard":
        flat = (input_drop.parabola(w.flatten(1), section.blocks) for w in (plus, minus))
        lost, negatives = (w.view_as(plus) for w in flat)
    else:
        left = behind(section, plus, minus)
        lost, negatives = plus - left[0], minus - left[1]
    found = plus - minus, lost - negatives, negatives
    return BeforeWires(*(section.driven(w) for w in found))
