"""The sensitivities of a plan in its folder, so that an interrupted plan can go on.

    sensitivity.json   what identifies the measurement, and what it found

The measurements of plans are sweeps, each in a folder of its own beside it.
"""

import json
from pathlib import Path
from typing import Any

from torch import nn

from analogtorch.conversion import analog_layers
from analogtorch.devices import seconds
from analogtorch.evaluate.batches import with_structure
from analogtorch.evaluate.identity import experiment
from analogtorch.evaluate.journal import made_folder, refuse_others
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.losses import Effect, LayerLoss, Loss, Sensitivity
from analogtorch.evaluate.metric import kept_of
from analogtorch.evaluate.plan_bench import Measurement
from analogtorch.evaluate.sensitivity import sensitivity
from analogtorch.files import check_writable, write_atomically
from analogtorch.values import checks

_FILE = "sensitivity.json"


def kept_sensitivity(
    model: nn.Module, how: Measurement, with_devices: bool, progress: bool
) -> Sensitivity:
    """Return the sensitivities from the folder, or measure and store them.

    Raises:
        ValueError: the folder holds those of another experiment, or the file is damaged.
        OSError: the folder cannot be written.
    """
    effects: tuple[Effect, ...] = ("drift",)
    if with_devices:
        effects = ("output_noise", "noise", "drift")
    time = max(how.times, key=lambda t: -1.0 if (s := seconds(t)) is None else s)
    path, head = None, dict[str, Any]()
    if how.folder is not None:
        head, path = _head(model, how, effects, time), tried(how.folder)
        if path.exists():
            return _read(path, head, model)
        refuse_others("plan", how.folder, _FILE)
    found = sensitivity(
        model,
        how.metric,
        effects=effects,
        time=time,
        num_chips=how.num_chips,
        seed=how.seed,
        compensation=how.compensation,
        recovery=how.recovery,
        higher_is_better=how.higher_is_better,
        progress=progress,
    )
    if path is not None:
        data = {"experiment": head, "found": found.to_dict()}
        write_atomically(path, json.dumps(data, indent=2) + "\n")
    return found


def tried(folder: Path) -> Path:
    """Return the file of the sensitivities in a folder, which is made if it does not exist.

    Raises:
        OSError: the folder cannot be written, which is better known before anything is measured.
    """
    path = made_folder("plan", folder) / _FILE
    check_writable(path)
    return path


def _head(
    model: nn.Module, how: Measurement, effects: tuple[Effect, ...], time: str | float
) -> dict[str, Any]:
    """Return what identifies the measurement."""
    return {
        **kept_of(how.metric),
        **experiment(model, how.seed, Look(compensation=how.compensation, recovery=how.recovery)),
        "effects": list(effects),
        "time": seconds(time),
        "num_chips": how.num_chips,
        **({} if how.higher_is_better else {"higher_is_better": False}),
    }


def _read(path: Path, head: dict[str, Any], model: nn.Module) -> Sensitivity:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        there, found = with_structure(data["experiment"], head), data["found"]
        # earlier versions did not keep them
        for name in ("structure", "options", "metric", "samples"):
            if name in head:
                there.setdefault(name, head[name])
        if there == head:
            return _sensitivity(found, model)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"plan: {path} is damaged: {checks.shown(error)}; remove it to measure again"
        ) from error
    differ = sorted(k for k in there.keys() | head.keys() if there.get(k) != head.get(k))
    raise ValueError(
        f"plan: {path.parent} holds another experiment (it differs in {', '.join(differ)}); give "
        "another folder"
    )


def _sensitivity(data: dict[str, Any], model: nn.Module) -> Sensitivity:
    """Return what ``Sensitivity.to_dict`` wrote of the model."""
    cells = {name: layer.chip.cell for name, layer in analog_layers(model)}

    def losses(given: dict[Effect, dict[str, float]]) -> dict[Effect, Loss]:
        return {effect: Loss(**loss) for effect, loss in given.items()}

    rows = tuple(
        LayerLoss(
            name=row["name"],
            weights=row["weights"],
            blocks=row["blocks"],
            cell=cells[row["name"]],
            loss=losses(row["loss"]),
        )
        for row in data["layers"]
    )
    return Sensitivity(
        rows=rows,
        reference=data["reference"],
        total=losses(data["total"]),
        effects=tuple(data["effects"]),
        time=data["time"],
        seeds=tuple(data["seeds"]),
        note=data.get("note", ""),
    )
