"""The noise of a training step that no kernel draws: whole devices, failed cells, weights of a
sample's own.

Like all noise it is keyed by position (``ops/generator.py``); the gradient takes it for a constant.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section
from analogtorch.devices import Spread
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
from analogtorch.ops.physics import magnitude_sums, ratio, relative, weight_sigma

# hashed here, because torch.compile cannot trace a hash
_PROGRAMMING, _DRIFT, _READ = (
    stream(kind) for kind in (Noise.PROGRAMMING, Noise.DRIFT, Noise.READ)
)
_DROP = stream("drop connect")


def needs_torch(chip: Chip, fraction: float) -> bool:
    """Whether ``drawn`` must make the training weights of ``chip`` at a ``fraction`` of its
    noise.
    """
    noise = chip.training
    unknown = noise.weight == "device" or (
        noise.weight == "programming" and chip.cell.spread is None
    )
    return (unknown and noise.strength * fraction > 0) or noise.drop_connect * fraction > 0


def drawn(
    weight: Tensor, section: Section, chip: Chip, key: Tensor, fraction: float, time: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weights of one training step as the cells hold them, and what ``mvm`` must know of them.

    Args:
        weight: the section's, of its shape.
        section: where its blocks lie.
        chip: its training noise, and its cells.
        key: of the weights' noise, () int64.
        fraction: of the chip's training noise, in [0, 1].
        time: ``chip.training.seconds``.

    Returns:
        The weights, of ``section.shape``; and by name ``scale``, that of the weights without noise,
        and ``gain``, the correction of the drift, where devices drift. The gradient of a weight is
        that of what it reads as after the correction.
    """
    noise, strength = chip.training, chip.training.strength * fraction
    gain: Tensor | None = None
    with torch.no_grad():
        scale = block_scales(weight, section.bounds, section.columns)
        full = over_rows(scale, section.bounds).view(section.shape)
        w = relative(weight, full).clamp(-1, 1)
        dropped = _dropped(section, key, noise.drop_connect * fraction)
        if noise.weight == "device":
            read, gain = _devices(w.float(), section, chip, key, dropped, time)
            deviation = (
                full * strength * (over_rows(gain, section.bounds).view(section.shape) * read - w)
            )
            gain = gain**strength
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
    if gain is None:
        return weight, {"scale": scale}
    return weight / over_rows(gain, section.bounds).view(section.shape), {
        "scale": scale,
        "gain": gain,
    }


def _devices(
    w: Tensor, section: Section, chip: Chip, key: Tensor, dropped: Tensor | None, t: float | None
) -> tuple[Tensor, Tensor]:
    """What the cells of the targets ``w`` stand for when they are read, and the correction of their
    drift.

    The latter is (row blocks, outputs): per placed block, the mean magnitude after programming over
    that of now.
    """
    cell, device = chip.cell, chip.cell.device

    def draw(kind: int) -> Tensor:
        return torch.stack(
            [_normals(section, fold(fold(key, kind), d)) for d in range(cell.devices)]
        )

    def works(g: Tensor) -> Tensor:
        return cell.weights(g) if dropped is None else cell.weights(g).masked_fill(dropped, 0.0)

    targets = cell.targets(w)
    g = device.program(targets, draw(_PROGRAMMING))
    then, gains = works(g), []
    if t is None:
        return then, then.new_ones(section.blocks, section.shape[0])
    nu = device.drift_coefficient(targets, draw(_DRIFT))
    now = works(device.read(g, device.drift(g, nu, t), t, draw(_READ)))
    before, after = then.flatten(1), now.flatten(1)
    for a, b in zip(section.bounds, section.bounds[1:], strict=False):
        gains.append(ratio(*map(section.block_sums, magnitude_sums(before[:, a:b], after[:, a:b]))))
    return now, torch.stack(gains)


def _normals(section: Section, key: Tensor) -> Tensor:
    return normal(key, *section.positions(key.device), section.rows).view(section.shape)


def _dropped(section: Section, key: Tensor, probability: float) -> Tensor | None:
    """Which cells fail, of the section's shape; None: none."""
    if probability == 0:
        return None
    where = section.positions(key.device)
    return happens(fold(key, _DROP), *where, section.rows, probability).view(section.shape)


def keys_by_sample(keys: Tensor, like: Tensor, batch: int, order: Tensor | None = None) -> Tensor:
    """The keys (streams,) of a forward for each sample: (samples, streams); only the weights'
    stream differs.

    Args:
        keys: the weights' first.
        like: on the device of the layer.
        batch: samples of the forward.
        order: which sample of the batch each is, int64; None: they lie in order.
    """
    numbers = number_samples(like, batch, 1)
    own = fold(keys[0], numbers if order is None else numbers[order]).unsqueeze(1)
    return torch.cat((own, keys[1:].expand(len(own), -1)), 1)


def each_sample(
    product: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    input_range: Tensor,
    keys: Tensor,
    samples: Tensor | None,
) -> Tensor:
    """``product(x, input_range, keys, samples)`` of one sample after the other, each with its own
    row of ``keys``.

    Args:
        product: of a batch, under keys (streams,).
        x: the input, whose first dimension counts the samples; one of a single dimension is one
            sample.
        input_range: one for all, or of ``x``'s dimensions.
        keys: (samples, streams).
        samples: numbers of all vectors in the output noise.
    """
    if x.dim() == 1 or len(keys) == 0:
        return product(
            x, input_range, keys[0] if len(keys) else keys.new_zeros(keys.shape[1]), samples
        )
    own = input_range.dim() == x.dim()
    numbers = None if samples is None else samples.view(len(keys), -1)
    parts = [
        product(
            x[i : i + 1],
            input_range[i : i + 1] if own else input_range,
            keys[i],
            None if numbers is None else numbers[i],
        )
        for i in range(len(keys))
    ]
    return torch.cat(parts)
