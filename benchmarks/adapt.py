"""What ``at.hwa.adapt`` gains on pretrained keyword spotters, beside a control without noise.

    python -m benchmarks.adapt [--nets DNN_L ...] [--seeds 0 1 2] [--steps 1000]

Every net learns, without labels, from half of the clips of the Speech Commands v2 test set, and is
measured on the other half. The rows of a net are the model mapped directly, calibrated by default
and by search, the adapted one, and a control: the same steps and distillation without noise and
clipping. All are measured on the same chips, so that differences are paired. Each finished run is
kept in the output folder.
"""

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.evaluate.interval import interval
from analogtorch.files import write_atomically
from analogtorch.speech.pretrained import load_pretrained
from benchmarks.tables import add_data, as_markdown, as_text, positive

BATCH = 128
SPLIT = 4  # seed of the split into clips to learn from and clips to measure on


def _all(name: str, layer: nn.Module) -> bool:
    return True


def _not_depthwise(name: str, layer: nn.Module) -> bool:
    return getattr(layer, "groups", 1) == 1


NETS: dict[str, tuple[str, Callable[[str, nn.Module], bool]]] = {
    "DNN_L": ("DNN_L", _all),
    "CNN_L": ("CNN_L", _all),
    "LSTM_L": ("LSTM_L", _all),
    "DS-CNN": ("DS-CNN", _all),
    "DS-CNN, depthwise digital": ("DS-CNN", _not_depthwise),
}
"""The pretrained net of each row, and which of its layers become analog."""
CALIBRATED: dict[str, dict[str, Any]] = {
    "mapped": {},
    "searched": {"effort": "search", "report": None},
}
"""Options of ``calibrate`` of each row that does not learn."""
RECIPES: dict[str, at.hwa.Recipe] = {
    "adapted": at.hwa.Recipe(),
    "control": at.hwa.Recipe(noise=0.0, clip_sigma=None),
}
"""The recipe of each row that learns."""

NOISES = {
    "programming": at.TrainingNoise(),
    "1 day": at.TrainingNoise(weight="device", time="1 day"),
    "1 month": at.TrainingNoise(weight="device", time="1 month"),
}
"""The training noise by name."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips to learn from, and others to measure on."""

    learn: list[Tensor]
    features: Tensor
    labels: Tensor

    def accuracy(self, model: nn.Module) -> float:
        """Return the accuracy on the clips to measure on."""
        pairs = zip(self.features.split(64), self.labels.split(64), strict=True)
        return at.accuracy(model, list(pairs))


def load(net: str, options: argparse.Namespace) -> tuple[nn.Module, Clips]:
    """Return the digital net and its clips."""
    found = load_pretrained(NETS[net][0], options.data)
    order = torch.randperm(len(found.labels), generator=torch.Generator().manual_seed(SPLIT))
    half = len(order) // 2
    learn, measure = order[:half], order[half :: options.every]
    clips = Clips(
        learn=list(found.features[learn].split(BATCH))[: half // BATCH],
        features=found.features[measure],
        labels=found.labels[measure],
    )
    return found.model.eval(), clips


def converted(net: str, model: nn.Module, training: at.TrainingNoise) -> nn.Module:
    """Return a converted copy of the net."""
    chip = at.chips.hermes64(training=training)
    return at.convert(copy.deepcopy(model), chip, where=NETS[net][1])


def measured(model: nn.Module, clips: Clips, options: argparse.Namespace) -> dict[str, Any]:
    """Return the accuracy behind the converters alone, and that of each chip at each time."""
    found = at.sweep(
        model.eval(), clips.accuracy, num_chips=options.chips, times=options.times, seed=1
    )
    return {"io": clips.accuracy(model), "chips": found.values.tolist()}


def one(net: str, recipe: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return one row of one seed, from the folder if it is there."""
    name = f"{net}-{recipe}-{seed}".replace(" ", "_").replace(",", "")
    path = options.out / f"{name}.json"
    asked = {name: getattr(options, name) for name in ("steps", "chips", "every", "times", "noise")}
    if path.is_file() and (kept := json.loads(path.read_text()))["asked"] == asked:
        return dict(kept)
    model, clips = load(net, options)
    student = converted(net, model, NOISES[options.noise])
    seconds, text = 0.0, ""
    if recipe in CALIBRATED:
        at.calibrate(student, clips.learn, **CALIBRATED[recipe])
    else:
        found = at.hwa.adapt(
            student,
            clips.learn,
            teacher=model,
            recipe=RECIPES[recipe],
            steps=options.steps,
            seed=seed,
            folder=options.out / f"{name}-{options.steps}-{options.noise}".replace(" ", "_"),
            progress=True,
        )
        student, seconds, text = found.model, found.seconds, str(found)
    row = {
        "digital": clips.accuracy(model),
        **measured(student, clips, options),
        "seconds": seconds,
        "report": text,
        "asked": asked,
    }
    write_atomically(path, json.dumps(row, indent=2) + "\n")
    return row


def cells(rows: dict[tuple[str, str], list[dict[str, Any]]], times: Sequence[str]) -> list[Any]:
    """Return header and rows of the table."""
    table = [["net", "row", "digital", "8-bit I/O", *times, "s"]]
    for (net, recipe), seeds in rows.items():
        chips = torch.tensor([row["chips"] for row in seeds])  # (seeds, chips, times)
        table.append([
            net,
            recipe,
            f"{100 * seeds[0]['digital']:.1f}",
            f"{100 * torch.tensor([row['io'] for row in seeds]).mean():.1f}",
            *map(_spread, 100 * chips.flatten(0, 1).T),
            f"{max(row['seconds'] for row in seeds):.0f}",
        ])  # fmt: skip
    return table


def _spread(values: Tensor) -> str:
    mean = f"{values.mean():.1f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std():.1f}"


def gains(
    rows: dict[tuple[str, str], list[dict[str, Any]]], times: Sequence[str]
) -> list[list[str]]:
    """Return the paired differences between the adapted nets and the other rows."""
    table = [["net", "adapted minus", *times]]
    for net in dict.fromkeys(net for net, _ in rows):
        for other in (*CALIBRATED, "control"):
            if (net, other) not in rows or (net, "adapted") not in rows:
                continue
            of = [torch.tensor([r["chips"] for r in rows[net, k]]) for k in ("adapted", other)]
            # the means over chips of each seed; the mapped net has one seed
            paired = 100 * (of[0] - of[1]).mean(1)
            spans = [interval(paired[:, i].tolist()) for i in range(len(times))]
            table.append([net, other, *(f"{s.mean:+.2f} ± {s.half_width:.2f}" for s in spans)])
    return table


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adapt",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NET")
    rows = [*CALIBRATED, *RECIPES]
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    parser.add_argument("--noise", choices=NOISES, default="programming", help="training noise")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the training")
    parser.add_argument("--steps", type=positive, default=1000, help="training steps")
    parser.add_argument("--chips", type=positive, default=10, help="chips measured")
    parser.add_argument("--every", type=positive, default=1, help="measure every n-th clip only")
    parser.add_argument(
        "--times",
        nargs="+",
        default=["0 s", "1 day", "1 month", "1 year"],
        help="after programming",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/adapt"), help="folder of the rows")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the seeds of each net and row; their reports are printed."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for net in options.nets:
        for recipe in options.rows:
            seeds = options.seeds[:1] if recipe in CALIBRATED else options.seeds
            rows[net, recipe] = [one(net, recipe, seed, options) for seed in seeds]
            print(rows[net, recipe][0]["report"])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write them."""
    options = parse(argv)
    try:
        rows = run(options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.adapt: {error}") from error
    notes = [
        "Accuracy in %: mean ± standard deviation over chips and seeds, on clips that the "
        "adaptation did not see, of hermes64 with two devices per polarity.",
        f"{options.steps} steps of {BATCH} clips without labels; training noise {options.noise}.",
    ]
    paired = gains(rows, options.times)
    tables = [cells(rows, options.times)] + ([paired] if len(paired) > 1 else [])
    print("\n\n".join([*(as_text(table, 2) for table in tables), *notes]))
    pages = [as_markdown(table, "Adapted keyword spotters", notes) for table in tables]
    write_atomically(options.out / "adapt.md", "\n".join(pages))


if __name__ == "__main__":
    main()
