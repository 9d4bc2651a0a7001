"""NeuRRAM: 48 cores of 256x256 resistive-memory cells (Wan et al. 2022)."""

from analogtorch.chips.anchors import RELU_ALONE, assumed, digital, network
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost, Figure, Published, Shares
from analogtorch.chips.training import TrainingNoise
from analogtorch.devices import DifferentialPair, rram_wan
from analogtorch.values.sources import Sources

_PAPER = "Wan et al., Nature 608, 504 (2022)"
_DATA = f"{_PAPER}, extended data, figures as tabulated in the open simulator CiMLoop"
# by (output bits, input bits): TOPS of 48 cores; TOPS/W; fJ per operation of word lines, neurons,
# input pulses
_MEASURED = {
    (4, 2): (1.793, 40.33, (8.271, 12.387, 3.956)),
    (5, 3): (1.165, 23.09, (15.463, 20.118, 7.732)),
    (6, 4): (0.744, 15.95, (21.756, 29.108, 11.507)),
    (7, 5): (0.525, 11.03, (30.926, 44.212, 14.025)),
    (8, 6): (0.418, 8.26, (37.219, 52.483, 19.239)),
    (9, 7): (0.344, 7.75, (43.692, 61.833, 22.835)),
    (10, 8): (0.264, 6.44, (50.525, 75.857, 27.510)),
}
# 1 / TOPS/W is the sum of the parts within 2 %, but for (8, 6): 121.1 against 108.9 fJ, which is
# what the one-phase mode takes (9.12 TOPS/W at 0.261 TOPS). TOPS/W goes with the throughput, so it
# gives the sum, the parts the shares.
_TRAINING = "Gaussian, 0.16 of the largest weight: the authors' published keyword-spotting recipe"
_CROSSBAR = (
    "ASSUMED, the standard crossbar model of Rasch et al., Nat. Commun. 14, 5282 (2023); the chip "
    "senses voltages, normalised by the conductance of the column"
)


def neurram48(
    *, output_bits: int = 6, input_bits: int = 4, training: TrainingNoise | None = None
) -> Chip:
    """Return NeuRRAM (130 nm): 48 cores of 128x256 signed weights in 256x256 RRAM cells.

    It takes signed inputs of few bits.

    Args:
        output_bits: bits of the outputs of an MVM, which form with ``input_bits`` one of the
            published pairs (output, input): (4, 2), (5, 3), (6, 4), (7, 5), (8, 6), (9, 7), (10,
            8).
        input_bits: bits of the inputs, sign included.
        training: noise of HWA training; by default Gaussian, 0.16 of the largest weight.

    Raises:
        ValueError: the pair is not published.
    """
    bits = (output_bits, input_bits)
    if bits not in _MEASURED:
        raise ValueError(
            f"neurram48: (output_bits, input_bits) must be one of {list(_MEASURED)}, got {bits}"
        )
    name = "neurram48"
    if bits != (6, 4):
        name += f"[{input_bits}-bit inputs, {output_bits}-bit outputs]"
    return Chip(
        name=name,
        array=Array(
            rows=128,
            columns=256,
            tiles=48,
            sources=Sources(
                rows=f"256 rows, two cells in neighbouring rows per signed weight: {_PAPER}",
                columns=_PAPER,
                tiles=f"48 cores: {_PAPER}",
            ),
        ),
        dac=DAC(bits=input_bits, sources=Sources(bits=f"one of the published pairs, {_DATA}")),
        cell=DifferentialPair(
            device=rram_wan(),
            sources=Sources(
                device=f"fits at 1 s, 1 day and 2 days to {_PAPER}, published in aihwkit; between "
                "them interpolated in log t",
                devices_per_polarity=f"two cells per signed weight: {_PAPER}",
            ),
        ),
        adc=ADC(
            bits=output_bits,
            range=10.0,
            noise=0.04,
            sources=Sources(
                bits=f"one of the published pairs, {_DATA}", range=_CROSSBAR, noise=_CROSSBAR
            ),
        ),
        cost=_cost(bits),
        training=training or TrainingNoise(weight="gaussian", scale=0.16),
        sources=Sources() if training else Sources(training=_TRAINING),
    )


def _cost(bits: tuple[int, int]) -> Cost:
    tops, tops_per_watt, parts = _MEASURED[bits]
    operations = 2 * 128 * 256
    total = sum(parts)

    def share(part: float, what: str) -> Figure:
        return Figure(value=part / total, kind="measured", source=f"{what}, {_DATA}")

    return Cost(
        phases=2 if bits[1] - 1 > 3 else 1,  # two above 3 bits of magnitude
        precision=f"{bits[1]}-bit inputs, {bits[0]}-bit outputs",
        mvm_time=Figure(
            value=48 * operations / (tops * 1e12),
            kind="derived",
            source=f"{48 * operations:,} operations / {tops} TOPS, {_DATA}",
        ),
        mvm_energy=Figure(
            value=operations / (tops_per_watt * 1e12),
            kind="derived",
            source=f"{operations:,} operations / {tops_per_watt} TOPS/W, {_DATA}",
        ),
        excluded="everything off the cores: adding partial sums (an FPGA), transport, "
        "digital operations, idle power",
        shares=Shares(
            control=assumed(0.0, "not published apart"),
            dac=share(parts[0], "word-line switching"),
            array=share(
                parts[2],
                "input pulses: drivers and cells together, an upper bound of the cells' share",
            ),
            adc=share(parts[1], "neurons and control"),
        ),
        network=network(grid_columns=8, link_rate=assumed(4e9, "as for the HERMES core")),
        on_chip=digital(
            rate=assumed(48e9, "one operation per core and nanosecond"),
            kinds=("relu",),
            source=f"{RELU_ALONE}; an FPGA adds partial sums: {_PAPER}",
            efficiency=1,
        ),
        host=digital(
            rate=assumed(48e9, "as on the chip; in the published experiments an FPGA"), efficiency=1
        ),
        sums_on_host=True,
        published=(
            Published(
                scope="tile",
                tops_per_watt=Figure(value=tops_per_watt, kind="measured", source=_DATA),
                excluded="everything off the cores",
            ),
        ),
    )
