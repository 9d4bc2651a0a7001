"""Devices in files of their own."""

import pytest

from analogtorch import devices


def test_a_file_gives_an_equal_device_back(tmp_path) -> None:
    for name in ("sonos.yaml", "sonos.yml", "sonos.json"):
        assert devices.save(devices.sonos(), tmp_path / name) == tmp_path / name
        assert devices.load(tmp_path / name) == devices.sonos()
    less = devices.Scaled(device=devices.pcm_like(), drift_scale=0.0)
    devices.save(less, tmp_path / "less.json")
    assert devices.load(tmp_path / "less.json") == less


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "a device is described by a mapping"),
        ('{"type": "PulsedDevice"}', "version None of devices; this AnalogTorch reads 1"),
        (
            '{"version": 1, "type": "PulsDevice"}',
            "unknown type 'PulsDevice', did you mean 'PulsedDevice'",
        ),
        ('{"version": 1, "type": "Polynomial", "coefficients": [1]}', "must be a device such as"),
        (
            '{"version": 1, "type": "PulsedDevice", "name": "mine", "g_max": 1, "puls": 0.1}',
            r"has no field \['puls'\], did you mean 'pulse'",
        ),
        (
            '{"version": 1, "type": "PulsedDevice", "name": "mine", "g_max": -1, "pulse": 0.1}',
            "PulsedDevice.g_max must be a positive number, got -1",
        ),
        ("{", "is not JSON in UTF-8"),
    ],
)
def test_a_bad_file_is_refused_by_its_path(text: str, message: str, tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine.json: .*{message}"):
        devices.load(path)


def test_what_has_no_form_in_a_file_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"a device's file must end in one of .yaml, .yml, .json"):
        devices.save(devices.sonos(), tmp_path / "sonos.txt")
    with pytest.raises(TypeError, match="device must be a device such as"):
        devices.save(3, tmp_path / "three.json")  # type: ignore[arg-type]
    odd = devices.TimedDevice(
        name="odd", g_max=1, g_reference=1, times=(1.0,), stds=(lambda r: 0.1 + r,)
    )
    with pytest.raises(TypeError, match=r"device.stds\[0\] is <function"):
        devices.save(odd, tmp_path / "odd.json")
    assert not list(tmp_path.iterdir())
