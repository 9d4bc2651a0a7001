"""Chips side by side: what each has, what an MVM takes, and where the numbers come from."""

import re
import textwrap
from collections.abc import Mapping, Sequence

from analogtorch.chips import Chip, Figure, mvm_time
from analogtorch.cost_model import peak
from analogtorch.report.cost import si
from analogtorch.values.listed import counted

_COLUMN = 24  # characters of a chip
_TILE = "TOPS/W, full tile"
_LABEL = len(_TILE)
_SIZE = ("rows", "columns")


def side_by_side(chips: Mapping[str, Chip], *, width: int = 120) -> str:
    """Return chips as columns of a table, and below it the sources of each chip.

    Args:
        chips: chips by the name that heads the column.
        width: characters of a line, >= 1; chips that do not fit follow in another table, and every
            table has at least one chip.
    """
    fit = max(1, (width - _LABEL) // (_COLUMN + 2))
    named = list(chips.items())
    tables = [_table(dict(named[i : i + fit])) for i in range(0, len(named), fit)]
    sources = [_sources(name, chip, width) for name, chip in chips.items()]
    return "\n\n".join([*tables, "Sources", *sources])


def _table(chips: Mapping[str, Chip]) -> str:
    facts = [_facts(chip) for chip in chips.values()]
    lines = [_line("", list(chips)), "-" * (_LABEL + (_COLUMN + 2) * len(chips))]
    for field in facts[0]:
        cells = [textwrap.wrap(fact[field], _COLUMN) for fact in facts]
        for i in range(max(map(len, cells))):
            texts = [cell[i] if i < len(cell) else "" for cell in cells]
            lines.append(_line("" if i else field, texts))
    return "\n".join(lines)


def _line(label: str, texts: Sequence[str]) -> str:
    return "  ".join([f"{label:<{_LABEL}}", *(f"{text:<{_COLUMN}}" for text in texts)]).rstrip()


def _facts(chip: Chip) -> dict[str, str]:
    """Return the rows of a chip, of which every chip has the same."""
    costs, tile = chip.cost, _efficiency(chip)
    array, cell = chip.array, chip.cell
    return {
        "tiles": _marked(f"{array.tiles}", array, "tiles"),
        "array": _marked(f"{array.rows}x{array.columns}", array, *_SIZE),
        "cell": f"{type(cell).__name__}, {counted(cell.devices, 'device')}",
        "device": _marked(cell.device.name, cell, "device"),
        "DAC": _marked(_bits(chip.dac.bits), chip.dac, "bits"),
        "ADC": _marked(_adc(chip), chip.adc, "bits", "steps"),
        "time per MVM": _figure(mvm_time(chip), "s") if costs else "none",
        "energy per MVM": _figure(costs.mvm_energy, "J") if costs else "none",
        _TILE: f"{tile.value:,.5g} ({tile.kind})" if tile else "none",
        "other scopes": ", ".join(
            f"{p.scope} {p.tops_per_watt.value:,.5g} ({p.tops_per_watt.kind})"
            for p in (costs.published if costs else ())
            if p.scope != "tile"
        )
        or "none",
        "area": _area(costs.area) if costs and costs.area else "none",
        "reference": _reference(chip),
    }


def _marked(text: str, part: object, *fields: str) -> str:
    """Return the text, marked where the source of a field says that it is assumed."""
    sources = getattr(part, "sources", {})
    assumed = any(sources.get(field, "").startswith("ASSUMED") for field in fields)
    return f"{text} (assumed)" if assumed else text


def _reference(chip: Chip) -> str:
    """Return the paper of the first published efficiency, up to its year, or that of the chip."""
    if chip.cost is None or not chip.cost.published:
        return chip.sources.get("name", "none")
    source = chip.cost.published[0].tops_per_watt.source
    found = re.match(r".*?\(\d{4}\)", source)
    return found[0] if found else source


def _efficiency(chip: Chip) -> Figure | None:
    """Return TOPS/W of a full tile: that published, or else that of the cost of an MVM."""
    if chip.cost is None:
        return None
    for rung in chip.cost.published:
        if rung.scope == "tile":
            return rung.tops_per_watt
    found = peak(chip).efficiency
    return Figure(value=found.tops_per_watt, kind=found.kind, source=found.source)


def _figure(figure: Figure, unit: str) -> str:
    return f"{si(figure.value, unit)} ({figure.kind})"


def _area(figure: Figure) -> str:
    return f"{figure.value:.4g} mm2 ({figure.kind})"


def _bits(bits: int | None) -> str:
    return "exact" if bits is None else f"{bits} bits"


def _adc(chip: Chip) -> str:
    if not chip.adc.levels:
        return "none"
    adc = _bits(chip.adc.bits) if chip.adc.bits else f"{chip.adc.steps} steps of either sign"
    output = chip.periphery.output_bits
    return adc if output is None else f"{adc}, then {output} bits"


def _sources(name: str, chip: Chip, width: int) -> str:
    """Return the sources of a chip's rows, one a paragraph."""
    found = {
        "tiles": chip.array.sources.get("tiles"),
        "array": "; ".join(dict.fromkeys(filter(None, map(chip.array.sources.get, _SIZE)))),
        "device": getattr(chip.cell, "sources", {}).get("device"),
        "DAC": chip.dac.sources.get("bits"),
        "ADC": chip.adc.sources.get("bits") or chip.adc.sources.get("steps"),
    }
    if chip.cost is not None:
        found["time per MVM"] = mvm_time(chip).source
        found["energy per MVM"] = f"{chip.cost.mvm_energy.source}; without: {chip.cost.excluded}"
        if chip.cost.area is not None:
            found["area"] = chip.cost.area.source
        for rung in chip.cost.published:
            found[f"TOPS/W, {rung.scope}"] = (
                f"{rung.tops_per_watt.source}; without: {rung.excluded}"
            )
    return "\n".join(
        [name, *(_source(label, text, width) for label, text in found.items() if text)]
    )


def _source(label: str, text: str, width: int) -> str:
    head = f"  {label:<{_LABEL}}"
    lines = textwrap.wrap(text, max(width - len(head), _COLUMN), break_long_words=False)
    return "\n".join((head if i == 0 else " " * len(head)) + line for i, line in enumerate(lines))
