"""Train a keyword transformer of 12 blocks, 64 wide, on real speech: a net of ``benchmarks.adapt``.

    python -m benchmarks.transformer

The speech is that of arabic_speech_commands: 12 words, 30 speakers, the official split by speaker.
2,160 training clips are few for a transformer, so that it distils from a convolutional net, which
is trained first on the same clips, and every clip is moved, stretched and masked anew in each
epoch. The validation clips chose the recipe; nothing saw the test clips. Both nets are kept in the
output folder, as safetensors. An interrupted run goes on.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch.files import write_atomically
from analogtorch.speech.augment import Augment, Augmenter
from analogtorch.speech.draws import uniform
from analogtorch.speech.models import ConvNet, KeywordTransformer
from analogtorch.speech.training import Batches, Phase, fit
from benchmarks.tables import add_data, as_text

FILE = Path("arabic_speech_commands") / "logmel_49x40_u8_12kw.npz"
FOLDER = Path("runs/transformer")
"""The nets, by default."""
MEAN, STD = -21.01, 21.06
"""Of the features of the training clips, in dB."""
TEACHER = Phase(epochs=30, batch_size=60, learning_rate=3e-3)
"""The training of the convolutional net."""
STUDENT = Phase(
    epochs=60, batch_size=60, learning_rate=1e-3, weight_decay=0.05, mixup=0.2, distill=0.7
)
"""The training of the transformer."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Speech:
    """Clips of the three splits: features (N, 1, 49, 40) and labels (N,).

    Over the training clips, features have about zero mean and unit variance.
    """

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def accuracy(self, model: nn.Module, split: str) -> float:
        """Return the accuracy, 0..1, on the clips of a split."""
        pairs = zip(*(part.split(64) for part in getattr(self, split)), strict=True)
        return at.accuracy(model.eval(), list(pairs))


def load_speech(data: Path) -> Speech:
    """Return the clips of the data folder.

    Raises:
        FileNotFoundError: the file is not there.
    """
    with np.load(data / FILE, allow_pickle=False) as archive:
        x, y, split = (archive[name] for name in ("x", "y", "split"))
    # half decibels above -100 dB
    features = ((torch.from_numpy(x).float() / 2 - 100 - MEAN) / STD).unsqueeze(1)
    rows = {name: torch.from_numpy(split == name) for name in SPLITS}
    return Speech(**{k: (features[v], torch.from_numpy(y)[v]) for k, v in rows.items()})


class Augmented:
    """Changes training clips as a pure function of (seed, epoch, index), for ``Batches``.

    A clip is moved and stretched in time and over the filters, made louder or softer, and masked.

    Args:
        clips: features and labels.
        seed: seed of all changes.
    """

    def __init__(self, clips: tuple[Tensor, Tensor], seed: int) -> None:
        self.features, self.labels = clips
        self.seed = seed
        self.masks = Augmenter(Augment(time_mask_frames=10, frequency_mask_bins=8), seed=seed)

    def __call__(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the changed features and the labels of the clips at ``index``."""
        clips = self.features[index]

        def draw(name: str, most: float) -> Tensor:
            numbers = uniform(self.seed, epoch, index.numpy(), name)
            return torch.from_numpy(most * (2 * numbers - 1)).float()

        # shifts are in halves of the map: 0.25 is 6 frames, 0.08 about 2 filters
        zero = torch.zeros(len(index))
        filters = torch.stack([1 + draw("formants", 0.1), zero, draw("pitch", 0.08)], 1)
        frames = torch.stack([zero, 1 + draw("speed", 0.2), draw("shift", 0.25)], 1)
        grid = F.affine_grid(torch.stack([filters, frames], 1), list(clips.shape), False)
        moved = F.grid_sample(clips, grid, padding_mode="border", align_corners=False)
        louder = moved + draw("gain", 0.3)[:, None, None, None]
        return self.masks.features(louder, index, epoch=epoch), self.labels[index]


def teacher_net() -> ConvNet:
    """Return the untrained convolutional net."""
    return ConvNet(stem_stride=(2, 2))


def student_net() -> KeywordTransformer:
    """Return the untrained transformer, with a token of every three frames: 18 tokens."""
    return KeywordTransformer(patch=3)


def trained(
    name: str,
    build: Callable[[], nn.Module],
    phase: Phase,
    speech: Speech,
    folder: Path,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Return a net that is trained with seed 0, in eval mode; from the folder if it is there.

    Raises:
        ValueError: the folder has a checkpoint of another net.
        OSError: the folder cannot be written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = build()
    path = folder / f"{name}.safetensors"
    if path.is_file():
        net.load_state_dict(load_file(path))
        return net.eval()
    folder.mkdir(parents=True, exist_ok=True)
    clips = Augmented(speech.train, seed=0)
    fit(
        net,
        Batches(clips, len(speech.train[1]), batch_size=phase.batch_size, seed=0),
        phase,
        seed=0,
        checkpoint=folder / f"{name}.ckpt",
        resume=True,
        teacher=copy.deepcopy(teacher),  # training freezes it
        validation=speech.val,
        progress=True,
    )
    write_atomically(path, save(net.state_dict()))
    return net.eval()


def transformer(speech: Speech, folder: Path = FOLDER) -> tuple[nn.Module, nn.Module]:
    """Return the convolutional net and the transformer, trained unless the folder has them.

    Raises:
        ValueError: the folder has a checkpoint of another net.
        OSError: the folder cannot be written.
    """
    teacher = trained("teacher", teacher_net, TEACHER, speech, folder)
    student = trained("transformer", student_net, STUDENT, speech, folder, teacher)
    return teacher, student


def main(argv: Sequence[str] | None = None) -> None:
    """Train the nets and print their accuracies."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transformer",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the nets")
    options, start = parser.parse_args(argv), time.perf_counter()
    try:
        speech = load_speech(options.data)
        nets = dict(
            zip(("ConvNet", "KeywordTransformer"), transformer(speech, options.out), strict=True)
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.transformer: {error}") from error
    table = [["net", "parameters", *(f"{split}, %" for split in SPLITS)]]
    for name, net in nets.items():
        count = sum(p.numel() for p in net.parameters())
        table.append([
            name,
            f"{count:,}",
            *(f"{100 * speech.accuracy(net, split):.1f}" for split in SPLITS),
        ])  # fmt: skip
    print(as_text(table, 1), f"{time.perf_counter() - start:.0f} s", sep="\n\n")


if __name__ == "__main__":
    main()
