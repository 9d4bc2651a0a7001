"""IBM's analog-AI speech chip: 34 tiles of 512x512 PCM weights (Ambrogio et al. 2023)."""

import dataclasses

from analogtorch.chips.anchors import SPLIT, assumed, digital, network
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.cost import Cost, Figure, Published
from analogtorch.chips.training import TrainingNoise
from analogtorch.devices import DifferentialPair, hermes_one_device
from analogtorch.values import checks
from analogtorch.values.sources import Sources

_PAPER = "Ambrogio et al., Nature 620, 768 (2023)"
_LADDER = "as summarised from the paper"
_CROSSBAR = "ASSUMED, the standard crossbar model of Rasch et al., Nat. Commun. 14, 5282 (2023)"
_TRAINING = "ASSUMED: devices a month old, as for hermes64"
_STAND_IN = (
    "STAND-IN, NOT FITTED TO THIS CHIP: the one-device fit of the HERMES chip (Le Gallo 2023), "
    "also 14 nm PCM of IBM; no device model of this chip is published"
)


def ibm_speech34(
    *,
    pcm_per_weight: int = 4,
    asymmetry_balance: bool = False,
    training: TrainingNoise | None = None,
) -> Chip:
    """Return IBM's 34-tile speech chip (14 nm), the chip of "12.4 TOPS/W".

    Its device model here is a stand-in, not fitted to this chip. The chip has no ADC: columns put
    out durations, which a circuit-switched mesh carries and the edge counts. Rows take unsigned
    durations, so a matrix with signed inputs takes a second pass (``cost.signed_passes``), which
    affects time and energy only, unless the chip has ``adc.separate_phases``.

    Args:
        pcm_per_weight: PCM devices per weight: 4 (default), two per polarity, gives 8.9 M weights;
            2, one per polarity, gives 17.8 M weights, with twice as many tiles in the description,
            of which pairs share their circuits (``planes``).
        asymmetry_balance: whether each MVM is read twice, with exchanged polarities, as for the
            keyword spotting of the paper (``ADC.asymmetry_balance``). The errors of the columns
            that it balances are not published: without ``adc.offset_std`` or ``adc.inl`` it takes
            ``sqrt(2)`` off the output noise, and twice the time and energy. The published
            efficiencies are those of single reads.
        training: noise of HWA training; by default that of devices a month old or, where their
            targets allow for drift, at random as old as these allow for
            (``TrainingNoise.weight`` "device").

    Raises:
        ValueError: ``pcm_per_weight`` is another number, or ``asymmetry_balance`` no flag.
    """
    checks.flag("ibm_speech34: asymmetry_balance", asymmetry_balance)
    if pcm_per_weight not in (2, 4):
        raise ValueError(f"ibm_speech34: pcm_per_weight must be 4 or 2, got {pcm_per_weight!r}")
    device = dataclasses.replace(
        hermes_one_device(),
        name="stand-in, not fitted to this chip: HERMES PCM, one device (Le Gallo 2023)",
    )
    planes = 4 // pcm_per_weight
    name = "ibm_speech34"
    options = [f"{pcm_per_weight} PCM per weight"] if pcm_per_weight != 4 else []
    if asymmetry_balance:
        options.append("asymmetry balance")
    if options:
        name += f"[{', '.join(options)}]"
    return Chip(
        name=name,
        array=Array(
            rows=512,
            columns=512,
            tiles=34 * planes,
            planes=planes,
            sources=Sources(
                rows=_PAPER,
                columns=f"2048 PCM per row, 4 per weight: {_PAPER}",
                tiles=f"34 tiles, each once per plane: {_PAPER}",
                planes="with 2 PCM per weight a tile holds two weight planes, of which one "
                f"computes at a time: {_PAPER}",
            ),
        ),
        dac=DAC(
            bits=9,
            encoding="pulse_width",
            sources=Sources(
                encoding=f"inputs are durations, made by counters: {_PAPER}",
                bits="DERIVED: UINT8 inputs as durations in each of the two signs, which take a "
                f"pass each: {_PAPER}",
            ),
        ),
        cell=DifferentialPair(
            device=device,
            devices_per_polarity=pcm_per_weight // 2,
            sources=Sources(
                device=_STAND_IN, devices_per_polarity=f"4 or 2 PCM per weight: {_PAPER}"
            ),
        ),
        adc=ADC(
            bits=8,
            range=10.0,
            noise=0.04,
            asymmetry_balance=asymmetry_balance,
            sources=Sources(
                asymmetry_balance=f"{'used' if asymmetry_balance else 'not used'} here; the "
                f"keyword net had it, {_LADDER}: {_PAPER}",
                bits=f"durations counted by 512 counters per output pad: {_PAPER}",
                range=_CROSSBAR,
                noise=_CROSSBAR,
            ),
        ),
        cost=_cost(),
        training=training or TrainingNoise(weight="device"),
        sources=Sources() if training else Sources(training=_TRAINING),
    )


def _cost() -> Cost:
    operations = 2 * 512 * 512  # of one MVM of a full tile
    return Cost(
        phases=1,
        precision="unsigned 8-bit inputs, 8-bit outputs",
        signed_passes=2,
        mvm_time=Figure(
            value=300e-9, kind="measured", source=f"{_PAPER}: time step of the RNN-T experiment"
        ),
        mvm_energy=Figure(
            value=operations / 20.0e12,
            kind="derived",
            source=f"{operations:,} operations / 20.0 TOPS/W, {_PAPER}",
        ),
        excluded="everything off the tile: pads, transport, digital operations",
        shares=SPLIT,
        network=network(grid_columns=6, link_rate=None),
        on_chip=digital(
            rate=assumed(
                512 * 34 / 300e-9,
                "ReLU or hard sigmoid in the comparators: every column in every step",
            ),
            kinds=("relu",),
            source="ReLU or hard sigmoid by gating the comparators; other functions, products and "
            f"the joint net off the chip (FPGA, x86): {_PAPER}. ASSUMED: partial sums are added on "
            "the chip, as its keyword net of 1,024 inputs ran from tile to tile",
        ),
        host=digital(
            rate=assumed(
                23.94e12 / 325 / 5,
                f"23.94 TOPS of 5 chips, 325 analog operations per digital one, {_PAPER}",
            )
        ),
        published=(
            _rung("tile", 20.0, "everything off the tile, partly used tiles"),
            _rung(
                "chip",
                12.4,
                "chip-to-chip transport, digital operations (sustained, best of 5 chips)",
            ),
            _rung("system", 6.94, "nothing stated (RNN-T on 5 chips, 23.94 TOPS at 3.45 W)"),
        ),
        area=Figure(value=111.18, kind="measured", source=f"the whole chip, {_PAPER}"),
    )


def _rung(scope: str, tops_per_watt: float, excluded: str) -> Published:
    figure = Figure(value=tops_per_watt, kind="measured", source=f"{_PAPER}, {_LADDER}")
    return Published(scope=scope, tops_per_watt=figure, excluded=excluded)  # type: ignore[arg-type]
