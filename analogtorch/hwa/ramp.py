"""The fraction of the training noise, which may grow while a model learns to live with it."""

from torch import nn

from analogtorch.conversion.kinds import check_module, refuse_programmed, some_layers
from analogtorch.values import checks


def training_noise_(model: nn.Module, fraction: float) -> nn.Module:
    """Set the training noise of every analog layer to a ``fraction`` of that of its chip.

    The fraction multiplies the standard deviations of all noise in training (that of the weights,
    output noise, jitter, shot noise and read noise of every MVM), the probability of
    ``drop_connect`` and the resistance of the wires, whatever it was before. The layers' ``chip``
    stays as it is, and so do ``eval()`` and the chips that ``program`` makes. The fraction is
    copied and pickled with the model; ``at.save`` does not keep it. A compiled model compiles again
    for each new value: use few, as torch stops compiling after 8
    (``torch._dynamo.config.recompile_limit``).

    Args:
        model: a converted model.
        fraction: 0 (no noise) to 1 (all of it).

    Returns:
        The model.

    Raises:
        ValueError: ``fraction`` is outside [0, 1], or the model has no analog layer or is a
            programmed chip. Nothing has changed then.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> at.hwa.training_noise_(model, 0.5).noise_fraction
        0.5
    """
    check_module("training_noise_", model)
    fraction = checks.number(
        "training_noise_: fraction", fraction, least=0, most=1, remedy="0 is no noise, 1 all"
    )
    layers = list(some_layers(model, "training_noise_").values())
    refuse_programmed(model, "training_noise_")
    for layer in layers:
        layer.set_noise_fraction(float(fraction))
    return model


def ramped(step: int, steps: int, start: float, changes: int) -> float:
    """Return the fraction of the noise at a ``step`` of a ramp.

    It rises linearly from ``start`` to 1, in as many stairs as ``changes``.

    Args:
        step: number of the step, >= 0.
        steps: length of the ramp, >= 1; from that step on the fraction is 1.
        start: fraction at the first step, in [0, 1].
        changes: number of stairs, >= 1.
    """
    return 1.0 if step >= steps else start + (1 - start) * (step * changes // steps) / changes
