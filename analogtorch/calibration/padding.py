"""Positions of a batch that nobody reads, as of sentences that are padded to one length."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from analogtorch.calibration.outputs import comparable

IGNORED = -100
"""Label of a position that does not count, as in ``torch.nn.functional.cross_entropy``."""


class Read(NamedTuple):
    """Which positions of a batch are read, by masks of different shapes (samples, positions)."""

    outputs: tuple[Tensor, ...] = ()
    """Of the outputs of the model."""
    layers: tuple[Tensor, ...] = ()
    """Of what its layers get and give. Where there are as many samples as positions, they are taken
    to come in this order, as in almost all models; in the other one, less is left out."""


def read_positions(model: nn.Module, batch: Any) -> Read:
    """Return which positions of the samples are read, where some are not.

    Those are not at which the ``attention_mask`` of the batch is 0. Of models of transformers with
    a decoder that is the mask of the encoder: theirs is ``decoder_attention_mask``, or else
    ``labels`` that are not ``IGNORED``. Where both sequences have one length, outputs are taken for
    those of the decoder, and layers can be of either, so that all their positions count.

    Args:
        model: the model that runs on the batch.
        batch: its inputs, as ``calibrate`` takes them.
    """
    if not isinstance(batch, Mapping):
        return Read()
    encoder = _some(batch.get("attention_mask"))
    masks: tuple[Tensor, ...] = () if encoder is None else (encoder,)
    shape, decoder = _of_decoder(batch, _has_decoder(model))
    if shape is not None:
        own, given = () if decoder is None else (decoder,), batch.get("attention_mask")
        if isinstance(given, Tensor) and given.shape == shape:
            return Read(own)
        masks = own + masks
    return Read(masks, masks)


def leaves_out(model: nn.Module, batches: Iterable[Any]) -> bool:
    """Return whether positions of some batches are not read: earlier versions counted them."""
    return any(any(read_positions(model, batch)) for batch in batches)


def at_positions(y: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
    """Return an output without the positions that nobody reads.

    Args:
        y: an output. One for each position, (samples, positions, numbers), becomes (1, positions
            that are read, numbers); others stay as they are.
        masks: which positions are, as ``Read`` has them.
    """
    for read in masks:
        if y.dim() == 3 and y.shape[:2] == read.shape:
            return y[read.to(y.device)].unsqueeze(0)
    return y


def without_padding(model: nn.Module, output: Any, batch: Any) -> list[Tensor]:
    """Return what ``comparable`` does, without positions that nobody reads."""
    masks = read_positions(model, batch).outputs
    return [at_positions(y, masks) for y in comparable(output, batch)]


def read_vectors(given: torch.Size, masks: tuple[Tensor, ...]) -> Tensor | None:
    """Return which vectors of an MVM are of positions that are read, (vectors,); None: all.

    Args:
        given: the shape of the input of the layer.
        masks: which positions are, as ``Read.layers`` has them.
    """
    for read in masks:
        if len(given) == 3 and given[:2] == read.shape:
            return read.flatten()
    return None


def _of_decoder(
    batch: Mapping[Any, Any], with_decoder: bool
) -> tuple[torch.Size | None, Tensor | None]:
    """Return the shape of the sequences of a decoder, and which positions are read.

    The shape is None if the batch has no inputs for a decoder, and the mask if all are read.
    """
    names = ["decoder_attention_mask", "decoder_input_ids", *["labels"] * with_decoder]
    found = [t for name in names if isinstance(t := batch.get(name), Tensor) and t.dim() == 2]
    if not found:
        return None, None
    mask, labels = batch.get("decoder_attention_mask"), batch.get("labels")
    if mask is None and isinstance(labels, Tensor) and labels.shape == found[0].shape:
        mask = labels != IGNORED
    return found[0].shape, _some(mask)


def _some(mask: Any) -> Tensor | None:
    """Return where a mask is not 0, if that is at some positions and not at all."""
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool((mask < 0).any()):
        return None  # one with negative numbers is added to scores
    read = mask != 0
    return read if bool(read.any()) and not bool(read.all()) else None


def _has_decoder(model: nn.Module) -> bool:
    return any(
        getattr(getattr(m, "config", None), "is_encoder_decoder", False) is True
        and isinstance(getattr(m, "decoder", None), nn.Module)
        for m in model.modules()
    )
