"""Fitted devices against the known ones whose measurements they were fitted to."""

import re
import warnings

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch import devices
from analogtorch.devices.fitting.arrange import arrange
from analogtorch.devices.fitting.columns import column_units, columns
from analogtorch.devices.fitting.grid import Grid
from analogtorch.devices.fitting.units import Heading, Unit, heading
from tests.crossbar import crossbar
from tests.devices.fitting.campaign import measured

UNIT = Unit("uS", 1.0)
DAY, MONTH = 86_400.0, 2_592_000.0
R = torch.linspace(0.1, 1, 19, dtype=torch.float64)


def _errors(device: devices.Device, times: tuple[str, ...]) -> list[float]:
    """MVM error in percent, on two chips of 512x512 uniform weights with 30 % zeros."""
    total = torch.zeros(len(times))
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        w, x = torch.rand(640, 512, generator=generator).mul(2).sub(1).split((512, 128))
        w = torch.where(torch.rand(w.shape, generator=generator) < 0.3, 0.0, w)
        layer = nn.Linear(512, 512, bias=False)
        layer.weight.data = w
        cell = devices.DifferentialPair(device=device)
        chip = crossbar(
            cell=cell, array={"rows": 512, "columns": 512}, adc={"bits": None, "noise": 0.0}
        )
        physical = at.program(at.convert(layer, chip), seed=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*beyond the device's data")
            for i, time in enumerate(times):
                error = physical.at(time)(x) - x @ w.T
                total[i] += 100 * error.norm() / (x @ w.T).norm()
    return (total / 2).tolist()


# 5,000 measured devices; and 5,000 reads in all, of which about two draws of three lie within 0.3
# points at all times: their spread alone has a standard error of 0.2 to 0.3 points
@pytest.mark.parametrize(
    ("device", "campaign", "law"),
    [
        pytest.param(
            devices.pcm_like(),
            {"devices": 5000, "times": (0.0, DAY, MONTH), "cycles": 2, "offset": 20.0},
            "power",
            marks=pytest.mark.slow,
        ),
        (
            devices.pcm_like(),
            {"devices": 833, "times": (0.0, DAY, MONTH), "cycles": 2, "offset": 20.0, "seed": 2},
            "power",
        ),
        (devices.rram_wan(), {"devices": 5000, "times": (1.0, DAY)}, "times"),
        pytest.param(
            devices.rram_wan(),
            {"devices": 2500, "times": (1.0, DAY), "seed": 1},
            "times",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["pcm, 5000 devices", "pcm, 5000 reads", "rram, 5000 devices", "rram, 5000 reads"],
)
def test_a_fitted_device_errs_as_the_true_one(device, campaign: dict, law: str) -> None:
    found = devices.fit(measured(device, **campaign), bootstrap=20)
    assert found.law == law
    times = ("0 s", "1 day", "30 days")[: len(campaign["times"]) if law == "power" else 2]
    assert _errors(found.device, times) == pytest.approx(_errors(device, times), abs=0.3)


def _slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("device", "times", "offset", "law"),
    [
        (devices.pcm_like(), (0.0, 3600.0, DAY, MONTH), 20.0, "power"),
        _slow(devices.hermes_two_device(), (0.0, 3600.0, DAY, MONTH), 300.0, "power"),
        _slow(devices.pcm_projected(), (0.0, 3600.0, DAY, MONTH), 20.0, "power"),
        _slow(devices.rram_wan(), (1.0, 3600.0, DAY, 2 * DAY), 0.0, "times"),
        (devices.rram_cmo(), (1.0, 60.0, 600.0, 3600.0), 0.0, "times"),
        _slow(devices.sonos(), (1.0, DAY, 2 * DAY, 5 * DAY), 0.0, "times"),
        (devices.pcm_like(), (0.0, DAY), 20.0, "times"),  # two times fit any law
    ],
)
def test_drift_is_a_power_law_where_the_measurements_support_one(
    device, times, offset, law
) -> None:
    data = measured(device, devices=1250, times=times, offset=offset, cycles=2)
    found = devices.fit(data, bootstrap=20)
    assert found.law == law
    assert isinstance(found.device, devices.PCM if law == "power" else devices.TimedDevice)
    last = times[-1] - times[0] if law == "power" else times[-1] + offset
    assert found.device.valid_until == pytest.approx(last)
    for q in found.quality:
        assert q.spread[1] == pytest.approx(q.spread[0], rel=0.05)
        assert q.chance > 1e-4


@pytest.mark.slow
def test_the_numbers_of_a_power_law_are_found_again() -> None:
    true = devices.hermes_two_device()
    data = measured(true, devices=5000, times=(0.0, 3600.0, DAY, MONTH), cycles=3, offset=300.0)
    found = devices.fit(data, t_read=true.t_read, bootstrap=20).device
    assert found.t0 == pytest.approx(300.0)
    for curve, tolerance in (("programming_std", 0.1), ("drift_mean", 0.05), ("read_noise", 0.15)):
        a, b = getattr(found, curve)(R), getattr(true, curve)(R)
        assert ((a - b).abs() / b.mean()).max().item() < tolerance, curve


def test_times_may_count_from_any_moment_after_programming() -> None:
    true = devices.pcm_like()
    data = measured(true, devices=3000, times=(0.0, 60.0, 3600.0, DAY, MONTH), offset=1.0)
    found = devices.fit(data, bootstrap=20).device
    assert found.t0 == pytest.approx(true.t0, rel=0.3)


def test_few_devices_are_enough_for_the_read_noise_of_a_power_law() -> None:
    true, r = devices.pcm_like(), torch.tensor([0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
    data = measured(true, devices=200, times=(0.0, 3600.0, DAY), cycles=2, offset=20.0)
    found = devices.fit(data, law="power", bootstrap=20)
    torch.testing.assert_close(found.device.read_noise(r), true.read_noise(r), rtol=0.12, atol=0)
    band = found.read_noise
    g = torch.tensor(band.x, dtype=torch.float64)[4:]  # the fit is held below 5 % of g_max
    torch.testing.assert_close(
        torch.tensor(band.value[4:]).double(), found.device.read(g, g, 0.0, torch.ones_like(g)) - g
    )
    std = (true.read(g, g, 0.0, torch.ones_like(g)) - g).tolist()
    held = [low <= x <= high for low, x, high in zip(band.low[4:], std, band.high[4:], strict=True)]
    assert sum(held) > 0.7 * len(held)


@pytest.mark.parametrize("first_alone", [False, True])
def test_read_noise_without_repeated_reads_is_that_about_each_line(first_alone: bool) -> None:
    """Read noise of 0.3 uS and programming noise of 0.8 uS, whatever the conductance."""
    generator = torch.Generator().manual_seed(0)
    target = torch.linspace(2.5, 25, 10, dtype=torch.float64).repeat_interleave(40)
    made = target + 0.8 * torch.randn(400, generator=generator, dtype=torch.float64)
    cells = []  # (time, measured) of each read of all devices
    for t in (60.0, 3600.0, DAY, 10 * DAY):
        for _ in range(2 if first_alone and t > 60 else 1):
            noise = 0.3 * torch.randn(400, generator=generator, dtype=torch.float64)
            cells.append((t, made * (t / 60) ** -0.05 + noise))
    data = {
        "target": target.repeat(len(cells)),
        "measured": torch.cat([read for _, read in cells]),
        "time": torch.tensor([t for t, _ in cells]).repeat_interleave(400),
        "device": torch.arange(400.0).repeat(len(cells)),
    }
    found = devices.fit(data, law="power", bootstrap=20)
    near = min(range(len(found.read_noise.x)), key=lambda i: abs(found.read_noise.x[i] - 22))
    assert 0.2 < found.read_noise.value[near] < 0.5
    assert 0.7 < found.programming.value[near] < 1.0


def test_read_noise_that_follows_no_power_law_is_found_too() -> None:
    true, r = devices.hermes_one_device(), torch.tensor([0.15, 0.4, 0.7, 1.0], dtype=torch.float64)
    data = measured(true, devices=800, times=(0.0, 3600.0, DAY), cycles=2, offset=200.0)
    found = devices.fit(data, law="power", t_read=true.t_read, bootstrap=20).device
    torch.testing.assert_close(found.read_noise(r), true.read_noise(r), rtol=0.12, atol=0)


@pytest.mark.parametrize("t_read", [0.4, 0.9])
def test_read_noise_near_the_first_read_is_that_of_the_fitted_device(t_read: float) -> None:
    true = devices.TimedDevice(
        name="long reads",
        g_max=50.0,
        g_reference=50.0,
        times=(1.0, 3600.0),
        stds=(devices.Polynomial(coefficients=(0.5,)),) * 2,
        read_std=devices.Polynomial(coefficients=(2.0,)),
        t_read=t_read,
    )
    data = measured(true, devices=2000, times=(1.0, 60.0, 3600.0), cycles=3)
    found = devices.fit(data, law="times", t_read=t_read, bootstrap=20)
    g = torch.tensor([found.read_noise.x[20]], dtype=torch.float64)
    noise, expected = (
        [(device.read(g, g, t, torch.ones_like(g)) - g).item() for t in (1.0, 3600.0)]
        for device in (found.device, true)
    )
    assert found.device.t_read == t_read
    assert noise[0] == pytest.approx(found.read_noise.value[20], rel=1e-6)
    # 12,000 reads of 2,000 devices: a standard error of 0.8 %
    assert noise == pytest.approx(expected, rel=0.03)


@pytest.mark.slow
def test_read_noise_is_found_from_repeated_reads() -> None:
    true = devices.rram_cmo(acceptance=2)
    data = measured(true, devices=2000, times=(1.0, 60.0, 3600.0), cycles=4)
    found = devices.fit(data, t_read=1e-6, bootstrap=20)
    assert found.law == "times"
    assert found.device.t_read == 1e-6  # it grows as that of a 1/f spectrum does
    g, one = torch.tensor([20.0, 80.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for t in (1.0, 3600.0):
        noise = [device.read(g, g, t, one) - g for device in (found.device, true)]
        torch.testing.assert_close(*noise, rtol=0.05, atol=0)
    flat = devices.fit(
        measured(devices.rram_wan(), devices=2000, times=(1.0, DAY), cycles=3), bootstrap=20
    )
    assert flat.device.t_read is None
    noise = flat.device.read(g / 4, g / 4, 1.0, one) - g / 4
    assert noise.tolist() == pytest.approx([0.4 / 2**0.5] * 2, rel=0.05)


@pytest.mark.slow
def test_bands_hold_the_truth() -> None:
    true = devices.rram_wan()
    inside = total = 0
    for seed in range(4):
        data = measured(true, devices=1500, times=(1.0, DAY), cycles=1, seed=seed)
        band = devices.fit(data, bootstrap=100).programming
        g = torch.tensor(band.x, dtype=torch.float64)
        sigma = (true.sigma(g, 1.0).square() + (0.4**2 / 2)).sqrt().tolist()
        held = [low <= s <= high for low, s, high in zip(band.low, sigma, band.high, strict=True)]
        inside, total = inside + sum(held), total + len(held)
        assert all(a <= b for a, b in zip(band.low, band.high, strict=True))
    assert inside / total > 0.8


@pytest.mark.slow
def test_a_fit_repeats_and_does_not_depend_on_the_order_of_rows() -> None:
    data = measured(
        devices.pcm_like(), devices=400, times=(0.0, 3600.0, DAY), offset=20.0, cycles=2
    )
    first, again = (devices.fit(data, bootstrap=20) for _ in range(2))
    assert first.device == again.device
    assert first.programming == again.programming
    order = torch.randperm(len(data["target"]), generator=torch.Generator().manual_seed(0))
    shuffled = devices.fit({name: column[order] for name, column in data.items()}, bootstrap=20)
    r = R
    torch.testing.assert_close(
        shuffled.device.programming_std(r), first.device.programming_std(r), rtol=1e-4, atol=1e-6
    )
    # the k-th row of each time and cycle is the k-th device
    ordered = devices.fit({k: v for k, v in data.items() if k != "device"}, bootstrap=20)
    assert ordered.device == first.device


@pytest.mark.slow
def test_without_devices_the_distributions_are_fitted() -> None:
    data = measured(devices.rram_wan(), devices=800, times=(1.0, DAY), seed=3)
    order = torch.randperm(1600, generator=torch.Generator().manual_seed(0))
    loose = {k: v[order] for k, v in data.items() if k in ("target", "measured", "time")}
    found = devices.fit(loose, bootstrap=20)
    assert found.law == "times"
    assert any("which reads belong to one device is not known" in note for note in found.notes)
    whole = devices.fit(data, bootstrap=20).device
    g = R * 40
    torch.testing.assert_close(
        found.device.sigma(g, DAY), whole.sigma(g, DAY), rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_devices_of_a_table_that_is_sorted_by_its_reads_are_not_known(sign: int) -> None:
    data = measured(devices.pcm_like(), devices=200, times=(0.0, DAY), cycles=2, offset=20.0)
    data["target"] = data["target"].div(4).ceil().mul(4)
    keys = zip(
        *(data[name].tolist() for name in ("time", "cycle", "target")),
        (sign * data["measured"]).tolist(),
        strict=True,
    )
    which = torch.tensor([i for _, i in sorted((key, i) for i, key in enumerate(keys))])
    names = ["target", "measured", "time", "cycle"]

    def arranged(names: list[str], which: torch.Tensor) -> tuple[Grid, tuple[str, ...]]:
        return arrange(columns({n: data[n][which] for n in names}, dict.fromkeys(names, UNIT)))

    found, (note,) = arranged(names, which)
    assert "is not known, as there is no column 'device' and rows of equal targets are sor" in note
    assert not found.repeated  # no read noise, rather than one that is too small
    true, notes = arranged([*names, "device"], which)
    assert true.repeated
    assert notes == ()
    ordered, (note,) = arranged(names, torch.arange(800))
    assert "devices are identified by the order of their rows, as there is no column 'd" in note
    assert ordered.repeated
    data["target"] += torch.arange(200).repeat(4) * 1e-3  # each target once
    assert arranged(names, torch.arange(800))[1] == ()


def test_a_bias_of_programming_is_fitted_or_named() -> None:
    data = measured(
        devices.pcm_like(), devices=1000, times=(0.0, 3600.0, DAY), offset=20.0, cycles=2
    )
    data["measured"] = data["measured"] + 1.0
    power = devices.fit(data, law="power", bootstrap=20)
    assert any("miss their targets by +" in note for note in power.notes)
    times = devices.fit(data, law="times", bootstrap=20).device
    g = torch.tensor([12.5], dtype=torch.float64)
    assert times.shift(g, 20.0).item() == pytest.approx(1.0, abs=0.15)


def test_programming_noise_is_found_below_that_of_reads() -> None:
    true = devices.state_independent()
    data = measured(true, devices=2500, times=(0.0, 3600.0, DAY), cycles=2, offset=20.0)
    g = torch.tensor([2.5, 12.5, 25.0], dtype=torch.float64)
    for law in ("power", "times"):
        found = devices.fit(data, law=law, bootstrap=20)
        # a read has 4.2 uS at 25 uS, and reads about their mean are all there is to tell them apart
        assert (found.device.programming_sigma(g) < 0.5).all(), law
        if law == "power":
            torch.testing.assert_close(
                found.device.read_noise(g / 25), true.read_noise(g / 25), rtol=0.05, atol=0
            )
    assert found.quality[0].chance > 1e-3


def test_a_fit_says_what_reads_hide_and_where_it_does_not_agree() -> None:
    true = devices.state_independent()
    data = measured(true, devices=400, times=(0.0,), cycles=2, offset=1.0)
    high = data["target"] >= 12.0  # where a read has 3 uS and more, and programming 0.2 uS
    found = devices.fit({name: column[high] for name, column in data.items()}, bootstrap=20)
    assert any("programming and read noise cannot be separated" in note for note in found.notes)
    clear = devices.fit(measured(devices.rram_cmo(), devices=400, times=(1.0,)), bootstrap=20)
    assert not any("cannot be separated" in note for note in clear.notes)
    # two kinds of devices, which no normal distribution describes
    data["measured"] = data["target"] + torch.where(data["device"] % 2 == 0, 3.0, -3.0)
    split = devices.fit(data, bootstrap=20)
    assert any("disagrees with the measurements at 1 s" in note for note in split.notes)


def _moving(exponent: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Reads, with 2 % of noise, of targets (n,) that follow ``t^-exponent``."""
    generator, rows = torch.Generator().manual_seed(0), []
    for time in (20.0, 3620.0, 86420.0):
        noise = 1 + 0.02 * torch.randn(target.shape, generator=generator, dtype=target.dtype)
        read = target * noise * (time / 20) ** -exponent
        rows.append((target, read, torch.full_like(target, time), torch.arange(len(target))))
    names = ("target", "measured", "time", "device")
    return {n: torch.cat(column) for n, column in zip(names, zip(*rows, strict=True), strict=True)}


def test_conductances_that_rise_are_no_power_law() -> None:
    target = torch.linspace(0.5, 25, 200, dtype=torch.float64)
    rising = _moving(torch.full_like(target, -0.08), target)
    with pytest.raises(ValueError, match=r"these rise with time: .* -0.08 .* use law='times'"):
        devices.fit(rising, law="power", bootstrap=20)
    found = devices.fit(rising, bootstrap=20)
    assert found.law == "times"
    g = torch.tensor([20.0], dtype=torch.float64)
    after = g + found.device.shift(g, 86420.0)
    assert after.item() == pytest.approx(20 * 4321**0.08, rel=0.02)
    half = _moving(0.06 * target / 25 - 0.03, target)  # those of low targets rise
    with pytest.raises(ValueError, match="exponent is -0.02.* at 1.3.* uS; use law='times'"):
        devices.fit(half, law="power", bootstrap=20)


def test_an_exponent_below_0_within_its_error_counts_as_0() -> None:
    target = torch.linspace(0.5, 25, 200, dtype=torch.float64)
    data = _moving(torch.full_like(target, -0.0005), target)
    found = devices.fit(data, law="power", bootstrap=20)
    assert any("below 0 within its error" in note for note in found.notes)
    assert (found.device.drift_mean(R) >= 0).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target [uS]", Heading("target", "uS")),
        ("Target / uS", Heading("target", "uS")),
        ("target_uS", Heading("target", "uS")),
        ("measured / nA @ 0.2 V", Heading("measured", "nA", 0.2)),
        ("measured (nA @ 200 mV)", Heading("measured", "nA", 0.2)),
        ("time", Heading("time")),
        ("measured / read [nA]", Heading("measured / read [nA]")),
        ("target / us", Heading("target", "us")),
        ("Time / hours", Heading("time", "hours")),
        ("measured/target", Heading("measured/target")),
        ("time/t0", Heading("time/t0")),
        ("cycle / s", Heading("cycle / s")),
        ("device/wafer", Heading("device/wafer")),
    ],
)
def test_headings_have_a_name_a_unit_and_a_voltage(text: str, expected: Heading) -> None:
    assert heading(text) == expected


def test_greek_letters_are_micro_signs_too() -> None:
    rest = [heading("time")]
    for letter in ("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}"):
        units = column_units([heading("target"), heading("measured"), *rest], f"{letter}S", None)
        assert units["target"] == units["measured"] == Unit("\N{MICRO SIGN}S", 1.0)
        for text in ("target [{}S]", "target / {}S", "target_{}S"):
            found = heading(text.format(letter)), heading(f"measured / {letter}A @ 0.2 V")
            units = column_units([*found, *rest], None, None)
            assert units["target"] == Unit("\N{MICRO SIGN}S", 1.0)
            assert units["measured"].factor == 5.0
    with pytest.raises(TypeError, match="fit: unit must be .*unit='nA'.*got 5"):
        devices.fit({}, unit=5)  # type: ignore[arg-type]


def test_a_fit_is_saved_drawn_and_used(tmp_path) -> None:
    true = devices.rram_cmo()
    data = measured(true, devices=600, times=(1.0, 60.0, 3600.0), cycles=2)
    found = devices.fit(data, name="my oxide", bootstrap=20)
    assert found.device.g_min == pytest.approx(8.0, abs=0.5)
    assert found.device.g_max == pytest.approx(90.0, abs=0.5)
    assert "my oxide: TimedDevice, fits at the measured times" in str(found)
    found.plot(tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("mine.yaml", "mine.json"):
        devices.save(found.device, tmp_path / name)
        assert devices.load(tmp_path / name) == found.device
    chip = crossbar(cell=devices.DifferentialPair(device=found.device))
    at.chips.save(chip, tmp_path / "chip.json")
    assert at.chips.load(tmp_path / "chip.json") == chip
    with pytest.warns(UserWarning, match=r"beyond the device's data \(1 h, my oxide\)"):
        at.program(at.convert(nn.Linear(8, 8), chip), seed=1).at("1 day")


def test_programming_alone_and_few_levels_are_enough_for_a_fit(tmp_path) -> None:
    true = devices.rram_milo()
    data = measured(true, devices=1600, times=(1.0,))
    whole = devices.fit(data, bootstrap=20)
    assert whole.device.valid_until == 1.0
    g = torch.tensor([60.0, 140.0, 220.0], dtype=torch.float64)
    expected = true.programming_sigma(g)
    torch.testing.assert_close(whole.device.programming_sigma(g), expected, rtol=0.12, atol=0)
    whole.plot(tmp_path / "one.png")
    levels = torch.tensor([50.0, 100.0, 150.0, 225.0], dtype=torch.float64).repeat(400)
    z = torch.randn(1600, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    few = {"target": levels, "measured": true.program(levels, z), "time": torch.ones(1600)}
    found = devices.fit(few, bootstrap=20).device
    assert (found.g_min, found.g_max) == (50.0, 225.0)
    torch.testing.assert_close(found.programming_sigma(g), expected, rtol=0.12, atol=0)


@pytest.mark.parametrize(
    ("levels", "gap"),
    [
        ((0.0, 20.0), (0.0, 20.0)),
        ((0.0, 1.0, 2.0, 20.0), (2.0, 20.0)),
        ((0.0, 10.0, 20.0), None),
        ((0.0, 5.0, 10.0, 20.0), None),
    ],
)
def test_a_gap_between_targets_is_noted_and_has_no_confidence(
    levels: tuple[float, ...], gap: tuple[float, float] | None, tmp_path
) -> None:
    target = torch.tensor(levels).repeat_interleave(60)
    noise = torch.randn(len(target), generator=torch.Generator().manual_seed(0))
    data = {"target": target, "measured": target + 0.5 * noise, "time": torch.ones_like(target)}
    found = devices.fit(data, bootstrap=20)
    assert found.gap == gap
    noted = [note for note in found.notes if note.startswith("no device was measured between ")]
    spreads = str(found).splitlines()[2:5]
    interpolated = ["(interpolated)" in line for line in spreads]
    if gap is None:
        assert not noted
        assert not any(interpolated)
        return
    middle = sum(gap) / 2
    assert f"between {gap[0]:g} and {gap[1]:g} uS" in noted[0]
    assert f"such as {middle:g} uS" in noted[0]
    assert interpolated == [False, True, False]
    figure = found.plot(tmp_path / "fit.png")
    labels = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert labels == [
        "target 5 uS, interpolated",
        "target 10 uS, interpolated",
        "target 20 uS",
    ]
    bands = [len(axes.collections) for axes in figure.axes[1:]]
    assert bands == [1, 1]  # of the target that was measured


def test_devices_that_were_not_read_every_time_count_where_they_were() -> None:
    true = devices.pcm_like()
    data = measured(true, devices=1500, times=(0.0, 60.0, 3600.0, DAY), offset=20.0, cycles=2)
    kept = torch.rand(len(data["time"]), generator=torch.Generator().manual_seed(0)) < 0.8
    found = devices.fit({name: column[kept] for name, column in data.items()}, bootstrap=20)
    assert found.law == "power"
    drift = found.device.drift_mean(R)
    torch.testing.assert_close(drift, true.drift_mean(R), rtol=0.15, atol=0)


def test_targets_beyond_the_range_of_the_weights_decide_nothing() -> None:
    data = measured(devices.rram_wan(), devices=400, times=(1.0, 3600.0), cycles=2)
    allowed = (data["target"] >= 8.0) & (data["target"] <= 21.0)  # 5 % of g_max is rounding
    kept = {name: column[allowed] for name, column in data.items()}
    found, same = (devices.fit(x, g_max=20.0, g_min=9.0, bootstrap=20) for x in (data, kept))
    assert found.device == same.device
    assert found.quality == same.quality
    out = 400 - int(allowed.sum()) // 4
    note = f"{out} of 400 devices are left out: the fit is of those with targets from 9 to 20 uS"
    assert [n for n in found.notes if "left out" in n] == [f"{note} (g_min and g_max)"]
    assert f"note: {note}" in str(found)
    assert not any("left out" in n for n in same.notes)


def test_targets_that_devices_cannot_reach_are_no_wrong_unit_beyond_the_range() -> None:
    data = measured(devices.rram_wan(), devices=400, times=(1.0, 3600.0), cycles=2)
    beyond = data["target"] > 20.0
    far = {**data, "target": torch.where(beyond, 20 * data["target"], data["target"])}
    with pytest.raises(ValueError, match="of their targets .* or give the g_max"):
        devices.fit(far, bootstrap=20)
    assert devices.fit(far, g_max=20.0, bootstrap=20).device.g_max == 20.0


def test_devices_that_reach_less_than_half_of_their_targets_are_noted() -> None:
    data = measured(devices.rram_wan(), devices=200, times=(1.0, 3600.0), cycles=2)
    notes = devices.fit({**data, "measured": 0.4 * data["measured"]}, bootstrap=20).notes
    assert any(re.match(r"measured conductances are 0.4\d* of their targets", n) for n in notes)
    assert any(re.match(r"no device was read above .* to .* uS, the noise of", n) for n in notes)
    plain = devices.fit(data, bootstrap=20).notes
    assert not any("of their targets" in n or "was read above" in n for n in plain)


def test_arrays_in_any_order_and_a_seed_that_is_none() -> None:
    target = torch.rand(200, generator=torch.Generator().manual_seed(0)) * 20
    data = {"target": target, "measured": target + 0.3, "time": torch.full((200,), 20.0)}
    expected = devices.fit(data, bootstrap=20)
    backwards = {name: column.flip(0).numpy()[::-1] for name, column in data.items()}
    swapped = {name: column.numpy().astype(">f8") for name, column in data.items()}
    for given in (backwards, swapped):
        assert devices.fit(given, bootstrap=20).device == expected.device
    for seed in (1.5, "a", None, 2**70, -1):
        with pytest.raises((ValueError, TypeError), match="fit: seed must be an integer"):
            devices.fit(data, bootstrap=20, seed=seed)


def _exact(cycles: int) -> dict[str, torch.Tensor]:
    """Return reads without noise, each listed so many times, of devices that drift."""
    generator = torch.Generator().manual_seed(0)
    n, times = 1000, (1.0, 60.0, 3600.0, DAY)
    target = 50 * torch.rand(n, generator=generator, dtype=torch.float64)
    error = torch.randn(n, generator=generator, dtype=torch.float64)
    start = (target + (0.4 + 0.024 * target) * error).clamp_min(0)
    nu = 0.03 + 0.01 * torch.randn(n, generator=generator, dtype=torch.float64)
    reads = [start * t**-nu for t in times for _ in range(cycles)]
    return {
        "target": target.repeat(len(reads)),
        "measured": torch.cat(reads),
        "time": torch.tensor(times).double().repeat_interleave(cycles * n),
        "cycle": torch.arange(cycles).repeat_interleave(n).repeat(len(times)),
        "device": torch.arange(n).repeat(len(reads)),
    }


@pytest.mark.parametrize("cycles", [2, 3])
def test_equal_reads_are_no_noise(cycles: int) -> None:
    found, once = (devices.fit(_exact(n), bootstrap=20) for n in (cycles, 1))
    assert found.device == once.device
    std = float(found.device.programming_std(torch.ones(1)))  # type: ignore[attr-defined]
    assert std == pytest.approx(1.6, rel=0.1)
    assert any("repeated reads are equal and count as one" in note for note in found.notes)
    assert not any("repeated reads" in note for note in once.notes)


def test_devices_without_an_error_have_none() -> None:
    target = torch.linspace(1, 50, 200, dtype=torch.float64)
    data = {"target": target, "measured": target, "time": torch.full((200,), 20.0)}
    found = devices.fit(data, bootstrap=20).device
    assert float(found.programming_sigma(target).max()) == 0


def test_columns_without_use_are_named() -> None:
    data = measured(devices.rram_wan(), devices=200, times=(1.0, 3600.0), cycles=2)
    found = devices.fit({**data, "temperature [C]": data["time"]}, bootstrap=20)
    assert any("unused columns: 'temperature'" in note for note in found.notes)
    assert not any("unused" in note for note in devices.fit(data, bootstrap=20).notes)


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1e3), ("us", 1e6), ("µs", 1e6), ("ns", 1e9)])
def test_times_may_be_short(unit: str, factor: float) -> None:
    data = measured(devices.rram_wan(), devices=200, times=(1.0, 3600.0))
    expected = devices.fit(data, bootstrap=20)
    given = {f"time [{unit}]" if k == "time" else k: v for k, v in data.items()}
    given[f"time [{unit}]"] = factor * data["time"]
    found = devices.fit(given, bootstrap=20)
    assert found.device.times == pytest.approx(expected.device.times)
