"""The state of a layer on a programmed chip at a time."""

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.nn.programmed import Programmed
from analogtorch.ops import Noise, fold, seed_tensor, stream
from analogtorch.simulate.compensation import Compensation, Readout, drift_gains
from analogtorch.simulate.section import ProgrammedSection
from analogtorch.simulate.transfer import dac_inl
from analogtorch.simulate.wires import before_wires


def layer_state(
    placed: list[ProgrammedSection],
    t: float | None,
    compensation: Compensation,
    readout: Readout,
    *,
    temperature: float | None = None,
    compensated: tuple[float, float | None] | None = None,
) -> Programmed:
    """Return the weights that the chip holds at ``t`` for a layer with these sections.

    Args:
        placed: the sections of the layer.
        t: seconds after programming; None: as programmed.
        compensation: as ``ProgrammedChip.at`` takes it.
        readout: as ``ProgrammedChip.at`` takes it.
        temperature: K; None: the reference temperature of the chip.
        compensated: time and temperature of the read of the compensation; None: as the weights.
    """
    weights, scales, gains = [], [], []
    losses: tuple[list[Tensor], list[Tensor]] = [], []
    by_input = placed[0].chip.wires.by_input
    for devices in placed:
        now, gain = devices.weights(t, temperature), devices.column * devices.factor
        if t is not None:
            then, when = now, t
            if compensated not in (None, (t, temperature)):
                when, warmth = compensated
                then = devices.weights(when, warmth)
            gain = gain * drift_gains(then, devices, compensation, readout, when)
        if by_input:
            now, *lost = before_wires(devices, t, temperature)
            for polarity, part in zip(losses, lost, strict=True):
                polarity.append(devices.scale_(part))
        weights.append(devices.scale_(now))
        scales.append(devices.scale)
        gains.append(gain.to(devices.dtype))
    first, device = placed[0], weights[0].device
    blocks = max(devices.section.blocks for devices in placed)
    words = [stream(Noise.OUTPUT, first.key, str(t), block) for block in range(blocks)]
    keys = fold(seed_tensor(first.seed, device), torch.tensor(words, device=device))
    ideal = weights[0].new_tensor([error.ideal for error in ADC_ERRORS]).view(-1, 1, 1)
    uneven = any((devices.errors != ideal).any() for devices in placed)
    adc_errors = tuple(devices.errors for devices in placed) if uneven else None
    inl = tuple(devices.inl for devices in placed if devices.inl is not None) or None
    separate = first.chip.phases == 4
    negatives = None
    if separate:
        negatives = tuple(devices.scale_(devices.negatives(t, temperature)) for devices in placed)
    bends = None
    if first.chip.iv.on:
        found = (devices.curvatures(t, temperature) for devices in placed)
        bends = tuple(
            torch.stack([devices.scale_(each) for each in both])
            for devices, both in zip(placed, found, strict=True)
        )
    variances = None
    if first.chip.mvm_read_noise.std is not None:
        each_read = (devices.read_variances(t, temperature) for devices in placed)
        each_read = (v if separate else v.sum(0, keepdim=True) for v in each_read)
        variances = tuple(v.bfloat16() for v in each_read)
    return Programmed(
        tuple(weights),
        tuple(scales),
        tuple(gains),
        keys,
        adc_errors,
        negatives=negatives,
        read_variances=variances,
        adc_inl=inl,
        dac_inl=dac_inl(first.chip, weights[0]),
        curvatures=bends,
        lost=tuple(losses[0]) if by_input else None,
        lost_negatives=tuple(losses[1]) if by_input and separate else None,
    )
