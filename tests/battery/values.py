"""Fields of the public dataclasses."""

from collections.abc import Iterator
from dataclasses import replace

import analogtorch as at
from analogtorch import chips, devices
from tests.battery.calls import CHIP, NO_FLAG, NO_INTEGER, NO_NUMBER, NO_TEXT, Bad, every, fields

LOG = devices.LogClip(slope=-0.01, offset=0.02, low=0.01, high=0.1)
POWER = devices.PowerClip(scale=0.01, power=0.5, floor=1e-3, high=0.2)
FLAT = devices.Polynomial(coefficients=(0.1,))
SPLIT = devices.Piecewise(split=0.1, below=LOG, above=FLAT)
FIGURE = chips.Figure(value=1.0, kind="assumed", source="an estimate")
NO_CURVE = (None, 0.5, "flat", devices.Polynomial, (0.1,))
NO_CHOICE = (None, "", "gausian", 3, ["none"])
BAD_COST = (None, "cheap", 5.0, CHIP)


def calls() -> Iterator[Bad]:
    """All of them."""
    yield from _devices()
    yield from _fitted_devices()
    yield from _chips()
    yield from _costs()
    yield from _rest()


def _devices() -> Iterator[Bad]:
    yield from fields(lambda: LOG, "slope offset low high", NO_NUMBER, "must be a finite number")
    yield from fields(lambda: LOG, "low", [0.2], "must not be above high")
    yield from fields(lambda: POWER, "scale power high", [*NO_NUMBER, -1], "must be a number >= 0")
    yield from fields(lambda: POWER, "floor", [*NO_NUMBER, -1, 0], "must be a positive number")
    yield from fields(
        lambda: FLAT, "coefficients", [(), None, 0.1, "abc", {0.1}], "must be a tuple of numbers"
    )
    yield from every(
        "Polynomial.coefficients[1]",
        lambda v: devices.Polynomial(coefficients=(0.1, v)),
        NO_NUMBER,
        r"Polynomial.coefficients\[1\] must be a finite number",
    )
    yield from fields(lambda: SPLIT, "split", NO_NUMBER, "must be a finite number")
    yield from fields(lambda: SPLIT, "below above", NO_CURVE, "must be a curve", TypeError)
    yield from fields(
        devices.pcm_like,
        "g_max g_reference t0 t_read",
        [*NO_NUMBER, 0, -1],
        "must be a positive number",
    )
    scales = "programming_scale drift_scale read_scale"
    yield from fields(
        devices.pcm_like,
        scales,
        [*NO_NUMBER, -0.1],
        "must be a number >= 0.*0 switches the effect off",
    )
    curves = "programming_std drift_mean drift_std read_noise"
    yield from fields(devices.pcm_like, curves, NO_CURVE, "must be a curve", TypeError)
    yield from fields(devices.pcm_like, "t0", [1e-9], "longer than t_read")
    yield from fields(devices.pcm_like, "name", NO_TEXT, "must be a text")
    cell = CHIP.cell
    no_device = (None, "pcm", 3, devices.pcm_like, devices.PCM, CHIP)
    yield from fields(lambda: cell, "device", no_device, "must be a device such as", TypeError)
    yield from fields(
        lambda: cell, "devices_per_polarity", [*NO_INTEGER, 0, -1], "must be an integer >= 1"
    )
    yield from fields(lambda: cell, "split", ["half", None, 2], "must be one of")
    yield from fields(devices.Spread, "pieces", [*NO_INTEGER, 0], "must be an integer >= 1")
    yield from fields(devices.Spread, "base", [*NO_NUMBER, -1], "must be a number >= 0")
    yield from fields(
        devices.Spread, "coefficients", [(1.0,), None, 3.0], "must be a tuple of 4 numbers"
    )
    times = ["1 eon", "day", "", "- 1 s", "1..2 s"]
    yield from every(
        "seconds", devices.seconds, times, "time '.*' (is not understood|does not start)"
    )
    yield from every(
        "seconds",
        devices.seconds,
        [-1, float("nan"), float("inf"), True, None, [1]],
        "time must be a fin",
    )


def _fitted_devices() -> Iterator[Bad]:
    yield from fields(
        devices.rram_wan, "g_max g_reference", [*NO_NUMBER, 0], "must be a positive number"
    )
    yield from fields(
        devices.rram_wan,
        "g_min programming_scale drift_scale read_scale",
        [*NO_NUMBER, -1],
        "must be a number >= 0",
    )
    yield from fields(devices.rram_wan, "g_min", [40.0, 50.0], "must be below g_max")
    yield from fields(devices.rram_wan, "read_std", NO_CURVE[1:], "must be a curve", TypeError)
    yield from fields(
        devices.rram_wan, "times", [(), (1.0, 1.0, 2.0), (3.0, 2.0, 1.0)], "must be ascending"
    )
    yield from fields(devices.rram_wan, "times", [(0.0, 1.0, 2.0)], "positive and ascending")
    yield from fields(devices.rram_wan, "times", [None, 3.0, "1 s"], "must be a tuple")
    yield from fields(
        devices.rram_wan, "times", [(-1.0, 1.0, 2.0), (1.0, "2", 3.0)], "must be a number >= 0"
    )
    yield from fields(devices.rram_wan, "stds", [(FLAT,), ()], "one curve per time")
    yield from fields(devices.rram_wan, "stds", [(FLAT, 0.1, FLAT)], "must be a curve", TypeError)
    yield from fields(devices.rram_cmo, "shifts relaxations", [(FLAT,), (FLAT,) * 3], "one curve")
    yield from fields(devices.rram_cmo, "shifts relaxations", [FLAT, 1.0], "must be a tuple")
    yield from fields(devices.rram_cmo, "between", ["cubic", None, 1], "must be one of")
    yield from fields(devices.rram_cmo, "extrapolates", [1, "yes", None], "must be True or False")
    yield from fields(
        devices.rram_cmo,
        "t_read",
        [*(v for v in NO_NUMBER if v is not None), 0],
        "must be a positive number",
    )
    yield from fields(devices.ecram, "g_max pulse", [*NO_NUMBER, 0], "must be a positive number")
    yield from fields(devices.ecram, "g_min read_std", [*NO_NUMBER, -1], "must be a number >= 0")
    yield from fields(
        devices.rram_binary, "high_std low_std read_std", [*NO_NUMBER, -1], "must be a number >= 0"
    )
    yield from fields(devices.rram_binary, "g_min", [200.0], "must be below g_max")
    line = devices.Interpolated(points=(0.0, 1.0), values=(1.0, 2.0))
    for points in ((1.0,), (1.0, 0.0), (0.0, 0.0)):
        yield from fields(lambda: line, "points", [points], "must be at least two, ascending")
    yield from fields(lambda: line, "values", [(1.0,)], "one value per point")
    yield from fields(lambda: line, "points values", [None, 1.0, "0"], "must be a tuple of numbers")
    curve = devices.Saturating(scale=1.0, rate=0.1)
    yield from fields(lambda: curve, "rate", [*NO_NUMBER, 0], "must be a positive number")
    yield from fields(
        lambda: devices.Composed(outer=FLAT, inner=LOG), "outer inner", NO_CURVE, "curve", TypeError
    )


def _chips() -> Iterator[Bad]:
    def chip() -> at.Chip:
        return CHIP

    yield from fields(
        chip, "array dac adc periphery", [None, "8 bits", 3], "must be an? .* such as", TypeError
    )
    yield from fields(chip, "cell", [None, "pcm", 3], "must be a unit cell", TypeError)
    yield Bad(
        "Chip.cell(a device)",
        lambda: replace(CHIP, cell=devices.pcm_like()),
        TypeError,
        "Chip.cell: PCM lacks targets, .*, which every unit cell has",
    )
    yield from fields(chip, "training", [None, "gaussian", 0.1], "must be a Training", TypeError)
    yield from fields(chip, "cost", ["cheap", 5.0], "must be a Cost", TypeError)
    yield from fields(chip, "name", NO_TEXT, "must be a text")
    yield from _parts()
    yield from _changes()
    yield from fields(at.TrainingNoise, "weight", NO_CHOICE, "must be one of")
    yield from fields(
        at.TrainingNoise,
        "scale",
        [v for v in NO_NUMBER if v is not None] + [-1],
        "must be a number >= 0",
    )
    yield from fields(
        at.TrainingNoise, "drop_connect", [*NO_NUMBER, 1, -0.1], "must be a probability in"
    )
    yield from fields(at.TrainingNoise, "output per_sample", NO_FLAG, "must be True or False")
    yield from every(
        "TrainingNoise.time",
        lambda v: at.TrainingNoise(weight="device", time=v),
        ["1 eon", -1, True],
        "TrainingNoise.time",
    )
    yield Bad("gaussian", lambda: at.TrainingNoise(weight="gaussian"), ValueError, "needs scale")
    yield Bad("time", lambda: at.TrainingNoise(time="1 h"), ValueError, "needs weight='device'")
    yield from every(
        "chips.get", chips.get, ["hermes", None, 3, ""], "unknown chip .*known: hermes64"
    )
    yield Bad(
        "chips.get option",
        lambda: chips.get("ideal", phases=1),
        ValueError,
        "chip 'ideal' has no option 'phases'; it has none",
    )
    yield from every(
        "hermes64.device",
        lambda v: chips.hermes64(device=v),
        [None, "two", 3, []],
        "device must be one of",
    )
    yield from every(
        "hermes64.phases",
        lambda v: chips.hermes64(phases=v),
        [None, 2, "4", True, []],
        "phases must be",
    )
    yield from every(
        "hermes64.training",
        lambda v: chips.hermes64(training=v),
        ["none", 0.1],
        "training must be",
        TypeError,
    )
    yield from every(
        "ibm.pcm_per_weight",
        lambda v: chips.ibm_speech34(pcm_per_weight=v),
        [None, 3, "4", True],
        "pcm_per_weight",
    )
    yield from every(
        "ibm.asymmetry_balance",
        lambda v: chips.ibm_speech34(asymmetry_balance=v),
        NO_FLAG,
        "must be True or False",
    )
    yield from every(
        "neurram.bits", lambda v: chips.neurram48(output_bits=v), [0, 40, "6", 5.5], "bits"
    )
    yield from every(
        "reram_4mb.precision",
        lambda v: chips.reram_4mb(precision=v),
        [None, 0, 3, 16, "8", True, 1.5],
        "precision",
    )
    yield from every(
        "memcapacitor.bits", lambda v: chips.memcapacitor(bits=v), [None, 5, 9, "6", 6.5], "bits"
    )
    yield from every(
        "photodiode_sensor.spread",
        lambda v: chips.photodiode_sensor(spread=v),
        [None, -0.1, "1", float("nan")],
        "spread",
    )
    yield from every(
        "from_dict", chips.from_dict, [None, [], "chip", 3], "chip description must be a mapping"
    )
    yield Bad("from_dict {}", lambda: chips.from_dict({}), ValueError, "version None")
    yield Bad(
        "from_dict type", lambda: chips.from_dict({"version": 2}), ValueError, "unknown type None"
    )
    yield Bad(
        "from_dict list type",
        lambda: chips.from_dict({"version": 2, "type": ["Chip"]}),
        ValueError,
        "unknown type",
    )
    yield Bad(
        "from_dict other",
        lambda: chips.from_dict({"version": 2, "type": "Polynomial", "coefficients": [0]}),
        ValueError,
        "expected 'Chip'",
    )
    yield from every(
        "to_dict",
        chips.to_dict,
        [None, {}, "hermes64", chips.hermes64],
        "must be a Chip such as",
        TypeError,
    )


def _parts() -> Iterator[Bad]:
    array, dac, adc, periphery = CHIP.array, CHIP.dac, CHIP.adc, CHIP.periphery
    yield from fields(
        lambda: array,
        "tiles rows columns planes",
        [*NO_INTEGER, 0, -1],
        "must be an integer >= 1",
    )
    yield from fields(lambda: array, "planes", [3], "a divisor of the 64 tiles")
    yield from fields(lambda: array, "grouped", NO_CHOICE, "must be one of")
    bits = [1, 17, 8.5, True, "8"]
    yield from fields(lambda: dac, "bits", bits, "must be an integer in")
    yield from fields(lambda: dac, "gain_std jitter", [*NO_NUMBER, -1], "must be a number >= 0")
    yield from fields(lambda: dac, "encoding", NO_CHOICE[1:], "must be one of")
    yield from fields(lambda: adc, "bits", bits, "must be an integer in")
    yield Bad("ADC bits", lambda: replace(adc, bits=8), ValueError, "bits or steps, never both")
    yield from fields(lambda: adc, "steps", [0, 422.5, True, "8"], "must be an integer >= 1")
    yield from fields(lambda: adc, "range", [*NO_NUMBER, 0, -1], "must be a positive number")
    spreads = "noise gain_std slope_std dnl_std capacitor_std"
    yield from fields(lambda: adc, spreads, [*NO_NUMBER, -1], "must be a number >= 0")
    yield from fields(lambda: adc, "rounding", NO_CHOICE, "must be one of")
    factors = [*(v for v in NO_NUMBER if v is not None), 0.5, -2, 65]
    yield from fields(lambda: CHIP.expansion, "factor", factors, "must be a number in")
    yield from fields(
        lambda: CHIP.expansion, "seed", [*NO_INTEGER, -1, 2**63], "must be an integer"
    )
    flags = "separate_phases asymmetry_balance"
    yield from fields(lambda: adc, flags, NO_FLAG, "must be True or False")
    yield from fields(lambda: periphery, "output_bits", bits, "must be an integer in")
    yield from fields(lambda: periphery, "column_calibration", NO_FLAG, "must be True or False")
    yield from fields(lambda: periphery, "weight_scale", NO_CHOICE, "must be one of")
    for part in (CHIP, array, dac, adc, periphery, CHIP.cell):
        no_sources = ["a paper", None, ("rows",), 3]
        yield from fields(lambda part=part: part, "sources", no_sources, "must be Sources")
        for sources in ({"rowz": "a paper"}, {3: "a paper"}):
            yield from fields(lambda part=part: part, "sources", [sources], "has no field")
    yield from every(
        "Sources", lambda v: chips.Sources(rows=v), NO_TEXT, "Sources: rows must be a text"
    )


def _changes() -> Iterator[Bad]:
    for name, changes, error, message in (
        ("part", {"adcs": {"bits": 8}}, ValueError, "chip: Chip has no field 'adcs', did you mean"),
        (
            "field",
            {"adc": {"bit": 8}},
            ValueError,
            "chip.adc: ADC has no field 'bit', did you mean",
        ),
        ("flat", {"rows": 8}, ValueError, "chip: Chip has no field 'rows'"),
        ("name", {"name": {"text": "mine"}}, ValueError, "chip.name is .*, which has no fields"),
        ("whole", {"adc": 8}, TypeError, "Chip.adc must be an ADC such as"),
        ("value", {"dac": {"bits": 1}}, ValueError, r"DAC.bits must be an integer in \[2, 16\]"),
        ("sources", {"dac": {"sources": 3}}, ValueError, "chip.dac.sources must be Sources"),
        ("source", {"dac": {"sources": {"bit": "a"}}}, ValueError, "DAC has no field 'bit', did"),
        (
            "ADC before the digital unit",
            {"adc": {"steps": None}},
            ValueError,
            "Periphery.output_bits=8 needs an ADC before it",
        ),
    ):
        yield Bad(f"Chip.replace {name}", lambda v=changes: CHIP.replace(**v), error, message)


def _costs() -> Iterator[Bad]:
    cost = CHIP.cost
    assert cost is not None
    yield from fields(lambda: FIGURE, "value", [*NO_NUMBER, -1], "must be a finite number >= 0")
    yield from fields(lambda: FIGURE, "kind", NO_CHOICE, "must be one of")
    yield from fields(lambda: FIGURE, "source", NO_TEXT, "must say where the number comes from")
    yield from fields(
        lambda: cost.network, "grid_columns", [*NO_INTEGER, 0], "must be an integer >= 1"
    )
    yield from fields(
        lambda: cost.network, "hop_energy chip_energy chip_rate", BAD_COST, r"must be a Figure\("
    )
    yield from fields(
        lambda: cost.on_chip, "kinds", [None, "norm", ["norm"], (1,)], "must be a tuple of strings"
    )
    yield from fields(lambda: cost.on_chip, "rate", [replace(FIGURE, value=0.0)], "must be above 0")
    yield from fields(lambda: cost, "phases", [*NO_INTEGER, 0], "must be an integer >= 1")
    yield from fields(
        lambda: cost, "signed_passes", [*NO_INTEGER, 0, 3], r"must be an integer in \[1, 2\]"
    )
    yield from fields(lambda: cost, "precision excluded", NO_TEXT, "must be a text")
    yield from fields(lambda: cost, "shares network on_chip host", BAD_COST, "must be a")
    yield from fields(lambda: cost, "published", [None, [], (1,)], "must be a tuple of Published")
    yield from fields(lambda: cost.published[0], "scope", NO_CHOICE, "must be one of")
    yield from fields(
        lambda: cost.published[0], "excluded", NO_TEXT, "must say what the figure leaves out"
    )
    yield from every(
        "Cost.mvm rows",
        lambda v: cost.mvm(rows=v, cols=1, cells=1),
        [*NO_NUMBER, 1.5, -1],
        "rows must be a fra",
    )
    yield Bad(
        "Cost.mvm charge",
        lambda: cost.mvm(rows=1, cols=1, cells=1, charge="all"),
        ValueError,
        "charge must be one",
    )
    rung = at.cost_model.published(CHIP)[0]
    yield from fields(
        lambda: rung, "low high tops_per_watt", [*NO_NUMBER, 0], "must be a positive number"
    )
    yield from fields(lambda: rung, "phases", [*NO_INTEGER, 0], "must be an integer >= 1")
    yield from fields(
        lambda: rung, "utilisation", [0, 1.5, True, "1"], r"must be a share in \(0, 1\]"
    )
    yield from fields(lambda: rung, "scope origin kind", NO_CHOICE, "must be one of")
    yield Bad("float(Efficiency)", lambda: float(rung), TypeError, "a bare TOPS/W means nothing")


def _rest() -> Iterator[Bad]:
    shares = (
        "cells worst_tile columns tiles stuck_off stuck_on open_devices short_devices "
        "open_rows short_rows open_columns short_columns"
    )
    yield from fields(at.Defects, shares, [*NO_NUMBER, -0.1, 1.1], r"must be a share in \[0, 1\]")
    yield from fields(at.Defects, "tile_gain", [*NO_NUMBER, -1], "must be a number >= 0")
    yield from fields(at.Defects, "on_level", [*NO_NUMBER, -1, 2], r"must be a number in \[0, 1\]")
    yield from fields(at.Defects, "short_level", [*NO_NUMBER, 0.5], "must be a number >= 1")
    yield from fields(at.Defects, "on_drifts", [0, None, "no"], "must be True or False")
    for kind in (at.ProgramAndVerify, at.GradientDescent):
        yield from fields(kind, "rounds", [*NO_INTEGER, 0], "must be an integer >= 1")
        yield from fields(kind, "step", [*NO_NUMBER, 0, 1.5], r"must be a number in \(0, 1\]")
        yield from fields(kind, "noise", [*NO_NUMBER, -1], "must be a number >= 0")
    yield from fields(at.GradientDescent, "full_steps", [*NO_INTEGER, 0], "must be an integer >= 1")
    yield from fields(at.ProgramAndVerify, "margin", [*NO_NUMBER, -1], "must be a number >= 0")
