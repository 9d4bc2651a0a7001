"""Input ranges and ADC bounds of analog layers in the checkpoints of the Hugging Face ``Trainer``.

It imports transformers, so nothing of AnalogTorch imports it: ``from analogtorch.hwa.huggingface
import KeepRanges``.
"""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from analogtorch.conversion import analog_layers
from analogtorch.nn.converter_state import COLUMN_RANGES

_NAME = "KeepRanges"
_FILE = "trainer_state.json"


class KeepRanges(TrainerCallback, ExportableState):
    """``Trainer(callbacks=[KeepRanges()])``: its checkpoints hold the input ranges, a resumed run
    goes on from them.

    The Trainer writes weights as safetensors, which have no place for the ranges: a layer would go
    on with those it was calibrated to, not with what it had learnt. They go into
    ``trainer_state.json``, with the ADC bounds. The Trainer loads the weights first, which warns
    that they bring no ranges; these follow as training begins. So do those of the best checkpoint,
    under ``load_best_model_at_end``, as it ends.

    Convert and calibrate the model as for the first run before it is resumed: only then does the
    optimizer that is loaded know the ranges.
    """

    def __init__(self) -> None:
        self.ranges: dict[str, list[float]] = {}
        """By layer, when they were last looked at."""
        self.each: dict[str, dict[str, Any]] = {name: {} for name in COLUMN_RANGES}
        """Output bounds and output ranges of the layers that have their own."""
        self._model: nn.Module | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        if self._model is not None:
            layers = list(analog_layers(self._model))
            self.ranges = {
                name: list(r) for name, layer in layers if (r := layer.input_ranges) is not None
            }
            self.each = {
                e: {n: b for n, x in layers if (b := x.saved_column_ranges(e)) is not None}
                for e in COLUMN_RANGES
            }
        return {"args": {}, "attributes": {"ranges": self.ranges, **self.each}}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Take the ranges of the checkpoint, if there is one."""
        self._model = model
        _take(model, state)
        # which one resumed from a run without it lacks
        state.stateful_callbacks[_NAME] = self.state()

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Take the ranges of the best checkpoint, if its weights were taken."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_ranges(model, state.best_model_checkpoint)


def load_ranges(model: nn.Module, checkpoint: str | Path) -> nn.Module:
    """Set input ranges and ADC bounds of a converted model to those of a checkpoint that
    ``KeepRanges`` took part in.

    Args:
        model: converted; its weights are loaded by other means, such as ``from_pretrained``.
        checkpoint: the folder, ``checkpoint-500``.

    Returns:
        The model.

    Raises:
        FileNotFoundError: the folder has no ``trainer_state.json``.
        ValueError: that file holds none, or those of other layers. The model is unchanged.
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
    """Set the ranges and bounds that are kept in the Trainer's state; whether there are any."""
    kept = state.stateful_callbacks.get(_NAME, {}).get("attributes", {})
    ranges, layers = kept.get("ranges", {}), dict(analog_layers(model))
    older = {"output_bounds": kept.get("bounds", {})}  # what older checkpoints call them
    each = {e: kept.get(e, older.get(e, {})) for e in COLUMN_RANGES}
    names = dict.fromkeys([*ranges, *(name for values in each.values() for name in values)])
    if unknown := [name for name in names if name not in layers]:
        raise ValueError(
            f"KeepRanges: the checkpoint has an input range of {unknown[0]!r}, which is no analog "
            "layer of this model; convert the same layers as for the run that wrote it"
        )
    for name, values in ranges.items():
        layers[name].checked_ranges(values)
    found = {
        (n, e): layers[n].checked_column_ranges(e, values.get(n))
        for e, values in each.items()
        for n in names
    }
    for name, values in ranges.items():
        layers[name].set_input_range(values)
    for (name, attribute), own in found.items():
        layers[name].set_column_ranges(attribute, own)
    return bool(names)
