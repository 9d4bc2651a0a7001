"""The steps of a run, tried on the untrained network before hours of training."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.restored import evaluating
from analogtorch.ops import derived
from analogtorch.speech.ablation import variants
from analogtorch.speech.alone import check_alone
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.logits import check_logits, check_training
from analogtorch.speech.logs import loggers
from analogtorch.speech.on_chips import calibrated, converted, correcting, swept
from analogtorch.speech.task import Task
from analogtorch.speech.training import Batches, Phase

_CLIPS = 64
"""Training clips to try with, if there are so many."""


def check_trainable(config: KWSConfig, task: Task, *phases: Phase) -> nn.Module:
    """Return the untrained network, tried on a batch of the size that each phase trains with.

    Raises:
        ValueError: a phase has larger batches than there are clips, or the network gives no logit
            for each class in training mode, or fails where gradients go back through it.
    """
    return _trainable(config, task, _features(task), *phases)


def rehearse(config: KWSConfig, task: Task) -> None:
    """Run the later steps of a run on the untrained network, with few clips and one chip.

    So mistakes appear before hours of training.

    Raises:
        ValueError: options do not fit together, or do not suit the data, the network or the chip.
    """
    features = _features(task)
    network = _trainable(config, task, features, config.digital, config.hwa)
    loggers(config, "digital")
    correcting(config, task.calibration)
    on_chip = f"the network {config.model.name} on the chip"
    for other in variants(config):
        try:
            _trainable(other.config, task, features, other.config.hwa)
            correcting(other.config, task.calibration)
            if other.trained:
                model = converted(other.config, deep_copy(network))
                _try_training(other.config, task, features, other.config.hwa, on_chip, model)
        except ValueError as error:
            raise ValueError(f"report.ablation: {other.name}: {error}") from error
    small = task.small(config.chip.calibration)
    model = converted(config, network)
    calibrated(config, model, small.calibration, report=None)
    _try_training(config, task, features, config.hwa, on_chip, model)

    def finite(view: nn.Module) -> float:
        check_logits(on_chip, view, task.classes, small.calibration[0][:1])
        return 0.0

    swept(
        config,
        replace(small, calibration=task.calibration[0].tensor_split(config.chip.correct_batches)),
        model,
        finite,
        num_chips=1,
        times=config.sweep.times,
        seed=config.sweep.seed,
        folder=None,
    )


def batches_of(config: KWSConfig, task: Task, phase: Phase, seed: int = 0) -> Batches:
    """Return the batches of a training.

    Raises:
        ValueError: there are fewer clips than a batch has.
    """
    return Batches(
        task.make,
        len(task.train),
        batch_size=phase.batch_size,
        seed=seed,
        workers=config.workers,
    )


def untrained(config: KWSConfig, classes: tuple[str, ...], features: Tensor) -> nn.Module:
    """Return the network of the configuration, with the random weights of its seed.

    Args:
        config: the configuration.
        classes: the classes in their order.
        features: those of some clips, (B, ...), for the shape and a try in evaluation mode.

    Raises:
        ValueError: it cannot be made or run, gives no logit for each class, or those of a clip are
            random or depend on the other clips.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived(config.seed, "initial weights"))
        network = config.model.build(classes=len(classes), input_shape=tuple(features.shape[1:]))
        name = f"the network {config.model.name}"
        check_logits(name, network, classes, features)
        names = tuple(f"clip {i} of {len(features)}" for i in range(1, len(features) + 1))
        with evaluating(network):
            check_alone(name, network, features, names, "features", "logits")
    return network


def _features(task: Task) -> Tensor:
    """Return the features of some training clips, (B, ...)."""
    return task.make(torch.arange(min(_CLIPS, len(task.train)), device="cpu"), 0)[0]


def _trainable(config: KWSConfig, task: Task, features: Tensor, *phases: Phase) -> nn.Module:
    """Return what ``check_trainable`` does; ``features`` are those to try with."""
    network = untrained(config, task.classes, task.val[0][:2])
    for phase in phases:
        name = f"the network {config.model.name}"
        _try_training(config, task, features, phase, name, network)
    return network


def _try_training(
    config: KWSConfig, task: Task, features: Tensor, phase: Phase, name: str, network: nn.Module
) -> None:
    """Try a network on a batch of the size that one device has in a phase."""
    index = batches_of(config, task, phase).indices(0)[0, :: config.devices]
    check_training(name, network, task.classes, features[index % len(features)])
