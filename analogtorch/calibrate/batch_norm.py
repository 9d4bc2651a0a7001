"""The statistics of batch norm, taken anew from what a chip gives."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from analogtorch.calibrate.passes import Forward, check_finite, check_ran, evaluating, run
from analogtorch.convert import analog_layers
from analogtorch.replay import noise

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    seed: int = 0,
    forward: Forward | None = None,
    progress: bool = False,
) -> list[str]:
    """Take the running statistics of every batch norm anew, as averages over the batches; in place.

    Of a programmed chip this is the adaptive batch normalisation (AdaBS) of Joshi et al., Nat. Commun. 11, 2473 (2020):
    drift shifts and scales what a layer gives, and the norm after it can take that back. Of a converted model it gives
    the statistics under the noise that training injects: its analog layers draw it, everything else is in evaluation
    mode. Each norm normalises with its batch while that runs, so that the next one meets normalised inputs.

    Args:
        model: what ``ProgrammedChip.at`` returned, or a converted model.
        batches: inputs, as ``calibrate`` takes them, read once. All count alike: give batches of one size, each of at
            least some ten samples, as the variance within a batch is what is averaged.
        seed: of the noise of a converted model, which is the same in every call; a programmed chip has its own.
        forward: as ``calibrate`` takes it.
        progress: show a progress bar.

    Returns:
        Names of the norms.

    Raises:
        ValueError: no batch norm that tracks statistics, no batches, a norm that never ran or that met NaN or infinity,
            or a batch with one value per channel. The model is unchanged.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32))
        >>> at.reestimate_batch_norm(at.convert(net, at.chips.hermes64()), [torch.randn(100, 64)])
        ['1']
    """
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not norms:
        raise ValueError(
            "reestimate_batch_norm: the model has no batch norm that tracks statistics; after fold_batch_norm, or with "
            "other norms, there is nothing to take anew"
        )
    before = {norm: [getattr(norm, name).clone() for name in _STATISTICS] for norm in norms.values()}
    ran: set[str] = set()
    try:
        with evaluating(model), _averaging(norms, ran), noise(seed):
            for _, layer in analog_layers(model):
                layer.training = layer.programmed is None
            run("reestimate_batch_norm", model, batches, forward, progress)
        check_ran("reestimate_batch_norm", norms, ran, "batch norms")
    except BaseException:
        for norm, statistics in before.items():
            for name, value in zip(_STATISTICS, statistics, strict=True):
                getattr(norm, name).copy_(value)
        raise
    return list(norms)


@contextlib.contextmanager
def _averaging(norms: dict[str, Any], ran: set[str]) -> Iterator[None]:
    """Inside, every norm starts anew and averages over its batches."""
    momenta = {norm: norm.momentum for norm in norms.values()}
    names = {norm: name for name, norm in norms.items()}

    def look(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        check_finite("reestimate_batch_norm", f"the input of batch norm {names[norm]!r}", args[0])
        ran.add(names[norm])

    handles = [norm.register_forward_pre_hook(look) for norm in norms.values()]
    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None
            norm.training = True
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in momenta.items():
            norm.momentum = momentum
