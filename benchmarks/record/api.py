"""Every name of AnalogTorch that the battery uses; where one changes, this file follows."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.chips import ADC_ERRORS
from analogtorch.ops import Plan, fold, mvm, native, normal, seed_tensor, stream
from analogtorch.ops.native import loading

accuracy = at.accuracy
analog_layers = at.analog_layers
calibrate = functools.partial(at.calibrate, effort="ranges")
"""Calibration that leaves the chips as they are, as the default of earlier versions did."""
clip_after_step = at.hwa.clip_after_step
clip_weights_ = at.hwa.clip_weights_
convert = at.convert
correct_columns = at.correct_columns
cost = at.cost
distillation_loss = at.hwa.distillation_loss
fold_batch_norm = at.fold_batch_norm
guard = at.guard
load = at.load
map_by_chip = at.mapping.map_by_chip
map_to_chip = at.map_to_chip
mapping_from_json = at.ChipMapping.from_json
noise = at.noise
parameter_groups = at.hwa.parameter_groups
program = at.program
reestimate_batch_norm = at.reestimate_batch_norm
remap = at.remap
save = at.save
schedule = at.cost_model.schedule
sensitivity = at.sensitivity
solve, rram_solver = at.solve, at.solver.rram_solver
summary = at.summary
sweep = at.sweep
to_digital = at.to_digital
training_noise_ = at.hwa.training_noise_
Chip: TypeAlias = at.Chip
Defects, GradientDescent, ProgramAndVerify = at.Defects, at.GradientDescent, at.ProgramAndVerify
Recalibration = at.Recalibration
TrainingNoise = at.TrainingNoise
hermes64, ibm_speech34, neurram48, ideal = (
    at.chips.hermes64,
    at.chips.ibm_speech34,
    at.chips.neurram48,
    at.chips.ideal,
)
chips_needed, device_mix, mean_conductance = (
    at.mapping.chips_needed,
    at.mapping.device_mix,
    at.chips.mean_conductance,
)
peak, published, plan_devices = at.cost_model.peak, at.cost_model.published, at.mapping.plan_devices
photodiode_sensor = at.chips.photodiode_sensor
load_chip, save_chip = at.chips.load, at.chips.save


# internal: none of these is public


@contextlib.contextmanager
def in_plain_torch() -> Iterator[None]:
    """Disable the CPU kernels while the context lasts."""
    before = loading.available
    loading.available = lambda: False
    try:
        yield
    finally:
        loading.available = before


def kernels() -> str:
    """Return which CPU kernels run here."""
    return native.status().partition(";")[0]


def normals(seed: int, name: str, rows: int, columns: int) -> Tensor:
    """Return standard normals of the noise generator."""
    key, each = fold(seed_tensor(seed), stream(name)), torch.arange(rows)
    return normal(key, each, each * 3, columns)


def product(
    x: Tensor, input_range: Tensor, w: Tensor, *, plan: dict[str, Any], **tensors: Tensor | None
) -> Tensor:
    """Run the raw operator; ``plan`` has its settings."""
    spread = hermes64(device="two_sequential").cell.spread
    assert spread is not None
    given = Plan(**plan) if "weight_noise" not in plan else Plan(**plan, spread=spread)
    key = fold(seed_tensor(3), 11)
    return mvm(x, input_range, w, given, key=key, output_keys=torch.arange(9) + key, **tensors)


def held(view: nn.Module) -> dict[str, Tensor | tuple[Tensor, ...]]:
    """Return what a programmed chip holds of each layer.

    The converters behind it would hide a change in the last bits.
    """
    names = ("weights", "scales", "gains", "keys", "offset", "negatives")
    found = {
        f"{name}.{each}": getattr(layer.programmed, each)
        for name, layer in analog_layers(view)
        for each in names
    }
    for name, layer in analog_layers(view):
        errors = layer.programmed.adc_errors or ()
        for number, error in enumerate(ADC_ERRORS):
            own = tuple(each[number] for each in errors)
            if any((each != error.ideal).any() for each in own):
                found[f"{name}.adc_{error.kind}s"] = own
    return {name: tensors for name, tensors in found.items() if tensors is not None}


# fields of a chip


def changed(chip: at.Chip, **parts: Any) -> at.Chip:
    """Return the chip with other parts, or with other fields of them."""
    return chip.replace(**parts)


def small(chip: at.Chip) -> at.Chip:
    """Return the chip with tiles so small that a layer of a test takes several.

    It takes several in rows and in columns.
    """
    return changed(chip, array={"rows": 16, "columns": 12})


@functools.cache
def chips() -> dict[str, at.Chip]:
    """Return chips with small tiles that differ in everything that a number depends on."""
    hermes, noisy, eight = (
        hermes64(),
        hermes64(output_noise=0.04),
        changed(hermes64(), adc={"steps": None, "bits": 8}, periphery={"output_bits": None}),
    )
    found = {
        "hermes64": hermes,
        "hermes64 output noise": noisy,
        "hermes64 column scale": hermes64(weight_scale="column", output_noise=0.04),
        "hermes64 one phase": hermes64(phases=1),
        "hermes64 one device": hermes64(device="one_device"),
        "hermes64 two equal": hermes64(device="two_equal"),
        "hermes64 two sequential": hermes64(device="two_sequential"),
        "hermes64 pcm_like": hermes64(device="pcm_like"),
        "hermes64 separate phases": changed(noisy, adc={"separate_phases": True}),
        "hermes64 separate phases, column scale": changed(
            hermes64(weight_scale="column"), adc={"separate_phases": True}
        ),
        "hermes64 block diagonal": changed(noisy, array={"grouped": "block_diagonal"}),
        "no ADC": changed(noisy, adc={"steps": None}, periphery={"output_bits": None}),
        "no DAC": changed(noisy, dac={"bits": None}),
        "no converters": changed(
            hermes, dac={"bits": None}, adc={"steps": None}, periphery={"output_bits": None}
        ),
        "no digital unit": eight,
        "no digital unit, overflowing": changed(eight, adc={"range": 0.8, "noise": 0.04}),
        "ADC outputs passed on": changed(hermes, periphery={"output_bits": None}),
        "no gain spread": changed(hermes, adc={"gain_std": 0.0}),
        "columns not calibrated": changed(hermes, periphery={"column_calibration": False}),
        "six and ten bits": changed(
            noisy, dac={"bits": 6}, adc={"steps": 900}, periphery={"output_bits": 10}
        ),
        "ibm_speech34": ibm_speech34(),
        "ibm_speech34 two PCM": ibm_speech34(pcm_per_weight=2),
        "ibm_speech34 separate passes": changed(ibm_speech34(), adc={"separate_phases": True}),
        "neurram48": neurram48(),
        "neurram48 ten bits": neurram48(output_bits=10, input_bits=8),
        "ideal": ideal(),
        "slices and pulses": changed(
            noisy,
            periphery={"output_bits": None},
            slices={"weight_bits": 5, "bits_per_slice": 2, "bits_per_pulse": 3},
        ),
        "weight expansion": changed(noisy, expansion={"factor": 1.5, "seed": 1}),
        "SAR ADC, split pulses": changed(
            eight,
            adc={"capacitor_std": 0.02, "dnl_std": 0.1, "inl": (0.0, 0.8, 0.0), "slope_std": 0.02},
            dac={"inl": (0.0, 0.5, 0.0), "gain_std": 0.02, "jitter": 0.5, "split": 3},
        ),
        "counting ADC, curved currents": changed(
            noisy,
            adc={"rounding": "floor"},
            dac={"encoding": "amplitude", "lsb_time": None},
            iv={"cube": at.devices.Polynomial(coefficients=(0.0, 0.5)), "read_voltage": 0.4},
        ),
    }
    for name, training in trainings().items():
        found[f"training noise {name}"] = changed(noisy, training=training)
    return {name: small(chip) for name, chip in found.items()}


def trainings() -> dict[str, at.TrainingNoise]:
    """Return every kind of training noise."""
    return {
        "none": TrainingNoise(weight="none"),
        "none at the ADC": TrainingNoise(output=False),
        "gaussian": TrainingNoise(weight="gaussian", scale=0.05),
        "programming, 1.5 times": TrainingNoise(scale=1.5),
        "device": TrainingNoise(weight="device"),
        "device after a year": TrainingNoise(weight="device", time="1 year", scale=0.7),
        "device, programmed": TrainingNoise(weight="device", time="programmed"),
        "drop connect": TrainingNoise(drop_connect=0.125),
        "per sample": TrainingNoise(per_sample=True),
        "per sample, everything": TrainingNoise(weight="device", drop_connect=0.1, per_sample=True),
    }


def has_adc(chip: at.Chip) -> bool:
    """Return whether there is an ADC range to calibrate."""
    return bool(chip.adc.levels)


# the physics of a cell


def pair(
    device: at.devices.Device, count: int = 1, split: Literal["equal", "sequential"] = "equal"
) -> at.devices.Cell:
    """A cell of a device."""
    return at.devices.DifferentialPair(device=device, devices_per_polarity=count, split=split)


def cells() -> dict[str, at.devices.Cell]:
    """Return every device, alone or several in a cell."""
    devices = ("two_device", "one_device", "two_equal", "two_sequential", "pcm_like")
    return {device: hermes64(device=device).cell for device in devices} | {  # type: ignore[arg-type]
        "rram_wan": neurram48().cell,
        "pcm_afm": pair(at.devices.pcm_afm()),
        "pcm_projected": pair(at.devices.pcm_projected()),
        "state_independent": pair(at.devices.state_independent()),
        "rram_cmo": pair(at.devices.rram_cmo()),
        "rram_cmo_2": pair(at.devices.rram_cmo(acceptance=2), 2, "sequential"),
        "rram_milo": pair(at.devices.rram_milo(), 2),
        "rram_binary": pair(at.devices.rram_binary(), 3, "sequential"),
        "sonos": pair(at.devices.sonos()),
        "memcapacitor": pair(at.devices.memcapacitor()),
        "ecram": pair(at.devices.ecram()),
        "capacitor": pair(at.devices.capacitor(leak_time=1e5)),
        "ideal": ideal().cell,
    }


def shares(cell: at.devices.Cell, w: Tensor) -> Tensor:
    """Return the target conductances of every device of the cells that hold ``w``."""
    return cell.targets(w)


def programming_sigma(cell: at.devices.Cell, w: Tensor) -> Tensor:
    """Return the standard deviation of programmed weights."""
    return cell.programming_sigma(w)


def aged(
    cell: at.devices.Cell, w: Tensor, t: float, normals: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Return the conductances of cells that hold ``w`` over time.

    Their normals come from ``normals(seed, *shape)``.
    """
    device, target = cell.device, cell.targets(w)
    g = device.program(target, normals(1, *target.shape))
    nu = device.drift_coefficient(target, normals(2, *target.shape))
    drifted = device.drift(g, nu, t)
    read = device.read(g, drifted, t, normals(3, *target.shape))
    return {
        "programmed": g,
        "coefficient": nu,
        "drifted": drifted,
        "read": read,
        "weights": cell.weights(read),
    }


def fitted(
    device: at.devices.Device, times: tuple[float, ...], normals: Callable[..., Tensor], law: str
) -> dict[str, Tensor]:
    """The fit to measurements of a device, read twice at each time, by its curves and quality."""
    r = torch.special.ndtr(normals(1, 300).double())
    target = device.g_min + r * (device.g_max - device.g_min)
    programmed = device.program(target, normals(2, 300))
    nu = device.drift_coefficient(target, normals(3, 300))
    drifted = [device.drift(programmed, nu, t) for t in times for _ in range(2)]
    ages = [t for t in times for _ in range(2)]
    reads = [
        device.read(programmed, g, t, normals(4 + i, 300))
        for i, (g, t) in enumerate(zip(drifted, ages, strict=True))
    ]
    found = at.devices.fit(
        {
            "target": target.repeat(len(ages)),
            "measured": torch.cat(reads),
            "time": torch.tensor(ages).repeat_interleave(300) + 1,
            "device": torch.arange(300).repeat(len(ages)),
        },
        law=law,  # type: ignore[arg-type]
        bootstrap=20,
    )
    bands = (found.programming, *(band for d in found.drift for band in (d.mean, d.spread)))
    drawn = aged(pair(found.device), normals(9, 30).clamp(-1, 1), times[-1], normals)
    return {
        "bands": torch.tensor([(*b.value, *b.low, *b.high) for b in bands[1:]]),
        "programming": torch.tensor([found.programming.value, found.programming.high]),
        "quality": torch.tensor([(*q.mean, *q.spread, q.distance) for q in found.quality]),
        "text": torch.tensor(list(str(found).encode())),
        **drawn,
    }


# what a layer or report holds


def ranges(model: nn.Module) -> dict[str, Any]:
    """Return what calibration has set, by layer and name."""
    found: dict[str, Any] = {}
    for name, layer in analog_layers(model):
        found[f"{name}.output_bounds"] = layer.adc_ranges  # its name in the record
        for each in ("calibrated", "input_range", "output_ranges"):
            found[f"{name}.{each}"] = getattr(layer, each)
    return found


def set_ranges(model: nn.Module, value: float) -> None:
    """Set this range in every layer that has a DAC."""
    for _, layer in analog_layers(model):
        if layer.takes_range:
            layer.set_input_range(value)


def range_parameters(model: nn.Module) -> set[int]:
    """Return the identities of the DAC ranges among the parameters."""
    return {id(layer.input_range) for _, layer in analog_layers(model)}


def yield_map(physical: at.ProgrammedChip) -> dict[str, Tensor]:
    """Return what works of each tile, and the gains of its columns."""
    found = {}
    for (chip, tile), state in physical.yield_map().items():
        found[f"{chip}.{tile}.works"] = state.works
        for error, values in zip(ADC_ERRORS, state.errors, strict=True):
            if error.kind == "gain" or values.any():  # older records have gains alone
                found[f"{chip}.{tile}.{error.kind}"] = values * state.columns
    return found


def times(plan: at.cost_model.Schedule) -> dict[str, Any]:
    """Return the numbers of a schedule."""
    steps = [
        (s.start, s.finish, s.transfer, s.compute, s.mvms, s.element_hops, s.port_elements)
        for s in plan.steps
    ]
    tiles = [(t.chip, t.tile, t.mvms, t.busy, t.time, t.cells) for t in plan.tiles]
    return {
        "steps": torch.tensor(steps, dtype=torch.float64),
        "tiles": torch.tensor(tiles, dtype=torch.float64),
        "latency and interval": torch.tensor([plan.latency, plan.interval], dtype=torch.float64),
        "bottleneck": plan.bottleneck,
    }


def energies(report: at.cost_model.CostReport) -> Tensor:
    """Return the numbers of a cost report."""
    splits = report.energy, report.energy_by_columns, report.energy_full_tiles
    rows = [
        [s.control, s.dac, s.array, s.adc, s.chip_digital, s.chip_communication] for s in splits
    ]
    rest = [[s.host_digital, s.port_communication, s.tile, s.chip, s.system] for s in splits]
    return torch.tensor([a + b for a, b in zip(rows, rest, strict=True)], dtype=torch.float64)


_BLOCK_FIELDS = ("row", "col", "rows", "cols", "copy")


def placements(mapping: at.ChipMapping) -> Tensor:
    """Return the position of every block of a mapping as integers, in its order."""
    blocks = [
        (p.chip, p.tile, p.row, p.col, *(getattr(p.block, field) for field in _BLOCK_FIELDS))
        for p in mapping.placements
    ]
    return torch.tensor(blocks)


_EFFECTS = {"output_noise": "readings"}
"""Effects that had another name when the records were made."""


def losses(found: Any) -> dict[str, float]:
    """Return the numbers of a sensitivity scan."""
    by_layer = {row.name: row.loss for row in found.rows} | {"all": found.total}
    return {
        f"{name}.{_EFFECTS.get(effect, effect)}.{what}": getattr(loss[effect], what)
        for name, loss in by_layer.items()
        for effect in found.effects
        for what in ("mean", "std")
    }


# keyword spotting: imported late, as Lightning takes seconds to import


def kws(arguments: list[str]) -> int:
    """Run ``analogtorch kws`` with these arguments."""
    from analogtorch.__main__ import main

    return main(["kws", *arguments])


def kws_labels() -> tuple[str, ...]:
    """Return the twelve classes."""
    from analogtorch.speech.labels import LABELS

    return tuple(LABELS)


def kws_nets() -> dict[str, nn.Module]:
    """Return small networks of the speech package, drawn from torch's generator."""
    from analogtorch.speech.models import ConvNet, FullyConnected

    return {
        "ConvNet": ConvNet(widths=(4, 8), stem_stride=(4, 4)),
        "FullyConnected": FullyConnected(hidden=(24, 24)),
    }


def kws_features(waveforms: Tensor) -> Tensor:
    """Return log-mel features of waveforms."""
    from analogtorch.speech.features import LogMel

    return LogMel()(waveforms)


def report_texts(direct: at.Sweep, hwa: at.Sweep, folder: Path) -> dict[str, str]:
    """Return the texts of a report on made-up accuracies."""
    from analogtorch.report import Result, markdown, table

    result = Result(
        digital=0.93, direct=direct, hwa=hwa, chip="hermes64", tiles=7,
        data={"source": "folder", "test": 24}, seed=1, seconds=12.0, versions={"analogtorch": "0"},
        notes=("made up",),
    )  # fmt: skip
    return {"table": table(result), "markdown": markdown(result, plot="accuracy.png")}
