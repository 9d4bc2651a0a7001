"""The result of a run, as one value."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from analogtorch.cost_model import CostReport
from analogtorch.devices import seconds
from analogtorch.devices.time import SECONDS
from analogtorch.evaluate import Interval, Sweep, Verdict, share
from analogtorch.evaluate.losses import Sensitivity
from analogtorch.evaluate.shares import Budget
from analogtorch.files import comma_separated, parquet
from analogtorch.mapping import ChipMapping
from analogtorch.report.heard import Heard
from analogtorch.report.mapping import plain as plain_mapping
from analogtorch.report.ranges import RangeChoice

Curve = Sequence[tuple[int, float, float | None]]
"""Of each epoch of a training: its number, the mean loss, and the validation accuracy, 0..1, or
None."""
ISO = 0.99
"""Share of the digital accuracy that counts as iso-accuracy; plot and table show it."""
_MUCH = 0.01
"""Mean loss of accuracy, 0..1, above which more chips are worth their time."""
_ROUNDING = 1e-12
"""Largest difference of two accuracies, 0..1, that roundings alone may make."""
YEAR = SECONDS["year"]
"""Seconds of a year."""
_KEY_TIMES = (SECONDS["day"], YEAR)
_Losses = Mapping[str, float]
"""Points of accuracy that chips lose, by time."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The accuracies of one digital net, and of that net on a chip."""

    digital: float
    """Accuracy of the digital net, 0..1."""
    direct: Sweep
    """Accuracy of that net mapped directly onto chips."""
    hwa: Sweep
    """Accuracy on the same chips after HWA training."""
    chip: str
    """Name of the chip."""
    tiles: int
    """Number of tiles that the net takes; at most, where a note says that it was not mapped."""
    data: dict[str, Any]
    """Name of the data source, and number of clips per split."""
    seed: int
    """Seed of the run."""
    seconds: float
    """Time that the run took, s; if it was continued, since then."""
    versions: dict[str, str]
    """Versions of the packages that the numbers depend on."""
    notes: tuple[str, ...] = ()
    """Caveats that a reader needs to judge the numbers; the report shows them on top."""
    heard: Heard | None = None
    """What the test clips were heard as; None if that is not known."""
    mapping: ChipMapping | None = None
    """Where the weights lie on the chip; None if the net was not mapped."""
    cost: CostReport | None = None
    """Time and energy of one inference; None if the chip has no cost."""
    windows_per_second: float = 5.0
    """Inferences a second of a spotter that always listens."""
    sensitivity: Sensitivity | None = None
    """What each layer loses alone, after HWA training; None if it was not measured."""
    budget: Budget | None = None
    """What each non-ideality costs, after HWA training; None if it was not measured."""
    ablation: Mapping[str, Sweep] = field(default_factory=dict)
    """Accuracy of other trainings on the same chips, or of the same net on chips made otherwise, by
    name."""
    levels: Mapping[float, Sweep] = field(default_factory=dict)
    """Validation accuracy on chips of their own by the level of the training noise; empty if one
    level was trained."""
    continued: bool = False
    """Whether the run was stopped, or finished, before, and went on."""
    level: float | None = None
    """The level that they chose; None if there was no choice."""
    ranges: Mapping[str, RangeChoice] = field(default_factory=dict)
    """Of each trained net, by its name, whether it keeps the ranges that it has learnt; empty where
    there was no choice."""
    training: Mapping[str, Curve] = field(default_factory=dict)
    """The curves of the trainings, by name."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """All settings of the run."""
    command: str = ""
    """The command that repeats the run; empty if there is none."""

    @property
    def iso(self) -> float:
        """The iso-accuracy, from 0 to 1."""
        return ISO * self.digital

    @property
    def clips(self) -> int:
        """Number of test clips; 0 if it is not known."""
        return int(self.data.get("test", 0))

    @property
    def key_times(self) -> list[str]:
        """Times whose accuracy is a key figure: a day and a year, where measured, or the latest.

        They are in the order of time, and named as they were given: ``24 h`` is a day.
        """
        after = {time: seconds(time) for time in self.hwa.times}
        order = sorted(after, key=lambda time: -1.0 if (t := after[time]) is None else t)
        return [time for time in order if after[time] in _KEY_TIMES] or order[-1:]

    @property
    def caveats(self) -> tuple[str, ...]:
        """The notes, then what the numbers themselves make doubtful.

        Such are a digital accuracy near chance or on few clips, hardware-aware training that cost
        accuracy at a time or may have, and a net that is better on chips than its reference.
        Training costs accuracy where the whole 95 % interval of the gain over the net mapped
        directly is below 0. Chips that all lose the same show no spread: that is said apart.
        """
        return (*self.notes, *self._of_clips(), *self._of_training(), *self._of_reference())

    def _of_clips(self) -> Iterator[str]:
        count = 0 if self.heard is None else len(self.heard.labels)
        if self._by_chance is not None:
            found, largest = self._by_chance
            yield (
                f"The digital accuracy, {100 * self.digital:.2f} % of {count:,} test clips (95 % "
                f"interval over clips {100 * found.low:.2f} to {100 * found.high:.2f} %), is not "
                f"significantly above {100 * largest:.2f} %, which always naming the largest class "
                "has. Accuracies on chips then say little. Worth a try: more digital.epochs, "
                "another digital.learning_rate or more clips."
            )
        elif count and 1 / count > (1 - ISO) * self.digital:
            yield (
                f"There are {count:,} test clips: one is {100 / count:.2f} points, more than "
                "iso-accuracy may lose. Intervals are over chips alone; other clips may give other "
                "accuracies."
            )

    @functools.cached_property
    def _by_chance(self) -> tuple[Interval, float] | None:
        """The digital accuracy over clips and the share of the largest class, if it reaches that.

        Accuracies far above it, by five standard deviations at least, do without an interval, which
        takes long for many clips.
        """
        count = 0 if self.heard is None else len(self.heard.labels)
        if self.heard is None or not count:
            return None
        largest = self.heard.labels.bincount().max().item() / count
        if largest == 1 or self.digital - largest > 2.5 / math.sqrt(count):
            return None
        found = share(round(self.digital * count), count)
        return (found, largest) if found.low <= largest else None

    @functools.cached_property
    def _gains(self) -> dict[str, Interval]:
        """The gain of the training over the net mapped directly, by time."""
        return dict(zip(self.hwa.times, self.hwa.minus(self.direct).interval(), strict=True))

    def _of_training(self) -> Iterator[str]:
        lost: dict[str, float] = {}
        alike: dict[str, float] = {}
        unsettled: dict[str, float] = {}
        for time, gain in self._gains.items():
            loss = -100 * gain.mean
            settled = gain.high < 0 and not f"{loss:.2f}".startswith("0.00")
            if settled and gain.shown_ends is None:
                alike[time] = loss
            elif settled:
                lost[time] = loss
            elif gain.mean < -_MUCH and gain.high >= 0:
                unsettled[time] = loss
        direct, tries = "against the net mapped directly", f"Worth a try: {self._worth_a_try}."
        if lost:
            yield (
                f"Hardware-aware training cost accuracy here{self._at(lost)}: {direct}, chips lose "
                f"{_most(lost)}. {tries}"
            )
        if alike:
            yield (
                f"All {len(self.hwa.seeds)} chips lose the same by hardware-aware training"
                f"{self._at(alike)}: {direct}, {_most(alike)}. They show no spread, from which to "
                f"tell what other chips lose. {tries}"
            )
        if unsettled:
            yield (
                "Whether hardware-aware training cost accuracy is not settled"
                f"{self._at(unsettled)}: {direct}, chips lose {_most(unsettled)} on average. More "
                "chips (sweep.num_chips) would settle it."
            )

    def _at(self, losses: _Losses) -> str:
        """Return at how many of the times there are these losses; empty if there is one time."""
        count = len(self.hwa.times)
        return f" at {len(losses)} of {count} times" if count > 1 else ""

    def _of_reference(self) -> Iterator[str]:
        epochs = self.config.get("hwa", {}).get("epochs")
        better = [
            time
            for time, found in zip(self.hwa.times, self.hwa.interval(), strict=True)
            # chips that are alike count: their mean may be off by a rounding, which is no gain
            if found.low - self.digital > _ROUNDING and self._gains[time].low > 0
        ]
        if epochs and better and self._by_chance is None:
            yield (
                f"On chips the net is better than its digital reference (at {', '.join(better)}): "
                f"it was trained for further epochs (hwa.epochs: {epochs}), which the reference "
                "was not. Iso-accuracy then says little of the chip. Worth a try: more "
                "digital.epochs."
            )

    @property
    def _worth_a_try(self) -> str:
        """The options whose other values may train better, of those that have an effect here."""
        chip = self.config.get("chip", {})
        # of the epochs, too many and too few have both cost accuracy
        tries = ["a smaller hwa.learning_rate", "other numbers of hwa.epochs"]
        if chip.get("levels"):
            tries.append("other chip.levels")
        elif chip.get("training", {}).get("weight") != "none":
            tries.append("another chip.training.scale")
        tries += ["chip.correct: false"] * bool(chip.get("correct"))
        *first, last = tries
        return f"{', '.join(first)} or {last}"

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the accuracy after HWA training is iso-accurate on average, at each time.

        The standard deviation over the chips is taken to be a test clip at least.
        """
        return self.hwa.keeps(self.iso, resolution=1 / self.clips if self.clips else 0.0)

    @property
    def joules_per_year(self) -> float | None:
        """Energy, J, of a year of always-on listening; None if the chip has no cost."""
        if self.cost is None:
            return None
        return self.cost.energy.system * self.windows_per_second * YEAR

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the content of accuracy.csv, and write it to ``path`` if given.

        It has a line for each chip at each time of each net: ``direct``, ``hwa`` and those of the
        ablation by name. The columns are net, and those of ``Sweep.to_csv``.

        Raises:
            OSError: the file cannot be written.
        """
        return comma_separated(self._rows(), path)

    def to_parquet(self, path: str | Path) -> Path:
        """Write the columns of ``to_csv`` to ``path`` as Parquet, and return the path.

        Raises:
            ImportError: pyarrow is not installed.
            OSError: the file cannot be written.
        """
        return parquet(self._rows(), path)

    def _rows(self) -> Iterator[list[Any]]:
        header, *_ = self.hwa.rows()
        yield ["net", *header]
        for net, found in (("direct", self.direct), ("hwa", self.hwa), *self.ablation.items()):
            yield from ([net, *row] for row in itertools.islice(found.rows(), 1, None))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of report.json; what was not measured is left out."""
        found: dict[str, Any] = {
            "digital": {"accuracy": self.digital},
            "direct": self.direct.to_dict(),
            "hwa": self.hwa.to_dict(),
            "hwa minus direct": self.hwa.minus(self.direct).to_dict(),
            "iso": {
                "limit": self.iso,
                **{t: asdict(v) for t, v in zip(self.hwa.times, self.verdicts, strict=True)},
            },
            "chip": self.chip,
            "tiles": self.tiles,
            "data": self.data,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "continued": self.continued,
            "versions": self.versions,
            "notes": list(self.caveats),
        }
        if self.heard is not None:
            found["confusion"] = self.heard.to_dict()
        if self.mapping is not None:
            found["mapping"] = plain_mapping(self.mapping)
        if self.cost is not None:
            found["cost"] = self.cost.to_dict()
            found["listening"] = {
                "windows_per_second": self.windows_per_second,
                "joules_per_year": self.joules_per_year,
            }
        if self.sensitivity is not None:
            found["sensitivity"] = self.sensitivity.to_dict()
        if self.budget is not None:
            found["budget"] = self.budget.to_dict()
        if self.ablation:
            found["ablation"] = {
                name: {"accuracy": s.to_dict(), "minus hwa": s.minus(self.hwa).to_dict()}
                for name, s in self.ablation.items()
            }
        if self.levels:
            found["levels"] = {
                "chosen": self.level,
                "validation accuracy": {f"{x:g}": s.to_dict() for x, s in self.levels.items()},
            }
        if self.ranges:
            found["ranges"] = {name: choice.to_dict() for name, choice in self.ranges.items()}
        if self.training:
            found["training"] = {
                name: [{"epoch": n, "loss": x, "validation accuracy": y} for n, x, y in curve]
                for name, curve in self.training.items()
            }
        found |= {"config": dict(self.config)} if self.config else {}
        found |= {"command": self.command} if self.command else {}
        return found


def _most(losses: _Losses) -> str:
    """Return the largest of the losses with its time."""
    time = max(losses, key=losses.__getitem__)
    return f"{'up to ' * (len(losses) > 1)}{losses[time]:.2f} points (at {time})"
