"""The settings of a run beside those that it was begun with, by this or an earlier version."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from analogtorch.chips import TrainingNoise
from analogtorch.chips.file import in_file
from analogtorch.simulate.defects import Defects
from analogtorch.speech.config import FeaturesConfig, ModelConfig
from analogtorch.speech.run_journal import flat, other_code

# where the options of a network stood beside its name
_OPTIONS_OF = {
    "conv": ("widths", "stem_stride", "dropout"),
    "fully_connected": ("hidden", "dropout"),
    "transformer": ("patch", "dropout"),
}
_MODEL_OPTIONS = {name for names in _OPTIONS_OF.values() for name in names}


def changed(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return the settings that decide the results and differ, as text; empty if none does.

    Recordings are compared by ``check_given``, and the file of a chip by what is in it.
    """
    stated = flat(_settled(effective(renamed(found))))
    before, after = dict([*_unstated(found), *stated]), dict(flat(wanted))
    if all(in_file(str(settings.get("chip.name"))) for settings in (before, after)):
        before["chip.name"] = after["chip.name"]  # what is in the file is in chip.options
    differ = [
        f"{key} was {before.get(key, 'absent')!r} and is {after.get(key, 'absent')!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _is_free(key)
    ]
    return "; ".join(differ[:5])


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return what decides the results of two runs and differs, as text; empty if nothing does.

    Args:
        found: ``RunFolder.identity`` of an earlier run, by this or an earlier version.
        wanted: that of the run now.
    """
    differ = [changed(found["config"], wanted["config"])]
    if found["recordings"] != wanted["recordings"]:
        differ.append("of other recordings")
    differ += [f"by another version of {name}" for name in other_code(found, wanted["code"])]
    return "; ".join(filter(None, differ))


def _unstated(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what older runs of keyword spotting had without stating it."""
    if "model" not in found:  # of transcribe
        yield from (("chip.correct", False), ("chip.drift_aware", None), ("chip.cells", 1))
        return
    chip = {"writing": "once", "correct": False, "digital": [], "levels": [], "drift_aware": None}
    yield from flat({"devices": 1, "chip": chip | {"defects": dataclasses.asdict(Defects())}})
    yield from (("digital.ramp", 0.0), ("hwa.ramp", 0.0), ("chip.training.corrected", False))
    yield from (("chip.correct_batches", 1), ("chip.cells", 1))
    if "features" not in found:
        name = found["model"]["name"]
        yield "features.name", FeaturesConfig().name
        yield from flat(FeaturesConfig().all_options, "features.options")
        yield from flat(ModelConfig(name=name).all_options, "model.options")


def _settled(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the training noise as ``TrainingNoise`` settles it.

    Earlier versions kept values that have no effect, such as the time of a noise without devices.
    """
    chip = config.get("chip")
    if not (isinstance(chip, dict) and isinstance(training := chip.get("training"), dict)):
        return config
    try:
        noise = json.loads(json.dumps(dataclasses.asdict(TrainingNoise(**training))))
    except (TypeError, ValueError):  # is compared as it is
        return config
    return config | {"chip": chip | {"training": {name: noise[name] for name in training}}}


def effective(config: Any) -> Any:
    """Return the configuration of a run whose chips have batches only if they correct columns.

    ``ChipConfig`` refuses others, and earlier versions did not: such a run goes on.
    """
    chip = config.get("chip") if isinstance(config, dict) else None
    if not isinstance(chip, dict) or "correct_batches" not in chip or chip.get("correct", True):
        return config
    return config | {"chip": chip | {"correct_batches": 1}}


def renamed(config: Any) -> Any:
    """Return a configuration with the present names of its fields.

    Older files call ``sweep.num_chips`` ``sweep.chips``, and have the options of the three networks
    of then beside ``model.name``: those of all of them. Runs that say how the chip trains and
    compensates, but not how nets are calibrated for it, found ranges alone. What else is there is
    left to be refused.
    """
    if not isinstance(config, dict):
        return config
    present = dict(config)
    sweep, model, chip = (config.get(name) for name in ("sweep", "model", "chip"))
    if isinstance(chip, dict) and chip.keys() >= {"name", "options", "training", "compensation"}:
        present["chip"] = {"calibration": "ranges"} | chip
    if isinstance(sweep, dict) and "chips" in sweep and "num_chips" not in sweep:
        present["sweep"] = {
            "num_chips" if name == "chips" else name: value for name, value in sweep.items()
        }
    if isinstance(model, dict) and "options" not in model and model.keys() & _MODEL_OPTIONS:
        own = set(_OPTIONS_OF.get(model.get("name", "conv"), ()))
        moved = _MODEL_OPTIONS if own and model.keys() >= _MODEL_OPTIONS else own
        present["model"] = {
            **{name: value for name, value in model.items() if name not in moved},
            "options": {name: value for name, value in model.items() if name in own},
        }
    return present if present != config else config


def _is_free(key: str) -> bool:
    """Return whether a setting may change between the parts of a run.

    The results then stay the same, or are of other chips and times: what is measured stays.
    """
    # `begin` compares the recordings themselves
    free = ("workers", "sweep.num_chips", "sweep.times", "sweep.processes", "augment.noise")
    return key in (*free, "tensorboard") or key.startswith(("data.", "report."))
