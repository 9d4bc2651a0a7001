"""Rows of time, energy and efficiency of the chips that ship."""

from collections.abc import Callable, Iterator, Sequence

import analogtorch as at
from benchmarks.validation import published
from benchmarks.validation.published import DAY, YEAR, Reference
from benchmarks.validation.row import MEAN, Bar, Row


def hermes_peak(phases: int) -> list[float]:
    """Return time, energy, power, energy per tile and per MAC of an MVM of all tiles."""
    chip = at.chips.hermes64(phases=phases)
    peak = at.cost_model.peak(chip)
    assert chip.cost is not None
    return [
        1e9 * peak.seconds,
        1e6 * peak.joules,
        peak.watts,
        1e9 * chip.cost.mvm_energy.value,
        1e15 * peak.joules / (peak.operations / 2),
    ]


def ladder(unit: str) -> list[float]:
    """Return what ``ibm_speech34`` states at its three scopes, in a unit of ``LADDER``."""
    scopes = at.cost_model.published(at.chips.ibm_speech34())
    of = {
        "TOPS/W": lambda scope: scope.tops_per_watt,
        "nJ per 512x512 MVM": lambda scope: 1e9 * scope.joules(512 * 512),
        "fJ per MAC": lambda scope: scope.femtojoules_per_mac,
    }[unit]
    return [of(scope) for scope in scopes]


def efficiency(chip: at.Chip) -> list[float]:
    """Return TOPS and TOPS/W of an MVM of all tiles."""
    found = at.cost_model.peak(chip).efficiency
    return [found.tops, found.tops_per_watt]


def mvm(chip: at.Chip) -> list[float]:
    """Return time, ns, and energy, nJ, of an MVM of a full tile."""
    assert chip.cost is not None
    return [1e9 * chip.cost.mvm_time.value, 1e9 * chip.cost.mvm_energy.value]


def reram_4mb(precision: int) -> list[float]:
    """Return time, ns, and TOPS/W of a product of this precision."""
    found = at.cost_model.peak(at.chips.reram_4mb(precision=precision))  # type: ignore[arg-type]
    return [1e9 * found.seconds, found.efficiency.tops_per_watt]


def drift_gain(device: str) -> float:
    """Return by how many percent drift from 1 day to 10 years raises the efficiency of a tile."""
    chip = at.chips.hermes64(device=device)  # type: ignore[arg-type]
    assert chip.cost is not None
    young, old = (
        chip.cost.mvm(
            rows=1, cols=1, cells=1, conductance=at.chips.mean_conductance(chip.cell, t)
        ).total
        for t in (DAY, 10 * YEAR)
    )
    return 100 * (young / old - 1)


def rows() -> Iterator[Row]:
    """Yield the chip arithmetic."""
    for phases, reference in published.HERMES_EFFICIENCY.items():
        yield _row(
            f"`hermes64`, {phases} phase{'s' * (phases > 1)}: peak",
            reference,
            lambda p=phases: efficiency(at.chips.hermes64(phases=p)),
        )
        yield _row(
            f"`hermes64`, {phases} phase{'s' * (phases > 1)}: MVM of all tiles",
            published.HERMES_PEAK[phases],
            lambda p=phases: hermes_peak(p),
        )
    for what, found in (("peak", efficiency), ("MVM", mvm)):
        yield _row(
            f"`hermes_core`: {what}",
            published.HERMES_CORE[what],
            lambda f=found: f(at.chips.hermes_core()),
        )
    for unit, reference in published.LADDER.items():
        yield _row(f"`ibm_speech34`, {unit}", reference, lambda u=unit: ladder(u))
    for (outputs, inputs), values in published.NEURRAM.items():
        yield _row(
            f"`neurram48`, {outputs}-bit outputs, {inputs}-bit inputs",
            Reference(dict(zip(("TOPS", "TOPS/W"), values, strict=True)), "Wan 2022", "published"),
            lambda o=outputs, i=inputs: efficiency(at.chips.neurram48(output_bits=o, input_bits=i)),
        )
    for precision, reference in published.RERAM_4MB.items():
        yield _row(
            f"`reram_4mb`, {precision}-bit inputs and weights",
            reference,
            lambda p=precision: reram_4mb(p),
        )
    for name, reference in (
        ("sonos40", published.SONOS_EFFICIENCY),
        ("memcapacitor", published.MEMCAPACITOR_EFFICIENCY),
    ):
        yield _row(
            f"`{name}`: peak, modelled",
            reference,
            lambda n=name: efficiency(at.chips.get(n))[1:],
        )
    low, high = published.DRIFT_GAIN
    for device in ("two_device", "one_device", "pcm_like"):
        yield Row(
            quantity=f"`hermes64`, `{device}`: gain of TOPS/W by drift from 1 day to 10 years, %",
            reference=Reference({f"{low} to {high}": (low + high) / 2}, "Frank 2023", "published"),
            found=lambda d=device: [drift_gain(d)],
            bar=Bar(limit=(high - low) / 2, relative=False, unit=" points"),
        )


def _row(quantity: str, reference: Reference, found: Callable[[], Sequence[float]]) -> Row:
    return Row(quantity=quantity, reference=reference, found=found, bar=MEAN, quick=True)
