"""The figures of a cost, each with its unit, its kind and what it covers."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, get_args

from analogtorch.chips.cost import Scope

if TYPE_CHECKING:
    from analogtorch.cost_model.cost import CostReport


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One figure of one chip."""

    quantity: str
    """Name of the quantity, such as ``energy, system``; the same for every chip that has it."""
    value: float
    unit: str
    """Unit of the value; empty for the metric and for counts."""
    kind: str
    """``simulated``: measured on simulated chips. ``counted``: by the mapping.
    ``computed``: by the digital model. Otherwise the weakest kind of figure that it rests on, from
    ``measured`` to ``assumed`` (``chips.Figure``)."""
    scope: str
    """What the figure covers, or leaves out."""
    low: float | None = None
    """Lower end: of the 95 % interval of the metric, or of what the split of a tile's energy
    allows; None if there is no range."""
    high: float | None = None
    """Upper end."""
    note: str = ""
    """A caveat, such as that the devices' data end before a time; empty if there is none."""


def entries(cost: "CostReport") -> list[Entry]:
    """Return energies by scope, latency, throughput and efficiency of one inference."""
    whole = cost.efficiency("system")
    mode = f"{cost.schedule.mode}, set by {cost.schedule.bottleneck}"
    return [
        *(_energy(cost, scope, scope) for scope in get_args(Scope)),
        Entry(
            quantity="latency",
            value=cost.latency,
            unit="s",
            kind=cost.time_kind,
            scope="first input to last output of one inference",
        ),
        Entry(
            quantity="throughput",
            value=cost.throughput,
            unit="1/s",
            kind=cost.time_kind,
            scope=f"inferences on all chips, {mode}",
        ),
        Entry(
            quantity="efficiency, system",
            value=whole.tops_per_watt,
            unit="TOPS/W",
            kind=whole.kind,
            scope=f"2 operations per MAC, {whole.precision}; without {whole.excluded}",
            low=whole.low,
            high=whole.high,
        ),
    ]


def consumers(cost: "CostReport") -> list[Entry]:
    """Return the energies of one inference by consumer, the fields of ``EnergySplit``.

    Each has the kind of the smallest scope that counts it.
    """
    found = []
    for field in fields(cost.energy):
        scope: Scope = "tile"
        if field.name.startswith("chip_"):
            scope = "chip"
        elif field.name in ("host_digital", "port_communication"):
            scope = "system"
        found.append(_energy(cost, field.name, scope))
    return found


def _energy(cost: "CostReport", name: str, scope: Scope) -> Entry:
    """Return the energy of a consumer, or of a scope, which ``scope`` counts."""
    splits = (cost.energy, cost.energy_by_columns, cost.energy_full_tiles)
    model, *others = (getattr(split, name) for split in splits)
    efficiency = cost.efficiency(scope)
    return Entry(
        quantity=f"energy, {name.replace('_', ' ')}",
        value=model,
        unit="J",
        kind=efficiency.kind,
        scope=f"one inference; without {efficiency.excluded}",
        low=min(model, *others),
        high=max(model, *others),
    )
