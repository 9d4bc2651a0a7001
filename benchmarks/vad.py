"""silero-vad on chips: how well it tells speech from noise, over time.

    python -m benchmarks.vad [--recordings 100] [--chips 10]

Recordings of 4 s have two words of people, of Speech Commands, in background noise that was
recorded too, at a ratio from -5 to 15 dB. A frame of 32 ms is speech if the words alone are louder
there than 30 dB below their loudest frame. All rows are measured on the same chips.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import analogtorch as at
from analogtorch.evaluate.interval import interval
from analogtorch.evaluate.task_metric import TaskMetric
from analogtorch.files import write_atomically
from analogtorch.speech.data import SAMPLE_RATE, Clips
from analogtorch.speech.draws import uniform
from analogtorch.speech.labels import LABELS
from analogtorch.speech.noise import Noise, read_noise
from benchmarks.adapt.silero import CLIPS, FRAME, silero_vad
from benchmarks.adapt.subjects import clips
from benchmarks.tables import add_data, as_markdown, as_text, positive

NOISE = "gsc_background_noise"
"""Folder of the noise, in the data folder."""
QUIET = 10 ** (-30 / 20)
SNR = (-5.0, 15.0)
"""Range of the ratio of speech to noise, in dB over the word."""
BATCH, LEARNT = 10, 40
"""Recordings of a batch, and those to correct columns with."""
CHIP = "hermes64(weight_scale='column')"
ROWS = ("mapped", "columns corrected")


def recordings(given: Clips, noise: Noise, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return recordings (count, samples) with the label of each frame (count, frames, 1)."""
    words = (given.labels != LABELS.index("_silence_")).nonzero().flatten()
    n = torch.arange(count).numpy()
    background = noise.crop(uniform(seed, "noise", torch.arange(count * CLIPS).numpy()))
    background = background.view(count, -1)
    clean = torch.zeros_like(background)
    for turn in range(CLIPS // 2):
        # a word in each half, at any place of it
        which = torch.from_numpy(uniform(seed, "word", turn, n) * len(words)).long()
        start = torch.from_numpy(uniform(seed, "start", turn, n) * SAMPLE_RATE).long()
        place = (2 * turn * SAMPLE_RATE + start)[:, None] + torch.arange(SAMPLE_RATE)
        word = given.waveforms[words[which]] / 32_768
        clean.scatter_(1, place, word / word.abs().amax(1, keepdim=True).clamp(min=1e-3))
    loud = F.pad(clean, (0, -clean.shape[1] % FRAME)).unfold(1, FRAME, FRAME)
    loud = loud.square().mean(-1).sqrt()
    speech = loud > QUIET * loud.amax(1, keepdim=True)
    power = (loud * speech).square().sum(1).div(speech.sum(1)).sqrt()
    snr = torch.from_numpy(SNR[0] + (SNR[1] - SNR[0]) * uniform(seed, "snr", n)).float()
    scale = power * 10 ** (-snr / 20) / background.square().mean(1).sqrt().clamp(min=1e-6)
    mixed = clean + background * scale[:, None]
    return 0.5 * mixed / mixed.abs().amax(1, keepdim=True), speech[..., None]


class Bench:
    """The detector with recordings of other speakers than those that it learns from."""

    def __init__(
        self, model: nn.Module, splits: dict[str, Clips], noise: Noise, count: int
    ) -> None:
        self.model = model
        x, y = recordings(splits["test"], noise, count, 1)
        self.pairs = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
        self.learnt = list(recordings(splits["train"], noise, LEARNT, 0)[0].split(BATCH))
        self.speech = y.float().mean().item()

    def on(self, chip: at.Chip) -> nn.Module:
        """Return the detector on a chip; its spectrum stays digital, as fixed weights."""
        return at.convert(copy.deepcopy(self.model), chip, exclude=["stft_conv"]).eval()

    def row(self, name: str, metric: TaskMetric, options: argparse.Namespace) -> list[str]:
        """Return one row of the table."""
        model = self.on(at.chips.hermes64(weight_scale="column"))
        found = at.sweep(
            model,
            metric,
            num_chips=options.chips,
            times=options.times,
            recovery=None if name == "mapped" else at.Recovery(batches=self.learnt),
        )
        means = (interval((100 * v).tolist()).shown(2) for v in found.values.T)
        return [metric.name, name, f"{100 * metric(model):.2f}", *means]


def bench(options: argparse.Namespace) -> Bench:
    """Return the bench of the command line."""
    return Bench(
        silero_vad(), clips(options.data), read_noise(options.data / NOISE), options.recordings
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vad",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    parser.add_argument("--recordings", type=positive, default=100, help="recordings measured")
    parser.add_argument("--chips", type=positive, default=10, help="chips measured")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, metavar="ROW")
    parser.add_argument("--times", nargs="+", default=["0 s", "1 day", "1 month", "1 year"])
    parser.add_argument("--out", type=Path, default=Path("runs/vad"))
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, make: Callable[[argparse.Namespace], Bench] = bench
) -> None:
    """Measure, print the table and write it."""
    options = parse(argv)
    try:
        found = make(options)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"benchmarks.vad: {error}") from error
    table = [["metric", "row", "8-bit I/O", *options.times]]
    digital = []
    for metric in (at.metrics.auc(found.pairs), at.metrics.eer(found.pairs)):
        exact, ideal = metric(found.model), metric(found.on(at.chips.ideal()))
        digital.append(f"{metric.name} {100 * exact:.2f} %, ideal chip {100 * ideal:.2f} %")
        table += [found.row(name, metric, options) for name in options.rows]
    notes = [
        f"Digital: {'; '.join(digital)}, of {options.recordings} recordings of {CLIPS} s, "
        f"{100 * found.speech:.0f} % of whose frames are speech.",
        f"In %, mean and 95 % interval over {options.chips} chips {CHIP}. AUC: area under the ROC "
        "curve of the frames; EER: misses where they are as many as false alarms.",
    ]
    print("\n\n".join([as_text(table, 2), "\n".join(notes)]))
    page = as_markdown(table, "silero-vad on chips", notes, left=2)
    write_atomically(options.out / "vad.md", page)


if __name__ == "__main__":
    main()
