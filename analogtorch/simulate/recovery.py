"""What a chip in the field corrects digitally beside its drift, from a few unlabelled batches."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor, nn

from analogtorch.calibration.batch_norm import reestimate_batch_norm
from analogtorch.calibration.batches import check_batches, some_batches
from analogtorch.calibration.column_fit import Fit
from analogtorch.calibration.columns import Target, correct_columns, learning_steps
from analogtorch.calibration.norm_statistics import norms_of, statistics_on_error, undo_on_chip
from analogtorch.calibration.passes import Forward, as_before_on_error
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True, eq=False)
class Recovery:
    """Digital corrections that are fitted on the chip at each recalibration, without labels.

    Each is fitted anew after the read of the drift compensation, and stays until the next one.
    Adapters are trained after it, or on: those of before have learnt errors that it corrects.

    Example:
        >>> recovery = at.Recovery(batches=batches[:2])
        >>> corrected = recovery.correct(physical.at("30 days"))
        >>> later = physical.at("59 days", corrected=corrected)
    """

    batches: Iterable[Any]
    """Inputs, as ``calibrate`` takes them, at least one batch; kept in memory."""
    columns: Fit | None = "affine"
    """What ``correct_columns`` fits of each output; None: columns are not corrected."""
    target: Target | None = None
    """What ``correct_columns`` fits the outputs to in its last run; None: ``model``, or ``layer``
    if batch norms are adapted, too. Columns that follow the model and norms would correct the same
    errors twice."""
    batch_norm: bool = False
    """Whether ``reestimate_batch_norm`` adapts the statistics of batch norm, after the columns are
    corrected."""
    rounds: int = 2
    """Runs over the batches for the columns, >= 1; without ``columns`` it has no effect."""
    steps: int | None = None
    """Steps, >= 0, in which the columns learn from the outputs of the model, as ``correct_columns``
    takes them: None is 30 with more than one batch if they follow the model, else 0. Without
    ``columns`` it has no effect."""
    forward: Forward | None = None
    """A function that runs the model on a batch, as ``calibrate`` takes it."""

    def __post_init__(self) -> None:
        check_batches("Recovery", self.batches)
        checks.settle(self, "batches", tuple(some_batches("Recovery", self.batches)))
        if self.columns is not None:
            checks.choice("Recovery.columns", self.columns, get_args(Fit))
        checks.flag("Recovery.batch_norm", self.batch_norm)
        if self.target is not None:
            checks.choice("Recovery.target", self.target, get_args(Target))
        if self.target == "model" and self.batch_norm and self.columns is not None:
            raise ValueError(
                "Recovery: columns that follow the model correct what batch_norm=True would, too, "
                "and both are worse than one; leave one of target='model' and batch_norm=True out"
            )
        if self.columns is None and not self.batch_norm:
            raise ValueError(
                "Recovery corrects nothing: columns is None and batch_norm False; leave it out, or "
                "set one of them"
            )
        checks.count("Recovery.rounds", self.rounds)
        if self.steps is not None:
            checks.count("Recovery.steps", self.steps, least=0, remedy="None is the default")
        if self.steps and self.columns is not None and self.fitted_to == "layer":
            raise ValueError(
                f"Recovery: steps={self.steps} learn to follow the model, which target='layer' and "
                "batch_norm=True do not; leave one of them out"
            )
        checks.function("Recovery.forward", self.forward, "forward(model, batch)")

    def correct(self, view: nn.Module) -> nn.Module:
        """Correct what ``ProgrammedChip.at`` returned, in place, and return it.

        Raises:
            ValueError: ``correct_columns`` or ``reestimate_batch_norm`` refuses the view or the
                batches. The view is unchanged.
            TypeError: the view is no module.
        """
        with contextlib.ExitStack() as undo:
            undo.enter_context(as_before_on_error(view))
            if self.batch_norm:
                undo.enter_context(statistics_on_error(norms_of(view)))
                undo_on_chip(view)  # what an earlier recovery has left
            if self.columns is not None:
                correct_columns(
                    view,
                    self.batches,
                    fit=self.columns,
                    target=self.fitted_to,
                    rounds=self.rounds,
                    steps=self.steps,
                    forward=self.forward,
                )
            if self.batch_norm:
                reestimate_batch_norm(view, self.batches, forward=self.forward)
        return view

    @property
    def summary(self) -> str:
        """What chips correct, and from what, as tables of results say it."""
        columns = {
            None: (),
            "affine": ("gain and offset of their columns",),
            "gain": ("the gain of their columns",),
            "offset": ("the offset of their columns",),
        }[self.columns]
        what = " and ".join([*columns, *["the statistics of batch norm"] * self.batch_norm])
        batches = tuple(self.batches)
        if all(isinstance(batch, Tensor) and batch.ndim for batch in batches):
            number, unit = sum(map(len, batches)), "unlabelled input"
        else:
            number, unit = len(batches), "unlabelled batch"
        plural = "" if number == 1 else "es" if unit.endswith("ch") else "s"
        return f"chips correct {what} digitally, from {number:,} {unit}{plural}"

    @property
    def fitted_to(self) -> Target:
        """What the columns are fitted to."""
        return self.target or ("layer" if self.batch_norm else "model")

    @property
    def learning_steps(self) -> int:
        """Steps in which the columns learn from the outputs of the model."""
        if self.columns is None:
            return 0
        return learning_steps(self.steps, self.fitted_to, len(tuple(self.batches)))

    def runs(self, *, noisy: bool) -> float:
        """Return how often the chip computes each MVM of the batches, on average over them.

        Args:
            noisy: whether the MVM has noise, as a fit of the columns then takes it twice.
        """
        norms = 1 if self.batch_norm else 0
        if self.columns is None:
            return norms
        columns = self.rounds * (2 if noisy else 1)
        if self.fitted_to == "layer":
            return columns + norms
        # what corrections were worth is judged by all batches, without them and with them: the
        # first of several runs is one without
        steps = self.learning_steps
        judged = 1 if self.rounds == 1 else 0
        # a step takes one batch, and what it was worth is judged before and after
        judged += 2 if steps else 1
        return columns + norms + judged + steps / len(tuple(self.batches))
