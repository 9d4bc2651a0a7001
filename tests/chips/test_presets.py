"""The presets against the papers: sizes, capacities, peaks and published efficiencies."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.chips.cost import Figure, Kind
from analogtorch.speech.config import ChipConfig
from analogtorch.speech.models import ConvNet
from benchmarks.validation import costs, published

MODELLED = {
    "sonos40": published.SONOS_EFFICIENCY,
    "memcapacitor": published.MEMCAPACITOR_EFFICIENCY,
}
REAL = [name for name in at.chips.names() if name != "ideal"]
PUBLISHED = [name for name in REAL if at.chips.get(name).cost is not None]


# Le Gallo 2023: 63.1 TOPS at 9.76 TOPS/W (1-phase), 16.1 at 2.48 (4-phase, the default); the rest
# is their arithmetic
@pytest.mark.parametrize("phases", [1, 4])
def test_hermes64_peak(phases: int) -> None:
    chip = at.chips.hermes64(phases=phases)
    assert at.cost_model.peak(chip).operations == published.HERMES_OPERATIONS
    assert costs.hermes_peak(phases) == pytest.approx(
        published.HERMES_PEAK[phases].numbers, rel=0.01
    )
    assert chip.cost.phases == phases
    assert at.chips.hermes64().cost.phases == 4


# Khaddam-Aljameh 2022: 1.008 TOPS at 10.5 TOPS/W, which make 130 ns and 12.5 nJ per MVM
def test_hermes_core_is_one_core_of_hermes64_with_figures_of_its_own() -> None:
    core, chip = at.chips.hermes_core(), at.chips.hermes64()
    assert costs.efficiency(core) == pytest.approx(published.HERMES_CORE["peak"].numbers, rel=1e-9)
    assert costs.mvm(core) == pytest.approx(published.HERMES_CORE["MVM"].numbers, rel=1e-3)
    assert core.replace(name="hermes64", array={"tiles": 64}, cost=chip.cost) == chip
    assert "Khaddam-Aljameh" in core.adc.sources["gain_std"]
    assert core.cell.sources["device"].startswith("ASSUMED: as in hermes64")
    other = at.chips.hermes_core(device="one_device", weight_scale="column")
    assert other.name == "hermes_core[one_device, column scales]"
    assert other.cell == at.chips.hermes64(device="one_device").cell


# Xiao 2022: 20 TOPS/W; Demasius 2021: 29,600 TOPS/W; both are results of models
@pytest.mark.parametrize("name", MODELLED)
def test_modelled_efficiencies_are_exact_and_say_that_they_are_modelled(name: str) -> None:
    chip = at.chips.get(name)
    (expected,) = MODELLED[name].numbers
    (stated,) = at.cost_model.published(chip)
    predicted = at.cost_model.peak(chip).efficiency
    assert (stated.tops_per_watt, stated.kind, predicted.kind) == (expected,) + ("modelled",) * 2
    assert predicted.tops_per_watt == pytest.approx(expected, rel=1e-12)
    assert "modelled" in str(stated)
    assert "ASSUMED" in chip.cost.mvm_time.source
    assert chip.array.sources["tiles"].startswith("ASSUMED")


def test_a_cost_is_no_better_than_its_weakest_figure() -> None:
    chip = at.chips.memcapacitor(bits=8)
    assert (chip.name, chip.dac.bits, chip.adc.bits) == ("memcapacitor[8 bits]", 8, 8)
    for outputs, kind in ((256, "modelled"), (200, "assumed")):  # a partly used tile needs shares
        mapping = at.map_to_chip(nn.Linear(256, outputs), torch.zeros(256), chip=chip)
        tile = at.cost_model.cost(mapping).efficiency("tile")
        assert tile.tops_per_watt == pytest.approx(29_600)
        assert tile.kind == kind


def test_operations_per_second_are_no_better_known_than_the_time_of_an_mvm() -> None:
    chip = at.chips.memcapacitor(bits=8)
    mapping = at.map_to_chip(nn.Linear(256, 256), torch.zeros(256), chip=chip)
    report = at.cost_model.cost(mapping)
    for tile in (report.efficiency("tile"), at.cost_model.peak(chip).efficiency):
        assert (tile.kind, tile.tops_kind) == ("modelled", "assumed")
        assert "modelled; TOPS assumed" in str(tile)
    assert "modelled; TOPS assumed" in str(report)
    assert report.efficiency("system").tops_kind == report.time_kind
    mvm = dataclasses.replace(chip.cost.mvm_time, kind="measured")
    known = chip.replace(cost=dataclasses.replace(chip.cost, mvm_time=mvm))
    assert at.cost_model.peak(known).efficiency.tops_kind == "measured"
    with pytest.raises(ValueError, match="tops and tops_kind, or neither"):
        dataclasses.replace(report.efficiency("tile"), tops_kind=None)


# the figure of a preset holds for an MVM that uses the whole tile, whatever the split of its energy
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_maps_programs_costs_and_evaluates_a_net(name: str) -> None:
    torch.manual_seed(0)
    chip = at.chips.get(name)
    net = nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 10))
    x = torch.randn(64, 40)
    x = x.abs() / x.abs().max() if chip.light.on else x  # light from 0 to 1
    with torch.no_grad():
        y = net(x).argmax(-1)
    sensed = chip.light.on  # a sensor computes the first layer
    mapping = at.map_to_chip(net[:1] if sensed else net, x[:1], chip=chip)
    assert mapping.num_chips == 1
    report = at.cost_model.cost(mapping)
    per_watt = at.cost_model.peak(chip).efficiency.tops_per_watt
    tile = report.efficiency("tile")
    assert tile.low <= tile.tops_per_watt <= tile.high
    assert tile.low < tile.high or chip.array.columns == 1 <= per_watt * (1 + 1e-9)
    assert report.latency >= len(mapping.matrices) * chip.cost.mvm_time.value
    whole = chip.cost.mvm(rows=1, cols=1, cells=1).total
    assert whole == pytest.approx(chip.cost.mvm_energy.value, rel=1e-12)
    if sensed:
        at.convert(net, at.chips.hermes64(), per_layer={"0": chip})
    else:
        at.convert(net, chip)
    at.calibrate(net, [x])
    with torch.no_grad():
        assert (net(x).argmax(-1) == y).float().mean() > 0.5  # chance: 0.1
        programmed = at.program(net, seed=1).at(0.0)
        assert (programmed(x).argmax(-1) == y).float().mean() > 0.4


@pytest.mark.parametrize("name", REAL)
def test_a_preset_is_a_chip_of_the_kws_config(name: str) -> None:
    if at.chips.get(name).light.on:
        with pytest.raises(ValueError, match=f"chip.name: {name} senses light, and speech is none"):
            ChipConfig(name=name)
        return
    chip = ChipConfig(name=name).build()
    assert chip.replace(training=at.chips.get(name).training) == at.chips.get(name)
    if "drift" not in chip.non_idealities():
        with pytest.raises(ValueError, match=f"devices of chip {name!r} do not drift"):
            ChipConfig(name=name, drift_aware="1 day")
        return
    aware = ChipConfig(name=name, drift_aware="1 day").build()
    assert aware == chip.drift_aware("1 day") != chip


# Ambrogio 2023: 20.0 -> 12.4 -> 6.94 TOPS/W; 26.2, 42.3, 75.5 nJ and 100, 161, 288 fJ are their
# arithmetic
def test_ibm_speech34_ladder() -> None:
    chip = at.chips.ibm_speech34()
    ladder = at.cost_model.published(chip)
    assert [e.scope for e in ladder] == ["tile", "chip", "system"]
    for unit, reference in published.LADDER.items():
        assert costs.ladder(unit) == pytest.approx(reference.numbers, rel=0.01)
    factors = [b.tops_per_watt / a.tops_per_watt for a, b in zip(ladder, ladder[1:], strict=False)]
    assert factors == pytest.approx([0.62, 0.56], rel=0.02)
    assert all(e.origin == "published" and "Ambrogio" in e.source and e.excluded for e in ladder)
    # the model charges partly used tiles, which the published figure of a tile has not
    assert "partly used tiles" in ladder[0].excluded
    assert "partly used tiles" not in chip.cost.excluded
    assert chip.cost.mvm_energy.value == pytest.approx(26.2e-9, rel=0.02)
    peak_of_five = 5 * at.cost_model.peak(chip).efficiency.tops
    assert 23.94 / peak_of_five == pytest.approx(0.08, rel=0.02)


# Wan 2022: TOPS of 48 cores and TOPS/W by (output bits, input bits)
@pytest.mark.parametrize(("output_bits", "input_bits"), published.NEURRAM)
def test_neurram48_by_bits(output_bits: int, input_bits: int) -> None:
    chip = at.chips.neurram48(output_bits=output_bits, input_bits=input_bits)
    assert (chip.adc.bits, chip.dac.bits) == (output_bits, input_bits)
    expected = published.NEURRAM[output_bits, input_bits]
    assert costs.efficiency(chip) == pytest.approx(expected, rel=0.01)


# Hung 2021: 5.2 ns and 194.4 TOPS/W binary, 15.2 ns and 15.6 TOPS/W with 8 bits
def test_reram_4mb_has_the_published_ends_and_says_that_it_assumes_the_rest() -> None:
    chips = {p: at.chips.reram_4mb(precision=p) for p in (1, 2, 4, 8)}
    peaks = {p: at.cost_model.peak(chip) for p, chip in chips.items()}
    for precision, reference in published.RERAM_4MB.items():
        assert costs.reram_4mb(precision) == pytest.approx(reference.numbers, rel=1e-9)
        (stated,) = at.cost_model.published(chips[precision])
        assert (stated.tops_per_watt, stated.kind) == (reference.numbers[1], "measured")
    for precision in (2, 4):
        assert at.cost_model.published(chips[precision]) == ()
        assert chips[precision].cost.mvm_time.source.startswith("ASSUMED")
    for found in peaks.values():  # they rest on the assumed rows, columns and tiles
        assert (found.efficiency.kind, found.efficiency.tops_kind) == ("assumed", "assumed")
    for finer, coarser in ((8, 4), (4, 2), (2, 1)):
        assert peaks[finer].efficiency.tops_per_watt < peaks[coarser].efficiency.tops_per_watt
        assert peaks[finer].seconds > peaks[coarser].seconds
    whole = chips[8]
    assert whole.array.cells == 2**22  # 4 Mb
    assert (whole.capacity, whole.pulses, whole.slices.slicing.columns) == (2**19, 4, 8)
    assert whole.array.sources["rows"].startswith("ASSUMED")
    assert "NOT FITTED" in whole.cell.sources["device"]


# exact cells add up to the very integers, as an ADC step is one count
@pytest.mark.parametrize("precision", [1, 4, 8])
def test_reram_4mb_of_exact_cells_has_no_error_but_its_bits(precision: int) -> None:
    chip = at.chips.reram_4mb(precision=precision).without("programming_noise")
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Conv1d(40, 70, 5), nn.Flatten(), nn.Linear(280, 12)), chip)
    x = torch.randn(8, 40, 8)
    at.calibrate(model.eval(), [x], method="absmax")
    without_adc = at.convert(
        at.to_digital(copy.deepcopy(model)), chip.without("adc", "input_pulses")
    ).eval()
    for ours, theirs in zip(model, without_adc, strict=True):
        if hasattr(ours, "input_range"):
            theirs.set_input_range(ours.input_range.item())
    torch.testing.assert_close(model(x), without_adc(x), rtol=1e-4, atol=1e-4)
    # the compensation finds a factor of 1 to a few digits
    found = at.program(model, seed=1).at("0 s", compensation="none")(x)
    torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-4)


def test_reram_4mb_runs_the_keyword_spotter() -> None:
    chip = at.chips.reram_4mb()
    torch.manual_seed(0)
    net, x = ConvNet(widths=(16, 24)).eval(), torch.randn(4, 1, 49, 40)
    with torch.no_grad():
        exact = net(x)
    model = at.convert(net, chip)
    at.calibrate(model, [x])
    mapping = at.map_to_chip(model, x[:1])
    report = at.cost_model.cost(mapping)
    assert report.efficiency("tile").tops_per_watt < 15.6
    assert report.latency > 15.2e-9
    with torch.no_grad():
        found = at.program(model, seed=1, mapping=mapping).at("0 s")(x)
    assert (found - exact).norm() < 0.2 * exact.norm()


def test_neurram48_is_the_published_chip() -> None:
    chip = at.chips.neurram48()
    # two cells per signed weight
    assert chip.array.tiles * 256 * 256 == chip.array.cells * chip.cell.devices
    assert at.cost_model.peak(chip).joules / at.cost_model.peak(chip).operations == pytest.approx(
        62.4e-15, rel=0.02
    )
    assert at.cost_model.published(chip)[0].tops_per_watt == pytest.approx(16.0, rel=0.02)


# Ambrogio 2023: 34 tiles of 512x512, 35 M PCM; an RNN-T of 45 M weights on five chips with more
# than 140 M PCM
def test_ibm_speech34_capacity() -> None:
    four, two = at.chips.ibm_speech34(), at.chips.ibm_speech34(pcm_per_weight=2)
    assert (four.array.cells, two.array.cells) == pytest.approx((8.9e6, 17.8e6), rel=0.02)
    assert four.array.cells * four.cell.devices == two.array.cells * two.cell.devices == 35_651_584
    assert (two.array.tiles, two.array.planes, four.array.planes) == (68, 2, 1)
    weights = 45_000_000
    assert (at.mapping.chips_needed(four, weights), at.mapping.chips_needed(two, weights)) == (6, 3)
    chip = four.array.cells * four.cell.devices
    for devices in (140_000_000, 175_000_000):
        accurate, dense = at.mapping.device_mix(weights, devices)
        assert accurate + dense == weights
        assert devices - 2 < 4 * accurate + 2 * dense <= devices <= 5 * chip
    assert at.mapping.device_mix(weights, 4 * weights) == (weights, 0)


def test_a_plan_gives_the_accurate_cells_by_priority() -> None:
    four, two = at.chips.ibm_speech34(), at.chips.ibm_speech34(pcm_per_weight=2)
    sizes = {"large": 12_000_000, "middle": 6_000_000, "small": 2_000_000}
    assert at.mapping.plan_devices(sizes, four, two, 1 + 2) == {"large": 4, "middle": 4, "small": 4}
    assert at.mapping.plan_devices(sizes, four, two, 2) == {"large": 2, "middle": 4, "small": 4}
    assert at.mapping.plan_devices(sizes, four, two, 2, first=["small", "m*"]) == {
        "large": 2,
        "middle": 4,
        "small": 4,
    }
    two_middle = {"large": 9_000_000, "a": 5_000_000, "b": 5_000_000}
    assert at.mapping.plan_devices(two_middle, four, two, 2) == {"large": 2, "a": 4, "b": 2}
    assert at.mapping.plan_devices(two_middle, four, two, 2, first=["b"]) == {
        "large": 2,
        "a": 2,
        "b": 4,
    }
    assert list(at.mapping.plan_devices(sizes, four, two, 2)) == list(sizes)
    for arguments, message in (
        (
            (sizes, four, two, 1),
            "20,000,000 weights need 2 chips with 2 devices each, got 1; take more",
        ),
        ((sizes, two, four, 2), "accurate must have more devices per weight than dense, got 2"),
        (({}, four, two, 2), "weights is empty"),
        (({"a": 0}, four, two, 2), r"weights\['a'\] must be an integer >= 1, got 0"),
        ((sizes, four, two, 0), "chips must be an integer >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            at.mapping.plan_devices(*arguments)
    with pytest.raises(
        ValueError, match=r"first names 'x\*', which matches none of the 3 matrices: large"
    ):
        at.mapping.plan_devices(sizes, four, two, 2, first=["x*"])
    with pytest.raises(ValueError, match=r"such as \['small'\]"):
        at.mapping.plan_devices(sizes, four, two, 2, first="small")


def test_device_models_say_what_they_are() -> None:
    assert "not fitted to this chip" in at.chips.ibm_speech34().cell.device.name
    assert "NOT FITTED TO THIS CHIP" in at.chips.ibm_speech34().cell.sources["device"]
    assert at.chips.ibm_speech34().cost.signed_passes == 2


def test_conductance_left() -> None:
    cell = at.chips.hermes64().cell
    assert at.chips.mean_conductance(cell, 0.0) == pytest.approx(1.0)
    assert (
        0.4 < at.chips.mean_conductance(cell, 3e8) < at.chips.mean_conductance(cell, 86_400.0) < 0.8
    )
    assert at.chips.mean_conductance(at.chips.neurram48().cell, 3e8) == pytest.approx(1.0)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"phases must be one of \(4, 1\), got 2"):
        at.chips.hermes64(phases=2)
    with pytest.raises(ValueError, match="pcm_per_weight must be 4 or 2, got 3"):
        at.chips.ibm_speech34(pcm_per_weight=3)
    with pytest.raises(ValueError, match=r"must be one of \[\(4, 2\).*got \(8, 8\)"):
        at.chips.neurram48(output_bits=8, input_bits=8)
    with pytest.raises(ValueError, match="has no cost"):
        at.cost_model.peak(at.chips.ideal())
    with pytest.raises(
        ValueError, match=r"need 90,000,000 devices with 2 each, got 80,000,000; take more chips"
    ):
        at.mapping.device_mix(45_000_000, 80_000_000)
    with pytest.raises(ValueError, match="least must be below most"):
        at.mapping.device_mix(10, 40, most=2, least=2)
    with pytest.raises(ValueError, match="weights must be an integer >= 1, got 0"):
        at.mapping.chips_needed(at.chips.hermes64(), 0)
    with pytest.raises(ValueError, match="t must be a finite number"):
        at.chips.mean_conductance(at.chips.hermes64().cell, -1.0)


def test_the_adc_range_of_hermes64_is_a_current() -> None:
    chip = at.chips.hermes64()
    # 3.3 GHz by 35 MHz/uA are 94.3 uA; 20.7 uS at 0.4005 V are 8.29 uA
    assert chip.adc.range == pytest.approx(94.3 / 8.29, rel=1e-3)
    full = chip.adc.range * chip.cell.g_total
    for device in ("one_device", "two_equal", "two_sequential", "pcm_like"):
        other = at.chips.hermes64(device=device)
        assert other.adc.range * other.cell.g_total == pytest.approx(full)
    assert at.chips.hermes64(device="one_device").adc.range == pytest.approx(22.76, abs=0.01)
    notebook = at.chips.hermes64(device="one_device", adc_range="notebook")
    assert notebook.adc.range == 12
    assert notebook.name == "hermes64[one_device, notebook range]"
    assert at.chips.hermes_core(adc_range="notebook").adc.range == 12
    with pytest.raises(ValueError, match="hermes64: adc_range must be one of"):
        at.chips.hermes64(adc_range="noteboook")


LIGHT = ("shot_noise", "dark_current")


# Jang 2022: seven filters on a network of 3x3 photodiodes
def test_the_photodiode_sensor_convolves_an_image_with_seven_filters() -> None:
    chip = at.chips.photodiode_sensor(spread=0.0).without("adc", *LIGHT)
    assert (chip.array.rows, chip.array.columns, chip.array.tiles) == (9, 1, 1024)
    assert len(at.chips.FILTERS) == 7
    spread = at.chips.photodiode_sensor(spread=0.05).without("adc", *LIGHT)
    image = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    conv = nn.Conv2d(1, 7, 3, bias=False)
    conv.weight.data = torch.tensor([*at.chips.FILTERS.values()]).float().view(7, 1, 3, 3)
    with torch.no_grad():
        y = conv(image)
        conv = at.convert(conv, chip)
        sensor = at.program(conv, seed=1).at("0 s")
        assert torch.allclose(sensor(image), y, atol=1e-5)
        uneven = at.program(at.convert(conv.to_digital(), spread), seed=1).at("0 s")
        error = (uneven(image) - y).flatten(2).std()
    assert 0 < error < 0.2 * y.std()


def test_a_sensor_pays_for_its_outputs_alone() -> None:
    conv = nn.Sequential(nn.Conv2d(1, 7, 3, bias=False))
    chip = at.chips.photodiode_sensor()
    report = at.cost_model.cost(at.map_to_chip(conv, torch.zeros(1, 1, 12, 12), chip=chip))
    outputs = 7 * 10 * 10
    assert report.energy.system == pytest.approx(outputs * 1.667e-12)


@pytest.mark.parametrize("kind", ["measured", "derived", "fitted", "modelled", "assumed"])
def test_a_time_that_pulses_shorten_is_no_better_known_than_before(kind: Kind) -> None:
    time = Figure(value=1e-6, kind=kind, source="here")
    chip = at.chips.hermes64().replace(dac={"split": 3}, cost={"mvm_time": time})
    assert at.chips.mvm_time(chip).kind == ("derived" if kind == "measured" else kind)


def test_states_bring_no_other_scale_to_a_chip_that_has_one_per_column() -> None:
    chip = at.chips.standard_crossbar()
    per_block = chip.replace(periphery={"weight_scale": "block"})
    model, *others = (at.convert(nn.Linear(8, 4), c) for c in (chip, per_block, chip))
    for other in others:
        model.load_state_dict(other.state_dict())
        assert model.chip == chip
