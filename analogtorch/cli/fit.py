"""``analogtorch fit``: fit a device model to measurements and write it to a file, with a plot."""

from collections.abc import Sequence
from pathlib import Path

from analogtorch.cli.options import CommandParser, check_output, shown_if_unwritten
from analogtorch.devices import save
from analogtorch.devices.fitting import Fit, fit
from analogtorch.files.description import checked_suffix
from analogtorch.files.figures import checked_path, draw, write_figure


def run(arguments: Sequence[str]) -> tuple[Fit, tuple[Path, ...]]:
    """Fit by the options of the command line, and write the device and the plot.

    Returns:
        The fit, and the files written.

    Raises:
        ValueError: an option is wrong, or the measurements cannot be fitted.
        ImportError: the ``report`` extra is missing for the plot, or ``yaml`` for a YAML file.
        OSError: a file cannot be read or written.
    """
    given = _parser().parse_args(arguments)
    out = checked_suffix(given.out, "a device")
    plot = checked_path(
        None if given.plot == "none" else Path(given.plot or out.with_suffix(".png"))
    )
    if plot is not None:
        check_output("plot", plot, given)
    if plot is not None and given.plot is None and plot.exists() and not out.exists():
        raise ValueError(
            f"--out: {plot}, the plot beside {out}, is there already, but no {out.name}, so that "
            "it is not that of an earlier fit; write --plot and a file to write (this one, if it "
            "may be replaced), or --plot none"
        )
    found = fit(
        given.measurements,
        name=given.name,
        unit=given.unit,
        volt=given.volt,
        law=given.law,
        g_max=given.g_max,
        g_min=given.g_min,
        t_read=given.t_read,
        bootstrap=given.bootstrap,
    )
    # drawn before anything is written: what drawing lacks is then known
    figure = None if plot is None else draw(found)
    with shown_if_unwritten(found) as written:
        written.append(save(found.device, out))
        if plot is not None:
            write_figure(figure, plot)
            written.append(plot)
    return found, tuple(written)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="analogtorch fit",
        description="Fit a device model to measurements, and say how well it fits.",
    )
    parser.add_argument(
        "measurements",
        type=Path,
        help="CSV with the columns target, measured, time and, where they are known, cycle and "
        "device; units in brackets, such as 'measured [nA @ 0.2 V]'",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="device to write: .yaml, .yml or .json"
    )
    parser.add_argument(
        "--plot",
        help="plot to write, .png, .svg or .pdf, or none (default: a .png beside the "
        "device, which replaces that of an earlier fit)",
    )
    parser.add_argument("--name", help="of the device, for reports (default: that of the file)")
    parser.add_argument("--unit", help="of columns whose heading states none (default: uS)")
    parser.add_argument(
        "--volt", type=float, help="read voltage, V, of currents whose heading states none"
    )
    parser.add_argument(
        "--law",
        choices=("auto", "power", "times"),
        default="auto",
        help="drift as a power law, or fits at the measured times (default: %(default)s)",
    )
    parser.add_argument("--g-max", type=float, help="uS (default: the largest target)")
    parser.add_argument("--g-min", type=float, help="uS (default: the smallest target)")
    parser.add_argument(
        "--t-read",
        type=float,
        default=250e-9,
        help="length of a read, s, the end of the 1/f spectrum of its noise (default: %(default)s)",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=200,
        help="fits to devices drawn anew, for the confidence bands (default: %(default)s)",
    )
    return parser
