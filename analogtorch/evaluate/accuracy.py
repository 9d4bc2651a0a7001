"""The accuracy of a classifier."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.batches import named, refuse_dataset
from analogtorch.calibration.outputs import class_dim
from analogtorch.calibration.padding import IGNORED
from analogtorch.calibration.passes import Forward, noted, passed
from analogtorch.conversion.kinds import check_module
from analogtorch.conversion.restored import evaluating
from analogtorch.evaluate.task_metric import logits_of
from analogtorch.values import checks


@torch.no_grad()
def accuracy(
    model: nn.Module, batches: Iterable[tuple[Any, Tensor]], *, forward: Forward | None = None
) -> float:
    """Return the share, 0..1, of inputs whose largest output is at the label.

    The model runs in evaluation mode; its mode is restored afterwards.

    Args:
        model: a module that returns (N, classes), (N, positions, classes) or, as of images,
            (N, classes, height, width) for an input, or an output of transformers with such
            ``logits``.
        batches: pairs of an input and its labels, which are integers in [0, classes) of shape (N,),
            (N, positions) or (N, height, width). One of -100 does not count. They are read once.
        forward: returns these outputs of ``model`` for an input, ``forward(model, x)``. None: the
            model gets a tensor, a ``PackedSequence`` or a named tuple of the type that it is
            annotated to take; of another tuple or a list the first element; and a mapping as
            keyword arguments, or as it is if it has one argument, of another name than all keys.

    Returns:
        The share of correct inputs, from 0 to 1.

    Raises:
        ValueError: there is no label that counts, shapes do not agree, an output is NaN, or a label
            is out of range.
        TypeError: the model is no module, ``batches`` does not hold pairs, ``forward`` is no
            function, an input is of another type than those above without it, or outputs or labels
            are no tensors of numbers.
        Exception: what the model raises, with notes that name the batch and how it was passed.
            Errors of its outputs have a note of that, too.
    """
    check_module("accuracy", model)
    checks.function("accuracy: forward", forward, "forward(model, x)")
    found = []
    with evaluating(model):
        for number, (x, y) in enumerate(_pairs(batches)):
            outputs = logits_of(passed("accuracy", model, x, forward, number))
            with noted("accuracy", model, x, forward):
                found.append(counts(outputs, y, f"batch {number}"))
    return share(found)


def counts(outputs: Any, labels: Any, where: str) -> tuple[int, int, int]:
    """Return how many inputs of a batch are right, how many count, and how many labels there are.

    Args:
        outputs: the outputs, as ``accuracy`` takes them.
        labels: their labels.
        where: the batch in messages, such as ``batch 3``.

    Raises:
        ValueError: shapes do not agree, an output is NaN, or a label is out of range.
        TypeError: outputs or labels are no tensors of numbers.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"accuracy: labels of {where} must be a tensor of integers, got {kind}")
    predicted = _predicted(outputs, labels, where)
    right = int((predicted == labels.to(predicted.device)).sum())
    return right, int((labels.long() != IGNORED).sum()), labels.numel()


def share(found: Iterable[tuple[int, int, int]]) -> float:
    """Return the share of inputs that are right, of what ``counts`` has found of each batch.

    Raises:
        ValueError: no label counts.
    """
    right = total = samples = 0
    for of_batch in found:
        right, total, samples = right + of_batch[0], total + of_batch[1], samples + of_batch[2]
    if total == 0:
        raise ValueError(
            f"accuracy: no label counts, all are {IGNORED}"
            if samples
            else "accuracy: batches holds no sample; a generator can be read only once: pass a list"
        )
    return right / total


def _pairs(batches: Any) -> Iterable[tuple[Any, Any]]:
    refuse_dataset("accuracy", batches)
    if isinstance(batches, Tensor | str) or not isinstance(batches, Iterable):
        raise TypeError(
            "accuracy: batches must be pairs of input and labels such as [(x, y)], got "
            f"{checks.shown(type(batches))}"
        )
    for number, batch in enumerate(batches):
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise TypeError(
                f"accuracy: batch {number} must be a pair of input and labels, got "
                f"{type(batch).__name__}; one batch alone is [(x, y)]"
            )
        yield batch[0], batch[1]


def _part(outputs: Any) -> str:
    """Return how the first part of outputs is taken, for an example."""
    names = list(named(outputs) or ())
    if isinstance(outputs, Mapping):
        return f"[{next(iter(names), 'logits')!r}]"
    if names:
        return f".{names[0]}"
    return "[0]" if isinstance(outputs, tuple | list) else ".logits"


def _predicted(outputs: Any, labels: Tensor, where: str) -> Tensor:
    """Return the most likely class at each position of ``labels``."""
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"accuracy: the model must give a tensor (N, classes), got {type(outputs).__name__} "
            f"for {where}; pass forward=, which returns the logits, such as "
            f"forward=lambda model, x: model(x){_part(outputs)}"
        )
    if outputs.is_complex():
        raise TypeError(
            f"accuracy: outputs of {where} are complex, of which none is the largest; pass "
            "forward=, such as forward=lambda model, x: model(x).abs()"
        )
    given, images = outputs.shape, outputs.dim() > 3
    if images and given[:1] + given[2:] == labels.shape:
        outputs = outputs.movedim(class_dim(outputs), -1)
    if outputs.shape[:-1] != labels.shape or outputs.dim() < 2 or outputs.shape[-1] < 2:
        expected = "(N, classes, height, width)" if images else "(N, classes)"
        raise ValueError(
            f"accuracy: outputs of {where} have shape {tuple(given)}, labels "
            f"{tuple(labels.shape)}; pass outputs {expected} of 2 classes or more, and labels of "
            "that shape without classes"
        )
    counts = labels.long() != IGNORED  # -100 is 156 in uint8
    if outputs[counts.to(outputs.device)].isnan().any():
        raise ValueError(
            f"accuracy: outputs of {where} are NaN; the label of such an input means nothing"
        )
    counted = labels[counts]
    if counted.numel() and not (counted.min() >= 0 and counted.max() < outputs.shape[-1]):
        raise ValueError(
            f"accuracy: labels must lie in [0, {outputs.shape[-1]}), or be {IGNORED}, got "
            f"{counted.min().item()} to {counted.max().item()} in {where}"
        )
    return outputs.argmax(-1)
