"""Recognisers of connected words, trained for the chip: word error rate over a month, over seeds.

    python -m benchmarks.connected [--model ctc] [--seeds 5] [--chips 10]

Utterances are three to seven of the ten command words of gsc_v2_test12, joined from real
recordings of one speaker in recorded noise; train, val and test have other speakers and other
noise. For each seed a digital net is trained, a CTC net or a transducer (RNN-T); from it a control
(the same further epochs and distillation, without noise and quantisation) and a net with
hardware-aware (HWA) training; then both are measured on the same chips, the control mapped
directly. Seeds are compared in pairs. A stopped run continues: finished nets are kept, the others
resume from their checkpoints.
"""

import argparse
import copy
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import analogtorch as at
from analogtorch.evaluate import TaskMetric, interval, metrics
from analogtorch.files import write_atomically
from analogtorch.speech.folder import Folder
from analogtorch.speech.noise import read_noise
from analogtorch.speech.pretrained import MANIFEST
from analogtorch.speech.recognition.decoding import beam, transcribe
from analogtorch.speech.recognition.examples import Aligned, Examples, Masks
from analogtorch.speech.recognition.learner import Recogniser
from analogtorch.speech.recognition.networks import CTC, Recordings, Transcripts, Transducer
from analogtorch.speech.recognition.utterances import ConnectedWords, Joining
from analogtorch.speech.training import Batches, Phase, fit
from benchmarks.bars import by_seed, paired, percent, verdict
from benchmarks.tables import add_data, as_markdown, as_text, positive

NOISE = "gsc_background_noise"
SPLITS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
"""The part of each recording of noise that a split gets."""
SIZES = {"train": 8000, "val": 200, "test": 300}
"""Utterances of each split."""
TRAINING = Joining(words=(1, 6), snr_db=(5.0, 30.0), speeds=(0.9, 1.0, 1.1), gain_db=6.0)
MASKS = Masks(times=2, frames=6, bands=1, filters=6)
ENCODERS: dict[str, dict[str, Any]] = {
    "ctc": {"channels": (96, 96), "before": (), "stack": 2, "after": (160,), "dropout": 0.1},
    "rnnt": {"channels": (96, 96), "before": (112,), "stack": 2, "after": (144,), "dropout": 0.1},
}
"""Convolutions, then LSTMs: of the transducer as in MLPerf's, with codes stacked between two."""
_PLAIN = {"batch_size": 32, "label_smoothing": 0.0}
PHASES = {
    "aligned": Phase(epochs=3, learning_rate=6e-3, **_PLAIN),
    "ctc": Phase(epochs=7, learning_rate=6e-3, warmup=0.1, **_PLAIN),
    "rnnt": Phase(epochs=7, learning_rate=6e-3, warmup=0.1, **_PLAIN),
}
"""The phases of a digital net: first which word sounds how, then what is said, by CTC or RNN-T."""
FURTHER = Phase(epochs=2, learning_rate=2e-3, warmup=0.1, distill=0.5, **_PLAIN)
"""The phase of control and HWA net."""
NOISE_OF_TRAINING = at.TrainingNoise(weight="device", time=("1 h", "1 day", "1 month"))
"""Of devices of several ages: nets that have learnt on old ones alone err on fresh chips."""
DIGITAL = {"ctc": ["encoder.convolutions.0.*", "head"]}
DIGITAL["rnnt"] = ["encoder.convolutions.0.*", "joint.*"]
"""Layers that stay digital: those whose sums do not suit the fixed range of the ADC. Features are
large together where it is loud or silent; the outputs, as in the joint net, are few and decide."""
CALIBRATED = 256
"""Training utterances that calibrate."""
WIDTH = 8
"""Texts that a beam search follows."""
BARS = {"1 day": 0.5, "1 month": 1.5}
"""Points of word error rate that the HWA net may be above its control, by the time."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """The utterances, with features that are computed once for all seeds."""

    train: Examples
    measured: Examples
    """Those of the split that is measured."""

    @classmethod
    def read(cls, folder: Path, split: str) -> "Data":
        """Return the utterances of the data folder."""
        root = folder / Path(MANIFEST).parent
        if not root.is_dir():
            raise FileNotFoundError(f"{root} does not exist; give the folder of the data by --data")
        clips = Folder(root=str(root)).load()
        noise = read_noise(folder / NOISE)

        def examples(name: str, joining: Joining, masks: Masks | None) -> Examples:
            words = ConnectedWords(
                clips[name], joining, size=SIZES[name], noise=noise.part(*SPLITS[name])
            )
            return Examples(words, words.vocabulary, masks=masks)

        return cls(
            train=examples("train", TRAINING, MASKS), measured=examples(split, Joining(), None)
        )

    def wer(self) -> TaskMetric:
        """Return the word error rate of what is written down greedily."""
        return metrics.wer(
            self.measured.batches(),
            lambda model, heard: transcribe(model, self.measured.vocabulary, heard),
        )

    def calibration(self) -> list[tuple[Recordings, Transcripts]]:
        """Return training batches without masks, to calibrate on."""
        parts = torch.arange(min(CALIBRATED, len(self.train))).split(32)
        return [(self.train.heard(p.tolist()), self.train.said(p.tolist())) for p in parts]


def chip() -> at.Chip:
    """Return the chip."""
    return at.chips.hermes64(weight_scale="column", training=NOISE_OF_TRAINING)


class Seed:
    """The nets of one training seed."""

    def __init__(self, data: Data, seed: int, options: argparse.Namespace) -> None:
        self.data, self.seed, self.options = data, seed, options
        self.folder: Path = options.out / options.model / f"seed-{seed}"

    def trained(
        self, network: nn.Module, name: str, phase: Phase, teacher: nn.Module | None = None
    ) -> nn.Module:
        """Train a network in place, or load it if an earlier run has."""
        train: Examples | Aligned = self.data.train
        if name == "aligned":
            train = self.data.train.aligned(network.encoder.stride)
        seed = at.ops.fold(at.ops.seed_tensor(self.seed), at.ops.stream(name)).item()
        return fit(
            network,
            Batches(train.make, len(self.data.train), batch_size=phase.batch_size, seed=self.seed),
            phase,
            # control and HWA net see the same utterances in the same order
            seed=self.seed if teacher else int(seed),
            checkpoint=self.folder / f"{name}.ckpt",
            resume=True,
            teacher=copy.deepcopy(teacher),
            learner=Recogniser,
            curve=self.folder / f"{name}.csv",
        )

    def digital(self) -> nn.Module:
        """Return the digital net."""
        kind, tokens = self.options.model, self.data.train.vocabulary.blank
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            ctc = CTC(tokens, **ENCODERS[kind])
            network: nn.Module = ctc if kind == "ctc" else Transducer(tokens, **ENCODERS[kind])
        self.trained(ctc, "aligned", PHASES["aligned"])
        network.encoder.load_state_dict(ctc.encoder.state_dict())
        return self.trained(network, kind, PHASES[kind])

    def on_chip(self, network: nn.Module) -> nn.Module:
        """Return a copy, converted and calibrated."""
        model = at.convert(copy.deepcopy(network), chip(), exclude=DIGITAL[self.options.model])
        return self.calibrated(model)

    def calibrated(self, model: nn.Module) -> nn.Module:
        """Calibrate a converted net."""
        return at.calibrate(
            model, self.data.calibration(), effort="ranges", forward=lambda m, x: m(*x)
        )

    def result(self) -> dict[str, Any]:
        """Return word error rates: of the digital nets, and of each chip at each time."""
        start, metric = time.perf_counter(), self.data.wer()
        digital = self.digital()
        control = self.trained(copy.deepcopy(digital), "control", FURTHER, digital)
        hwa = self.trained(self.on_chip(digital), "hwa", FURTHER, digital)
        nets = {"control": self.on_chip(control), "hwa": self.calibrated(hwa)}
        swept = at.sweep(
            nets,
            metric,
            num_chips=self.options.chips,
            times=self.options.times,
            recalibration=self.options.read and at.Recalibration(times=self.options.read),
            folder=self.folder / f"chips-{self.options.split}",
        )
        heard = self.data.measured.batches(1)[: self.options.beams]
        return {
            "seed": self.seed,
            "digital": metric(digital),
            "control": metric(control),
            "hwa without noise": metric(nets["hwa"]),
            "beam": {
                how: metrics.wer(heard, functools.partial(write, self.data))(digital)
                for how, write in (("greedy", _greedily), ("beam", _by_beam))
            },
            "on chip": {key: found.values.T.tolist() for key, found in swept.items()},
            "weights": sum(p.numel() for p in digital.parameters()),
            "tiles": at.summary(nets["hwa"]).tiles,
            "seconds": round(time.perf_counter() - start),
        }


def _greedily(data: Data, model: nn.Module, heard: Recordings) -> list[str]:
    return transcribe(model, data.measured.vocabulary, heard)


def _by_beam(data: Data, model: nn.Module, heard: Recordings) -> list[str]:
    vocabulary = data.measured.vocabulary
    found = beam(model, heard, width=min(WIDTH, vocabulary.blank))
    return [vocabulary.decode(tokens) for tokens in found]


def one_seed(data: Data, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the results of a seed: those that an earlier run has kept, or new ones.

    Raises:
        ValueError: the folder holds the results of another recipe.
    """
    run = Seed(data, seed, options)
    recipe, measured = _recipe(options)
    for name, wanted in (("recipe.json", recipe), (f"{options.split}.json", measured)):
        file = run.folder / name
        if file.is_file() and json.loads(file.read_text())["recipe"] != wanted:
            raise ValueError(f"{file} is of another recipe; give another folder by --out")
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text())
        return kept
    write_atomically(run.folder / "recipe.json", json.dumps({"recipe": recipe}, indent=2) + "\n")
    found = run.result() | {"recipe": measured}
    write_atomically(file, json.dumps(found, indent=2) + "\n")
    return found


def _recipe(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what decides the nets, and what decides the measurement, as JSON has it."""
    recipe = {
        "parts": [dataclasses.asdict(p) for p in (TRAINING, MASKS, FURTHER, *PHASES.values())],
        "encoder": ENCODERS[options.model],
        "chip": at.chips.to_dict(chip()),
        "digital": DIGITAL[options.model],
        "utterances": SIZES["train"],
    }
    names = ("chips", "times", "read", "beams")
    measured = {name: getattr(options, name) for name in names} | {"sizes": SIZES}
    return json.loads(json.dumps(recipe)), json.loads(json.dumps(measured))


def rows(results: Sequence[Mapping[str, Any]], times: Sequence[str]) -> list[list[str]]:
    """Return the table: quantity, its mean over seeds with a 95 % interval, each seed, the bar."""
    found: dict[str, list[float]] = {
        "digital": [percent(r["digital"]) for r in results],
        "digital control": [percent(r["control"]) for r in results],
    }
    for i, when in enumerate(times):
        direct, hwa = (
            [percent(statistics.fmean(r["on chip"][key][i])) for r in results]
            for key in ("control", "hwa")
        )
        control = found["digital control"]
        found[f"{when}: control mapped directly"] = direct
        found[f"{when}: HWA"] = hwa
        found[f"{when}: HWA - digital control"] = paired(hwa, control)
        found[f"{when}: HWA - mapped directly"] = paired(hwa, direct)
    table = [["word error rate, % or points", "mean, 95 % interval", "each seed", "bar"]]
    for name, values in found.items():
        when = name.partition(":")[0]
        bar = BARS.get(when) if name.endswith("- digital control") else None
        said = "" if bar is None else verdict(values, "<=", bar)
        table.append([name, interval(values).shown(2), by_seed(values), said])
    return table


def notes(
    results: Sequence[Mapping[str, Any]], data: Data, options: argparse.Namespace
) -> list[str]:
    """Return the caveats that a reader needs to judge the numbers."""
    said = sum(len(text.split()) for text in data.measured.texts)
    first = results[0]
    beams = ", ".join(
        f"{how} {100 * statistics.fmean(r['beam'][how] for r in results):.2f} %"
        for how in ("greedy", "beam")
    )
    return [
        f"Model {options.model}: {first['weights']:,} parameters, {first['tiles']} tiles of "
        f"hermes64; {len(results)} training seeds, {options.chips} chips, the same for all nets.",
        f"{len(data.measured)} utterances of the {options.split} part with {said} words, of the "
        f"ten command words, at 10 to 30 dB over recorded noise; greedy decoding. The set has "
        "digits only among its few _unknown_ clips, which are left out.",
        f"Digital: {', '.join(DIGITAL[options.model])}. Training noise: devices of "
        f"{', '.join(map(str, NOISE_OF_TRAINING.times))}.",
        "Control: the epochs and the teacher of the HWA net, without noise. Intervals "
        "are over seeds, by Student's t, on one set of test utterances.",
        f"The digital nets on the first {min(options.beams, len(data.measured))} utterances: "
        f"{beams}.",
        f"One seed took {statistics.fmean(r['seconds'] for r in results):.0f} s.",
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.connected",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    parser.add_argument("--model", choices=("ctc", "rnnt"), default="ctc")
    parser.add_argument("--seeds", type=positive, default=5, help="training seeds, 0 to this - 1")
    parser.add_argument("--chips", type=positive, default=10, help="chips programmed for each net")
    parser.add_argument("--times", nargs="+", default=["0 s", "1 day", "1 month"])
    parser.add_argument(
        "--read",
        nargs="+",
        metavar="TIME",
        help="when drift compensation is read after 0 s; left out: whenever chips are measured",
    )
    parser.add_argument(
        "--split", choices=("test", "val"), default="test", help="what is measured: recipes on val"
    )
    parser.add_argument("--beams", type=positive, default=100, help="utterances of a beam search")
    parser.add_argument("--out", type=Path, default=Path("runs/connected"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print the table and write it."""
    options = parse(argv)
    try:
        data = Data.read(options.data, options.split)
        results = []
        for seed in range(options.seeds):
            results.append(one_seed(data, seed, options))
            print(json.dumps({k: v for k, v in results[-1].items() if k != "recipe"}), flush=True)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"benchmarks.connected: {error}") from error
    table, remarks = rows(results, options.times), notes(results, data, options)
    print("\n".join([as_text(table, 1), "", *remarks]))
    page = as_markdown(table, "Connected words on chips", remarks, left=1)
    write_atomically(options.out / f"{options.model}.md", page)


if __name__ == "__main__":
    main()
