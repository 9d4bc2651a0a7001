"""What recalibration in the field and a recovery from unlabelled clips keep of a keyword spotter.

    python -m benchmarks.recovery

prints how long a pretrained net on hermes64 stays above a share of its digital accuracy, and how
often it must be recalibrated to stay there, without and with a recovery, and their cost.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence

import analogtorch as at
from analogtorch.speech.pretrained import load_pretrained, names
from benchmarks.pretrained import BATCH, CALIBRATE_EVERY, calibration_clips, correcting_clips
from benchmarks.tables import add_data, positive


def run(options: argparse.Namespace) -> list[str]:
    """Return the tables: the lifetime, and the interval without and with a recovery."""
    net = load_pretrained(options.net, options.data)
    # clips that neither calibrate nor correct: their numbers are no multiples of CALIBRATE_EVERY
    held = [i for i in range(1, len(net.features), options.every) if i % CALIBRATE_EVERY]
    clips = dataclasses.replace(net, features=net.features[held], labels=net.labels[held])
    batches = clips.batches(BATCH)
    limit = options.floor * at.accuracy(net.model, batches)
    model = at.calibrate(
        at.convert(net.model, at.chips.hermes64()), calibration_clips(net), effort="ranges"
    )
    recovery = at.Recovery(batches=correcting_clips(net, options.batches))
    common = {"limit": limit, "num_chips": options.chips, "seed": options.seed}

    def metric(view: object) -> float:
        return at.accuracy(view, batches)

    lasting = at.lifetime(
        model,
        metric,
        recalibration=at.Recalibration(every=options.schedule, times=options.early),
        recovery=recovery,
        longest=options.life,
        **common,
    )
    found = [
        at.recalibration_interval(
            model,
            metric,
            life=options.life,
            intervals=options.intervals,
            times=options.early,
            recovery=each,
            **common,
        )
        for each in (None, recovery)
    ]
    first = sum(len(batch) for batch in recovery.batches)
    return [
        f"{options.net}, {len(held)} clips, floor {limit:.4f}; a recovery takes {first} clips",
        str(lasting),
        "drift compensation alone",
        str(found[0]),
        "with recovery",
        str(found[1]),
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recovery",
        description="Recalibration of a pretrained keyword spotter on hermes64 in the field.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser)
    parser.add_argument("--net", choices=names(), default="DNN_L", help="pretrained net")
    parser.add_argument("--floor", type=float, default=0.94, help="share of the digital accuracy")
    parser.add_argument("--batches", type=positive, default=2, help="batches of a recovery")
    parser.add_argument("--life", default="1 year", help="time to look at")
    parser.add_argument("--schedule", default="30 days", help="interval of the lifetime")
    parser.add_argument(
        "--early",
        nargs="*",
        default=["1 h", "1 day", "7 days"],
        metavar="TIME",
        help="recalibrations beside the regular ones",
    )
    parser.add_argument(
        "--intervals",
        nargs="+",
        default=["1 year", "90 days", "30 days", "7 days", "1 day"],
        metavar="TIME",
        help="intervals to choose from",
    )
    parser.add_argument("--chips", type=positive, default=5, help="simulated chips")
    parser.add_argument(
        "--every", type=positive, default=4, help="measure on every n-th clip only, to save time"
    )
    parser.add_argument("--seed", type=int, default=0, help="which chips")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    options, start = parse(argv), time.perf_counter()
    try:
        tables = run(options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"benchmarks.recovery: {error}") from error
    print("\n\n".join(tables))
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
