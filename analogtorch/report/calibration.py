"""What a calibration chose, as a table for the terminal."""

from analogtorch.calibration.choice import CalibrationReport
from analogtorch.report.columns import ruled
from analogtorch.values.shown import as_text

_BAR = 20
"""Number of characters of the largest share."""


@as_text.register
def table(found: CalibrationReport) -> str:
    """Return the errors, then what was tried, then one row per layer, and the notes."""
    fitted, chosen, judged = found.batches
    lines = [f"calibrate: ranges were found on {_batches(fitted)}"]
    if found.errors:
        last = f"on the last {_batches(judged)}"
        errors: list[tuple[str, ...]] = [("error of the outputs", last)]
        errors += [
            (f"{kind}{' (kept)' if kind == found.kept else ''}", f"{error:.4f}")
            for kind, error in found.errors.items()
        ]
        tried: list[tuple[str, ...]] = [("tried", f"error, {_batches(chosen)}")]
        tried += [(step.what, f"{step.error:.4f}") for step in found.steps]
        lines[0] = (
            f"calibrate: {100 * abs(found.gain):.1f} % {'less' if found.gain >= 0 else 'more'} "
            f"error than without calibration; ranges were found on {_batches(fitted)}"
        )
        lines += ["", *ruled(errors), "", *ruled(tried)]
    return "\n".join([*lines, "", *ruled(_layers(found), left=(0, 2, 3, 4, 5, 7)), *found.notes])


def _batches(number: int) -> str:
    return f"{number} batch{'es' * (number != 1)}"


def _layers(found: CalibrationReport) -> list[tuple[str, ...]]:
    longest = max((row.share or 0.0 for row in found.layers), default=0.0)
    rows: list[tuple[str, ...]] = [
        ("layer", "share", "DAC", "range", "weight scale", "ADC", "gain", "")
    ]
    for row in found.layers:
        share = 0.0 if row.share is None else row.share
        rows.append(
            (
                row.name or "(root)",
                "-" if row.share is None else f"{100 * share:.1f} %",
                row.dac,
                row.input_range,
                row.weight_scale,
                row.adc,
                f"{100 * row.gain:.1f} %" if row.gain else "-",
                "#" * round(_BAR * share / longest) if longest > 0 else "",
            )
        )
    return rows
