"""What the metrics of tasks keep of a batch, and what they make of all.

The first functions take the outputs of a batch, its targets and how messages name the batch; the
others take a list of what these returned.
"""

import copy
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.padding import IGNORED
from analogtorch.values import checks

_LARGEST_EXPONENT = math.log(sys.float_info.max)


def flat(outputs: Any, targets: Any, where: str) -> tuple[Tensor, Tensor]:
    """Return outputs and targets as vectors of double."""
    tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not tensors or outputs.numel() != targets.numel():
        raise ValueError(
            f"{where} has outputs of shape {_shape(outputs)} and targets of {_shape(targets)}; "
            "pass tensors with the same number of elements"
        )
    _refuse_complex(outputs, where)
    return outputs.flatten().double(), targets.flatten().double()


def _refuse_complex(outputs: Tensor, where: str) -> None:
    if outputs.is_complex():
        raise TypeError(
            f"{where}: outputs are complex, which are in no order; pass forward=, such as "
            "forward=lambda model, x: model(x).abs()"
        )


def _joined(kept: list[Any]) -> tuple[Tensor, Tensor]:
    x, y = (torch.cat(part) for part in zip(*kept, strict=True))
    return x, y


def said_and_heard(
    outputs: Any, targets: Any, where: str, *, normalise: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """Return references and transcripts, normalised."""
    heard, said = _texts(f"{where}, outputs", outputs), _texts(f"{where}, references", targets)
    if len(heard) != len(said):
        raise ValueError(
            f"{where}: {len(heard)} texts for {len(said)} references; transcribe must return one "
            "for each"
        )
    normal = [normalise(text) for text in said]
    for given, text in zip(said, normal, strict=True):
        if not text.split():
            raise ValueError(
                f"{where}: the reference {given!r} has no word, and a word error rate needs words; "
                "leave it out"
            )
    return normal, [normalise(text) for text in heard]


def word_error_rate(kept: list[Any]) -> float:
    """Return the word error rate of references and transcripts."""
    import jiwer

    said = [text for references, _ in kept for text in references]
    heard = [text for _, texts in kept for text in texts]
    if not said:
        raise ValueError("metrics.WER: batches holds no reference; pass texts")
    return float(jiwer.wer(said, heard))


def _texts(what: str, given: Any) -> list[str]:
    if isinstance(given, str) or not (
        isinstance(given, Iterable) and all(isinstance(text, str) for text in given)
    ):
        raise TypeError(
            f"{what}: must be a list of texts such as ['yes'], got {checks.shown(given)}"
        )
    return list(given)


def _shape(given: Any) -> str:
    return str(tuple(given.shape)) if isinstance(given, Tensor) else type(given).__name__


def loss_and_tokens(logits: Any, tokens: Any, where: str) -> tuple[float, int]:
    """Return the sum of the losses of a batch, and the number of its tokens that count."""
    if (
        not isinstance(tokens, Tensor)
        or tokens.is_floating_point()
        or tokens.is_complex()
        or tokens.dtype == torch.bool
    ):
        kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"{where}: targets must be a tensor of integers, got {kind}")
    if not isinstance(logits, Tensor) or logits.shape[:-1] != tokens.shape or logits.dim() < 2:
        raise ValueError(
            f"{where} has outputs of shape {_shape(logits)} and tokens of {_shape(tokens)}; pass "
            "logits (N, T, vocabulary) and tokens (N, T)"
        )
    _refuse_complex(logits, where)
    tokens = tokens.long()  # the loss takes no other integers
    counted = tokens != IGNORED
    if (
        counted.any()
        and not 0 <= int(tokens[counted].min()) <= int(tokens.max()) < logits.shape[-1]
    ):
        raise ValueError(
            f"{where}: tokens must lie in [0, {logits.shape[-1]}), or be {IGNORED}, got "
            f"{tokens[counted].min()} to {tokens.max()}"
        )
    # in double: the loss of a token has no bound, as probabilities in float32 would set it
    loss = nn.functional.cross_entropy(
        logits.flatten(0, -2).double(), tokens.flatten(), reduction="sum", ignore_index=IGNORED
    )
    return loss.item(), int(counted.sum())


def of_losses(kept: list[Any]) -> float:
    """Return the perplexity of sums of losses and numbers of tokens."""
    losses, counts = zip(*kept, strict=True)
    if not sum(counts):
        raise ValueError(f"metrics.perplexity: no token counts, all targets are {IGNORED}")
    mean = math.fsum(losses) / sum(counts)
    return math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf


def of_detector(name: str, function: str, kept: list[Any]) -> float:
    """Return a metric of torchmetrics for a detector."""
    from torchmetrics.functional import classification

    x, y = _joined(kept)
    if not bool(((y == 0) | (y == 1)).all()):
        raise ValueError(f"metrics.{name}: targets must be 0 or 1, got {y.min():g} to {y.max():g}")
    if (ones := int(y.sum())) in (0, len(y)):
        raise ValueError(
            f"metrics.{name}: {ones} of {len(y)} targets are 1; it needs some 1 and some 0"
        )
    # torchmetrics takes what is outside of [0, 1] for logits and rounds large ones to 1
    values, places = x.unique(return_inverse=True)
    ranks = (places.double() + 0.5) / len(values)
    return float(getattr(classification, function)(ranks, y.long()))


def rank_correlation(kept: list[Any]) -> float:
    """Return Spearman's rank correlation of two vectors."""
    from torchmetrics.functional import spearman_corrcoef

    x, y = _joined(kept)
    for numbers, what in ((x, "outputs"), (y, "targets")):
        if len(numbers.unique()) < 2:
            raise ValueError(
                f"metrics.Spearman: all {len(numbers)} {what} are equal; a rank correlation needs "
                "different numbers"
            )
    return float(spearman_corrcoef(x, y))


def updated(metric: Any) -> Callable[[Any, Any, str], Any]:
    """Return a function that updates a copy of an object, which was reset, and returns it.

    Each measurement has its own, as threads may measure chips at the same time.
    """
    metric = copy.deepcopy(metric)

    def update(outputs: Any, targets: Any, where: str) -> Any:
        metric.update(outputs, targets)
        return metric

    return update


def computed(kept: list[Any]) -> float:
    """Return what an object with ``compute`` makes of what it was updated with."""
    metric = kept[-1]
    found = metric.compute()
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"metrics.measured: compute() of {type(metric).__name__} must return one number, got "
            f"{checks.shown(found)}; choose an average, such as average='macro'"
        ) from error
