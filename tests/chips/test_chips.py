import copy
import dataclasses
import json
import pickle

import pytest

import analogtorch as at


@pytest.mark.parametrize(
    "device", ["two_device", "one_device", "two_equal", "two_sequential", "pcm_like"]
)
def test_every_option_survives_json(device: str) -> None:
    chip = at.chips.hermes64(device=device)
    assert at.chips.from_dict(json.loads(json.dumps(at.chips.to_dict(chip)))) == chip


def test_hermes64_is_the_published_chip() -> None:
    chip = at.chips.hermes64()
    assert (chip.array.tiles, chip.array.rows, chip.array.columns) == (64, 256, 256)
    assert (chip.dac.bits, chip.adc.levels, chip.periphery.output_bits) == (8, 422, 8)
    assert chip.array.cells == 4_194_304
    assert chip.adc.sources["steps"].startswith("DERIVED")
    assert "0.4005 V" in chip.adc.sources["range"]
    assert "Khaddam-Aljameh" in chip.adc.sources["gain_std"]


def test_unknown_names_are_refused_with_what_is_known() -> None:
    with pytest.raises(
        ValueError, match=r"unknown chip 'hermes', did you mean 'hermes64'\?; known: hermes64"
    ):
        at.chips.get("hermes")
    with pytest.raises(ValueError, match="device must be one of"):
        at.chips.hermes64(device="three_device")
    with pytest.raises(ValueError, match="has no option 'divice'.*device.*; it has device, "):
        at.chips.get("hermes64", divice="one_device")


@pytest.mark.parametrize(
    ("bits", "steps", "levels"), [(8, None, 127), (4, None, 7), (None, None, 0), (None, 422, 422)]
)
def test_an_adc_has_bits_or_steps(bits: int | None, steps: int | None, levels: int) -> None:
    assert at.chips.ADC(bits=bits, steps=steps).levels == levels


def test_an_adc_has_never_both() -> None:
    with pytest.raises(
        ValueError, match=r"ADC takes bits or steps, never both, got bits=8 and steps=422.*None"
    ):
        at.chips.hermes64().replace(adc={"bits": 8})


def test_a_digital_unit_may_stand_behind_any_adc_and_behind_no_other() -> None:
    chip = at.chips.hermes64().replace(adc={"steps": None, "bits": 10})
    assert (chip.adc.levels, chip.periphery.output_bits) == (511, 8)
    with pytest.raises(ValueError, match="Periphery.output_bits=8 needs an ADC before it"):
        chip.replace(adc={"bits": None})


def test_a_chip_is_changed_part_by_part() -> None:
    chip = at.chips.hermes64()
    mine = chip.replace(adc={"steps": None, "bits": 8}, dac={"bits": 6}, name="mine")
    assert (mine.name, mine.dac.bits, mine.adc.bits, mine.adc.steps) == ("mine", 6, 8, None)
    assert (mine.array, mine.cell, mine.periphery) == (chip.array, chip.cell, chip.periphery)
    assert (mine.adc.range, mine.adc.gain_std) == (chip.adc.range, chip.adc.gain_std)
    six = dataclasses.replace(chip.dac, bits=6)
    whole = dataclasses.replace(chip, dac=six)
    assert whole == chip.replace(dac=six) == chip.replace(dac={"bits": 6})
    assert chip.replace() == chip
    assert chip.replace(cell={"devices_per_polarity": 2}).cell.devices == 4
    assert chip.replace(training={"scale": 3.0}).training.strength == 3.0
    assert chip.replace(cost={"shares": {}}) == chip


def test_sources_follow_what_they_tell_of() -> None:
    chip = at.chips.hermes64()
    mine = chip.replace(
        adc={"steps": 300, "range": chip.adc.range, "sources": {"noise": "measured here"}}
    )
    assert "steps" not in mine.adc.sources  # another number, of which it says nothing
    assert mine.adc.sources["range"] == chip.adc.sources["range"]
    assert mine.adc.sources["noise"] == "measured here"
    assert chip.replace(training=at.TrainingNoise(scale=1.0)).sources == at.chips.Sources()
    assert "bits" not in chip.without("dac").dac.sources
    sourced = chip.replace(adc={"sources": at.chips.Sources(range="measured here")})
    assert sourced == chip, "sources decide about no number"
    assert hash(sourced) == hash(chip)


def test_sources_are_a_frozen_mapping() -> None:
    sources = at.chips.Sources(rows="a paper", columns="another")
    assert dict(sources) == {"columns": "another", "rows": "a paper"}
    assert sources == at.chips.Sources(columns="another", rows="a paper")
    assert hash(sources) == hash(at.chips.Sources(columns="another", rows="a paper"))
    assert repr(sources) == "Sources(columns='another', rows='a paper')"
    assert (sources.get("tiles"), len(sources)) == (None, 2)
    assert pickle.loads(pickle.dumps(sources)) == copy.deepcopy(sources) == sources
    with pytest.raises(KeyError):
        sources["tiles"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        sources.texts = ()
    with pytest.raises(
        ValueError, match="DAC.sources: DAC has no field 'bit', did you mean 'bits'.; fields:"
    ):
        at.chips.DAC(bits=8, sources=at.chips.Sources(bit="a paper"))


@pytest.mark.parametrize("name", at.chips.names())
def test_presets_name_the_source_of_every_number_they_set(name: str) -> None:
    chip = at.chips.get(name)
    for part in (chip.array, chip.dac, chip.cell, chip.adc, chip.periphery):
        for field in dataclasses.fields(part):
            if field.name != "sources" and getattr(part, field.name) != field.default:
                assert field.name in part.sources, f"{type(part).__name__}.{field.name}"
    assert "training" in chip.sources


def test_a_chip_prints_values_and_sources() -> None:
    lines = str(at.chips.hermes64()).splitlines()
    assert lines[0].split() == ["field", "value", "source"]
    found = {line.split()[0]: line for line in lines}
    assert found["adc.gain_std"].split()[1] == "0.0709"
    assert found["adc.gain_std"].endswith(at.chips.hermes64().adc.sources["gain_std"])
    assert "(derived)" in found["cost.mvm_energy"]
    assert "Le Gallo" in found["cost.mvm_energy"]
    assert found["training"].endswith("benchmarks.hwa")
    for name in at.chips.names():
        assert name in str(at.chips.get(name))


def test_hermes64_names_the_noise_it_is_given() -> None:
    noisy = at.chips.hermes64(output_noise=0.04)
    assert noisy.name == "hermes64[output noise 0.04]"
    assert noisy.replace(adc={"noise": 0.0}, name="hermes64") == at.chips.hermes64()
    with pytest.raises(ValueError, match="ADC.noise must be a number >= 0, got -1"):
        at.chips.hermes64(output_noise=-1)


@pytest.mark.parametrize(
    "kwargs",
    [{"weight": "uniform"}, {"scale": -1.0}, {"scale": float("nan")}, {"weight": "gaussian"}],
)
def test_bad_training_noise_is_refused(kwargs: dict) -> None:
    with pytest.raises(ValueError, match="TrainingNoise"):
        at.TrainingNoise(**kwargs)


def test_bad_descriptions_are_refused() -> None:
    good = at.chips.to_dict(at.chips.hermes64())
    with pytest.raises(ValueError, match="version 99"):
        at.chips.from_dict({**good, "version": 99})
    with pytest.raises(ValueError, match=r"no field \['colour'\]"):
        at.chips.from_dict({**good, "colour": 1})
    with pytest.raises(ValueError, match="unknown type 'FeFET'"):
        at.chips.from_dict({**good, "cell": {"type": "FeFET"}})
    with pytest.raises(ValueError, match=r"lacks the field \['array'\]"):
        at.chips.from_dict({k: v for k, v in good.items() if k != "array"})
    with pytest.raises(ValueError, match="expected 'Chip'"):
        at.chips.from_dict({"version": 2, "type": "TrainingNoise"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weight": "devices"},
            r"one of \('none', 'gaussian', 'programming', 'device'\), got 'devices'",
        ),
        (
            {"weight": "device", "time": "soon"},
            "TrainingNoise.time: time 'soon' is not understood; give seconds",
        ),
        ({"weight": "device", "time": -1.0}, "TrainingNoise.time: .* >= 0, got -1.0"),
        ({"time": "1 year"}, "time='1 year' needs weight='device', got weight='programming'"),
        ({"time": ("1 day", "1 h")}, r"time=\('1 day', '1 h'\) needs weight='device'"),
        ({"weight": "device", "time": ()}, r"time=\(\) has no time; give one"),
        ({"weight": "device", "time": ("1 day", "soon")}, "TrainingNoise.time: time 'soon' is not"),
        (
            {"drop_connect": 1.0},
            r"drop_connect must be a probability in \[0, 1\), got 1.0; write one such as 0.01",
        ),
        ({"drop_connect": "0.1"}, "drop_connect must be a probability"),
        ({"per_sample": 1}, "per_sample must be True or False, got 1"),
    ],
)
def test_training_noise_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        at.TrainingNoise(**options)


def test_without_weight_noise_its_scale_is_forgotten() -> None:
    none = at.TrainingNoise(weight="none")
    assert at.TrainingNoise(weight="none", scale=0.5) == none
    assert at.chips.neurram48().replace(training={"weight": "none"}).training == none


def test_devices_are_taken_at_the_end_of_their_data() -> None:
    device = at.devices.rram_wan()
    late = at.TrainingNoise(weight="device", time="1 year")
    assert late.within(device).time == device.valid_until
    assert late.within(at.devices.pcm_like()) is late
    assert at.TrainingNoise().within(device) == at.TrainingNoise()
    several = at.TrainingNoise(weight="device", time=("0 s", "1 year", "10 years"))
    assert several.within(device).time == ("0 s", device.valid_until)
    assert several.within(at.devices.pcm_like()).time == ("0 s", "1 year", "10 years")


def test_each_time_beyond_the_data_is_noted() -> None:
    noise = at.TrainingNoise(weight="device", time=("1 day", "1 year"))
    with pytest.warns(UserWarning, match="TrainingNoise.time='1 year' is beyond") as noted:
        at.chips.neurram48(training=noise)
    assert len(noted) == 1


def test_training_noise_reads_its_times() -> None:
    pcm, rram = at.devices.pcm_like(), at.devices.rram_wan()  # whose data end after two days
    assert at.TrainingNoise(weight="device").moments(pcm) == (2592000.0,)
    assert at.TrainingNoise(weight="device").moments(rram) == (rram.valid_until,)
    assert at.TrainingNoise(weight="device", time="1 month").moments(rram) == (2592000.0,)
    assert at.TrainingNoise(weight="device", time="programmed").moments(pcm) == (None,)
    assert dataclasses.replace(at.TrainingNoise(weight="device"), time=60).moments(pcm) == (60.0,)
    several = at.TrainingNoise(weight="device", time=["programmed", "1 h"])  # type: ignore[arg-type]
    assert several.times == ("programmed", "1 h")
    assert several.moments(pcm) == (None, 3600.0)
    assert at.TrainingNoise(weight="device").strength == 1.0
