"""Positions of a batch that nobody reads, as of sentences that are padded to one length."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from analogtorch.calibration.outputs import comparable

IGNORED = -100
"""Label of a position that does not count, as in ``torch.nn.functional.cross_entropy``."""


def read_positions(model: nn.Module, batch: Any) -> Tensor | None:
    """Return which positions of the samples are read, (samples, positions); None: all of them.

    Those are not at which the ``attention_mask`` of the batch is 0. Of models of transformers with
    a decoder, that is the mask of the encoder: theirs is ``decoder_attention_mask``, or else
    ``labels`` that are not ``IGNORED``.

    Args:
        model: the model that runs on the batch.
        batch: its inputs, as ``calibrate`` takes them.
    """
    if not isinstance(batch, Mapping):
        return None
    mask = batch.get("attention_mask")
    if any(str(name).startswith("decoder_") for name in batch) or _has_decoder(model):
        mask, labels = batch.get("decoder_attention_mask"), batch.get("labels")
        if mask is None and isinstance(labels, Tensor) and not labels.is_floating_point():
            mask = labels != IGNORED
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool((mask < 0).any()):
        return None  # one with negative numbers is added to scores
    read = mask != 0
    return read if bool(read.any()) and not bool(read.all()) else None


def at_positions(y: Tensor, read: Tensor | None) -> Tensor:
    """Return an output without the positions that nobody reads.

    Args:
        y: an output. One for each position, (samples, positions, numbers), becomes (1, positions
            that are read, numbers); others stay as they are.
        read: which positions are, as ``read_positions`` has them.
    """
    if read is None or y.dim() != 3 or y.shape[:2] != read.shape:
        return y
    return y[read.to(y.device)].unsqueeze(0)


def without_padding(model: nn.Module, output: Any, batch: Any) -> list[Tensor]:
    """Return what ``comparable`` does, without positions that nobody reads."""
    read = read_positions(model, batch)
    return [at_positions(y, read) for y in comparable(output, batch)]


def read_vectors(vectors: Tensor, read: Tensor | None) -> Tensor | None:
    """Return which vectors of an MVM are of positions that are read, (vectors,); None: all.

    Args:
        vectors: its inputs or outputs, (vectors, numbers).
        read: which positions are, as ``read_positions`` has them.
    """
    if read is None or read.numel() != len(vectors):
        return None
    return read.flatten().to(vectors.device)


def _has_decoder(model: nn.Module) -> bool:
    return any(
        getattr(getattr(m, "config", None), "is_encoder_decoder", False) is True
        and isinstance(getattr(m, "decoder", None), nn.Module)
        for m in model.modules()
    )
