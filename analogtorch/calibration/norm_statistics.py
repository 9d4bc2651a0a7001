"""The statistics of batch norms: what they are and were, and what brings them back."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_KEPT = "_analogtorch_moved"
"""Attribute of a moved norm: mean and variance after the move, and before it, in CPU memory.

No buffers: ``torch.optim.swa_utils.AveragedModel`` pairs those of two models by their position.
"""
_ON_CHIP = "_analogtorch_on_chip"
"""Attribute of a norm that was moved on a programmed chip: what undoes that, a ``Move``."""
_NAMES = tuple(
    f"_analogtorch_{name}" for name in ("moved_mean", "moved_var", "digital_mean", "digital_var")
)
"""Names that these have in digests: those of the buffers that they were once, and are still in
models that were pickled then."""
_ROUNDINGS = tuple(
    chain
    for length in range(4)
    for chain in itertools.permutations((torch.float32, torch.float16, torch.bfloat16), length)
)
"""Dtypes to which a model may have been moved since, one after another; again changes nothing."""


class Move(NamedTuple):
    """How a norm was moved on a chip, in CPU memory."""

    now: list[Tensor]
    """Mean and variance after the last move."""
    before: list[Tensor]
    """Mean, variance and number of batches before the first one."""
    kept: list[Tensor] | None
    """What ``_KEPT`` held then."""


@torch.no_grad()
def undo_on_chip(model: nn.Module) -> list[str]:
    """Undo what ``reestimate_batch_norm`` has done to norms on this chip, and return their names.

    Statistics that something else has changed since stay as they are.
    """
    names = []
    for name, norm in tracking(model).items():
        if _moved_on_chip(norm):
            move: Move = vars(norm).pop(_ON_CHIP)
            take(norm, move.before)
            vars(norm).pop(_KEPT, None)
            if move.kept is not None:
                vars(norm)[_KEPT] = move.kept
            names.append(name)
    return names


def _moved_on_chip(norm: Any) -> bool:
    move = vars(norm).get(_ON_CHIP)
    return move is not None and _are(move.now, [norm.running_mean, norm.running_var])


def move_of(norm: Any) -> Move:
    """Return the move on the chip so far: none yet, if there was none."""
    if _moved_on_chip(norm):
        move: Move = vars(norm)[_ON_CHIP]
        return move
    return Move(now=[], before=_copies(norm), kept=_kept(norm))


def keep_move(norm: Any, first: Move) -> None:
    """Keep what undoes that a norm was moved on a programmed chip.

    Args:
        norm: the norm, after it was moved.
        first: what ``move_of`` returned before.
    """
    vars(norm)[_ON_CHIP] = first._replace(now=_copies(norm)[:2])


def _copies(norm: Any) -> list[Tensor]:
    """Return copies of the statistics in CPU memory."""
    with torch.inference_mode(False):  # they serve outside too
        return [value.to("cpu", copy=True) for value in (getattr(norm, n) for n in _STATISTICS)]


def norms_of(model: nn.Module) -> dict[str, Any]:
    """Return the batch norms that track statistics, by name.

    Raises:
        ValueError: there are none, or one is lazy and has not run yet.
    """
    norms = tracking(model)
    if not norms:
        raise ValueError(
            "reestimate_batch_norm: the model has no batch norm that tracks statistics; after "
            "fold_batch_norm, or with other norms, there is nothing to take anew"
        )
    if lazy := [name for name, norm in norms.items() if is_lazy(norm.running_mean)]:
        raise ValueError(
            f"reestimate_batch_norm: batch norm {lazy[0]!r} is lazy and has no statistics yet; run "
            "the model once first"
        )
    return norms


def tracking(model: nn.Module) -> dict[str, Any]:
    """Return the batch norms that track statistics, by name; there may be none."""
    return {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, _BatchNorm) and m.running_mean is not None
    }


def digital_statistics(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the statistics that ``reestimate_batch_norm`` would start from, by batch norm.

    They lie outside the ``state_dict``; ``at.save`` keeps them.
    """
    return {name: start_of(norm) for name, norm in tracking(model).items()}


def statistics_before(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the statistics before ``reestimate_batch_norm``, by each batch norm that it moved."""
    found = {name: _before(norm) for name, norm in tracking(model).items()}
    return {name: pair for name, pair in found.items() if pair is not None}


def remember_digital(model: nn.Module, digital: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Let ``reestimate_batch_norm`` start from these, as ``digital_statistics`` returned them."""
    for name, (mean, var) in digital.items():
        remember(model.get_submodule(name), mean, var)


def remembered(module: Any) -> list[tuple[str, Tensor]]:
    """Return what ``reestimate_batch_norm`` remembers of a norm, by name; nothing of others.

    It decides where another call starts from, and so belongs to the digest of a model.
    """
    kept = _kept(module)
    if kept is None or module.running_mean is None:
        return []
    dtype = module.running_mean.dtype
    return [(name, value.to(dtype)) for name, value in zip(_NAMES, kept, strict=True)]


@contextlib.contextmanager
def statistics_on_error(norms: dict[str, Any]) -> Iterator[None]:
    """Bring back, if there is an error inside, the statistics that the norms have now."""
    undo = statistics_as_now(norms)
    try:
        yield
    except BaseException:
        undo()
        raise


def statistics_as_now(norms: dict[str, Any]) -> Callable[[], None]:
    """Return what brings back the statistics of norms, and what they remember."""
    before = [
        (norm, current(norm), {_KEPT: _kept(norm), _ON_CHIP: vars(norm).get(_ON_CHIP)})
        for norm in norms.values()
    ]

    def undo() -> None:
        for norm, statistics, kept in before:
            take(norm, statistics)
            for key, value in kept.items():
                vars(norm).pop(key, None)
                if value is not None:
                    vars(norm)[key] = value

    return undo


def current(norm: Any) -> list[Tensor]:
    """Return copies of mean, variance and number of batches."""
    return [getattr(norm, name).clone() for name in _STATISTICS]


def take(norm: Any, statistics: list[Tensor]) -> None:
    """Give a norm what ``current`` returned."""
    for name, value in zip(_STATISTICS, statistics, strict=True):
        getattr(norm, name).copy_(value)


def remember(norm: Any, mean: Tensor, var: Tensor) -> None:
    """Keep the statistics before and after the change, outside the ``state_dict``."""
    values = norm.running_mean, norm.running_var, mean, var
    with torch.inference_mode(False):  # they serve outside too
        vars(norm)[_KEPT] = [value.to("cpu", copy=True) for value in values]


def _kept(norm: Any) -> list[Tensor] | None:
    """Return what was kept of a norm, if anything, without the buffers that it once lay in."""
    if all(name in norm._buffers for name in _NAMES):
        values = [norm._buffers[name].to("cpu", copy=True) for name in _NAMES]
        vars(norm).setdefault(_KEPT, values)
        for name in _NAMES:
            delattr(norm, name)
    kept: list[Tensor] | None = vars(norm).get(_KEPT)
    return kept


def start_of(norm: Any) -> tuple[Tensor, Tensor]:
    """Return the mean and variance to start from: those before it was moved, or as they are."""
    return _before(norm) or (norm.running_mean.clone(), norm.running_var.clone())


def _before(norm: Any) -> tuple[Tensor, Tensor] | None:
    """Return mean and variance before they were moved; None: they were not, or changed since."""
    kept, now = _kept(norm), [norm.running_mean, norm.running_var]
    if kept is None or not _are(kept[:2], now):
        return None
    mean, var = (value.to(now[0]) for value in kept[2:])
    return mean, var


def _are(kept: list[Tensor], now: list[Tensor]) -> bool:
    """Return whether these are the values that were kept, exactly.

    They may have been rounded, all alike, as a model is that was moved to other dtypes, in any
    order: of float64, float32, float16 and bfloat16.
    """
    pairs = [(value, there.cpu()) for value, there in zip(kept, now, strict=True)]
    return any(
        all(torch.equal(_rounded(value, chain).to(there.dtype), there) for value, there in pairs)
        for chain in _ROUNDINGS
    )


def _rounded(value: Tensor, chain: tuple[torch.dtype, ...]) -> Tensor:
    """Return a tensor that was moved from one dtype to the next."""
    return functools.reduce(Tensor.to, chain, value)
