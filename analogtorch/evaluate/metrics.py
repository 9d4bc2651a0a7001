"""Metrics of tasks beside the accuracy, for every function that takes a ``Metric``.

Each is made from batches, pairs of an input and its targets, and is then a function of a model. It
runs the model in evaluation mode on every batch and compares its outputs with the targets.
"""

import copy
import functools
import importlib.util
import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from analogtorch.calibration.passes import Forward
from analogtorch.evaluate import scores
from analogtorch.evaluate.accuracy import counts, share
from analogtorch.evaluate.interval import UNBOUNDED, Bounds
from analogtorch.evaluate.metric_identity import options_of
from analogtorch.evaluate.task_metric import TaskMetric, by
from analogtorch.values import checks

_APOSTROPHES = str.maketrans(dict.fromkeys("‘’ʼ＇", "'"))
Pairs = Sequence[tuple[Any, Any]]
"""Batches: an input of the model, and the targets of the metric."""


def accuracy(batches: Pairs, *, forward: Forward | None = None) -> TaskMetric:
    """Return the share of the largest outputs that are at the label; see ``at.accuracy``.

    Args:
        batches: pairs of an input and labels (N,), (N, positions) or (N, height, width).
        forward: returns the outputs (N, classes), (N, positions, classes) or (N, classes, height,
            width) of ``model`` for an input; None: the model does.

    Raises:
        ValueError: shapes do not agree, an output is NaN, or a label is out of range (when it is
            measured).
        TypeError: outputs or labels are no tensors of numbers (when it is measured).
    """
    return TaskMetric(
        name="accuracy",
        higher_is_better=True,
        bounds=(0, 1),
        batches=batches,
        begin=by(_right),
        total=share,
        forward=forward,
    )


def wer(
    batches: Pairs,
    transcribe: Callable[[nn.Module, Any], Sequence[str]],
    *,
    normalise: Callable[[str], str] | None = None,
) -> TaskMetric:
    """Return the word error rate of what a model writes down, 0.05 for 5 %.

    Wrong, missing and added words, over the words of the references (jiwer). It can exceed 1.

    Args:
        batches: pairs of an input and the texts that are said in it.
        transcribe: ``transcribe(model, x)`` returns as many texts.
        normalise: changes each text before the comparison; None: ``plain``.

    Raises:
        ImportError: jiwer is not installed.
        ValueError: a reference has no word, or the numbers of texts differ (when it is measured).

    Example:
        >>> metric = at.metrics.wer([(features, ["turn the light on"])], transcribe)
        >>> print(at.sweep(model, metric))
    """
    _installed("jiwer", "metrics.wer")
    checks.function("metrics.wer: normalise", normalise, "normalise(text)")
    if not callable(transcribe):
        raise TypeError(
            "metrics.wer: transcribe must be a function, transcribe(model, x), that returns texts, "
            f"got {checks.shown(transcribe)}"
        )
    return TaskMetric(
        name="WER",
        higher_is_better=False,
        bounds=(0, math.inf),
        batches=batches,
        begin=by(functools.partial(scores.said_and_heard, normalise=normalise or plain)),
        total=scores.word_error_rate,
        forward=transcribe,
        settings={"normalise": normalise},
    )


def plain(text: str) -> str:
    """Return a text in lower case, without punctuation, with one space between words.

    Apostrophes inside of words stay, all of one form: "Don’t stop, please." is "don't stop please".
    Accents stay too, joined with their letters or not (Unicode's NFC).
    """
    kept = "".join(
        c if c.isalnum() or c == "'" or unicodedata.category(c).startswith("M") else " "
        for c in unicodedata.normalize("NFC", text.lower()).translate(_APOSTROPHES)
    )
    return " ".join(word for word in (w.strip("'") for w in kept.split()) if word)


def perplexity(batches: Pairs, *, forward: Forward | None = None) -> TaskMetric:
    """Return the perplexity of a language model: the exponential of the mean loss of a token.

    Args:
        batches: pairs of an input and the next tokens (N, T), such as
            ``[(ids[:, :-1], ids[:, 1:])]``; a target of -100 does not count.
        forward: returns the logits (N, T, vocabulary) of ``model`` for an input; None: the model
            returns them, or an output of transformers with ``logits``.

    Raises:
        ValueError: shapes do not agree, a token is out of range, or none counts (when it is
            measured).
        TypeError: targets are no tensors of integers (when it is measured).
    """
    return TaskMetric(
        name="perplexity",
        higher_is_better=False,
        bounds=(1, math.inf),
        batches=batches,
        begin=by(scores.loss_and_tokens),
        total=scores.of_losses,
        forward=forward,
    )


def auc(batches: Pairs, *, forward: Forward | None = None) -> TaskMetric:
    """Return the area under the ROC curve of a detector: 1 at best, 0.5 by chance (torchmetrics).

    Args:
        batches: pairs of an input and targets, 0 or 1, of any shape.
        forward: returns as many scores of ``model`` for an input, of any size, larger for 1.

    Raises:
        ImportError: torchmetrics is not installed.
        ValueError: targets are not all 0 or 1, or are all alike (when it is measured).
    """
    _installed("torchmetrics", "metrics.auc")
    return TaskMetric(
        name="AUC",
        higher_is_better=True,
        bounds=(0, 1),
        batches=batches,
        begin=by(scores.flat),
        total=functools.partial(scores.of_detector, "AUC", "binary_auroc"),
        forward=forward,
    )


def eer(batches: Pairs, *, forward: Forward | None = None) -> TaskMetric:
    """Return the equal error rate of a detector: misses and false alarms where both are as many.

    It is 0 at best and 0.5 by chance (torchmetrics). Arguments and errors are those of ``auc``.
    """
    _installed("torchmetrics", "metrics.eer")
    return TaskMetric(
        name="EER",
        higher_is_better=False,
        bounds=(0, 1),
        batches=batches,
        begin=by(scores.flat),
        total=functools.partial(scores.of_detector, "EER", "binary_eer"),
        forward=forward,
    )


def spearman(batches: Pairs, *, forward: Forward | None = None) -> TaskMetric:
    """Return the rank correlation (Spearman) of outputs and targets, -1 to 1 (torchmetrics).

    Args:
        batches: pairs of an input and numbers of any shape.
        forward: returns as many numbers of ``model`` for an input.

    Raises:
        ImportError: torchmetrics is not installed.
        ValueError: all numbers are equal (when it is measured).
    """
    _installed("torchmetrics", "metrics.spearman")
    return TaskMetric(
        name="Spearman",
        higher_is_better=True,
        bounds=(-1, 1),
        batches=batches,
        begin=by(scores.flat),
        total=scores.rank_correlation,
        forward=forward,
    )


def measured(
    metric: Any,
    batches: Pairs,
    *,
    forward: Forward | None = None,
    name: str | None = None,
    higher_is_better: bool | None = None,
    bounds: Bounds = UNBOUNDED,
) -> TaskMetric:
    """Return any metric of torchmetrics, or of your own, as a metric of a model.

    Args:
        metric: an object with ``update(outputs, targets)`` for a batch, ``compute()``, which
            returns the number, and ``reset()``. It is copied, and the copy reset. A ``folder``
            knows it by its public attributes after that, of which it knows numbers, texts, tuples
            and lists of them, and functions, and all others by their class: give what changes from
            call to call, such as a time, a private name.
        batches: pairs of an input and its targets.
        forward: returns the outputs of ``model`` for an input; None: the model does.
        name: name in tables and plots; None: that of its class.
        higher_is_better: its direction; None: as the object says.
        bounds: smallest and largest number that it can be, which the object does not say.

    Raises:
        TypeError: the object lacks one of the methods.
        ValueError: the bounds are no pair of numbers, the first below the second.

    Example:
        >>> f1 = torchmetrics.F1Score(task="multiclass", num_classes=12, average="macro")
        >>> print(at.sweep(model, at.metrics.measured(f1, batches)))
    """
    if isinstance(metric, type) or not all(
        callable(getattr(metric, method, None)) for method in ("update", "compute", "reset")
    ):
        raise TypeError(
            "metrics.measured: metric must have update(outputs, targets), compute() and reset(), "
            f"such as torchmetrics.F1Score(...), got {checks.shown(metric)}"
        )
    own = getattr(metric, "higher_is_better", None)
    if higher_is_better is not None:
        checks.flag("metrics.measured: higher_is_better", higher_is_better)
    metric = copy.deepcopy(metric)
    metric.reset()
    return TaskMetric(
        name=type(metric).__name__ if name is None else name,
        higher_is_better=own if higher_is_better is None else higher_is_better,
        batches=batches,
        begin=functools.partial(scores.updated, metric),
        bounds=bounds,
        total=scores.computed,
        forward=forward,
        settings=options_of(metric),  # before it runs, which may change some
    )


def _right(outputs: Any, labels: Any, where: str) -> tuple[int, int, int]:
    """Return what ``accuracy`` counts of a batch."""
    return counts(outputs, labels, where.rpartition(": ")[2])


def _installed(module: str, caller: str) -> None:
    """Raise ImportError unless a module of the extra ``metrics`` is there."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f'{caller} needs {module}; run: pip install "analogtorch[metrics]"')


__all__ = [
    "TaskMetric",
    "accuracy",
    "auc",
    "eer",
    "measured",
    "perplexity",
    "plain",
    "spearman",
    "wer",
]
