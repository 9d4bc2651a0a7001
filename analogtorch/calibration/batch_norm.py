"""The statistics of batch norm, adapted to what the chip computes."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from analogtorch.calibration.passes import (
    Forward,
    as_before_on_error,
    check_finite,
    check_given,
    exactly,
    name_silent,
    run,
)
from analogtorch.conversion import analog_layers
from analogtorch.conversion.watch import evaluating
from analogtorch.nn.tap import hooked
from analogtorch.ops import seed_tensor
from analogtorch.ops.scope import noise_in_turn
from analogtorch.values import checks

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_KEPT = "_analogtorch_moved"
"""Attribute of a moved norm: mean and variance after the move, and before it, in CPU memory.

No buffers: ``torch.optim.swa_utils.AveragedModel`` pairs those of two models by their position.
"""
_ON_CHIP = "_analogtorch_on_chip"
"""Attribute of a norm that was moved on a programmed chip: what undoes that, a ``_Move``."""
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


class _Move(NamedTuple):
    """How a norm was moved on a chip, in CPU memory."""

    now: list[Tensor]
    """Mean and variance after the last move."""
    before: list[Tensor]
    """Mean, variance and number of batches before the first one."""
    kept: list[Tensor] | None
    """What ``_KEPT`` held then."""


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    relative: bool = True,
    seed: int = 0,
    forward: Forward | None = None,
    progress: bool = False,
) -> list[str]:
    """Adapt the running statistics of every batch norm to the chip, in place.

    Drift shifts and scales the outputs of a layer, and the norm after it can correct that: this is
    the adaptive batch normalisation (AdaBS) of Joshi et al., Nat. Commun. 11, 2473 (2020). For a
    converted model the statistics become those under the training noise: its analog layers draw
    noise, everything else is in evaluation mode. Each norm normalises with its batch meanwhile, so
    that the next norm gets normalised inputs.

    Statistics and columns correct the same errors: ``correct_columns`` gives norms back what they
    had before they were re-estimated on the chip.

    Averages over a few batches err more than a compensated chip does, and differ from those of
    training if its inputs were augmented. So the batches run twice by default, first with all
    layers exact, and the statistics move by the difference between the two runs.

    Args:
        model: the model that ``ProgrammedChip.at`` returned, or a converted model.
        batches: inputs, as ``calibrate`` takes them; kept in memory if ``relative``. All batches
            count alike: give batches of one size, each of at least ten samples or so, as the
            variance within a batch is averaged.
        relative: if True, add the difference of the means of both runs to the mean of the norm, and
            multiply its variance by the ratio of both variances, or add their difference if that is
            less. Another call starts from where this one did. The statistics must be those of the
            digital model; if they were trained under noise, they count it twice, which changes them
            little. If False, take the averages over the batches themselves, as published; give a
            thousand samples or more.
        seed: seed of the noise of a converted model, which is the same in every call. A programmed
            chip has its own noise.
        forward: as ``calibrate`` takes it.
        progress: if True, show a progress bar.

    Returns:
        Names of the norms that ran.

    Raises:
        TypeError: ``model`` is no module, such as a programmed chip without its time, or
            ``batches`` is one batch.
        ValueError: no batch norm tracks statistics; one has none yet to be ``relative`` to; there
            are no batches; no norm ran; one got NaN or infinity; or a batch has one value per
            channel. The model is unchanged.

    Warns:
        UserWarning: some norms did not run, and keep their statistics; once for all chips of a
            model.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32))
        >>> _ = net(torch.randn(100, 64))  # training mode: the norm has statistics now
        >>> at.reestimate_batch_norm(at.convert(net, at.chips.hermes64()), [torch.randn(100, 64)])
        ['1']
    """
    check_given("reestimate_batch_norm", model, batches)
    checks.flag("reestimate_batch_norm: relative", relative)
    checks.function("reestimate_batch_norm: forward", forward, "forward(model, batch)")
    seed_tensor(seed)
    norms = norms_of(model)
    digital = {norm: _digital(norm) for norm in norms.values()}
    if relative:
        batches = list(batches)

    def averages() -> dict[str, tuple[Tensor, Tensor]]:
        ran: set[str] = set()
        with evaluating(model), _averaging(norms, ran), noise_in_turn(seed):
            for _, layer in analog_layers(model):
                layer.training = layer.programmed is None
            run("reestimate_batch_norm", model, batches, forward, progress)
        return {n: (norms[n].running_mean.clone(), norms[n].running_var.clone()) for n in ran}

    before = {norm: _statistics(norm) for norm in norms.values()}
    programmed = any(layer.programmed is not None for _, layer in analog_layers(model))
    first = {norm: _move_of(norm) for norm in norms.values()}
    with statistics_on_error(norms), as_before_on_error(model):
        exact = dict[str, tuple[Tensor, Tensor]]()
        if relative:
            with exactly(model):
                exact = averages()
            _check_statistics({name: norms[name] for name in exact}, digital)
        found = averages()
        ran = found.keys() & exact.keys() if relative else set(found)
        kept = "the statistics that they have"
        name_silent("reestimate_batch_norm", model, norms, ran, kept, "batch norms", "remove them")
        for name, norm in norms.items():
            if name not in ran:
                _take(norm, before[norm])
            elif relative:
                (mean, var), (exact_mean, exact_var) = digital[norm], exact[name]
                norm.running_mean.copy_(mean + (norm.running_mean - exact_mean))
                norm.running_var.copy_(_moved(var, exact_var, norm.running_var))
                norm.num_batches_tracked.copy_(before[norm][-1])
                _remember(norm, mean, var)
            if programmed and name in ran:
                vars(norm)[_ON_CHIP] = first[norm]._replace(now=_copies(norm)[:2])
    return [name for name in norms if name in ran]


@torch.no_grad()
def undo_on_chip(model: nn.Module) -> list[str]:
    """Undo what ``reestimate_batch_norm`` has done to norms on this chip, and return their names.

    Statistics that something else has changed since stay as they are.
    """
    names = []
    for name, norm in tracking(model).items():
        if _moved_on_chip(norm):
            move: _Move = vars(norm).pop(_ON_CHIP)
            _take(norm, move.before)
            vars(norm).pop(_KEPT, None)
            if move.kept is not None:
                vars(norm)[_KEPT] = move.kept
            names.append(name)
    return names


def _moved_on_chip(norm: Any) -> bool:
    move = vars(norm).get(_ON_CHIP)
    return move is not None and _are(move.now, [norm.running_mean, norm.running_var])


def _move_of(norm: Any) -> _Move:
    """Return the move on the chip so far: none yet, if there was none."""
    if _moved_on_chip(norm):
        move: _Move = vars(norm)[_ON_CHIP]
        return move
    return _Move(now=[], before=_copies(norm), kept=_kept(norm))


def _copies(norm: Any) -> list[Tensor]:
    """Return copies of the statistics in CPU memory."""
    with torch.inference_mode(False):  # they serve outside too
        return [value.to("cpu", copy=True) for value in (getattr(norm, n) for n in _STATISTICS)]


def norms_of(model: nn.Module) -> dict[str, Any]:
    """Return the batch norms that track statistics, by name.

    Raises:
        ValueError: there are none.
    """
    norms = tracking(model)
    if not norms:
        raise ValueError(
            "reestimate_batch_norm: the model has no batch norm that tracks statistics; after "
            "fold_batch_norm, or with other norms, there is nothing to take anew"
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
    return {name: _digital(norm) for name, norm in tracking(model).items()}


def statistics_before(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the statistics before ``reestimate_batch_norm``, by each batch norm that it moved."""
    found = {name: _before(norm) for name, norm in tracking(model).items()}
    return {name: pair for name, pair in found.items() if pair is not None}


def remember_digital(model: nn.Module, digital: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Let ``reestimate_batch_norm`` start from these, as ``digital_statistics`` returned them."""
    for name, (mean, var) in digital.items():
        _remember(model.get_submodule(name), mean, var)


def remembered(module: Any) -> list[tuple[str, Tensor]]:
    """Return what ``reestimate_batch_norm`` remembers of a norm, by name; nothing of others.

    It decides where another call starts from, and so belongs to the digest of a model.
    """
    kept = _kept(module)
    if kept is None or module.running_mean is None:
        return []
    dtype = module.running_mean.dtype
    return [(name, value.to(dtype)) for name, value in zip(_NAMES, kept, strict=True)]


def _check_statistics(norms: dict[str, Any], digital: dict[Any, tuple[Tensor, Tensor]]) -> None:
    for name, norm in norms.items():
        mean, var = digital[norm]
        if not mean.any() and (var == 1).all():
            raise ValueError(
                f"reestimate_batch_norm: batch norm {name!r} has no statistics yet that could be "
                "moved; train the model, load weights, or call "
                "analogtorch.reestimate_batch_norm(model, batches, relative=False) to take the "
                "averages over the batches"
            )


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
        (norm, _statistics(norm), {_KEPT: _kept(norm), _ON_CHIP: vars(norm).get(_ON_CHIP)})
        for norm in norms.values()
    ]

    def undo() -> None:
        for norm, statistics, kept in before:
            _take(norm, statistics)
            for key, value in kept.items():
                vars(norm).pop(key, None)
                if value is not None:
                    vars(norm)[key] = value

    return undo


def _statistics(norm: Any) -> list[Tensor]:
    return [getattr(norm, name).clone() for name in _STATISTICS]


def _take(norm: Any, statistics: list[Tensor]) -> None:
    for name, value in zip(_STATISTICS, statistics, strict=True):
        getattr(norm, name).copy_(value)


def _remember(norm: Any, mean: Tensor, var: Tensor) -> None:
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


def _digital(norm: Any) -> tuple[Tensor, Tensor]:
    """Return the mean and variance to start from: those before, or as they are."""
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


def _moved(old: Tensor, exact: Tensor, now: Tensor) -> Tensor:
    """Return the variance ``old``, changed as the variance ``exact`` changed to ``now``.

    A gain multiplies a variance, noise adds to it. Where it grows, the smaller change counts: a
    channel that is nearly silent on these batches shows by how much it grows, but no factor.
    """
    share = torch.where(old < exact, old / exact, 1.0)
    return torch.where(now < exact, old * (now / exact), old + (now - exact) * share)


@contextlib.contextmanager
def _averaging(norms: dict[str, Any], ran: set[str]) -> Iterator[None]:
    """Let every norm average over its batches anew while the context lasts."""
    momenta = {norm: norm.momentum for norm in norms.values()}
    names = {norm: name for name, norm in norms.items()}

    def look(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        check_finite("reestimate_batch_norm", f"the input of batch norm {names[norm]!r}", args[0])
        ran.add(names[norm])

    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None
            norm.training = True
        with hooked(norms.values(), before=look):
            yield
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
