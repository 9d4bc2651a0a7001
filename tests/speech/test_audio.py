"""One recording in every format, and every way in which a file can be wrong."""

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from analogtorch.speech import audio as audio_module
from analogtorch.speech.audio import read_clip, read_clips, read_recording, resampled, to_int16
from analogtorch.speech.data import Recorded


def tone(samples: int = 16_000, rate: int = 16_000) -> np.ndarray:
    return (8_000 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)).astype(np.int16)


def write(path: Path, data: np.ndarray, rate: int = 16_000, **options: str) -> Path:
    soundfile.write(path, data, rate, **options)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_16_bit_recordings_come_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(-32_768, 32_768, 16_000).astype(np.int16)
    clip = read_clip(write(tmp_path / f"a.{suffix}", noise))
    assert clip.dtype == torch.int16
    assert torch.equal(clip, torch.from_numpy(noise))


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("wav", "FLOAT")]
)
def test_other_formats_keep_their_level(tmp_path: Path, suffix: str, subtype: str) -> None:
    file = write(tmp_path / f"a.{suffix}", tone().astype(np.float32) / 32_768, subtype=subtype)
    clip = read_clip(file, fit="pad_or_trim").double()
    assert clip.std() == pytest.approx(8_000 / 2**0.5, rel=0.02)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_beyond_full_scale_are_named_and_not_clipped(tmp_path: Path, subtype: str) -> None:
    file = write(tmp_path / "a.wav", tone().astype(np.float32), subtype=subtype)
    message = r"beyond full scale, up to (7999|8000)[.\d]*; those of a file of floats are -1 to 1"
    for audio, name in ((file, "a.wav"), (file.read_bytes(), "audio in memory")):
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            read_clip(audio)
    peaks = tone() / np.float32(32_768)
    peaks[:16] = 1.2  # 0.1 %
    clip = read_clip(write(tmp_path / "b.wav", peaks, subtype=subtype))
    assert clip[:16].unique().tolist() == [32_767]


def test_loud_music_of_a_decoder_is_clipped(tmp_path: Path) -> None:
    loud = np.sign(tone()).astype(np.float32)
    clip = read_clip(write(tmp_path / "a.mp3", loud), fit="pad_or_trim")
    assert int((clip == 32_767).sum()) > 1000


def test_contents_in_memory_and_several_clips(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", tone())
    audio: list[tuple[str, Path | bytes]] = [("a", file), ("b", file.read_bytes())]
    clips, recorded = read_clips(
        audio, 2, resample=False, fit="error", progress=False, title="reading"
    )
    assert clips.shape == (2, 16_000)
    assert recorded == (Recorded(16_000, 16_000),) * 2
    assert torch.equal(clips[0], clips[1])


@pytest.mark.parametrize("progress", [False, True])
def test_a_bar_is_shown_only_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], progress: bool
) -> None:
    audio = [("a", write(tmp_path / "a.wav", tone()))]
    read_clips(audio, 1, resample=False, fit="error", progress=progress, title="reading train")
    out, err = capsys.readouterr()
    assert out == ""
    assert ("reading train: 100%" in err) == progress


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([tone(), np.zeros(16_000, np.int16)], axis=1)
    assert torch.equal(
        read_clip(write(tmp_path / "a.wav", stereo)), to_int16(torch.from_numpy(tone()) / 65_536)
    )


@pytest.mark.parametrize(
    ("gains", "warned"),
    [((1, -1), True), ((1, -0.9), True), ((1, -1, 0), True), ((1, 0), False), ((1, -0.5), False)],
)
def test_channels_that_cancel_are_warned_of(
    gains: tuple[float, ...], warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offset = 1_000  # which the mean keeps
    data = np.stack([offset + gain * tone() for gain in gains], axis=1).astype(np.int16)
    file = write(tmp_path / "a.wav", data)
    read_recording(file)
    message = f"{file}: its {len(gains)} channels cancel each other in their mean"
    assert (message in caplog.text) == warned


def test_another_rate_is_refused_or_resampled(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", tone(44_100, 44_100), 44_100)
    with pytest.raises(ValueError, match=r"a\.wav: sampled at 44100 Hz; .*resample=True"):
        read_clip(file)
    clip = read_clip(file, resample=True)
    middle = slice(200, -200)  # the filter sees the clip's ends
    difference = clip[middle] - torch.from_numpy(tone())[middle]
    assert int(difference.abs().max()) < 50


def test_of_a_long_recording_the_loudest_second_is_kept(tmp_path: Path) -> None:
    samples = np.zeros(48_000, np.int16)
    samples[20_000:36_000] = tone()
    file = write(tmp_path / "a.wav", samples)
    assert torch.equal(read_clip(file, fit="pad_or_trim"), torch.from_numpy(tone()))
    silent = write(tmp_path / "b.wav", np.zeros(48_000, np.int16))
    assert not read_clip(silent, fit="pad_or_trim").any()


@pytest.mark.parametrize(("samples", "kept"), [(10_000, 10_000), (16_001, 16_000)])
def test_another_length_is_refused_or_fitted(tmp_path: Path, samples: int, kept: int) -> None:
    file = write(tmp_path / "a.wav", tone(samples))
    with pytest.raises(ValueError, match=rf"a\.wav: {samples} samples .*fit=.pad_or_trim."):
        read_clip(file)
    clip = read_clip(file, fit="pad_or_trim")
    assert torch.equal(clip[:kept], torch.from_numpy(tone(kept)))
    assert not clip[kept:].any()


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.wav: no such"):
        read_clip(tmp_path / "gone.wav")
    corrupt = tmp_path / "corrupt.flac"
    corrupt.write_bytes(b"fLaC but not really")
    with pytest.raises(ValueError, match=r"corrupt\.flac: not readable.*Replace"):
        read_clip(corrupt)
    with pytest.raises(ValueError, match=r"row 3: not readable"):
        read_clip(b"", name="row 3")
    with pytest.raises(ValueError, match=r"empty\.wav: holds no samples"):
        read_clip(write(tmp_path / "empty.wav", tone(0)))
    nan = np.full(16_000, np.nan, np.float32)
    with pytest.raises(ValueError, match=r"nan\.wav: holds NaN"):
        read_clip(write(tmp_path / "nan.wav", nan, subtype="FLOAT"))


@pytest.mark.skipif(sys.platform != "linux", reason="file systems that take UTF-8 alone")
def test_a_file_whose_name_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", tone()).rename(tmp_path / "gr\udcf6.wav")
    with pytest.raises(ValueError, match=r"gr\\udcf6\.wav': the name is not UTF-8.*Rename"):
        read_clip(file)


def test_a_truncated_flac_is_an_error(tmp_path: Path) -> None:
    memory = io.BytesIO()
    soundfile.write(
        memory,
        np.random.default_rng(0).integers(-9, 9, 16_000).astype(np.int16),
        16_000,
        format="FLAC",
    )
    with pytest.raises(ValueError, match="half"):
        read_clip(memory.getvalue()[: len(memory.getvalue()) // 2], name="half")


@pytest.mark.parametrize("fit", ["error", "pad_or_trim"])
def test_a_truncated_wav_is_an_error_and_never_padded(tmp_path: Path, fit: str) -> None:
    file = write(tmp_path / "a.wav", tone())
    for kept in (0, 20, 44, 45, 10_000, 32_043):
        cut = tmp_path / "cut.wav"
        cut.write_bytes(file.read_bytes()[:kept])
        for audio in (cut, cut.read_bytes()):
            with pytest.raises(ValueError, match="cut short|not readable|holds no samples"):
                read_clip(audio, fit=fit)  # type: ignore[arg-type]
    half = bytearray(file.read_bytes()[:16_000])  # whose size as a file is that of the half
    half[4:8] = (len(half) - 8).to_bytes(4, "little")
    with pytest.raises(ValueError, match="cut short"):
        read_clip(bytes(half), fit=fit)  # type: ignore[arg-type]
    for tail in (b"LIST\x03\0\0\0abc\0", b"\0", b"a tail that is no chunk"):
        assert torch.equal(read_clip(file.read_bytes() + tail), read_clip(file))
    big = io.BytesIO()
    soundfile.write(big, tone(), 16_000, format="WAV", subtype="PCM_16", endian="BIG")
    assert torch.equal(read_clip(big.getvalue()), read_clip(file))
    with pytest.raises(ValueError, match="cut short"):
        read_clip(big.getvalue()[:-5_000], fit=fit)  # type: ignore[arg-type]
    stream = bytearray(file.read_bytes())  # as ffmpeg writes it into a pipe
    stream[4:8] = stream[40:44] = b"\xff" * 4
    assert torch.equal(read_clip(bytes(stream)), read_clip(file))


@pytest.mark.parametrize(
    "written",
    [{"format": "MP3"}, {"format": "OGG", "subtype": "VORBIS"}, {"format": "AIFF"}],
    ids=lambda written: written["format"],
)
def test_a_compressed_recording_that_is_cut_short_is_named(
    written: dict[str, str], tmp_path: Path
) -> None:
    memory = io.BytesIO()
    samples = 0.1 * np.random.default_rng(0).standard_normal(80_000)
    soundfile.write(memory, samples, 16_000, **written)
    whole = memory.getvalue()
    assert len(read_recording(whole)) == 80_000
    with pytest.raises(ValueError, match=r"a clip: cut short: .* Replace or leave out this file"):
        read_recording(whole[: 9 * len(whole) // 10], name="a clip")
    half = bytearray(whole[: len(whole) // 2])
    if written["format"] == "AIFF":  # one whose size as a file is that of the half
        half[4:8] = (len(half) - 8).to_bytes(4, "big")
    (tmp_path / "half").write_bytes(half)
    with pytest.raises(ValueError, match="half: cut short"):
        read_clip(tmp_path / "half", fit="pad_or_trim")


@pytest.mark.parametrize("kind", ["RF64", "W64", "AU", "CAF", "NIST"])
def test_a_container_that_is_cut_short_is_named(kind: str, tmp_path: Path) -> None:
    forms = [("ALAW", "FILE"), ("PCM_16", "FILE")]
    if kind in ("AU", "NIST"):
        forms += [("PCM_16", "LITTLE"), ("PCM_16", "BIG")]
    for subtype, endian in forms:
        memory = io.BytesIO()
        soundfile.write(memory, tone(), 16_000, format=kind, subtype=subtype, endian=endian)
        whole = memory.getvalue()
        assert len(read_clip(whole)) == 16_000
        for kept in (len(whole) // 2, len(whole) - 2):
            (tmp_path / "half").write_bytes(whole[:kept])
            for audio in (tmp_path / "half", whole[:kept]):
                # libsndfile opens no half of a CAF
                with pytest.raises(ValueError, match="cut short: it announces more|or damaged"):
                    read_recording(audio)
    sizes = {"W64": (16, 24), "AU": (8, 12)}
    if kind in sizes:  # as programs write them that cannot come back to the header
        first, last = sizes[kind]
        stream = bytearray(whole)
        stream[first:last] = b"\xff" * (last - first)
        assert len(read_recording(bytes(stream))) == 16_000


def test_a_format_that_does_not_say_its_length_is_refused() -> None:
    memory = io.BytesIO()
    soundfile.write(memory, tone(), 16_000, format="IRCAM", subtype="PCM_16")
    with pytest.raises(ValueError, match="of IRCAM files it is not known whether they are wh"):
        read_recording(memory.getvalue())


def test_an_mp3_without_a_header_of_its_length_is_taken_as_it_is() -> None:
    memory = io.BytesIO()
    soundfile.write(memory, 0.1 * np.ones(40_000), 16_000, format="MP3")
    tag = b"ID3\x04\0\0\0\0\x01\0" + bytes(128)
    whole = memory.getvalue()
    assert len(read_recording(tag + whole)) == 40_000
    with pytest.raises(ValueError, match="cut short"):
        read_recording(tag + whole[: len(whole) // 2])
    bare = whole.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
    assert 0 < len(read_recording(bare[: len(bare) // 2])) < 40_000


def test_unknown_fit(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"fit must be one of \('error', 'pad_or_trim'\), got 'stretch'"
    ):
        read_clip(tmp_path / "a.wav", fit="stretch")  # type: ignore[arg-type]


def test_conversion_to_int16_rounds_and_saturates() -> None:
    samples = torch.tensor([-2.0, -1.0, -0.6 / 32_768, 0.4 / 32_768, 1.0, 2.0])
    assert to_int16(samples).tolist() == [-32_768, -32_768, -1, 0, 32_767, 32_767]


@pytest.mark.parametrize(("rate", "new"), [(44_100, 16_000), (16_000, 22_050), (997, 1_009)])
def test_rates_without_a_common_divisor_are_resampled_as_others_are(rate: int, new: int) -> None:
    """Filters of torchaudio take 12 GB for 44,099 Hz, and are rounded to single precision."""
    waveforms, common = torch.randn(2, 3, 2_000, dtype=torch.float64), math.gcd(rate, new)
    found = audio_module._at_each_sample(waveforms, rate // common, new // common)
    torch.testing.assert_close(found, torchaudio.functional.resample(waveforms, rate, new))
    assert resampled(waveforms[0, 0].float(), 44_099).shape == (-(-2_000 * 16_000 // 44_099),)
