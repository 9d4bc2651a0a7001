"""What HWA training saves on real speech, with confidence intervals over training seeds.

    python -m benchmarks.hwa [--config configs/kws/ds_cnn.yaml] [--recipes all]
    python -m benchmarks.hwa --table noise --config configs/kws/fully_connected.yaml --seeds 1

For each seed, on the 4,890 recordings of gsc_v2_test12 (our split by speaker): a digital net is
trained; from it a digital control (the same further epochs and distillation, without noise,
quantisation and clipping) and an HWA net for each recipe; then all are measured on the same chips
over time, the control mapped directly. Seeds are compared in pairs. With ``--table noise`` the nets
are those of each weight noise in training, and the table has their accuracy under each weight noise
at inference (``benchmarks.hwa.noise``). A stopped run continues: finished nets are kept, the others
resume from their checkpoints.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from analogtorch.cli import kws as cli
from analogtorch.evaluate import interval
from analogtorch.files import write_atomically
from analogtorch.speech import kws
from analogtorch.speech.ablation import variants
from analogtorch.speech.config import KWSConfig
from analogtorch.speech.validation import TIMES
from benchmarks.bars import by_seed, paired, percent, verdict
from benchmarks.hwa import noise
from benchmarks.hwa.recipes import CONFIGURED, RECIPES
from benchmarks.hwa.seeds import one_seed
from benchmarks.tables import add_data, as_markdown, as_text, positive

CONFIG = Path(__file__).parents[2] / "configs" / "kws" / "real.yaml"
Bars = Mapping[str, tuple[str, float]]
HARD = ("bc_resnet", "ds_cnn", "hello_edge_gru", "hello_edge_lstm", "neurram_lstm")
"""Recurrent and depthwise networks may lose more: errors go over many steps, or few are summed."""

_GOES_ON = "a run goes on with the folder --out; for a new one give another, or remove it"
_WITHOUT_EFFECT = {
    "--seed": "--seeds is the number of training seeds",
    "--overwrite": _GOES_ON,
    "--resume": _GOES_ON,
    "--progress": "a line is printed for each seed",
}
"""Options of `analogtorch kws` that these commands have no use for, and why."""


def bars(network: str) -> Bars:
    """Return the bars of the numbers, in percent and points."""
    day, year = (1.0, 2.5) if network in HARD else (0.5, 1.5)
    return {
        "digital accuracy": (">=", 93.0),
        f"loss of {CONFIGURED} at 1 day": ("<=", day),
        f"loss of {CONFIGURED} at 1 year": ("<=", year),
        f"gain of {CONFIGURED} at 1 year": (">", 0.0),
    }


def differences(results: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Return accuracies and their paired differences per seed and time, in percent and points."""
    control = [percent(r["control"]) for r in results]
    found = {
        "digital accuracy": [percent(r["digital"]) for r in results],
        "control's digital accuracy": control,
    }
    for when in results[0]["on_chip"]:
        direct = _at(when, results)
        found[f"control's loss at {when}, mapped directly"] = paired(control, direct)
        for name in results[0]["recipes"]:
            hwa = _at(when, [r["recipes"][name] for r in results])
            found[f"loss of {name} at {when}"] = paired(control, hwa)
            found[f"gain of {name} at {when}"] = paired(hwa, direct)
    return found


def _at(when: str, nets: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the accuracies on chips at a time, in percent, of a net of each seed."""
    return [percent(net["on_chip"][when]["mean"]) for net in nets]


def rows(found: Mapping[str, list[float]], bars: Bars) -> list[list[str]]:
    """Return the table: quantity, mean with its 95 % interval, each seed, and the bar.

    The bars are on the mean; where the interval spans one, the seeds do not settle it.
    """
    table = [["quantity, % or points", "mean, 95 % interval", "each seed", "bar"]]
    for name, values in found.items():
        said = verdict(values, *bars[name]) if name in bars else ""
        table.append([name, interval(values).shown(2), by_seed(values), said])
    return table


def ablation(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the table of recipes: points lost at each time, and accuracy on the validation part.

    Losses are those of the mean over seeds, with the interval of their paired difference from the
    first recipe.
    """
    first, *_ = names = list(results[0]["recipes"])
    times = list(results[0]["on_chip"])
    table = [["recipe", *times, "on validation clips"]]

    control = [percent(r["control"]) for r in results]

    def losses(nets: Sequence[Mapping[str, Any]], when: str) -> list[float]:
        return paired(control, _at(when, nets))

    def validation(found: Sequence[Mapping[str, Any]]) -> str:
        return f"{100 * statistics.fmean(net['validation'] for net in found):.2f}"

    mapped = [f"{statistics.fmean(losses(results, t)):z.2f}" for t in times]
    table.append(["control, mapped directly", *mapped, validation(results)])
    for name in names:
        cells, found = [], [r["recipes"][name] for r in results]
        for when in times:
            lost = losses(found, when)
            cell = f"{statistics.fmean(lost):z.2f}"
            if name != first:
                more = interval(paired(lost, losses([r["recipes"][first] for r in results], when)))
                cell += f" ({'+' * (more.mean >= 0)}{more.shown(2)})"
            cells.append(cell)
        table.append([name, *cells, validation(found)])
    return table


def notes(results: Sequence[dict[str, Any]], config: KWSConfig, seconds: float) -> list[str]:
    """Return the caveats that a reader needs to judge the numbers."""
    took = [r["seconds"] + sum(n["seconds"] for n in r["recipes"].values()) for r in results]
    best = max(
        results[0]["recipes"],
        key=lambda name: statistics.fmean(r["recipes"][name]["validation"] for r in results),
    )
    chosen = f" The best on it is {best}." if len(results[0]["recipes"]) > 1 else ""
    return [
        f"Network {config.model.name}; {len(results)} training seeds; {config.sweep.num_chips} "
        f"chips, the same for all nets; chip {config.chip.build().name}, {results[0]['tiles']} "
        f"tiles, compensation {config.chip.compensation}.",
        *results[0]["notes"],
        "Loss: below the control's digital accuracy. The control has the epochs and the teacher of "
        "the HWA net. Gain: above the control mapped directly.",
        "Intervals are over seeds, on one test part by people who are not in the training part; in "
        "brackets those of the difference from the first recipe. Bars are on the mean: not settled "
        "where the interval spans the bar, or there is none.",
        f"Validation clips: mean accuracy on other chips after {' and '.join(TIMES)}, as "
        f"far as the data of the devices reach; by it recipes are chosen.{chosen}",
        f"{seconds:.0f} s, of which one seed took {statistics.fmean(took):.0f} s of one process.",
    ]


def parse(
    argv: Sequence[str] | None,
    *,
    prog: str = "python -m benchmarks.hwa",
    description: str = "Hardware-aware training against a digital control on real speech, over "
    "training seeds.",
    parents: Sequence[argparse.ArgumentParser] = (),
) -> tuple[argparse.Namespace, KWSConfig]:
    """Return the options of this command and the configuration.

    The configuration comes from these options and those of `analogtorch kws`.

    Args:
        argv: the command line; None: that of the process.
        prog: the command, for its help; another one has the same options.
        description: what the command does, for its help.
        parents: parsers of options that another command adds.

    Raises:
        ValueError: an option of `analogtorch kws` has no effect here, or is refused.
        OSError: a file that an option names cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        parents=list(parents),
        epilog="Further options are those of `analogtorch kws`.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,  # or --seed would be --seeds
    )
    add_data(parser)
    recipes = "; ".join(RECIPES).replace("%", "%%")  # argparse formats help
    parser.add_argument("--config", type=Path, default=CONFIG, help="configuration of the run")
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=(*RECIPES, "all"),
        default=[],
        metavar="RECIPE",
        help=f"trained beside that of the configuration: {recipes}; or all; further "
        "ones by --report.ablation",
    )
    parser.add_argument(
        "--table",
        choices=("recipes", "noise"),
        default="recipes",
        help="recipes on chips, or noise of training against noise of inference",
    )
    parser.add_argument("--seeds", type=positive, default=6, help="training seeds, 0 to this - 1")
    parser.add_argument(
        "--chips",
        type=positive,
        default=25,
        help="chips programmed, or draws of noise, for each net",
    )
    parser.add_argument(
        "--jobs", type=positive, default=2, help="seeds trained side by side, one thread each"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of reports and checkpoints; None: runs/hwa-NAME, or runs/noise-NAME, with "
        "the name of the configuration",
    )
    options, more = parser.parse_known_args(argv)
    for name in (argument.partition("=")[0] for argument in more):
        if name in _WITHOUT_EFFECT:
            raise ValueError(f"{name} has no effect here: {_WITHOUT_EFFECT[name]}")
    if options.out is None:
        kind = "noise" if options.table == "noise" else "hwa"
        options.out = Path("runs") / f"{kind}-{options.config.stem}"
    given = [
        f"--config={options.config}",
        f"--data.folder.root={options.data / 'gsc_v2_test12'}",
        "--workers=0",
        "--sweep.processes=1",
        f"--sweep.num_chips={options.chips}",
        *more,
    ]
    config = cli.parse(given).config
    if config.chip.levels:
        raise ValueError("recipes train with one level each; leave out chip.levels")
    names = RECIPES if "all" in options.recipes else options.recipes
    recipes = {**{name: RECIPES[name] for name in names}, **config.report.ablation}
    if options.table == "noise":
        if recipes:
            raise ValueError("--table noise has trainings of its own; leave out other recipes")
        recipes = noise.RECIPES
    report = dataclasses.replace(config.report, ablation=recipes)
    return options, dataclasses.replace(config, report=report)


def run(options: argparse.Namespace, config: KWSConfig) -> list[dict[str, Any]]:
    """Run all seeds in order; a line is printed for each finished one."""
    jobs = [
        (dataclasses.replace(config, seed=n), options.out / f"seed-{n}")
        for n in range(options.seeds)
    ]
    work, printed = (noise.one_seed, dict) if options.table == "noise" else (one_seed, _printed)
    if options.jobs == 1:
        return [printed(work(*job)) for job in jobs]
    # spawned, because torch's threads do not survive a fork
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(work, *job) for job in jobs]
        for future in as_completed(running):
            printed(future.result())
        return [future.result() for future in running]


def _printed(result: dict[str, Any]) -> dict[str, Any]:
    found = []
    for name, net in result["recipes"].items():
        *_, (when, last) = net["on_chip"].items()
        found.append(f"{name} at {when} {last['mean']:.2%} ({net['seconds']:.0f} s)")
    accuracies = f"digital {result['digital']:.2%}, control {result['control']:.2%}"
    took = f"({result['seconds']:.0f} s)"
    print(f"seed {result['seed']}: {accuracies} {took}, {', '.join(found)}", flush=True)
    return result


def _summary(values: list[float]) -> dict[str, Any]:
    found = interval(values)
    return {"mean": found.mean, "half_width": found.finite_half_width, "seeds": values}


def _write_noise(
    options: argparse.Namespace, config: KWSConfig, results: Sequence[dict[str, Any]]
) -> None:
    """Print the table of noises, and write it."""
    tables, remarks = (noise.rows(results), noise.shape(results)), noise.notes(results, config)
    for table, left in zip(tables, (1, 2), strict=True):
        print("\n".join(["", as_text(table, left)]))
    print("\n".join(["", *remarks]))
    titles = "Noise of training against noise of inference", "What noise of inference costs"
    pages = [
        as_markdown(tables[0], titles[0], [], 1),
        as_markdown(tables[1], titles[1], remarks, 2),
    ]
    write_atomically(options.out / "noise.md", "\n".join(pages))
    report = {"results": results, "config": config.to_dict(), "versions": kws.versions()}
    path = write_atomically(options.out / "noise.json", json.dumps(report, indent=2) + "\n")
    print(f"Reports in {path.parent}")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print the tables and write the reports."""
    start = time.perf_counter()
    try:
        options, config = parse(argv)
        variants(config)  # a recipe that does not exist is found before the training
        results = run(options, config)
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.hwa: {error}") from error
    if options.table == "noise":
        _write_noise(options, config, results)
        return
    found = differences(results)
    of_net = bars(config.model.name)
    remarks = notes(results, config, time.perf_counter() - start)
    tables = [("Hardware-aware training on real speech", rows(found, of_net), 4)]
    if config.report.ablation:
        tables.append(("Recipes: points lost", ablation(results), 1))
    for _, table, left in tables:
        print("\n".join(["", as_text(table, left)]))
    print("\n".join(["", *remarks]))
    report = {
        "results": results,
        "differences": {name: _summary(values) for name, values in found.items()},
        "bars": of_net,
        "notes": remarks,
        "config": dataclasses.asdict(config),
        "versions": kws.versions(),
    }
    pages = [
        as_markdown(table, title, remarks if title == tables[-1][0] else [], left)
        for title, table, left in tables
    ]
    write_atomically(options.out / "hwa.md", "\n".join(pages))
    path = write_atomically(options.out / "hwa.json", json.dumps(report, indent=2) + "\n")
    print(f"Reports in {path.parent}")


if __name__ == "__main__":
    main()
