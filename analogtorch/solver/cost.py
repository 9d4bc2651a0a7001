"""Time and energy of a solution, beside those of a digital LU."""

from dataclasses import dataclass, replace

from analogtorch.solver.chip import SolverChip, SolverCost
from analogtorch.solver.inverse import halves


@dataclass(frozen=True, kw_only=True)
class SolveCost:
    """Time and energy of one system with all its right-hand sides, modelled and never measured.

    Every figure follows from the chip's ``SolverCost``, which names sources and assumptions.
    Programming the arrays is left out.
    """

    passes: float
    """Passes of the system; the mean over a batch."""
    measured: float
    """Residuals that MVMs measured anew, as ``refine`` does with combined corrections; the mean."""
    inverse_time: float
    """Seconds in inverse circuits and in the MVMs between blocks."""
    mvm_time: float
    """Seconds in the MVMs of the residual."""
    corrections_time: float
    """Seconds of scaling and combining corrections digitally."""
    setup_time: float
    """Seconds of Schur complements, found once for a matrix."""
    inverse_energy: float
    """J of inverse circuits, with their converters."""
    mvm_energy: float
    """J of the MVMs of the residual, with their converters, shifts and additions."""
    corrections_energy: float
    """J of scaling and combining corrections digitally."""
    setup_energy: float
    """J of Schur complements."""
    check_energy: float
    """J of the digital checks of the residual: at the end, and at each that is measured anew, where
    there is one at most."""
    lu_time: float
    """Seconds of a digital LU and its substitutions, by the same digital unit."""
    lu_energy: float
    """J of a digital LU and its substitutions."""

    @property
    def time(self) -> float:
        """Seconds of the solution, without the setup of its matrix."""
        return self.inverse_time + self.mvm_time + self.corrections_time

    @property
    def energy(self) -> float:
        """J of the solution, without the setup of its matrix."""
        return self.inverse_energy + self.mvm_energy + self.corrections_energy + self.check_energy


@dataclass(frozen=True)
class _Steps:
    """What one application of the inverse takes."""

    inversions: int = 0
    products: int = 0
    amplifiers: int = 0
    """Amplifiers of all inversions, one after the other."""
    cells: int = 0
    """Cells of all inversions."""
    driven: int = 0
    """Cells of all products."""


def cost_of(
    chip: SolverChip, n: int, vectors: int, passes: float, measured: float, complex: bool
) -> SolveCost | None:
    """Return time and energy of a system of ``n`` real rows; None if the chip's are not known.

    A residual that is measured anew takes an MVM of the whole solution, and at most a check.
    """
    if chip.cost is None:
        return None
    cost, steps = chip.cost, _steps(n, chip)
    setup_time, setup_energy = _setup(n, chip, cost)
    pulses = passes * chip.pulses + measured * chip.mvm.pulses(chip.mvm.input_bits)
    times, corrections = passes * vectors, _corrections(n, chip, passes, complex) * vectors
    square, per_second = n * n, 1 / cost.digital_rate.value
    lu = n**3 / 3 + square * vectors
    return SolveCost(
        passes=passes,
        measured=measured,
        inverse_time=times * _inverse_time(chip, cost, steps),
        mvm_time=vectors * pulses * cost.mvm_time.value,
        corrections_time=corrections * per_second,
        setup_time=setup_time,
        inverse_energy=times * _inverse_energy(chip, cost, steps, n),
        mvm_energy=vectors * pulses * _pulse_energy(chip, cost, n),
        corrections_energy=corrections * cost.digital_energy.value,
        setup_energy=setup_energy,
        check_energy=(1 + measured) * square * vectors * cost.digital_energy.value,
        lu_time=lu * per_second,
        lu_energy=lu * cost.digital_energy.value,
    )


def _corrections(n: int, chip: SolverChip, passes: float, complex: bool) -> float:
    """Return the digital multiplications between the passes of one vector of ``n`` real numbers.

    Scaling the inputs and outputs of the inverse circuits takes 2 n a pass. Combining takes 3 n for
    each pair of the passes before, which are dropped after every n passes, and 8 n for that of the
    pass; complex factors take 6 n and 11 n, and pairs are dropped after n / 2.
    """
    if chip.corrections == "added":
        return 2 * n * passes
    parts = 2 if complex else 1
    most = n // parts
    times, rest = divmod(passes, most)
    pairs = (times * most * (most - 1) + rest * max(rest - 1, 0)) / 2
    return n * (3 * parts * pairs + (7 + 3 * parts) * passes)


def _setup(n: int, chip: SolverChip, cost: SolverCost) -> tuple[float, float]:
    """Return time and energy of the Schur complements of a matrix."""
    size = chip.inverse.size
    if size is None or n <= size:
        return 0.0, 0.0
    m = halves(n, size)
    k, steps = n - m, _steps(m, chip)
    if chip.inverse.schur == "analog":
        driven = replace(steps, products=steps.products + 1, driven=steps.driven + m * k)
        time = k * _inverse_time(chip, cost, driven)
        energy = k * _inverse_energy(chip, cost, driven, max(m, k))
    else:
        multiplications = m**3 / 3 + m * m * k + k * k * m
        time = multiplications / cost.digital_rate.value
        energy = multiplications * cost.digital_energy.value
    parts = [(time, energy), _setup(m, chip, cost), _setup(k, chip, cost)]
    return sum(t for t, _ in parts), sum(e for _, e in parts)


def _inverse_time(chip: SolverChip, cost: SolverCost, steps: _Steps) -> float:
    settling = chip.inverse.settling_time or 0.0
    return steps.inversions * settling + steps.products * cost.mvm_time.value


def _inverse_energy(chip: SolverChip, cost: SolverCost, steps: _Steps, n: int) -> float:
    settling = chip.inverse.settling_time or 0.0
    read = cost.read_power.value * chip.cell.devices
    converters = n * (cost.dac_energy.value + cost.adc_energy.value)
    amplifiers = steps.amplifiers * cost.amplifier_power.value * settling
    arrays = read * (steps.cells * settling + steps.driven * cost.mvm_time.value)
    return converters + amplifiers + arrays


def _pulse_energy(chip: SolverChip, cost: SolverCost, n: int) -> float:
    mvm, blocks = chip.mvm, -(-n // chip.mvm.rows)
    counts, drives = mvm.slices * n * blocks, mvm.slices * n
    read = cost.read_power.value * chip.cell.devices * mvm.slices * n * n * cost.mvm_time.value
    each = counts * (cost.count_energy.value + cost.add_energy.value)
    return each + drives * cost.drive_energy.value + read


def _steps(n: int, chip: SolverChip) -> _Steps:
    size, arrays = chip.inverse.size, chip.inverse.arrays
    if size is None or n <= size:
        # two stages of least squares, and an inverter for each row of the negative polarity
        stages = 2 if chip.inverse.circuit == "inverse" else 4
        return _Steps(inversions=1, amplifiers=stages * n, cells=arrays * n * n)
    m = halves(n, size)
    first, schur = _steps(m, chip), _steps(n - m, chip)
    return _Steps(
        inversions=2 * first.inversions + schur.inversions,
        products=2 * first.products + schur.products + 2,
        amplifiers=2 * first.amplifiers + schur.amplifiers,
        cells=2 * first.cells + schur.cells,
        driven=2 * first.driven + schur.driven + 2 * m * (n - m) * chip.inverse.slices,
    )
