"""The time of an MVM whose inputs are pulses."""

from dataclasses import replace
from typing import TYPE_CHECKING

from analogtorch.chips.cost import Figure

if TYPE_CHECKING:
    from analogtorch.chips.chip import Chip


def mvm_time(chip: "Chip") -> Figure:
    """Return the seconds of one MVM of a tile: ``Cost.mvm_time``, less what split pulses save.

    Figures of a cost are those of inputs of one pulse. A split pulse is shorter in each phase of
    the MVM; its energy is not known to change, so that of ``Cost.mvm_energy`` stays. On a chip that
    senses light, an MVM takes the exposure (``Light.exposure``) instead.

    Raises:
        ValueError: the chip has no cost, or the pulses would save all of its time.

    Example:
        >>> at.chips.mvm_time(at.chips.hermes64().replace(dac={"split": 3})).value  # 101 ns
    """
    cost, dac = chip.costs, chip.dac
    figure = cost.mvm_time
    if chip.light.on:
        return replace(figure, value=chip.light.exposure)
    if dac.split is None or dac.bits is None:
        return figure
    if dac.lsb_time is None:
        raise ValueError(
            f"chip {chip.name!r}: DAC.split={dac.split} makes an MVM shorter, by a time that "
            "DAC.lsb_time tells; give it, in seconds"
        )
    saved = cost.phases * (dac.levels - dac.pulse_steps) * dac.lsb_time
    if saved >= figure.value:
        raise ValueError(
            f"chip {chip.name!r}: DAC.split={dac.split} saves {saved:g} s of an MVM of "
            f"{figure.value:g} s; DAC.lsb_time or Cost.mvm_time must be wrong"
        )
    return Figure(
        value=figure.value - saved,
        kind="derived" if figure.kind == "measured" else figure.kind,
        source=f"{figure.source}; less {cost.phases} x ({dac.levels} - {dac.pulse_steps}) LSB "
        f"of {dac.lsb_time:g} s by split pulses",
    )
