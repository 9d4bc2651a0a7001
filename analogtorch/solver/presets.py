"""Solver chips: the RRAM chips of Zuo et al. 2025, and one without imperfections."""

from analogtorch.chips.anchors import assumed
from analogtorch.chips.cost import Figure
from analogtorch.devices import DifferentialPair, ideal_device
from analogtorch.devices.curves import Polynomial
from analogtorch.devices.timed import TimedDevice
from analogtorch.solver.chip import Circuit, InverseCircuit, SlicedMVM, SolverChip, SolverCost
from analogtorch.values import checks
from analogtorch.values.sources import Sources

_PAPER = "Zuo et al., Nat. Electron. (2025), Peking University"
_NOT_THERE = "not in the sources used"
_ISAAC = "ISAAC, Shafiee et al., ISCA 2016, 32 nm"
_ALADDIN = "Aladdin, 40 nm: 12.68 pJ per multiplication and 0.21 pJ per addition of 32 bits"
_EXACT = "no imperfections, by definition"


def rram_solver(
    *, slices: int = 1, circuit: Circuit = "inverse", bits: int = 30, spread: float = 0.1
) -> SolverChip:
    """Return the RRAM chips that solved 16x16 systems to 24 bits (Peking University, 2025).

    Published are the scheme, arrays of 8x8 for the inverse, 8 levels from 0.5 to 35 uS, a matrix of
    24 bits in slices of 3, a chip of 1 Mb, and blocks by Schur complements (BlockAMC). Converters,
    amplifiers, how far cells lie from their level, and all costs are assumptions. The paper adds
    corrections, as ``replace(corrections="added")`` does; here they are combined.

    Args:
        slices: arrays for the matrix of the inverse circuit, of 3 bits each. The paper has 1; more
            make the iteration converge for matrices that 3 bits blur too much (ASSUMED).
        circuit: ``inverse`` as in the paper, for matrices whose circuit is stable; or
            ``least_squares``, for all others.
        bits: bits of the matrix in the MVMs of the residual, 1 to 44. The paper has 24, with which
            matrices that are not in fixed point themselves leave residuals of about 2^-22; 30 leave
            2^-28 (ASSUMED).
        spread: standard deviation of a programmed device, uS, >= 0 (ASSUMED).

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> chip = at.solver.rram_solver(slices=2)
    """
    spread = checks.number("rram_solver: spread", spread, least=0)
    bits = checks.count("rram_solver: bits", bits, most=44)
    return SolverChip(
        name="rram_solver",
        cell=DifferentialPair(
            device=_device(spread),
            sources=Sources(
                device=f"TaOx 1T1R, 40 nm, 8 levels from 0.5 to 35 uS: {_PAPER}; spread ASSUMED",
                devices_per_polarity="ASSUMED: one device of either sign",
            ),
        ),
        inverse=_inverse(slices, circuit),
        mvm=_mvm(bits),
        cells=2**20,
        cost=_cost(),
        sources=Sources(
            corrections="ASSUMED: combined digitally, which takes no further MVM; added: " + _PAPER,
            cells=f"a chip of 1 Mb: {_PAPER}",
        ),
    )


def ideal_solver() -> SolverChip:
    """Return a solver chip without imperfections, whose solutions are those of a digital LU.

    It is the baseline that must equal ``torch.linalg.solve``.
    """
    return SolverChip(
        name="ideal_solver",
        cell=DifferentialPair(device=ideal_device(), sources=Sources(device=_EXACT)),
        inverse=InverseCircuit(
            size=None,
            bits=None,
            input_bits=None,
            output_bits=None,
            settling_time=None,
            sources=Sources(bits=_EXACT, input_bits=_EXACT, output_bits=_EXACT),
        ),
        mvm=SlicedMVM(bits=None, sources=Sources(bits=_EXACT)),
    )


def _device(spread: float) -> TimedDevice:
    return TimedDevice(
        name="TaOx RRAM of 8 levels (Zuo 2025, spread assumed)",
        g_min=0.5,
        g_max=35.0,
        g_reference=35.0,
        times=(0.0,),
        stds=(Polynomial(coefficients=(spread,)),),
    )


def _inverse(slices: int, circuit: Circuit) -> InverseCircuit:
    return InverseCircuit(
        slices=slices,
        circuit=circuit,
        sources=Sources(
            size=f"8x8 arrays: {_PAPER}",
            bits=f"the 3 most significant bits: {_PAPER}; ASSUMED to be rounded to the nearest of "
            "15 levels of a pair, with the largest element of a block at the highest",
            slices=f"one array: {_PAPER}" if slices == 1 else "ASSUMED: currents add exactly",
            circuit=f"closed loop with one array: {_PAPER}"
            if circuit == "inverse"
            else "Sun et al., Sci. Adv. 6, eaay2378 (2020), which is another chip",
            schur=f"ASSUMED: {_NOT_THERE}",
            input_bits="ASSUMED: 3 bits and a sign, as many as the matrix has",
            output_bits=f"ASSUMED: {_NOT_THERE}",
            bandwidth=f"ASSUMED: {_NOT_THERE}",
            settling_time=f"ASSUMED: {_NOT_THERE}",
        ),
    )


def _mvm(bits: int) -> SlicedMVM:
    return SlicedMVM(
        bits=bits,
        input_bits=max(bits + 4, 32),
        sources=Sources(
            bits=f"fixed point of 24 bits: {_PAPER}" + ("" if bits == 24 else "; ASSUMED: others"),
            bits_per_slice=f"3 bits per cell: {_PAPER}",
            input_bits=f"ASSUMED: 4 bits more than the matrix, at least 32; {_NOT_THERE}",
            bits_per_pulse="ASSUMED: one bit, so that no error of 8 cells reaches half a count",
            multiplies=f"r = b - A x: {_PAPER}",
            rows="ASSUMED: as in the inverse circuit",
            noise=f"ASSUMED: none; {_NOT_THERE}",
        ),
    )


def _cost() -> SolverCost:
    read = 0.2**2 * 17.5e-6
    return SolverCost(
        mvm_time=assumed(100e-9, "one pulse and its ADC, as of the tiles of ISAAC"),
        amplifier_power=assumed(100e-6, f"an amplifier of 100 MHz; {_NOT_THERE}"),
        read_power=assumed(read, "0.2 V at 17.5 uS, half the largest conductance"),
        drive_energy=assumed(0.417e-12, f"{_ISAAC}: a driver of 1 bit"),
        dac_energy=assumed(0.162e-12, "ZigZag, 28 nm: 50 fF x 4 bits x (0.9 V)^2"),
        count_energy=assumed(1.42e-12, f"{_ISAAC}, scaled to 7 bits"),
        adc_energy=assumed(1.667e-12, f"{_ISAAC}: 8 bits"),
        add_energy=assumed(0.021e-12, f"{_ISAAC}: shift and add of 16 bits"),
        digital_energy=Figure(value=12.89e-12, kind="modelled", source=_ALADDIN),
        digital_rate=assumed(1e9, "one unit that takes 1 ns for each"),
    )
