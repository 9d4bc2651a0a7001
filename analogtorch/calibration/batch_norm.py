"""The statistics of batch norm, adapted to what the chip computes."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from analogtorch.calibration.batches import check_given
from analogtorch.calibration.norm_statistics import (
    current,
    keep_move,
    move_of,
    norms_of,
    remember,
    start_of,
    statistics_on_error,
    take,
)
from analogtorch.calibration.passes import (
    Forward,
    as_before_on_error,
    check_finite,
    exactly,
    name_silent,
    run,
)
from analogtorch.conversion import analog_layers
from analogtorch.conversion.restored import evaluating
from analogtorch.ops import seed_tensor
from analogtorch.ops.scope import noise_in_turn
from analogtorch.values import checks

_Moments = tuple[Tensor, Tensor]
"""Mean and variance of each channel, (channels,)."""
_Target = Callable[[str, int], tuple[Tensor | float, Tensor | float] | None]
"""The mean and variance that a norm, by name, gets in its n-th call; None: those of its input."""
_NORMAL = 0.0, 1.0
"""Mean and variance of a norm that has looked at nothing yet."""


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
    noise, everything else is in evaluation mode.

    Statistics and columns correct the same errors: ``correct_columns`` gives norms back what they
    had before they were re-estimated on the chip.

    Averages over a few batches err more than a compensated chip does, and differ from those of
    training if its inputs were augmented. So the batches run twice by default, first with all
    layers exact, and the statistics move by the difference between the two runs. In the second run
    what each norm gets is shifted and scaled to mean and variance of the same batch in the first,
    so that the layers after it get what they will get.

    Args:
        model: the model that ``ProgrammedChip.at`` returned, or a converted model.
        batches: inputs, as ``calibrate`` takes them; kept in memory if ``relative``. All batches
            count alike: give batches of one size, each of at least ten samples or so, as the
            variance within a batch is averaged.
        relative: if True, multiply the variance of the norm by the ratio of the variances of both
            runs, or add their difference if that is less, and let its mean be as many standard
            deviations from that of the batches as it was. Another call starts from where this one
            did. The statistics must be those of the digital model; if they were trained under
            noise, they count it twice, which changes them little. If False, take the averages over
            the batches themselves, as published, while each norm normalises with its batch; give a
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
        ValueError: no batch norm tracks statistics; one is lazy and has not run yet, or has none
            yet to be ``relative`` to; there are no batches; no norm ran; one got NaN or infinity;
            or a batch has one value per channel. The model is unchanged.

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
    if relative:
        batches = list(batches)

    def moments(target: _Target) -> dict[str, list[_Moments]]:
        with evaluating(model), noise_in_turn(seed), _looking(norms, target) as found:
            for _, layer in analog_layers(model):
                layer.training = layer.programmed is None
            run("reestimate_batch_norm", model, batches, forward, progress)
        return {name: calls for name, calls in found.items() if calls}

    before = {name: current(norm) for name, norm in norms.items()}
    first = {name: move_of(norm) for name, norm in norms.items()}
    starts = {name: start_of(norm) for name, norm in norms.items()}
    programmed = any(layer.programmed is not None for _, layer in analog_layers(model))
    with statistics_on_error(norms), as_before_on_error(model):
        exact = dict[str, list[_Moments]]()
        if relative:
            for name, norm in norms.items():
                _set(norm, *starts[name])
            with exactly(model):
                exact = moments(lambda name, call: _check_statistics(name, *starts[name]))
            found = moments(lambda name, call: _of_call(exact.get(name), call))
        else:
            for norm in norms.values():
                norm.reset_running_stats()
            found = moments(lambda name, call: _NORMAL)
        ran = found.keys() & exact.keys() if relative else set(found)
        kept = "the statistics that they have"
        name_silent("reestimate_batch_norm", model, norms, ran, kept, "batch norms", "remove them")
        for name, norm in norms.items():
            if name not in ran:
                take(norm, before[name])
            elif relative:
                now = _average(found[name])
                _set(norm, *_moved(starts[name], _average(exact[name]), now, norm.eps))
                remember(norm, *starts[name])
            else:
                _set(norm, *_average(found[name]))
                norm.num_batches_tracked.fill_(len(found[name]))
            if programmed and name in ran:
                keep_move(norm, first[name])
    return [name for name in norms if name in ran]


def _check_statistics(name: str, mean: Tensor, var: Tensor) -> None:
    if not mean.any() and (var == 1).all():
        raise ValueError(
            f"reestimate_batch_norm: batch norm {name!r} has no statistics yet that could be "
            "moved; train the model, load weights, or call "
            "analogtorch.reestimate_batch_norm(model, batches, relative=False) to take the "
            "averages over the batches"
        )


@contextlib.contextmanager
def _looking(norms: Mapping[str, Any], target: _Target) -> Iterator[dict[str, list[_Moments]]]:
    """Look at mean and variance of what each norm normalises, and bring them to others.

    Args:
        norms: the norms by name.
        target: the mean and variance that a norm, by name, gets in its n-th call; None: its own.

    Yields:
        Those of all calls in their order, by norm.
    """
    found: dict[str, list[_Moments]] = {name: [] for name in norms}

    def look(name: str, x: Tensor) -> Tensor:
        to = target(name, len(found[name]))
        check_finite("reestimate_batch_norm", f"the input of batch norm {name!r}", x)
        mean, var = _moments(name, x)
        found[name].append((mean, var))
        if to is None:
            return x
        eps, shape = norms[name].eps, (1, -1, *(1 for _ in x.shape[2:]))
        scale = ((to[1] + eps) / (var + eps)).sqrt()
        shift = to[0] - mean * scale  # of what is there already nothing is changed, to the bit
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    with contextlib.ExitStack() as stack:
        for name, norm in norms.items():
            stack.enter_context(_seen(norm, functools.partial(look, name)))
        yield found


@contextlib.contextmanager
def _seen(norm: Any, look: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let ``look`` change what a norm normalises, whatever its own forward gets."""
    own, forward = vars(norm).get("forward"), norm.forward

    def call(*args: Any, **kwargs: Any) -> Any:
        with _AtFunction(look):
            return forward(*args, **kwargs)

    norm.forward = call
    try:
        yield
    finally:
        del norm.forward
        if own is not None:  # as libraries set it that move weights between devices
            norm.forward = own


class _AtFunction(TorchFunctionMode):
    """Calls a function with the input of torch's function of batch norm, and passes on another."""

    def __init__(self, look: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.look = look

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (F.batch_norm, torch.batch_norm):
            args = (self.look(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def _moments(name: str, x: Tensor) -> _Moments:
    """Return mean and variance of each channel."""
    if x.numel() < 2 * x.shape[1]:
        raise ValueError(
            f"reestimate_batch_norm: batch norm {name!r} needs more than 1 value per channel, got "
            f"{tuple(x.shape)}; give batches of several samples"
        )
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(exact, [d for d in range(x.dim()) if d != 1])
    return mean, var


def _of_call(calls: Sequence[_Moments] | None, call: int) -> _Moments | None:
    """Return those of a call of another run, in which there may have been fewer."""
    return calls[call % len(calls)] if calls else None


def _average(calls: Sequence[_Moments]) -> _Moments:
    mean, var = (torch.stack(each).mean(0) for each in zip(*calls, strict=True))
    return mean, var


def _set(norm: Any, mean: Tensor, var: Tensor) -> None:
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)


def _moved(old: _Moments, exact: _Moments, now: _Moments, eps: float) -> _Moments:
    """Return mean and variance ``old``, changed as those of the batches changed from ``exact``.

    A gain multiplies a variance, noise adds to it. Where it grows, the smaller change counts: a
    channel that is nearly silent on these batches shows by how much it grows, but no factor. The
    mean stays as many standard deviations from that of the batches as it was.
    """
    (old_mean, old_var), (exact_mean, exact_var), (now_mean, now_var) = old, exact, now
    share = torch.where(old_var < exact_var, old_var / exact_var, 1.0)
    less, more = old_var * (now_var / exact_var), old_var + (now_var - exact_var) * share
    var = torch.where(now_var < exact_var, less, more)
    growth = ((var + eps) / (old_var + eps)).sqrt()
    mean = old_mean + (now_mean - exact_mean) + (old_mean - exact_mean) * (growth - 1)
    return mean, var
