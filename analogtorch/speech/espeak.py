"""eSpeak NG through its C library: words in, speech at 22.05 kHz out, the same bits each time.

The library is not reproducible inside one process: a clip depends on the clips before it, and the
random numbers are seeded from the clock. So this file is also a program: its process loads the
library, speaks nothing, and forks one child per clip, each seeded alike. The program imports the
standard library alone (`-I -S`). So it has no threads when it forks, unlike the process that
trains.
"""

import array
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLE_RATE = 22_050
"""Sampling rate of eSpeak NG's speech, Hz."""
NOTE = (
    "This speech was synthesised. The run shows that the whole path works; it says nothing about "
    "accuracy on people."
)
"""What the report of a run on such speech states."""

# success, and the number of bytes of speech or of the message that follow
_HEADER = struct.Struct("<?I")
# speak_lib.h: AUDIO_OUTPUT_SYNCHRONOUS starts no thread
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # speak_lib.h: espeak_PARAMETER
_SECONDS_PER_CLIP = 30


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One word in one voice."""

    text: str
    """The English text to say."""
    voice: str
    """An eSpeak NG voice identifier, with a voice variant after a plus sign: "gmw/en-US+f1"."""
    rate: int = 175
    """Speed in words per minute, 80 to 450."""
    pitch: int = 50
    """Pitch, 0 to 99; 50 is that of the voice."""
    pitch_range: int = 50
    """Range of the pitch, 0 (monotone) to 99; 50 is that of the voice."""


def synthesise(utterances: Sequence[Utterance], *, workers: int = 2) -> Iterator[array.array]:
    """Yield the speech of each utterance, in order, as array("h") of int16 samples at 22.05 kHz.

    The samples depend on the utterance alone, neither on those before it nor on `workers`, the
    number of processes. A clip takes about 3 ms of a process.

    Raises:
        ImportError: espeakng-loader is not installed.
        RuntimeError: the platform has no fork, or eSpeak NG refuses an utterance or fails.
    """
    command = [sys.executable, "-I", "-S", __file__, *_library()]
    with ExitStack() as stack:
        processes = [
            _start(command, utterances[w::workers], stack)
            for w in range(min(workers, len(utterances)))
        ]
        for position, utterance in enumerate(utterances):
            yield _reply(processes[position % len(processes)], utterance)


def version() -> str:
    """Return the version of espeakng-loader, on which the samples depend.

    Raises:
        ImportError: espeakng-loader is not installed.
    """
    _library()
    return importlib.metadata.version("espeakng-loader")


def _library() -> tuple[str, str]:
    """Return the paths of the shared library and of the folder with its voices."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ImportError(
            "synthetic speech needs eSpeak NG, which is not installed (GPL-3, hence its own "
            "extra). "
            'Write: pip install "analogtorch[synthetic]"'
        )
    if not hasattr(os, "fork"):
        raise RuntimeError(
            f"synthetic speech forks a process per clip, which {sys.platform} cannot; use another "
            "source"
        )
    import espeakng_loader

    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def _start(
    command: list[str], utterances: Sequence[Utterance], stack: ExitStack
) -> subprocess.Popen[bytes]:
    """Return a process that speaks `utterances`; `stack` ends it."""
    # a file rather than a pipe, so that neither side waits for the other except for speech
    with tempfile.TemporaryFile() as requests:
        requests.write("".join(json.dumps(asdict(u)) + "\n" for u in utterances).encode())
        requests.seek(0)
        process = stack.enter_context(
            subprocess.Popen(command, stdin=requests, stdout=subprocess.PIPE)
        )
    stack.callback(process.kill)  # ends a process that still speaks when the caller stops early
    return process


def _reply(process: subprocess.Popen[bytes], utterance: Utterance) -> array.array:
    assert process.stdout is not None
    header = process.stdout.read(_HEADER.size)
    good, size = _HEADER.unpack(header) if len(header) == _HEADER.size else (False, -1)
    data = process.stdout.read(max(size, 0))
    if len(data) != size:
        raise RuntimeError(
            f"eSpeak NG's process ended with code {process.wait()} before {utterance}"
        )
    if not good:
        raise RuntimeError(
            f"eSpeak NG could not speak {utterance}: {data.decode(errors='replace')}"
        )
    return array.array("h", data)


# Below: the process that speaks.


def _serve(library: str, data: str) -> None:
    """Answer each request, a line of JSON on stdin, by a header and its speech on stdout."""
    engine = ctypes.CDLL(library)
    # the library keeps at most 160 characters of the path: give it a short one
    os.chdir(Path(data).parent)
    name = Path(data).name.encode()
    if engine.espeak_Initialize(_SYNCHRONOUS, 0, name, _DONT_EXIT) != SAMPLE_RATE:
        _answer(False, f"it found no voices in {data}".encode())
        return
    # fills the table in which identifiers such as "gmw/en" are looked up
    engine.espeak_ListVoices(None)
    speech = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples, count: int, _events: int) -> int:
        if samples and count > 0:
            speech.extend(ctypes.string_at(samples, 2 * count))
        return 0

    engine.espeak_SetSynthCallback(collect)
    for line in sys.stdin.buffer:
        _answer(*_in_child(engine, speech, Utterance(**json.loads(line))))


def _answer(good: bool, data: bytes) -> None:
    sys.stdout.buffer.write(_HEADER.pack(good, len(data)) + data)
    sys.stdout.buffer.flush()


def _in_child(engine: ctypes.CDLL, speech: bytearray, utterance: Utterance) -> tuple[bool, bytes]:
    """Fork, speak in the child, and return success with the speech or a message."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(_SECONDS_PER_CLIP)
            message = _speak(engine, utterance) or ("" if any(speech) else "it made no sound")
            with os.fdopen(writer, "wb") as file:
                file.write(message.encode() or speech)
            code = int(bool(message))
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code == 0, answer or (
        b"" if code == 0 else f"the child process ended with code {code}".encode()
    )


def _speak(engine: ctypes.CDLL, utterance: Utterance) -> str:
    """Speak into the collecting buffer; return a message if something is wrong, else ""."""
    variant = utterance.voice.partition("+")[2]
    if variant and not Path("espeak-ng-data/voices/!v", variant).is_file():
        # the library would silently use the plain voice
        return f"there is no voice variant {variant!r}"
    # breath and whisper; seeded from the clock otherwise
    engine.espeak_ng_SetRandSeed(ctypes.c_long(1))
    if engine.espeak_SetVoiceByName(utterance.voice.encode()):
        return f"there is no voice {utterance.voice!r}"
    values = {_RATE: utterance.rate, _PITCH: utterance.pitch, _RANGE: utterance.pitch_range}
    for parameter, value in values.items():
        if engine.espeak_SetParameter(parameter, value, 0):
            return f"parameter {parameter} cannot be {value}"
    text = utterance.text.encode() + b"\0"
    failed = engine.espeak_Synth(text, len(text), 0, 0, 0, _UTF8, None, None)
    return "synthesis failed" if failed else ""


if __name__ == "__main__":
    _serve(*sys.argv[1:])
