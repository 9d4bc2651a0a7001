"""What identifies an experiment, by which a folder of measurements knows it from all others."""

import json
from dataclasses import asdict
from typing import Any

from torch import nn

from analogtorch.calibration.padding import padding_rule
from analogtorch.conversion import analog_layers
from analogtorch.conversion.route import routes
from analogtorch.devices.thermal import kelvin
from analogtorch.evaluate.batches import batches_digest
from analogtorch.evaluate.identity import (
    attribute_digests,
    model_digest,
    options_digest,
    structure_digest,
)
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.metric_identity import forward_of
from analogtorch.ops import VERSION as NOISE
from analogtorch.ops import seed_number
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.writing import Method


def experiment(
    caller: str,
    model: nn.Module,
    seed: int,
    look: Look,
    method: Method | None = None,
    defects: Defects | None = None,
) -> dict[str, Any]:
    """Return what identifies a sweep; more chips and other times belong to the same sweep."""
    found: dict[str, Any] = {
        "seed": seed_number(seed),
        "compensation": look.compensation,
        "noise": NOISE,
        "model": model_digest(caller, model),
        "structure": structure_digest(caller, model),
        "options": options_digest(model),
        "attributes": attribute_digests(model),
    }
    wires = any(not layer.chip.wires.ideal for _, layer in analog_layers(model))
    if wires and look.compensation in ("global", "column"):
        found["compensated"] = "behind the wires"  # earlier versions counted the IR drop as drift
    if len({layer.chip.array.size for _, layer in analog_layers(model)}) > 1:
        found["tiles"] = "by size of array"  # earlier versions gave two blocks one tile
    if routed := routes(model):  # without them these layers are digital
        found["routes"] = {name: list(names) for name, names in routed.items()}
    if method is not None:
        found["method"] = {"type": type(method).__name__, **asdict(method)}
    if defects is not None:
        found["defects"] = asdict(defects)
    if look.temperature is not None:
        found["temperature"] = kelvin(look.temperature)
    if look.recalibration is not None:
        # as JSON gives it back
        found["recalibration"] = json.loads(json.dumps(asdict(look.recalibration)))
    if (recovery := look.recovery) is not None:
        found["recovery"] = {
            "batches": batches_digest(recovery.batches, "Recovery.batches"),
            "columns": recovery.columns,
            "target": recovery.fitted_to,
            "batch_norm": recovery.batch_norm,
            "rounds": recovery.rounds,
            "steps": recovery.learning_steps,
            **forward_of(recovery.forward),
        }
        if caller == "sensitivity":
            found["recovery"]["noise"] = "goes on"  # earlier versions repeated that of the recovery
        if recovery.columns is not None and (rule := padding_rule(model, recovery.batches)):
            found["recovery"]["padding"] = rule
    return found
