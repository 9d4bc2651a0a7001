"""The peak of a chip, with all tiles multiplying at once, as in most published figures."""

from dataclasses import dataclass

from analogtorch.chips import Chip, mvm_time
from analogtorch.cost_model.efficiency import OPERATIONS_PER_MAC, Efficiency
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class Peak:
    """One input vector in every tile of a chip, or in one of the tiles that share circuits.

    It takes an MVM, or one for each pulse, and twice as many where ``ADC.asymmetry_balance`` reads
    each sum twice. All cells are used.
    """

    operations: int
    """Number of operations, 2 per weight."""
    seconds: float
    """Time that the vectors take, s; tiles compute at once."""
    joules: float
    """Energy that the vectors take, J: input encoding, cells and output encoding;
    ``efficiency.excluded`` names the rest."""
    efficiency: Efficiency
    """Efficiency of the tiles, with ``tops`` of the whole chip."""

    @property
    def watts(self) -> float:
        """Power during the MVM, W."""
        return self.joules / self.seconds


def peak(chip: Chip) -> Peak:
    """Return operations, time, energy and efficiency of a chip with all tiles busy.

    Raises:
        ValueError: the chip has no ``cost``.
    """
    checks.instance("chip", chip, Chip, "analogtorch.chips.hermes64()")
    costs = chip.costs
    tiles = chip.array.tiles // chip.array.planes
    operations = OPERATIONS_PER_MAC * chip.capacity // chip.array.planes
    joules = tiles * chip.mvms * costs.mvm_energy.value
    time = mvm_time(chip)
    seconds = chip.mvms * time.value
    per_watt = operations / joules / 1e12
    efficiency = Efficiency(
        scope="tile",
        origin="predicted",
        tops_per_watt=per_watt,
        low=per_watt,
        high=per_watt,
        precision=costs.precision,
        phases=costs.phases,
        utilisation=1.0,
        excluded=costs.excluded,
        kind=costs.mvm_energy.kind,
        source=costs.mvm_energy.source,
        tops=operations / seconds / 1e12,
        tops_kind=time.kind,
    )
    return Peak(operations=operations, seconds=seconds, joules=joules, efficiency=efficiency)
