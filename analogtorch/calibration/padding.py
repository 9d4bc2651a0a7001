"""Positions of a batch that nobody reads, as of sentences that are padded to one length."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from analogtorch.calibration.outputs import comparable
from analogtorch.nn import AnalogLayer

IGNORED = -100
"""Label of a position that does not count, as in ``torch.nn.functional.cross_entropy``."""

_OF_ENCODER = ("attention_mask", "input_ids", "inputs_embeds")
_OF_SOUND = ("input_values", "input_features")
_LENGTHS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
"""Methods of models of transformers from the numbers of samples, or of frames, of sounds to those
of the frames that they make of them."""
_OF_DECODER = ("decoder_attention_mask", "decoder_input_ids", "decoder_inputs_embeds")
"""Inputs of models of transformers that tell how long the sequences of either are."""


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
    ``labels`` that are not ``IGNORED``, up to the last of which their layers count. Where both
    sequences have one length, outputs are taken for those of the decoder, and layers can be of
    either; where one of the lengths is not known, both can. Then all positions count.

    Args:
        model: the model that runs on the batch.
        batch: its inputs, as ``calibrate`` takes them.
    """
    if (batch := _mapping(batch)) is None:
        return Read()
    mask = _some(batch.get("attention_mask"))
    encoder: tuple[Tensor, ...] = () if mask is None else (mask,)
    if mask is not None and _is_sound(batch, mask):
        encoder += _frames(model, mask)
    if not (with_decoder := has_decoder(model)) and not any(
        str(name).startswith("decoder_") for name in batch
    ):
        return Read(encoder, encoder)
    known = [*_OF_DECODER, *["labels"] * with_decoder]
    shape, own_shape = _shape(batch, _OF_ENCODER), _shape(batch, known)
    if own_shape is None:
        return Read()
    outputs = layers = _some(batch.get("decoder_attention_mask"))
    labels = batch.get("labels") if with_decoder else None
    if "decoder_attention_mask" not in batch and isinstance(labels, Tensor):
        outputs = _some(labels != IGNORED)
        # later positions read those before
        layers = None if outputs is None else _some(outputs.flip(1).cumsum(1).flip(1))
    own, of_layers = ((t,) if t is not None else () for t in (outputs, layers))
    if shape is None or own_shape in (shape, *(frames.shape for frames in encoder)):
        return Read(own)
    return Read(own + encoder, of_layers + encoder)


def padding_rule(model: nn.Module, batches: Iterable[Any]) -> str:
    """Return how positions that are not read are left out of batches; empty: there are none.

    By it, results know those of earlier versions, which counted them.
    """
    found, several = "", False
    for given in batches:
        several |= not isinstance(given, Tensor)
        if (batch := _mapping(given)) is None:
            continue
        mask = _some(batch.get("attention_mask"))
        if mask is not None and _is_sound(batch, mask) and _frames(model, mask):
            return "left out, and frames of them"
        if mask is not None or any(read_positions(model, batch)):
            found = "left out"
    # lengths beside the inputs tell that a model may pack its sequences
    if (found or several) and any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return f"{found or 'left out'}, of recurrent layers too"
    return found


def at_positions(y: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
    """Return an output without the positions that nobody reads.

    Args:
        y: an output. One for each position, (samples, positions, numbers), becomes (1, positions
            that are read, numbers); others stay as they are.
        masks: which positions are, as ``Read`` or ``of_layer`` has them.
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
        masks: which positions are, as ``of_layer`` has them.
    """
    for read in masks:
        if len(given) == 3 and given[:2] == read.shape:
            return read.flatten()
    return None


def of_layer(layer: AnalogLayer, masks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return masks of ``Read.layers`` in the order of the vectors that a layer multiplies."""
    return tuple(mask.T for mask in masks) if layer.steps_first else masks


def _mapping(batch: Any) -> Mapping[Any, Any] | None:
    """Return the inputs of a batch by name, also where its labels stand beside them."""
    if isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    return batch if isinstance(batch, Mapping) else None


def _is_sound(batch: Mapping[Any, Any], mask: Tensor) -> bool:
    """Return whether a batch has sounds, (samples, positions, ...), of the positions of a mask."""
    given = (batch.get(name) for name in _OF_SOUND)
    return any(isinstance(sound, Tensor) and sound.shape[:2] == mask.shape for sound in given)


def _shape(batch: Mapping[Any, Any], names: Iterable[str]) -> torch.Size | None:
    """Return the number of samples and of positions of the first of these inputs there is."""
    for name in names:
        if isinstance(t := batch.get(name), Tensor) and t.dim() >= 2:
            return t.shape[:2]
    return None


def _some(mask: Any) -> Tensor | None:
    """Return where a mask is not 0, if that is at some positions and not at all.

    One of several choices for each sample has rows for all of them.
    """
    if not isinstance(mask, Tensor) or not 2 <= mask.dim() <= 4 or bool((mask < 0).any()):
        return None  # one with negative numbers is added to scores
    if mask.dim() == 4:
        if mask.shape[1:3] != (1, 1):
            return None  # what each position sees
        mask = mask[:, 0]
    elif mask.dim() == 3 and mask.shape[1] == mask.shape[2]:
        return None
    mask = mask.flatten(0, -2)
    read = mask != 0
    return read if bool(read.any()) and not bool(read.all()) else None


def _frames(model: nn.Module, mask: Tensor) -> tuple[Tensor, ...]:
    """Return masks of the frames that a model of transformers makes of sound, at each length."""
    ends = mask.shape[1] - mask.flip(1).float().argmax(1)  # of the last that is read
    whole = torch.tensor(mask.shape[1], device="cpu")
    found: dict[int, Tensor] = {}
    for lengths in _shortened(model):
        for count, total in zip(_listed(lengths(ends)), _listed(lengths(whole)), strict=True):
            frames = torch.arange(int(total), device=mask.device)
            found.setdefault(len(frames), frames < count.unsqueeze(1))
    return tuple(read for number, read in found.items() if number != mask.shape[1])


def _shortened(model: nn.Module) -> Iterator[Callable[[Tensor], Any]]:
    """Yield functions from the length of a sound to its number of frames, wherever that changes."""
    for module in model.modules():
        for name in _LENGTHS:
            if (lengths := getattr(module, name, None)) is not None:
                yield lengths
                if "add_adapter" in inspect.signature(lengths).parameters:  # the layers before it
                    yield functools.partial(lengths, add_adapter=False)


def _listed(lengths: Any) -> list[Tensor]:
    return [each for each in tree_leaves(lengths) if isinstance(each, Tensor)]


def has_decoder(model: nn.Module) -> bool:
    """Return whether a model of transformers has a decoder beside an encoder."""
    return any(
        getattr(getattr(m, "config", None), "is_encoder_decoder", False) is True
        and isinstance(getattr(m, "decoder", None), nn.Module)
        for m in model.modules()
    )
