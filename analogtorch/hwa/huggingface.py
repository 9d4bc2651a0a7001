"""DAC and ADC ranges of analog layers in the checkpoints of the Hugging Face ``Trainer``.

This module imports transformers, so nothing else in AnalogTorch imports it: ``from
analogtorch.hwa.huggingface import KeepRanges``.
"""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from analogtorch.conversion import analog_layers
from analogtorch.nn.converter_state import COLUMN_RANGES, EARLIER

_NAME = "KeepRanges"
_FILE = "trainer_state.json"


class KeepRanges(TrainerCallback, ExportableState):
    """A callback that keeps DAC and ADC ranges in the Trainer's checkpoints.

    ``Trainer(callbacks=[KeepRanges()])`` writes them and lets a resumed run continue with them. The
    Trainer writes weights as safetensors, which cannot hold the ranges: a layer would continue with
    its calibrated ranges instead of those that it has learnt. The ranges go into
    ``trainer_state.json``. The Trainer loads the weights first, which warns that they bring no
    ranges; the ranges follow as training begins. The ranges of the best checkpoint follow as
    training ends, under ``load_best_model_at_end``.

    Before a run is resumed, convert and calibrate the model as for the first run: only then does
    the optimizer that is loaded know the ranges.
    """

    def __init__(self) -> None:
        self.ranges: dict[str, list[float]] = {}
        """The DAC ranges by layer, as of the last ``state()``."""
        self.column_ranges: dict[str, dict[str, Any]] = {name: {} for name in COLUMN_RANGES}
        """The ADC ranges and output ranges of layers that have some."""
        self._model: nn.Module | None = None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores of this callback."""
        if self._model is not None:
            layers = list(analog_layers(self._model))
            self.ranges = {
                name: list(r) for name, layer in layers if (r := layer.input_ranges) is not None
            }
            self.column_ranges = {
                kind: {
                    name: saved
                    for name, layer in layers
                    if (saved := layer.saved_column_ranges(kind)) is not None
                }
                for kind in COLUMN_RANGES
            }
        return {"args": {}, "attributes": {"ranges": self.ranges, **self.column_ranges}}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Set the ranges of the checkpoint, if the run is resumed from one."""
        self._model = model
        _take(model, state)
        # a run that is resumed from one without this callback lacks it
        state.stateful_callbacks[_NAME] = self.state()

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Set the ranges of the best checkpoint, if the Trainer has loaded its weights."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_ranges(model, state.best_model_checkpoint)


def load_ranges(model: nn.Module, checkpoint: str | Path) -> nn.Module:
    """Set the DAC and ADC ranges of a converted model to those of a checkpoint.

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
            f"{file} holds no input ranges; train with Trainer(callbacks=[KeepRanges()]), or "
            "calibrate anew"
        )
    return model


def _take(model: nn.Module, state: Any) -> bool:
    """Set the ranges in the Trainer's state, and return whether there are any."""
    kept = state.stateful_callbacks.get(_NAME, {}).get("attributes", {})
    ranges, layers = kept.get("ranges", {}), dict(analog_layers(model))
    kept = {EARLIER.get(name, name): values for name, values in kept.items()}
    column_ranges = {kind: kept.get(kind, {}) for kind in COLUMN_RANGES}
    others = (name for values in column_ranges.values() for name in values)
    names = dict.fromkeys([*ranges, *others])
    if unknown := [name for name in names if name not in layers]:
        raise ValueError(
            f"KeepRanges: the checkpoint has an input range of {unknown[0]!r}, which is no analog "
            "layer of this model; convert the same layers as for the run that wrote it"
        )
    for name, values in ranges.items():
        layers[name].checked_ranges(values)
    found = {
        (name, kind): layers[name].checked_column_ranges(kind, values.get(name))
        for kind, values in column_ranges.items()
        for name in names
    }
    for name, values in ranges.items():
        layers[name].set_input_range(values)
    for (name, kind), values in found.items():
        layers[name].set_column_ranges(kind, values)
    return bool(names)
