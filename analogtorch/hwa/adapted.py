"""What ``adapt`` returns: the model, and what each step gained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from analogtorch.files.figures import draw
from analogtorch.hwa.comparison import Way
from analogtorch.hwa.on_chips import Reading
from analogtorch.hwa.recipe import Outputs
from analogtorch.values.shown import Shown


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The model on the chips after one step of the adaptation."""

    name: str
    """What was done, such as ``calibrated``."""
    reading: Reading
    """What was measured on chips, on batches that were held back, if there are any."""
    kept: bool = True
    """Whether the returned model includes it: a step that makes the error larger is undone. Of a
    training that is undone, ``reading`` is that of its best look."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the training."""

    step: int
    """Number of the step, from 0."""
    loss: float
    """The loss that was minimised."""
    outputs: float
    """Its share of the model's outputs."""
    layers: float
    """The mean relative squared error of the layers' outputs."""
    attention: float = 0.0
    """The mean divergence of the attention maps; 0 without ``Recipe.attention``."""
    noise: float
    """Fraction of the training noise."""
    learning_rate: float
    """Step of the optimizer in units of the root mean square of each Parameter."""
    error: float | None = None
    """The mean error on chips after this step, where it was measured."""


@dataclass(frozen=True, kw_only=True)
class Generalisation:
    """What the training left of the error of the outputs on chips, the mean over them and times.

    Each is a share of the error before the training, on the same batches and chips.
    """

    learnt: float
    """On batches that were learnt from."""
    held: float
    """On those that were held back."""

    @property
    def needs_more(self) -> bool:
        """Whether the batches were learnt by heart, so that more of them would help."""
        return self.held > BY_HEART * self.learnt

    @property
    def is_unlike(self) -> bool:
        """Whether batches held back are unlike the others.

        The error grew on those that were learnt from, and clearly more than on those held back.
        """
        return self.learnt > max(1.0, BY_HEART * self.held)


BY_HEART = 1.15
"""Share left on batches held back, over that on batches learnt from, beyond which more are needed;
and the other way round, beyond which they are unlike one another.
Assumed: the errors of a few batches may differ by less by chance."""


@dataclass(frozen=True, kw_only=True)
class Adapted(Shown):
    """An adapted model; print it for a table of what each step gained."""

    model: nn.Module = field(repr=False)
    """The converted model, calibrated and adapted, in evaluation mode: ``at.program`` takes it."""
    times: tuple[str, ...]
    """The times after programming at which it was measured."""
    seeds: tuple[int, ...]
    """Seed of each chip that it was measured on. They are no chips of ``sweep``."""
    compared: Outputs
    """How outputs are compared, as ``Recipe.outputs`` has it."""
    ways: tuple[Way, ...]
    """How each output is: whether as scores, the dimension of their classes, and whether its
    numbers are in several units."""
    stages: tuple[Stage, ...]
    """What was measured after each step, in order. The model is chosen on the same chips and
    batches, so that the last ones are a little optimistic: ``sweep`` it with another seed, on data
    held back from ``adapt``."""
    steps: tuple[Step, ...]
    """The steps of the training."""
    seconds: float
    """Time that it took, s; of a resumed run, in all of its parts."""
    stopped: str
    """Why the training ended, such as ``all 1000 steps done`` or ``80 of 1000 steps done: 5 minutes
    allow no more``."""
    held_back: bool = True
    """Whether the stages are measured on batches that were held back; otherwise, as there were too
    few, on those that were learnt from."""
    with_teacher: bool = False
    """Whether outputs are compared with those of a teacher that was given; otherwise with those of
    the digital model."""
    generalisation: Generalisation | None = None
    """Whether it learnt more than its batches; None: there were too few to hold some back, or the
    training is undone."""
    corrected: bool = False
    """Whether the chips of the stages correct gain and offset of their columns, as the training
    noise does (``TrainingNoise.corrected``), once, from two of the batches."""
    recovered: Reading | None = None
    """What the same chips have that correct gain and offset of their columns from as many batches
    as the stages are measured on (``at.Recovery`` with ``steps=0``: columns that learn, too, gain
    more). The model does not include it: ``sweep`` takes ``recovery=``. None: it is not known, or
    all stages have it (``corrected``)."""
    recovered_before: Reading | None = None
    """The same of the model before the training, which learns for chips that correct nothing and so
    may cost those that do."""
    note: str = ""
    """A caveat of the times, such as that the devices' data end before one; empty if there is
    none."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the model, ready for JSON."""
        return {
            "times": list(self.times),
            "seeds": list(self.seeds),
            "compared": self.compared,
            "ways": [way._asdict() for way in self.ways],
            "stages": [
                {"name": stage.name, "kept": stage.kept, **stage.reading.to_dict()}
                for stage in self.stages
            ],
            "steps": [vars(step) for step in self.steps],
            "seconds": self.seconds,
            "stopped": self.stopped,
            "held_back": self.held_back,
            "with_teacher": self.with_teacher,
            "corrected": self.corrected,
            **({"generalisation": vars(self.generalisation)} if self.generalisation else {}),
            **({"recovered": self.recovered.to_dict()} if self.recovered else {}),
            **({"recovered_before": before.to_dict()} if (before := self.recovered_before) else {}),
            **({"note": self.note} if self.note else {}),
        }

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the loss of each step, and the error on chips where it was measured.

        File and errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path)
