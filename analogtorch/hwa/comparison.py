"""How far outputs are from those of the digital twin: as scores of classes, or number by number."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from analogtorch.calibration.judge import MOVED, has_moved
from analogtorch.calibration.outputs import (
    TEMPERATURE,
    by_class,
    class_dim,
    masks,
    spread,
    unmasked,
    vectors,
)
from analogtorch.calibration.padding import Read, at_positions
from analogtorch.calibration.units import MANY, are_in_units, are_shares, variances
from analogtorch.hwa.distill import distillation_loss
from analogtorch.hwa.recipe import Outputs, Recipe
from analogtorch.nn.tap import hooked
from analogtorch.values.warned import warn

FLOOR = 0.1
"""Share of the mean square of the vectors that is added to the square of each."""

ALIKE = 1e-3
"""Standard deviation of the lengths of vectors, over their mean, up to which they are one."""

LOG_ONE = 0.02
"""How far the logarithm of a sum of probabilities is from 0 at most, by rounding to bfloat16."""
FEW = 8
"""Numbers that may all lie in [0, 1] by chance."""


class Channels(NamedTuple):
    """The outputs of a layer."""

    size: int
    """Their number."""
    dim: int
    """Their dimension: -1, or of a convolution the one before its positions."""
    values: Tensor
    """The output of the layer, without a gradient."""


class Way(NamedTuple):
    """How an output of a model is compared."""

    by_scores: bool
    """Whether its softmax is what counts."""
    dim: int
    """The dimension that counts classes, below 0."""
    in_units: bool = False
    """Whether its numbers are quantities of several units, each of which is compared over its own
    variance in the batch."""


@dataclass
class Found:
    """The first outputs of the teacher that are compared, and how it made them."""

    outputs: list[Tensor]
    """All of them, whole."""
    scores: bool
    """Whether the first of them can be scores, whatever it is called."""
    logits: Sequence[bool]
    """Which of them are called so, in a mapping."""
    positions: bool = True
    """Whether those may be scores of positions, as ``start_logits`` are."""
    inputs: list[Tensor] = field(default_factory=list)
    """The floating-point inputs, without labels and targets."""
    tokens: list[Tensor] = field(default_factory=list)
    """All inputs of other types, labels among them."""
    last: Channels | None = None
    """The channels of the last layer that ran."""
    read: Read = field(default_factory=Read)
    """Which positions of the batch are read."""
    beside: Sequence[str] = ()
    """Names of further outputs, which are not compared."""

    def compared(self) -> list[Tensor]:
        """Return the outputs without positions that nobody reads."""
        return [at_positions(y, self.read.outputs) for y in self.outputs]


class Comparison:
    """Compares outputs as a recipe says, or as the first outputs decide.

    Args:
        recipe: its ``outputs`` and ``temperature``.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._kind = recipe, recipe.outputs
        self._ways: tuple[Way, ...] | None = None
        self._classes_last = False
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
        """Decide how each output is compared, and warn of those that are not."""
        if found.beside:
            warn(
                "adapt: of the outputs 'logits' alone are compared; the training may change "
                f"{', '.join(map(repr, found.beside))}. Where they count too, pass forward=, which "
                "returns a tuple of all outputs that count"
            )
        ways = []
        for number, y in enumerate(found.outputs):
            dim = -1 if self._classes_last else _classes(y, found)
            by_scores, in_units = self._kind == "divergence", False
            if not by_scores:
                in_units = _are_in_units(at_positions(y, found.read.outputs), dim)
            if self._kind is None:
                named_so = found.logits[number]
                can_be = named_so or (found.scores and not number)
                by_scores = can_be and _are_scores(y, dim, found, named_so, in_units)
            by_scores &= _several(y, dim)
            ways.append(Way(by_scores, dim, in_units and not by_scores))
        if any(way.in_units for way in ways):
            warn(
                "adapt: the numbers of an output are quantities of several units, so that each is "
                "compared over its own variance. A step of the training moves the weights that "
                "make them by a share of their common size, many times that of the smallest: let "
                "the model give quantities of one size, such as standardised ones, to learn all"
            )
        self._ways = tuple(ways)
        if self._kind is None:
            self._kind = "divergence" if any(way.by_scores for way in ways) else "error"

    @property
    def ways(self) -> tuple[Way, ...]:
        """How each output is compared; empty before the first outputs."""
        return self._ways or ()

    def go_on(self, kind: Outputs, ways: Sequence[Sequence[Any]] | None) -> None:
        """Compare outputs as an interrupted run has compared them.

        Args:
            kind: its ``kind``.
            ways: its ``ways``, as plain values; None: an earlier version began it, for which
                classes were the last dimension of all outputs.
        """
        self._kind, self._classes_last = kind, ways is None
        if ways is not None:
            self._ways = tuple(Way(bool(b), int(dim), *map(bool, own)) for b, dim, *own in ways)

    def way(self, exact: Tensor, which: int = 0) -> Way:
        """Return how an output is compared; one that was not there at first as those after it."""
        if self._ways is not None and which < len(self._ways):
            return self._ways[which]
        dim = -1 if self._classes_last else class_dim(exact)
        all_alike = self._classes_last or self._recipe.outputs is not None
        return Way(self.kind == "divergence" and all_alike and _several(exact, dim), dim)

    def loss(self, y: Tensor, exact: Tensor, which: int = 0) -> Tensor:
        """Return how far an output is from the exact one: a scalar >= 0.

        Args:
            y: the output.
            exact: the exact one, of the same shape.
            which: its number in the outputs of the model.
        """
        masked, way = self.masks(exact, which), self.way(exact, which)
        if way.in_units and masked is None and len(rows := by_class(exact, way.dim)) > 1:
            return _error_in_units(by_class(y, way.dim), rows)
        if not way.by_scores:
            return relative_error(unmasked(y, masked), unmasked(exact, masked))
        y, exact = y.movedim(way.dim, -1), exact.movedim(way.dim, -1)
        temperature = self._recipe.temperature
        if temperature is None:
            masked = None if masked is None else masked.movedim(way.dim, -1)
            temperature = max(TEMPERATURE * spread(exact, masked), torch.finfo(torch.float32).tiny)
        # without the T^2 that keeps the size of gradients: the layers' errors stand beside it
        return distillation_loss(y, exact, temperature=temperature) / temperature**2

    def masks(self, exact: Tensor, which: int = 0) -> Tensor | None:
        """Return where an exact output holds a mask; see ``calibration.outputs.masks``."""
        return masks(exact, scores=self.way(exact, which).by_scores)

    def moved(
        self, y: Tensor, exact: Tensor, which: int = 0, among: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return which classes have changed, one for each position; see ``judge.Error.moved``.

        Of quantities of several units it is one for each number.

        Args:
            y: the output.
            exact: the exact one, of the same shape.
            which: its number in the outputs of the model.
            among: the exact ones of several batches, by whose spread numbers have moved that are
                no classes; empty: this one alone.
        """
        masked, (_, dim, in_units) = self.masks(exact, which), self.way(exact, which)
        if in_units and masked is None:
            columns = [by_class(t, dim).float() for t in among or [exact]]
            if sum(map(len, columns)) > 1:
                least = MOVED * variances(columns).sqrt()
                return ((by_class(y, dim) - by_class(exact, dim)).float().abs() > least).flatten()

        def rows(t: Tensor) -> Tensor:
            return vectors(t) if self._classes_last else by_class(t, dim)

        def shown(t: Tensor, masked: Tensor | None) -> Tensor:
            masked = None if masked is None else rows(masked)
            return unmasked(rows(t), masked, lowest=True)

        pair = shown(exact, masked), shown(y, masked)
        if pair[0].shape[1] > 1:
            return has_moved(*pair)
        alike = [shown(t, self.masks(t, which)) for t in among if rows(t).shape[1] == 1]
        return has_moved(*pair, among=torch.cat(alike) if alike else None)


def relative_error(y: Tensor, exact: Tensor) -> Tensor:
    """Return the mean over vectors of the squared error over the square of the exact vector.

    Each vector counts alike, however large: otherwise a few loud inputs would be all that is
    learnt. A vector that is much smaller than the others counts less, by ``FLOOR`` of their mean.
    Where all are 0, as of a branch that is silent, there is no error relative to them: it is 0.

    Args:
        y: outputs, (*, numbers), or of more than three dimensions (samples, *).
        exact: the exact outputs, of the same shape.

    Returns:
        A scalar >= 0.
    """
    y, exact = (vectors(t.to(torch.promote_types(t.dtype, torch.float32))) for t in (y, exact))
    squares = exact.square().sum(1)
    mean = squares.mean()
    floor = torch.where(mean > 0, FLOOR * mean + torch.finfo(squares.dtype).tiny, 1.0)
    found = ((y - exact).square().sum(1) / (squares + floor)).mean()
    return torch.where(mean > 0, found, 0.0)


@contextlib.contextmanager
def last_channels(model: nn.Module, wanted: bool) -> Iterator[list[Channels]]:
    """Keep the channels of the last layer of a model that runs in the context, in a list."""
    found: list[Channels] = []

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim():
            dim = -1 - len(getattr(module, "kernel_size", ()))
            if output.dim() >= -dim:
                found[:] = [Channels(output.shape[dim], dim, output.detach())]

    # by name: the linear layer of transformers, which need not be installed
    kinds, others = nn.Linear | _ConvNd, ("Conv1D",)
    modules = model.modules() if wanted else ()
    layers = (m for m in modules if isinstance(m, kinds) or type(m).__name__ in others)
    with hooked(layers, after=keep):
        yield found


def _classes(y: Tensor, found: Found) -> int:
    """Return the dimension that counts classes if an output is scores.

    It is that of the last layer's channels; where these are in another one, that; or as usual.
    """
    if y.dim() < 3 or _is_of_tokens(y, found):
        return -1
    if (dim := _log_probabilities(y)) is not None:
        return dim
    if found.last is None:
        return class_dim(y)
    size, own, values = found.last
    alike = [dim for dim in range(1 - y.dim(), 0) if y.shape[dim] == size]
    if len(alike) > 1:  # as where a sequence is as long as there are classes
        sums = _sums(values, own)
        alike = [d for d in alike if torch.allclose(_sums(y, d), sums)] or [own] * (own in alike)
    return alike[0] if len(alike) == 1 else class_dim(y)


def _sums(y: Tensor, dim: int) -> Tensor:
    """Return the sum of the numbers of each class, in whatever order the others are."""
    return by_class(y, dim).double().sum(0)


def _are_scores(y: Tensor, dim: int, found: Found, named_so: bool, in_units: bool) -> bool:
    """Return whether an output of a model may be scores of classes along ``dim``.

    Of three dimensions or more it has to be known, by name for example: the softmax over steps or
    positions sees no shift of them all, and that of numbers that are no scores none of their common
    errors. Numbers ``in_units`` are none, unless they are known.
    """
    shapes = {x.shape for x in found.inputs}
    flat = {x.flatten(1).shape for x in found.inputs if x.dim() > 2}
    if _of_one_length(y, dim) or y.shape in shapes | flat:
        return False
    if not named_so and _are_independent(y, dim):
        return False
    if not (named_so and found.positions) and _are_decisions(y, found):
        return False
    if named_so or _is_of_tokens(y, found) or _log_probabilities(y) is not None:
        return True
    if y.dim() < 3:
        return not in_units
    features = {shape[-1] for shape in shapes if len(shape) > 1}
    linear = found.last is not None and found.last[:2] == (y.shape[-1], -1)
    return y.dim() == 3 and linear and y.shape[-1] not in features and not in_units


def _is_of_tokens(y: Tensor, found: Found) -> bool:
    """Return whether an output has a vector for each token or label."""
    return any(x.shape == y.shape[:-1] for x in found.tokens)


def _are_decisions(y: Tensor, found: Found) -> bool:
    """Return whether an output has one number for each token, as where each is true or not."""
    single = found.last is not None and found.last.size == 1
    return single and any(x.shape == y.shape for x in found.tokens)


def _log_probabilities(y: Tensor) -> int | None:
    """Return the only dimension, but for the first, along which the exponentials sum to 1."""
    if not y.numel():
        return None
    y = y.float()
    sums = {dim: y.logsumexp(dim) for dim in range(1 - y.dim(), 0) if y.shape[dim] > 1}
    found = [dim for dim, total in sums.items() if bool((total.abs() < LOG_ONE).all())]
    return found[0] if len(found) == 1 else None


def _are_independent(y: Tensor, dim: int) -> bool:
    """Return whether an output is probabilities that exclude no other, as those of labels are.

    Few numbers may lie in [0, 1] by chance.
    """
    if y.numel() <= FEW or not are_shares([y]):
        return False
    return bool((y.float().sum(dim).log().abs() > LOG_ONE).any())


def _are_in_units(y: Tensor, dim: int) -> bool:
    """Return whether the numbers along ``dim`` are quantities of several units, beyond doubt."""
    if (
        not y.dim()
        or not 1 < y.shape[dim] < MANY
        or not y.numel()
        or masks(y, scores=True) is not None
    ):
        return False
    rows = by_class(y.float(), dim)
    return are_in_units([rows])


def _error_in_units(y: Tensor, exact: Tensor) -> Tensor:
    """Return the squared error of each number over its variance, the mean over all that vary.

    Args:
        y: the vectors of the model, (vectors, numbers).
        exact: the exact ones, at least two.
    """
    own = variances([exact.float()])
    varied = own.isfinite()
    if not varied.any():
        return relative_error(y, exact)
    return ((y.float() - exact.float()).square().mean(0) / own)[varied].mean()


def _several(y: Tensor, dim: int) -> bool:
    """Return whether the softmax of an output says something: of three classes or more."""
    return y.dim() > 0 and y.shape[dim] >= 3


def _of_one_length(y: Tensor, dim: int) -> bool:
    y = by_class(y, dim)
    lengths = unmasked(y, masks(y, scores=_several(y, -1))).float().norm(dim=1)
    if len(lengths) < 2:
        return False
    return bool(lengths.std(correction=0) <= ALIKE * lengths.mean())
