"""Training noise that the kernels of the product do not draw: devices, failed cells.

Devices of differential pairs have an operator of their own (``ops/device_noise.py``); the rest is
plain torch.

Like all noise it is keyed by position (``ops/generator.py``); the gradient treats it as a constant.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section
from analogtorch.devices import Spread
from analogtorch.devices.cell import program, shared, written
from analogtorch.devices.fluctuation import Fluctuations
from analogtorch.ops import (
    Noise,
    block_scales,
    fold,
    happens,
    normal,
    number_samples,
    over_rows,
    stream,
)
from analogtorch.ops.device_noise import DeviceNoise, choice, device_noise
from analogtorch.ops.drift import compensation
from analogtorch.ops.physics import relative, weight_sigma
from analogtorch.ops.variances import read_variances as variances_by_table

# hashed here, because torch.compile cannot trace a hash
_PROGRAMMING, _DRIFT, _READ = (
    stream(kind) for kind in (Noise.PROGRAMMING, Noise.DRIFT, Noise.READ)
)
_DROP = stream("drop connect")


def needs_torch(chip: Chip, fraction: float) -> bool:
    """Return whether ``drawn`` must draw the training weights at this ``fraction`` of the noise."""
    noise = chip.training
    no_spread = noise.weight == "programming" and chip.cell.spread is None
    unknown = noise.weight == "device" or no_spread
    return (unknown and noise.strength * fraction > 0) or noise.drop_connect * fraction > 0


def drawn(
    weight: Tensor,
    section: Section,
    chip: Chip,
    key: Tensor,
    fraction: float,
    moments: tuple[float | None, ...],
    devices: DeviceNoise | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weights of one training step as the cells hold them, and operands for ``mvm``.

    Args:
        weight: the weight of the section, of its shape.
        section: the section, for the positions of its blocks.
        chip: the chip, for its training noise and its cells.
        key: key of the weight noise, () int64.
        fraction: share of the chip's training noise, in [0, 1].
        moments: those of ``chip.training``, of which the key draws one.
        devices: the noise of the devices at these times, if the operator knows it.

    Returns:
        The weights, of ``section.shape``; and by name ``scale``, that of the weights without noise,
        and ``gain``, the drift compensation, if devices drift. The gradient of a weight is that of
        its value after the compensation.
    """
    noise, strength = chip.training, chip.training.strength * fraction
    taken = weight.dtype == torch.float32 and noise.drop_connect * fraction == 0
    if devices is not None and taken:
        weight, scale, gain = device_noise(weight, key, section, strength, devices)
        return weight, {"scale": scale, "gain": gain}
    compensation: Tensor | None = None
    with torch.no_grad():
        scale = block_scales(weight, section.bounds, section.columns)
        full = over_rows(scale, section.bounds).view(section.shape)
        w = relative(weight, full).clamp(-1, 1)
        dropped = _dropped(section, key, noise.drop_connect * fraction)
        if noise.weight == "device":
            read, factor = _devices(w.float(), section, chip, key, dropped, moments)
            compensated = over_rows(factor, section.bounds).view(section.shape) * read
            deviation = full * strength * (compensated - w)
            compensation = factor**strength
        elif noise.weight == "none":
            deviation = torch.zeros_like(full)
        else:
            # of the kernels' size, where they have one
            shaped = chip.cell.spread or chip.cell.programming_sigma
            spread = shaped if noise.weight == "programming" else Spread()
            deviation = weight_sigma(w, full, strength, spread) * _normals(section, key)
    weight = weight + deviation.to(weight.dtype)
    if dropped is not None:
        weight = weight.masked_fill(dropped, 0.0)
    if compensation is None:
        return weight, {"scale": scale}
    weight = weight / over_rows(compensation, section.bounds).view(section.shape)
    return weight, {"scale": scale, "gain": compensation}


def _devices(
    w: Tensor,
    section: Section,
    chip: Chip,
    key: Tensor,
    dropped: Tensor | None,
    moments: tuple[float | None, ...],
) -> tuple[Tensor, Tensor]:
    """Return the weights of cells with targets ``w`` as read, and the drift compensation.

    They are read at one of the moments. The compensation is (row blocks, outputs): see ``_gains``.
    """
    cell, device = chip.cell, chip.cell.device

    def draw(kind: int) -> Tensor:
        common = shared(cell)
        keys = [fold(fold(key, kind), device) for device in range(cell.devices)]
        found = [_normals(section, each, number in common) for number, each in enumerate(keys)]
        return torch.stack(found)

    def works(g: Tensor) -> Tensor:
        return cell.weights(g) if dropped is None else cell.weights(g).masked_fill(dropped, 0.0)

    g = program(cell, w, draw(_PROGRAMMING), lambda g: g)
    then = works(g)
    if moments == (None,):
        return then, _gains(w, then, None, section, chip)
    nu, z = device.drift_coefficient(written(cell, w, g), draw(_DRIFT)), draw(_READ)

    def read(t: float | None) -> tuple[Tensor, Tensor]:
        if t is None:
            return then, _gains(w, then, None, section, chip)
        now = works(device.read(g, device.drift(g, nu, t), t, z))
        return now, _gains(w, then, now, section, chip)

    (now, gains), drawn = read(moments[0]), choice(key, len(moments))
    for number, t in enumerate(moments[1:], 1):  # all of them: compilers cannot follow a choice
        late, its_gains = read(t)
        now = torch.where(drawn == number, late, now)
        gains = torch.where(drawn == number, its_gains, gains)
    return now, gains


def _gains(w: Tensor, then: Tensor, now: Tensor | None, section: Section, chip: Chip) -> Tensor:
    """Return the factors of weights that fit them to their targets ``w``, (row blocks, outputs)."""
    calibrated, gains = chip.periphery.column_calibration, []
    target, before, after = w.flatten(1), then.flatten(1), None if now is None else now.flatten(1)
    for a, b in zip(section.bounds[:-1], section.bounds[1:], strict=True):
        late = None if after is None else after[:, a:b]
        found = compensation(target[:, a:b], before[:, a:b], late, calibrated, section.block_sums)
        gains.append(found)
    return torch.stack(gains)


def read_variances(
    weight: Tensor, section: Section, fluctuations: Fluctuations, phases: int
) -> Tensor:
    """Return the operand of the read noise of every MVM for weights without noise of their cells.

    Args:
        weight: the weight of the section, of its shape.
        section: the section, for its scales.
        fluctuations: those of the unit cell.
        phases: phases of the plan.

    Returns:
        See ``Operands.read_variances``; it has no gradient, as that of the noise of an output would
        vanish on average.
    """
    with torch.no_grad():
        if phases < 4:
            bounds, columns = section.bounds, section.columns
            return variances_by_table(weight, bounds, columns, fluctuations.table)
        scale = block_scales(weight, section.bounds, section.columns)
        full = over_rows(scale, section.bounds).view(section.shape)
        w = relative(weight, full).clamp(-1, 1)
        return fluctuations.of_weights(w).bfloat16()


def _normals(section: Section, key: Tensor, common: bool = False) -> Tensor:
    """Return normals of the section's shape; ``common``: the same for all columns of a block."""
    where = section.positions(key.device, common=common)
    return normal(key, *where, section.rows).view(section.shape)


def _dropped(section: Section, key: Tensor, probability: float) -> Tensor | None:
    """Return which cells fail, of the section's shape; None: none."""
    if probability == 0:
        return None
    where = section.positions(key.device)
    return happens(fold(key, _DROP), *where, section.rows, probability).view(section.shape)


def keys_by_sample(keys: Tensor, like: Tensor, batch: int, order: Tensor | None = None) -> Tensor:
    """Return the keys of a forward for each sample, (samples, streams), from those for all.

    Only the stream of the weights differs.

    Args:
        keys: (streams,); the first is that of the weights.
        like: a tensor on the device of the layer.
        batch: number of samples of the forward.
        order: index in the batch of each sample, int64; None: they are in order.
    """
    numbers = number_samples(like, batch, 1)
    of_weights = fold(keys[0], numbers if order is None else numbers[order]).unsqueeze(1)
    return torch.cat((of_weights, keys[1:].expand(len(of_weights), -1)), 1)


def each_sample(
    product: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    input_range: Tensor,
    keys: Tensor,
    samples: Tensor | None,
) -> Tensor:
    """Compute ``product(x, input_range, keys, samples)`` of each sample with its row of ``keys``.

    Args:
        product: the product of a batch, with keys (streams,).
        x: the input, whose first dimension counts the samples; a single dimension is one sample.
        input_range: one range for all, or as many dimensions as ``x``.
        keys: (samples, streams).
        samples: numbers of all vectors in the output noise.
    """
    if x.dim() == 1 or len(keys) == 0:
        first = keys[0] if len(keys) else keys.new_zeros(keys.shape[1])
        return product(x, input_range, first, samples)
    per_sample = input_range.dim() == x.dim()
    numbers = None if samples is None else samples.view(len(keys), -1)
    parts = []
    for i in range(len(keys)):
        limit = input_range[i : i + 1] if per_sample else input_range
        of_sample = None if numbers is None else numbers[i]
        parts.append(product(x[i : i + 1], limit, keys[i], of_sample))
    return torch.cat(parts)
