"""What happens to a weight before it is multiplied: the scale of its blocks, and the noise of training."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op

from analogtorch.ops import native
from analogtorch.ops.noise import normal


def block_absmax(w: Tensor, bounds: tuple[int, ...]) -> Tensor:
    """Largest magnitude per row block and output: (blocks, outputs); NaN where there is one. Without gradient.

    Args:
        w: (outputs, ...); its other dimensions, flattened, are the rows of the chip's matrix.
        bounds: where the row blocks begin and, last, where they end: blocks + 1 numbers.
    """
    return _block_absmax(w.detach(), list(bounds))


@custom_op("analogtorch::block_absmax", mutates_args=())
def _block_absmax(w: Tensor, bounds: list[int]) -> Tensor:
    flat = w.flatten(1)
    if native.available(flat):
        return native.absmax(flat.contiguous(), bounds)
    return torch.stack([flat[:, a:b].abs().amax(1) for a, b in zip(bounds, bounds[1:], strict=False)])


@_block_absmax.register_fake
def _(w: Tensor, bounds: list[int]) -> Tensor:
    return w.new_empty(len(bounds) - 1, w.shape[0])


def over_rows(values: Tensor, bounds: Sequence[int]) -> Tensor:
    """``values`` (blocks, outputs) repeated over the rows of each block: (outputs, rows)."""
    sizes = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
    return torch.cat([v.unsqueeze(1).expand(-1, size) for v, size in zip(values, sizes, strict=True)], dim=1)


def noisy_weight(
    w: Tensor,
    scale: Tensor,
    std: float,
    key: Tensor,
    rows: Tensor,
    first: Tensor,
    bounds: tuple[int, ...],
    sigma: Tensor | None = None,
) -> Tensor:
    """``w + std * scale * sigma * normal``; the gradient passes to ``w`` as it comes.

    Args:
        w: (outputs, ...).
        scale: (blocks, outputs), as of ``block_absmax``.
        std: in units of ``scale``.
        key: int64, from ``fold``.
        rows: (outputs,) int64, position of each output in the layer.
        first: (outputs,) int64, position of the first row of the output's matrix.
        bounds: of the row blocks, as in ``block_absmax``.
        sigma: of ``w``'s shape: another factor for each cell; None: 1.
    """
    return _noisy_weight(w, scale, std, key, rows, first, list(bounds), sigma)


@custom_op("analogtorch::noisy_weight", mutates_args=())
def _noisy_weight(
    w: Tensor,
    scale: Tensor,
    std: float,
    key: Tensor,
    rows: Tensor,
    first: Tensor,
    bounds: list[int],
    sigma: Tensor | None,
) -> Tensor:
    flat = w.flatten(1)
    if sigma is None and native.available(w, scale):
        return native.noisy_weight(flat.contiguous(), scale, std, int(key), rows, first, bounds).view(w.shape)
    size = over_rows(scale, bounds) * std
    if sigma is not None:
        size = size * sigma.flatten(1)
    z = normal(key, rows, first, flat.shape[1])
    return torch.addcmul(flat.contiguous(), size.to(w.dtype), z.to(w.dtype)).view(w.shape)


@_noisy_weight.register_fake
def _(w, scale, std, key, rows, first, bounds, sigma):
    return torch.empty_like(w, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    pass


def _backward(ctx, g: Tensor):
    return g, *[None] * 7


_noisy_weight.register_autograd(_backward, setup_context=_save)
