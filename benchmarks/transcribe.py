"""Whisper tiny.en on chips: the word error rate that is left, on connected words of real voices.

    python -m benchmarks.transcribe [--recordings 24] [--chips 3] [--rows mapped ...]

The words are recordings of Speech Commands, six of one speaker in a row. All rows are measured on
the same chips. Calibration and correction read recordings of other speakers, without their texts.
"""

import argparse
import copy
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import nn

import analogtorch as at
from analogtorch.chips.unit_cells import enlarged
from analogtorch.evaluate.interval import interval
from analogtorch.files import write_atomically
from analogtorch.speech.folder import Folder
from analogtorch.speech.pretrained import MANIFEST
from analogtorch.speech.transcription.recordings import joined
from analogtorch.speech.transcription.speech import Speech
from analogtorch.speech.transcription.whisper import Whisper, load_whisper, logits
from benchmarks.tables import add_data, as_markdown, as_text, positive

CHIP = "hermes64(weight_scale='column')"
LEARNT = 16
"""Recordings to calibrate on and to correct columns with."""
ROWS = (
    *("mapped", "calibrated", "corrected", "calibrated, corrected"),
    *("head digital", "head digital, corrected"),
)


class Bench:
    """The recogniser, its recordings, and how it gets onto chips."""

    def __init__(self, whisper: Whisper, measured: Speech, learnt: Speech) -> None:
        self.whisper, self.measured = whisper, measured
        self.metric = measured.wer(whisper)
        self.batches = learnt.batches(whisper)

    def on(self, chip: at.Chip, row: str = "mapped", cells: int = 1) -> nn.Module:
        """Return the recogniser converted for a row, with as many unit cells for each weight."""
        exclude = ["proj_out"] if row.startswith("head digital") else []
        chip = enlarged(chip, cells)
        model = at.convert(copy.deepcopy(self.whisper.model), chip, exclude=exclude)
        if row.startswith("calibrated"):
            at.calibrate(model, self.batches, forward=logits)
        return model.eval()

    def row(self, name: str, chip: at.Chip, options: argparse.Namespace) -> list[str]:
        """Return one row of the table."""
        start = time.perf_counter()
        model = self.on(chip, name, options.cells)
        io = self.metric(model)
        corrected = name.endswith("corrected")
        found = at.sweep(
            model,
            self.metric,
            num_chips=options.chips,
            times=options.times,
            recovery=at.Recovery(batches=self.batches, forward=logits) if corrected else None,
            higher_is_better=False,
            folder=options.out / f"{name.replace(', ', '-').replace(' ', '-')}",
        )
        means = [interval((100 * values).tolist()).shown(1) for values in found.values.T]
        return [name, f"{100 * io:.1f}", *means, f"{time.perf_counter() - start:.0f}"]


def bench(options: argparse.Namespace) -> Bench:
    """Return the bench of the command line."""
    folder = options.data / Path(MANIFEST).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; give the folder of the data by --data")
    whisper, clips = load_whisper(), Folder(root=str(folder)).load()
    heard = [
        Speech.of(whisper, joined(clips[split], count))
        for split, count in (("test", options.recordings), ("train", LEARNT))
    ]
    return Bench(whisper, *heard)


def facts(found: Bench, chip: at.Chip, cells: int = 1) -> Iterator[str]:
    """Yield what holds for all rows: data, digital and ideal error rate, guard, cost."""
    whisper, speech = found.whisper, found.measured
    said = sum(len(str(r.said).split()) for r in speech.recordings)
    digital = found.metric(whisper.model)
    yield (
        f"{len(speech.recordings)} recordings of {speech.seconds / 60:.1f} min with {said} words; "
        f"digital {100 * digital:.1f} %"
    )
    texts = speech.texts(whisper, whisper.model)
    ideal = speech.texts(whisper, found.on(at.chips.ideal()))
    same = sum(a == b for a, b in zip(texts, ideal, strict=True))
    yield f"ideal chip: {same} of {len(texts)} texts as the digital net"
    model, one = found.on(chip, cells=cells), speech.features[0][:1]
    guarded = at.guard(model, one, forward=whisper.tokens)
    yield f"generate() on {CHIP}: {guarded.share}"
    batch = whisper.batch(whisper.model, one)
    mapping = at.map_to_chip(model, batch, chip=chip, num_chips=None)
    cost = at.cost(mapping)
    yield (
        f"{mapping.num_chips} chips, {mapping.tiles_used} tiles; a window of {whisper.seconds} s "
        f"with {batch['decoder_input_ids'].shape[1]} tokens takes "
        f"{1e3 * cost.energy.system:.2f} mJ, digital operations included, and "
        f"{1e3 * cost.latency:.1f} ms (the tokens at once), modelled"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transcribe",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    parser.add_argument("--recordings", type=positive, default=24, help="recordings measured")
    parser.add_argument("--chips", type=positive, default=3, help="chips measured")
    parser.add_argument(
        "--cells", type=positive, default=1, help="unit cells that hold each weight"
    )
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, metavar="ROW",
                        help=", ".join(ROWS))  # fmt: skip
    parser.add_argument("--times", nargs="+", default=["0 s", "1 day", "1 month"])
    parser.add_argument("--out", type=Path, default=Path("runs/transcribe-benchmark"))
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, make: Callable[[argparse.Namespace], Bench] = bench
) -> None:
    """Measure, print the table and write it."""
    options = parse(argv)
    chip = at.chips.hermes64(weight_scale="column")
    try:
        found = make(options)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"benchmarks.transcribe: {error}") from error
    notes = list(facts(found, chip, options.cells))
    print("\n".join(notes), flush=True)
    table = [["row", "8-bit I/O", *options.times, "s"]]
    each = functools.partial(found.row, chip=chip, options=options)
    for name in options.rows:
        table.append(each(name))
        print("  ".join(table[-1]), flush=True)
    notes.append(
        f"Word error rate in %, mean and 95 % interval over {options.chips} chips {CHIP}, "
        f"{options.cells} unit cells per weight; 8-bit "
        "I/O: behind the converters alone; s: time of the measurement."
    )
    print(f"\n{as_text(table, 1)}\n{notes[-1]}")
    page = as_markdown(table, "Whisper tiny.en on chips", notes, left=1)
    write_atomically(options.out / "transcribe.md", page)


if __name__ == "__main__":
    main()
