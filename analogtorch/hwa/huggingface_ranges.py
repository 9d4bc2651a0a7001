"""Ranges in the checkpoints of the Hugging Face ``Trainer``."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from analogtorch.chips.choices import Choices
from analogtorch.conversion import analog_layers
from analogtorch.nn.converter_state import COLUMN_RANGES, EARLIER, set_choices
from analogtorch.values.warned import warn

_NAME = "KeepRanges"
_FILE = "trainer_state.json"


class KeepRanges(TrainerCallback, ExportableState):
    """A callback that keeps DAC and ADC ranges in the Trainer's checkpoints.

    ``Trainer(callbacks=[KeepRanges()])`` writes them and lets a resumed run continue with them. The
    Trainer writes weights as safetensors, which cannot hold the ranges: a layer would continue with
    its calibrated ranges instead of those that it has learnt. The ranges go into
    ``trainer_state.json``, also by ``save_state`` after the training; after one that was
    interrupted, ``save_state`` still has those of the last checkpoint, or of the start, as the
    Trainer calls no callback then. The Trainer loads the weights first, which warns that they bring
    no ranges; the ranges follow as training begins. The ranges of the best checkpoint follow as
    training ends, under ``load_best_model_at_end``.

    Before a run is resumed, convert and calibrate the model as for the first run: only then does
    the optimizer that is loaded know the ranges.

    Warns:
        UserWarning: weight decay shrinks ranges that learn, as ``TrainingArguments(weight_decay=)``
            does; the message says how to spare them.
    """

    def __init__(self) -> None:
        self.ranges: dict[str, list[float] | None] = {}
        """The DAC ranges by layer, as of the last ``state()``; None: each input gives it."""
        self.column_ranges: dict[str, dict[str, Any]] = {name: {} for name in COLUMN_RANGES}
        """The ADC ranges and output ranges of layers that have some."""
        self.choices: dict[str, dict[str, Any]] = {}
        """By layer what calibration may have changed of its chip: weight scale, target time."""
        self._model: nn.Module | None = None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores of this callback."""
        if self._model is not None:
            layers = list(analog_layers(self._model))
            self.ranges = {
                name: list(r) if r else None
                for name, layer in layers
                if (r := layer.input_ranges) or not layer.calibrated
            }
            self.column_ranges = {
                kind: {
                    name: saved
                    for name, layer in layers
                    if (saved := layer.saved_column_ranges(kind)) is not None
                }
                for kind in COLUMN_RANGES
            }
            self.choices = {n: asdict(Choices.of(layer.chip)) for n, layer in layers}
        kept = {"ranges": self.ranges, "choices": self.choices, **self.column_ranges}
        return {"args": {}, "attributes": kept}

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        **_: Any,
    ) -> None:
        """Set the ranges of the checkpoint, if the run is resumed from one."""
        self._model = model
        if state.global_step:  # in a new run they may be those of the callback's last model
            _take(model, state)
        if optimizer is not None:
            _warn_of_decay(model, optimizer)
        # a run that is resumed from one without this callback lacks it
        state.stateful_callbacks[_NAME] = self.state()

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Set the ranges of the best checkpoint, if the Trainer has loaded its weights."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_ranges(model, state.best_model_checkpoint)
        # for Trainer.save_state, which does not ask for them
        state.stateful_callbacks[_NAME] = self.state()


def load_ranges(model: nn.Module, checkpoint: str | Path) -> nn.Module:
    """Set ranges of a converted model, and choices of calibration, to those of a checkpoint.

    The Trainer that wrote the checkpoint must have had the callback ``KeepRanges``.

    Args:
        model: a converted model; its weights are loaded by other means, such as
            ``from_pretrained``.
        checkpoint: the folder of the checkpoint, such as ``checkpoint-500``.

    Returns:
        The model.

    Raises:
        FileNotFoundError: the folder has no ``trainer_state.json``.
        ValueError: the file holds no ranges, or those of other layers. The model is unchanged.
    """
    file = Path(checkpoint) / _FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{checkpoint} has no {_FILE}; give a checkpoint folder that a Trainer wrote"
        )
    if not _take(model, TrainerState.load_from_json(str(file))):
        raise ValueError(
            f"{file} holds no DAC ranges; train with Trainer(callbacks=[KeepRanges()]), or "
            "calibrate anew"
        )
    return model


def _warn_of_decay(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    # they are not moved to another group: the Trainer has loaded the optimizer of a checkpoint by
    # the places in its groups, and made a schedule for each
    decay = {
        id(p): group["weight_decay"]
        for group in optimizer.param_groups
        if group.get("weight_decay")
        for p in group["params"]
    }
    ranges = ((name, layer.input_range) for name, layer in analog_layers(model))
    found = {name: decay[id(r)] for name, r in ranges if r.requires_grad and id(r) in decay}
    if found:
        name, value = next(iter(found.items()))
        warn(
            f"weight decay of {value} shrinks the DAC ranges of {len(found)} layers, such as "
            f"{name!r}, until they clip their inputs; spare them by Trainer(optimizers=(torch.optim"
            f".AdamW(analogtorch.hwa.parameter_groups(model, weight_decay={value}), lr=...), None))"
            ", or set TrainingArguments(weight_decay=0)"
        )


def _take(model: nn.Module, state: Any) -> bool:
    """Set ranges and choices in the Trainer's state, and return whether there are any."""
    kept = state.stateful_callbacks.get(_NAME, {}).get("attributes", {})
    ranges, layers = kept.get("ranges", {}), dict(analog_layers(model))
    kept = {EARLIER.get(name, name): values for name, values in kept.items()}
    column_ranges = {kind: kept.get(kind, {}) for kind in COLUMN_RANGES}
    # an earlier version kept the weight scale alone
    earlier = {n: {"weight_scale": scale} for n, scale in kept.get("weight_scales", {}).items()}
    choices = earlier | kept.get("choices", {})
    names = dict.fromkeys(name for of in (ranges, choices, *column_ranges.values()) for name in of)
    if unknown := [name for name in names if name not in layers]:
        raise ValueError(
            f"KeepRanges: the checkpoint has the analog layer {unknown[0]!r}, which this model "
            "lacks; convert the same layers as for the run that wrote it"
        )
    for name, values in ranges.items():
        if values is not None:
            layers[name].checked_ranges(values)
    found = {
        (name, kind): layers[name].checked_column_ranges(kind, values.get(name))
        for kind, values in column_ranges.items()
        for name in names
    }
    for name, chosen in choices.items():
        set_choices(layers[name], chosen)
    for name, values in ranges.items():
        if values is None:
            layers[name].forget_input_range()
        else:
            layers[name].set_input_range(values)
    for (name, kind), values in found.items():
        layers[name].set_column_ranges(kind, values)
    return bool(names)
