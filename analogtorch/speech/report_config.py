"""What the report of a run has beyond the accuracies."""

from dataclasses import dataclass, field
from typing import Any

from analogtorch.devices import seconds
from analogtorch.values import checks

MEASURED = ("chip.writing", "chip.correct", "chip.correct_batches")
"""Options that an ablation changes without another training."""
ABLATED = ("hwa.", "chip.training.", "chip.digital", *MEASURED)
"""What the options begin with that an ablation changes."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The report.

    None of these settings changes an accuracy: they may differ when a run is continued, so that
    ``--resume`` with other ones writes the report of a finished run anew.

    Raises:
        ValueError: a field is out of range.
    """

    time: str = "1 day"
    """Time after programming of confusions, misheard clips, sensitivity and error budget."""
    num_chips: int = 5
    """Number of chips, >= 1, that these are measured on: the first ones of the sweep."""
    clips: int = 6
    """Misheard test clips, 0 to 50, that the page holds for listening, at 43 kB each. Whoever gets
    the page gets these recordings."""
    windows_per_second: float = 5.0
    """Inferences a second of a spotter that always listens, for its energy of a year; above 0. The
    default is that of `analogtorch listen`."""
    sensitivity: bool = False
    """Measure what each layer loses alone: 2 + 2 num_chips tests for each layer."""
    budget: bool = False
    """Measure what each non-ideality costs: 2 num_chips tests for each."""

    ablation: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other hardware-aware trainings to measure on the same chips: options that begin with ``hwa.``
    or ``chip.training.``, or ``chip.digital``, by a name, such as {no distillation: {hwa.distill:
    0}, all analog: {chip.digital: []}}. Each takes the time of a training and of a sweep; with
    ``chip.writing``, ``chip.correct`` or ``chip.correct_batches`` alone that of a sweep."""

    def __post_init__(self) -> None:
        seconds(self.time)
        checks.counts(self, "num_chips")
        checks.count("report.clips", self.clips, least=0, most=50)
        checks.numbers(self, "windows_per_second", above=0)
        for name, changes in self.ablation.items():
            if name in ("direct", "hwa"):
                raise ValueError(
                    f"report.ablation: {name!r} is a net of the run itself; choose another name"
                )
            if not isinstance(name, str):  # YAML takes 1, no and on for something else
                quoted = "no" if name is False else "yes" if name is True else str(name).lower()
                raise ValueError(
                    f"report.ablation: the name {name!r} is no text, as YAML reads yes, no, on and "
                    f'off as booleans, and digits as numbers; quote it, as in \'{{"{quoted}": '
                    "{hwa.distill: 0}}'"
                )
            wrong = [option for option in changes if not option.startswith(ABLATED)]
            if wrong or not changes:
                raise ValueError(
                    f"report.ablation: {name}: {', '.join(wrong) or 'nothing'} is changed; change "
                    f"options that begin with {' or '.join(ABLATED)}, such as {{hwa.distill: 0}}"
                )
