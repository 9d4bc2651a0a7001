"""``analogtorch listen``: a keyword spotter on a programmed chip, in recordings of any length."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import analogtorch as at
from analogtorch.cli.finished import finished, listener
from analogtorch.cli.options import CommandParser, Defaults, add_outputs, write_outputs
from analogtorch.devices import seconds
from analogtorch.devices.time import duration
from analogtorch.evaluate.look import Look
from analogtorch.files.figures import checked_path
from analogtorch.ops import seed_number
from analogtorch.speech.audio import read_recording, sampling_rate
from analogtorch.speech.data import SAMPLE_RATE
from analogtorch.speech.noise import generate_noise, read_noise
from analogtorch.speech.on_chips import conditions_of, recovery
from analogtorch.speech.streaming import Detector, Stream, StreamTest, listen, mixed
from analogtorch.speech.streaming.mixture import MOST_PER_MINUTE, SHORTEST
from analogtorch.values import checks

logger = logging.getLogger("analogtorch")

_PER_MINUTE = 10.0
_SHORTEST = 0.001
"""Fewest seconds that a microphone is listened to."""
_ITS_NOISE = 1 << 40
"""Seed of the noise in a mixture, with which nobody trains: a net knows the noise that it heard."""
_MIXTURE = 0
"""Seed of the mixture: all chips, networks and times hear the same one, so that they compare."""


def run(arguments: Sequence[str]) -> Stream | StreamTest:
    """Listen as the command line describes and write the files that it names.

    Raises:
        ValueError: an option is wrong, or the folder has no finished run.
        OSError: a file is missing or cannot be written.
        ImportError: a package is missing.
    """
    given = _parser().parse_args(arguments)
    checked_path(given.plot)  # before minutes of listening
    detector = Detector(
        hop_ms=given.hop_ms, average=given.average, threshold=given.threshold, pause=given.pause
    )
    if sum(source is not None for source in (given.audio, given.microphone, given.mix)) != 1:
        raise ValueError(
            "listen takes one of: a recording such as a.wav, --microphone SECONDS, or --mix SECONDS"
        )
    if given.mix is None and (given.noise or given.per_minute is not None):
        raise ValueError("--noise and --per-minute have an effect with --mix alone; leave them out")
    seconds(given.time)  # before minutes of mixing, too
    try:
        seed_number(given.seed)
    except ValueError as error:
        raise ValueError(f"--{error}") from error
    per_minute = _PER_MINUTE if given.per_minute is None else given.per_minute
    noise = None
    if given.mix is not None:
        checks.count("--mix", given.mix, least=SHORTEST)
        checks.number("--per-minute", per_minute, above=0, most=MOST_PER_MINUTE)
        noise = (
            read_noise(given.noise, resample=True)
            if given.noise
            else generate_noise(seed=_ITS_NOISE)
        )
    if given.microphone is not None:
        checks.number("--microphone", given.microphone, least=_SHORTEST, what="number of seconds")
        _sounddevice()
    recording = _heard(given)
    spoken = None
    if noise is None and given.network == "hwa":
        config, features, classes, network, corrections = listener(
            "listen", given.run, allow_code=given.allow_code
        )
    else:
        config, task, network = finished(
            "listen", given.run, given.network, allow_code=given.allow_code
        )
        features, classes = task.features, task.classes
        corrections = recovery(config, task.calibration)
    if given.microphone is not None:  # last, so that no recording is lost for a run that is none
        recording = _record(given.microphone)
    if noise is not None:
        mixture = mixed(
            task.test_clips,
            noise,
            seconds=given.mix,
            seed=_MIXTURE,
            per_minute=per_minute,
        )
        recording, spoken = mixture.recording, mixture.spoken
    programmed = at.program(
        network, seed=given.seed, method=config.chip.method, defects=config.chip.defects
    )
    look = Look(compensation=config.chip.compensation, recovery=corrections)
    view = look.at(programmed)(seconds(given.time))
    stream = listen(
        view, features, recording, classes,
        detector=detector, progress=sys.stderr.isatty(),
    )  # fmt: skip
    stream = replace(
        stream,
        chip=f"one chip (seed {given.seed}), {_when(given.time)}",
        conditions=tuple(conditions_of(config).values()),
        recovery="" if corrections is None else corrections.summary,
    )
    found = stream if spoken is None else StreamTest(stream=stream, spoken=spoken)
    write_outputs(found, given)
    return found


def _when(time: str) -> str:
    if time == "programmed":
        return "as programmed"
    return f"{time if time.strip()[-1:].isalpha() else duration(float(time))} after programming"


def _heard(given: argparse.Namespace) -> Tensor:
    """Return the recording; an empty one where it is to be made."""
    if given.audio is not None:
        recording = read_recording(given.audio, resample=True)
        if (rate := sampling_rate(given.audio)) < SAMPLE_RATE:
            logger.warning(
                "listen: %s is sampled at %s Hz, so that it holds nothing above %s Hz, while the "
                "net takes up to %s Hz and may miss words; record at %s Hz or more",
                given.audio,
                *(f"{hertz:,}" for hertz in (rate, rate // 2, SAMPLE_RATE // 2, SAMPLE_RATE)),
            )
        return recording
    return torch.zeros(0, dtype=torch.float32, device="cpu")


def _sounddevice() -> Any:
    """Return the package that records.

    Raises:
        ImportError: it, or the library that it needs, is not installed.
    """
    try:
        import sounddevice  # no part of any extra
    except (ImportError, OSError) as error:  # OSError: PortAudio itself is missing
        raise ImportError(
            "--microphone needs sounddevice and PortAudio; run: pip install sounddevice, or record "
            "with another program and give the file"
        ) from error
    return sounddevice


def _record(seconds: float) -> Tensor:
    """Return a recording of the default microphone."""
    print(f"listening for {seconds:g} s ...", file=sys.stderr)
    samples = _sounddevice().rec(
        round(seconds * SAMPLE_RATE), SAMPLE_RATE, 1, dtype="float32", blocking=True
    )
    return torch.from_numpy(samples[:, 0])


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="analogtorch listen",
        description="A keyword spotter of a finished run, on a programmed chip, listens to a "
        "recording in sliding windows of a second: detections over time. With --mix: false alarms "
        "and misses in a recording mixed from test clips and background noise.",
        formatter_class=Defaults,
    )
    parser.add_argument("run", type=Path, help="folder that analogtorch kws has written")
    parser.add_argument("audio", nargs="?", type=Path, help="recording: .wav, .flac, .ogg, .mp3")
    parser.add_argument(
        "--microphone", type=float, metavar="SECONDS", help="listen to the microphone instead"
    )
    parser.add_argument(
        "--mix", type=int, metavar="SECONDS", help="mix a recording instead: 3600 for an hour"
    )
    parser.add_argument("--noise", help="with --mix: folder of background noise; else generated")
    parser.add_argument(
        "--per-minute", type=float, help=f"with --mix: clips a minute; {_PER_MINUTE:g} unless given"
    )
    parser.add_argument(
        "--network",
        choices=("hwa", "digital"),
        default="hwa",
        help="trained for the chip, or digitally and mapped directly",
    )
    parser.add_argument("--time", default="1 day", help="time after programming")
    parser.add_argument("--seed", type=int, default=0, help="seed of the chip")
    for name, what in (
        ("hop-ms", "time between windows, ms"),
        ("threshold", "average probability that detects a word"),
        ("pause", "seconds after a detection without another"),
    ):
        default = getattr(Detector, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=float, default=default, help=what)
    parser.add_argument(
        "--average", type=int, default=Detector.average, help="windows that are averaged"
    )
    parser.add_argument("--csv", type=Path, help="file for a line per detection or threshold")
    add_outputs(parser)
    return parser
