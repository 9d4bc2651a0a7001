"""Chip descriptions of version 1, in which a chip was one flat list of fields."""

from typing import Any

from analogtorch.values import checks

_ADDRESSES = {
    "tiles": ("array", "tiles"),
    "rows": ("array", "rows"),
    "cols": ("array", "columns"),
    "planes": ("array", "planes"),
    "grouped": ("array", "grouped"),
    "input_bits": ("dac", "bits"),
    "output_bound": ("adc", "range"),
    "output_noise": ("adc", "noise"),
    "adc_gain_std": ("adc", "gain_std"),
    "separate_phases": ("adc", "separate_phases"),
    "column_calibration": ("periphery", "column_calibration"),
    "weight_scale": ("periphery", "weight_scale"),
}
"""Part and name in version 2, by the name in version 1."""
_TOGETHER = ("output_bits", "adc_steps")
"""Fields whose meanings depended on each other."""
_WHOLE = ("name", "cell", "training", "cost", "sources")
_PARTS = {"array": "Array", "dac": "DAC", "adc": "ADC", "periphery": "Periphery"}
_NEEDED = ("name", "tiles", "rows", "cols", "cell", "input_bits", "output_bits")


def upgraded(data: dict[Any, Any]) -> dict[str, Any]:
    """Return a description of version 1 in the form of version 2.

    With ``adc_steps``, ``output_bits`` belonged to the digital unit behind the ADC; without, they
    belonged to the ADC. The sources were texts about the whole chip and become that of its name.

    Raises:
        ValueError: version 1 had no such field, or a field is missing.
    """
    if data.get("type") != "Chip":
        return data
    known = {*_ADDRESSES, *_TOGETHER, *_WHOLE}
    given = {k: v for k, v in data.items() if k != "type"}
    if unknown := sorted(given.keys() - known, key=str):
        hint = "".join(checks.nearest(name, known - given.keys()) for name in unknown)
        raise ValueError(f"chip: Chip has no field {unknown}{hint}; fields: {sorted(known)}")
    if missing := [name for name in _NEEDED if name not in given]:
        raise ValueError(f"chip: Chip is missing the fields {missing}")
    parts: dict[str, dict[str, Any]] = {name: {"type": kind} for name, kind in _PARTS.items()}
    for name, (part, field) in _ADDRESSES.items():
        if name in given:
            parts[part][field] = given[name]
    steps = given.get("adc_steps")
    parts["adc"] |= {"bits": given["output_bits"] if steps is None else None, "steps": steps}
    parts["periphery"]["output_bits"] = None if steps is None else given["output_bits"]
    whole = {name: given[name] for name in ("training", "cost") if name in given}
    return {
        "type": "Chip",
        "name": given["name"],
        **parts,
        **whole,
        "cell": _cell(given["cell"]),
        "sources": _sources(given.get("sources", [])),
    }


def _cell(cell: Any) -> Any:
    """Return the unit cell, whose class was called ``UnitCell``, with its device."""
    if isinstance(cell, dict) and cell.get("type") == "UnitCell":
        return {**cell, "type": "DifferentialPair", "device": _device(cell.get("device"))}
    return cell


def _device(device: Any) -> Any:
    """Return the device.

    One without imperfections was called ``Reduced`` and named them; ``TimedDevice`` was called
    ``ReRAM``, with read noise in units of ``g_max``.
    """
    if not isinstance(device, dict):
        return device
    if device.get("type") == "ReRAM":
        return {**device, "type": "TimedDevice", "read_std": _read_std(device)}
    if device.get("type") != "Reduced":
        return device
    gone = device.get("without", [])
    fields = {"programming_noise": "programming_scale", "drift": "drift_scale"}
    fields["read_noise"] = "read_scale"
    scales = {field: 0.0 for name, field in fields.items() if name in gone}
    return {"type": "Scaled", "device": _device(device.get("device")), **scales}


def _read_std(device: dict[Any, Any]) -> Any:
    """Return the curve of the read noise of a ``ReRAM``."""
    read, unit = device.get("read_std", 0.0), device.get("g_reference", 1.0)
    for name, value in (("read_std", read), ("g_reference", unit)):
        checks.number(f"chip.cell.device: ReRAM.{name}", value)
    return {"type": "Polynomial", "coefficients": [read * unit]} if read else None


def _sources(texts: Any) -> dict[str, str]:
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise ValueError(f"chip: Chip.sources must be a list of texts, got {checks.shown(texts)}")
    return {"name": "\n".join(texts)} if texts else {}
