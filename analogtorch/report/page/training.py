"""The curves of the trainings of a run, for its report."""

from collections.abc import Mapping

from analogtorch.report.page.curves import Curve, curves
from analogtorch.report.page.parts import Drawing, Section
from analogtorch.report.result import Curve as Rows

_NAMES = 8
"""Most epochs that are named below a curve."""


def training_section(training: Mapping[str, Rows]) -> Section:
    """Return a drawing of the loss of each training, with its last validation accuracy."""
    return Section("Training", tuple(_drawn(name, rows) for name, rows in training.items()))


def _drawn(name: str, rows: Rows) -> Drawing:
    every = -(-len(rows) // _NAMES)
    epochs = [(float(n), str(n) if n % every == 0 or n == 1 else "") for n, _, _ in rows]
    loss = Curve(name="loss", means=[x for _, x, _ in rows], spreads=[0.0] * len(rows))
    svg = curves(
        [loss],
        [],
        epochs,
        unit="",
        alternative=f"Loss by epoch of the training {name}; report.json has the numbers",
        axis=float,
    )
    last = next(((n, y) for n, _, y in reversed(rows) if y is not None), None)
    after = f" Validation accuracy after epoch {last[0]}: {100 * last[1]:.1f} %." if last else ""
    caption = f"{name}: mean loss of the batches of each epoch, with noise and augmentation.{after}"
    return Drawing(svg=svg, caption=caption)
