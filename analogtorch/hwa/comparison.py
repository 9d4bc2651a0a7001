"""How far outputs are from those of the digital twin: as scores of classes, or number by number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.calibration.judge import has_moved
from analogtorch.calibration.outputs import masks, spread, unmasked, vectors
from analogtorch.hwa.distill import distillation_loss
from analogtorch.hwa.recipe import Outputs, Recipe

FLOOR = 0.1
"""Share of the mean square of the vectors that is added to the square of each."""

ALIKE = 1e-3
"""Standard deviation of the lengths of vectors, over their mean, up to which they are one."""

SPREAD = 0.25
"""Temperature in standard deviations of the numbers of an output vector."""


class Way(NamedTuple):
    """How an output of a model is compared."""

    by_scores: bool
    """Whether its softmax is what counts."""
    dim: int
    """The dimension that counts classes: 1 or -1."""


@dataclass
class Found:
    """The first outputs of the teacher that are compared, and what it was given."""

    outputs: list[Tensor]
    scores: bool
    """Whether the first of them can be scores."""
    logits: bool
    """Whether it is called so, in a mapping."""
    shapes: set[torch.Size] = field(default_factory=set)
    """Shapes of the floating-point inputs."""
    lengths: set[int] = field(default_factory=set)
    """Sizes of all inputs, but for their first dimension."""


class Comparison:
    """Compares outputs as a recipe says, or as the first outputs decide.

    Args:
        recipe: its ``outputs`` and ``temperature``.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._kind = recipe, recipe.outputs
        self._ways: tuple[Way, ...] | None = None
        self._last = False
        """Whether classes are the last dimension, as in runs of earlier versions."""

    @property
    def kind(self) -> Outputs:
        """``divergence`` where an output is compared so, else ``error``."""
        if self._kind is None:
            raise RuntimeError("Twin: call exact(batch) or loss(batch) before compare")
        return self._kind

    @property
    def decided(self) -> bool:
        """Whether outputs were there that decided it."""
        return self._ways is not None

    def decide(self, found: Found) -> None:
        """Decide how each output is compared."""
        ways = []
        for number, y in enumerate(found.outputs):
            dim, known = (-1, True) if self._last else _classes(y, found)
            by_scores = _several(y, dim)
            if self._kind is None:
                by_scores = by_scores and not number and found.scores and known
                by_scores = by_scores and not (_of_one_length(y, dim) or y.shape in found.shapes)
            else:
                by_scores = by_scores and self._kind == "divergence"
            ways.append(Way(by_scores, dim))
        self._ways = tuple(ways)
        if self._kind is None:
            self._kind = "divergence" if any(way.by_scores for way in ways) else "error"

    def state(self) -> list[list[Any]] | None:
        """Return how each output is compared, as plain values."""
        return None if self._ways is None else [list(way) for way in self._ways]

    def go_on(self, kind: Outputs, ways: Sequence[Sequence[Any]] | None) -> None:
        """Compare outputs as an interrupted run has compared them.

        Args:
            kind: its ``kind``.
            ways: its ``state``; None: an earlier version began it, for which classes were the last
                dimension of all outputs.
        """
        self._kind, self._last = kind, ways is None
        self._ways = None if ways is None else tuple(Way(bool(b), int(dim)) for b, dim in ways)

    def way(self, exact: Tensor, which: int = 0) -> Way:
        """Return how an output is compared; one that was not there at first as those after it."""
        if self._ways is not None and which < len(self._ways):
            return self._ways[which]
        dim = 1 if exact.dim() > 3 and not self._last else -1
        all_alike = self.kind == "divergence" and (self._last or self._recipe.outputs is not None)
        return Way(all_alike and _several(exact, dim), dim)

    def loss(self, y: Tensor, exact: Tensor, which: int = 0) -> Tensor:
        """Return how far an output is from the exact one: a scalar >= 0.

        Args:
            y: the output.
            exact: the exact one, of the same shape.
            which: its number in the outputs of the model.
        """
        masked, way = self.masks(exact, which), self.way(exact, which)
        if not way.by_scores:
            return relative_error(unmasked(y, masked), unmasked(exact, masked))
        y, exact = y.movedim(way.dim, -1), exact.movedim(way.dim, -1)
        temperature = self._recipe.temperature
        if temperature is None:
            masked = None if masked is None else masked.movedim(way.dim, -1)
            temperature = max(SPREAD * spread(exact, masked), torch.finfo(torch.float32).tiny)
        # without the T^2 that keeps the size of gradients: the layers' errors stand beside it
        return distillation_loss(y, exact, temperature=temperature) / temperature**2

    def masks(self, exact: Tensor, which: int = 0) -> Tensor | None:
        """Return where an exact output holds a mask; see ``calibration.outputs.masks``."""
        return masks(exact, scores=self.way(exact, which).by_scores)

    def moved(self, y: Tensor, exact: Tensor, which: int = 0) -> Tensor:
        """Return which classes have changed, one for each position; see ``judge.Error.moved``."""
        masked, dim = self.masks(exact, which), self.way(exact, which).dim

        def rows(t: Tensor) -> Tensor:
            return torch.atleast_2d(t.movedim(dim, -1)).flatten(0, -2)

        if masked is None:
            return has_moved(rows(exact), rows(y))
        kept = ~rows(masked).all(1)
        return has_moved(*(rows(t.masked_fill(masked, 0))[kept] for t in (exact, y)))


def relative_error(y: Tensor, exact: Tensor) -> Tensor:
    """Return the mean over vectors of the squared error over the square of the exact vector.

    Each vector counts alike, however large: otherwise a few loud inputs would be all that is
    learnt. A vector that is much smaller than the others counts less, by ``FLOOR`` of their mean.

    Args:
        y: outputs, (*, numbers), or of more than three dimensions (samples, *).
        exact: the exact outputs, of the same shape.

    Returns:
        A scalar >= 0.
    """
    y, exact = (vectors(t.to(torch.promote_types(t.dtype, torch.float32))) for t in (y, exact))
    squares = exact.square().sum(1)
    floor = FLOOR * squares.mean() + torch.finfo(squares.dtype).tiny
    return ((y - exact).square().sum(1) / (squares + floor)).mean()


def sizes(tensors: Iterable[Tensor]) -> set[int]:
    """Return the sizes of tensors, but for their first dimension."""
    return {size for t in tensors for size in t.shape[1:]}


def _classes(y: Tensor, found: Found) -> tuple[int, bool]:
    """Return the dimension that counts classes if an output is scores, and whether it is known.

    Logits by name have it last, those of images and the like first after the samples, as
    ``torch.nn.CrossEntropyLoss`` does. Of the two last dimensions of a sequence, the other is as
    long as an input, if that is known; nothing tells images from scores of their positions.
    """
    if y.dim() > 3:
        return 1, found.logits
    if y.dim() < 3 or found.logits:
        return -1, True
    first, last = (size in found.lengths for size in y.shape[1:])
    return (1 if last and not first else -1), first != last


def _several(y: Tensor, dim: int) -> bool:
    """Return whether the softmax of an output says something: of three classes or more."""
    return y.dim() > 0 and y.shape[dim] >= 3


def _of_one_length(y: Tensor, dim: int) -> bool:
    y = torch.atleast_2d(y.movedim(dim, -1)).flatten(0, -2)
    lengths = unmasked(y, masks(y, scores=_several(y, -1))).float().norm(dim=1)
    if len(lengths) < 2:
        return False
    return bool(lengths.std(correction=0) <= ALIKE * lengths.mean())
