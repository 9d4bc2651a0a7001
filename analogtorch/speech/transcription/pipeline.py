"""From recordings to the text that is left on chips: the pipeline of ``analogtorch transcribe``."""

import copy
import functools
import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration.inputs import means_corrected
from analogtorch.chips.unit_cells import enlarged
from analogtorch.cost_model import CostReport
from analogtorch.devices import seconds
from analogtorch.evaluate import Sweep
from analogtorch.evaluate.checked import chip_seeds
from analogtorch.evaluate.conditions import conditions
from analogtorch.evaluate.look import Look
from analogtorch.files import checked, comma_separated, parse_json, signed, write_atomically
from analogtorch.mapping import ChipMapping
from analogtorch.report.page.transcript import html, markdown
from analogtorch.report.transcribed import Transcribed, Transcript
from analogtorch.simulate.chip import beyond_data
from analogtorch.speech import espeak
from analogtorch.speech.own_chip import cells_condition
from analogtorch.speech.run_settings import differences
from analogtorch.speech.rundir import RunFolder
from analogtorch.speech.transcription.config import TranscribeConfig
from analogtorch.speech.transcription.recordings import (
    SENTENCES,
    Recording,
    read_recordings,
    spoken,
)
from analogtorch.speech.transcription.speech import Speech, error_rate
from analogtorch.speech.transcription.whisper import Whisper, digests, load_whisper, logits
from analogtorch.values.progress import Progress

logger = logging.getLogger("analogtorch")

FILES = ("report.html", "report.md", "report.json", "transcripts.csv")
"""Files of every run."""
PLOT = "wer.png"
"""File of a run with references."""


def run(
    config: TranscribeConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Transcribed:
    """Write down recordings, digitally and on chips over time, and write a report.

    The same configuration gives the same texts. The folder gets config.json (usable as
    ``--config``), report.html, report.md, report.json, transcripts.csv, wer.png where references
    are known, texts/ with what each chip writes down as soon as it has, and journal.json. All
    recordings and the recogniser are read before the folder is changed.

    Args:
        config: the configuration of the run.
        out: a new or an empty folder, or that of an earlier run.
        resume: continue a run that was stopped; other numbers of chips and times may be given.
        overwrite: replace an earlier run: remove the files that its journal lists.
        progress: if True, show progress bars.

    Returns:
        The texts, and the word error rate where references are known.

    Raises:
        ValueError: a recording, a reference or a setting cannot be used, or the folder holds other
            files or another run.
        OSError: a file is missing or cannot be written.
        ImportError: a package is not installed.
    """
    start = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        recordings = _recordings(config)
        with torch.device("cpu"):  # whatever torch.set_default_device says
            whisper = load_whisper(config.whisper.folder, seconds=config.whisper.seconds)
        with (
            torch.device("cpu"),
            RunFolder.open(out, config, resume=resume, overwrite=overwrite) as folder,
        ):
            speech = Speech.of(whisper, recordings, config.whisper.batch_size)
            said = any(recording.said is not None for recording in recordings)
            model = on_chip(config, whisper, speech)
            kept = [f"texts/{i}.json" for i in range(config.sweep.num_chips)]
            written = (*FILES, *([PLOT] if said else []))
            folder.begin(
                _fingerprint(recordings),
                code=digests(config.whisper.folder),
                planned=(*written, "texts/digital.json", *kept),
            )
            digital, chips = _texts(config, whisper, model, speech, folder, progress)
            mapping, cost = _mapped(config, whisper, model, speech)
            result = Transcribed(
                transcripts=tuple(
                    Transcript(
                        name=recording.name,
                        seconds=recording.seconds,
                        said=recording.said,
                        digital=digital[i],
                        chips=tuple(tuple(texts[i] for texts in of_chip) for of_chip in chips),
                    )
                    for i, recording in enumerate(recordings)
                ),
                times=config.sweep.times,
                seeds=chip_seeds(config.sweep.seed, config.sweep.num_chips),
                chip=config.chip.build().name,
                recogniser=config.whisper.folder or "Whisper tiny.en",
                share=str(at.summary(model).share),
                digital=error_rate(recordings, digital) if said else None,
                wer=_swept(config, model, recordings, chips) if said else None,
                mapping=mapping,
                cost=cost,
                window=config.whisper.seconds,
                notes=_notes(config, model, recordings),
                versions={"analogtorch": at.__version__, "Python": platform.python_version()}
                | {name: version(name) for name in ("torch", "transformers", "numpy")},
                took=time.perf_counter() - start,
                continued=folder.resume,
                config=config.to_dict(),
                command=folder.again("transcribe"),
            )
            for name in written:
                folder.file(name)
            if result.wer is None:
                folder.remove(PLOT)  # of a part of the run with references
            _write(result, folder.path)
            folder.finish()
            return result
    finally:
        torch.set_num_threads(threads)


def on_chip(config: TranscribeConfig, whisper: Whisper, speech: Speech) -> nn.Module:
    """Return the recogniser converted for the chip, and calibrated if that is wanted."""
    chip = enlarged(config.chip.build(), config.chip.cells)
    model = at.convert(copy.deepcopy(whisper.model), chip, exclude=list(config.chip.digital))
    if config.chip.calibrate:
        if not speech.features:
            raise ValueError("chip.calibrate needs sound, but all recordings are silent")
        with means_corrected(config.chip.correct):
            at.calibrate(model, speech.batches(whisper), forward=logits)
    return model.eval()


def _recordings(config: TranscribeConfig) -> list[Recording]:
    if config.data.audio is None:
        return spoken(SENTENCES[: config.data.sentences])
    return read_recordings(config.data.audio, config.data.references)


def _fingerprint(recordings: Sequence[Recording]) -> str:
    """Return the SHA-256 of all samples, in their order; references may change."""
    digest = hashlib.sha256()
    for recording in recordings:
        digest.update(f"{len(recording.samples)}".encode())
        digest.update(recording.samples.contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _texts(
    config: TranscribeConfig,
    whisper: Whisper,
    model: nn.Module,
    speech: Speech,
    folder: RunFolder,
    progress: bool,
) -> tuple[list[str], list[list[list[str]]]]:
    """Return the texts of the digital net, and of each chip at each time."""
    times, seeds = config.sweep.times, chip_seeds(config.sweep.seed, config.sweep.num_chips)
    # all of them are read before anything is computed, as one may be damaged
    first, *of_chips = (
        _Kept(folder.file(f"texts/{name}.json"), len(speech.recordings), seed, folder.identity)
        for name, seed in (("digital", None), *enumerate(seeds))
    )
    total = 1 + len(seeds) * len(times)
    with Progress(total=total, desc="chips x times", unit="read", disable=not progress) as bar:
        logger.info("%.0f s of recordings, digitally", speech.seconds)
        digital = first.text("digital", lambda _: speech.texts(whisper, whisper.model))
        bar.update()
        # late and once, as a finished run has no chip to correct
        look = functools.cache(lambda: _look(config, whisper, speech))
        chips = []
        for number, (seed, kept) in enumerate(zip(seeds, of_chips, strict=True)):
            logger.info("chip %d of %d", number + 1, len(seeds))
            view: Any = None
            if not kept.holds(times):
                physical = at.program(model, seed=seed)
                physical.warned.update(n for t in times for n in beyond_data(model, seconds(t)))
                view = look().at(physical)
                del physical
            of_times = []
            for t in times:
                written = functools.partial(_written, whisper, speech, view)
                of_times.append(kept.text(t, written))
                bar.update()
            chips.append(of_times)
            del view, written  # the next chip has their memory
    return digital, chips


def _written(
    whisper: Whisper, speech: Speech, view: Callable[[float | None], nn.Module], time: str
) -> list[str]:
    """Return what a chip writes down at a time."""
    return speech.texts(whisper, view(seconds(time)))


def _look(config: TranscribeConfig, whisper: Whisper, speech: Speech) -> Look:
    """Return how chips are looked at; there is nothing to correct by if all is silence."""
    recovery = None
    if config.chip.correct and speech.features:
        recovery = at.Recovery(batches=speech.batches(whisper), rounds=1, forward=logits)
    return Look(compensation=config.chip.compensation, recovery=recovery)


def _texts_of(found: Any, recordings: int) -> bool:
    """Return whether something is a text for each recording."""
    of_all = isinstance(found, list) and len(found) == recordings
    return of_all and all(isinstance(text, str) for text in found)


class _Kept:
    """The texts of one chip by time, in a file that is written anew after each.

    Args:
        path: the file. Earlier versions wrote neither checksum nor seed, or not the run.
        recordings: how many there are.
        seed: that of the chip; None is no chip.
        run: ``RunFolder.identity``.

    Raises:
        ValueError: the file is damaged, was edited, or is of another chip or run.
    """

    def __init__(self, path: Path, recordings: int, seed: int | None, run: dict[str, Any]) -> None:
        self.path, self.seed, self.run = path, seed, run
        self.texts: dict[str, list[str]] = {}
        if path.is_file():
            try:
                found = checked(parse_json(path.read_bytes()))
                if isinstance(found, dict) and "seed" in found:
                    self._check(found)
                    found = found.get("texts")
            except ValueError as error:
                raise ValueError(f"{path}: {error}; or remove the file, and resume") from error
            if isinstance(found, dict):
                self.texts = {t: x for t, x in found.items() if _texts_of(x, recordings)}

    def _check(self, found: dict[str, Any]) -> None:
        remedy = "copy that of this run back"
        if found["seed"] != self.seed:
            raise ValueError(
                f"is of another chip, of seed {found['seed']} in place of {self.seed}: {remedy}"
            )
        try:
            differ = differences(found.get("run", self.run), self.run)
        except (AttributeError, TypeError, LookupError):  # edited by hand
            differ = "its own settings cannot be read"
        if differ:
            raise ValueError(f"holds the texts of another run ({differ}): {remedy}")

    def holds(self, times: Sequence[str]) -> bool:
        return set(times) <= set(self.texts)

    def text(self, time: str, write: Callable[[str], list[str]]) -> list[str]:
        """Return the texts at a time, from the file or by ``write``."""
        if time not in self.texts:
            self.texts[time] = write(time)
            self.path.parent.mkdir(exist_ok=True)
            whole = signed({"seed": self.seed, "run": self.run, "texts": self.texts})
            write_atomically(self.path, json.dumps(whole, indent=2) + "\n")
        return self.texts[time]


def _mapped(
    config: TranscribeConfig, whisper: Whisper, model: nn.Module, speech: Speech
) -> tuple[ChipMapping | None, CostReport | None]:
    """Return mapping and cost of one window; none of silence, or without a cost."""
    if not speech.features:
        return None, None
    one: dict[str, Tensor] = whisper.batch(whisper.model, speech.features[0][:1])
    chip = None if config.chip.cells == 1 else config.chip.build()
    mapping = at.map_to_chip(model, one, chip=chip, num_chips=None)
    return mapping, None if mapping.chip.cost is None else at.cost(mapping)


_CORRECTIONS = "chips correct gain and offset of their columns digitally, from the recordings"


def _swept(
    config: TranscribeConfig,
    model: nn.Module,
    recordings: Sequence[Recording],
    chips: Sequence[Sequence[Sequence[str]]],
) -> Sweep:
    """Return the word error rates of the chips as a sweep."""
    notes = tuple("; ".join(beyond_data(model, seconds(t))) for t in config.sweep.times)
    rates = [[error_rate(recordings, texts) for texts in of_chip] for of_chip in chips]
    return Sweep(
        times=config.sweep.times,
        values=torch.tensor(rates, dtype=torch.float64, device="cpu"),
        seeds=chip_seeds(config.sweep.seed, config.sweep.num_chips),
        notes=notes if any(notes) else (),
        metric="WER",
        higher_is_better=False,
        bounds=(0, math.inf),
        recovery=_CORRECTIONS if config.chip.correct else "",
        conditions=tuple(_conditions(config).values()),
    )


def _conditions(config: TranscribeConfig) -> dict[str, str]:
    """Return what of the chips is not as by default, in words, by option."""
    found = conditions(None, None, config.chip.compensation)
    return found | cells_condition(config.chip.cells)


def _notes(
    config: TranscribeConfig, model: nn.Module, recordings: Sequence[Recording]
) -> tuple[str, ...]:
    found = [espeak.NOTE] if config.data.audio is None else []
    known = sum(recording.said is not None for recording in recordings)
    if 0 < known < len(recordings):
        found.append(
            f"{known} of {len(recordings)} recordings have a reference; the word error rate is of "
            "those."
        )
    found += [f"On the chips, {text} (chip.{name})." for name, text in _conditions(config).items()]
    for t in config.sweep.times:
        found += [f"{t}: {note}" for note in beyond_data(model, seconds(t))]
    return tuple(found)


def _write(result: Transcribed, folder: Path) -> None:
    """Write transcripts.csv, report.json, wer.png, report.html and report.md.

    The texts come first: an error in what shows them leaves them written.
    """
    comma_separated(result.rows(), folder / "transcripts.csv")
    write_atomically(folder / "report.json", json.dumps(result.to_dict(), indent=2) + "\n")
    plot = ""
    if result.wer is not None:
        result.wer.plot(folder / PLOT, limit=result.digital)
        plot = PLOT
    write_atomically(folder / "report.html", html(result))
    write_atomically(folder / "report.md", markdown(result, plot=plot))
