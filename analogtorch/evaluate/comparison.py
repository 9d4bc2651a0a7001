"""The result of ``compare``: chips side by side, each figure with its kind and what it covers."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analogtorch.chips import Chip
from analogtorch.cost_model import CostReport, Entry
from analogtorch.cost_model.entries import entries
from analogtorch.evaluate.conditions import listed
from analogtorch.evaluate.swept import Sweep
from analogtorch.files import comma_separated
from analogtorch.files.figures import draw
from analogtorch.mapping import ChipMapping
from analogtorch.values.listed import counted
from analogtorch.values.shown import Shown, as_html


@dataclass(frozen=True, kw_only=True)
class ComparedChip:
    """A model on one of the chips that are compared."""

    name: str
    """What heads its column."""
    chip: Chip
    mapping: ChipMapping
    """The model on as many of these chips as it takes."""
    cost: CostReport | None
    """Time and energy of an inference; None: those of the chip are not known."""
    sweep: Sweep | None
    """The metric on simulated chips over time; None: it was not measured."""

    def entries(self) -> tuple[Entry, ...]:
        """Return every figure that is known."""
        costs = [] if self.cost is None else entries(self.cost)
        return (*self._metric(), *costs, *self._size())

    def _metric(self) -> list[Entry]:
        if self.sweep is None:
            return []
        found, chips = [], len(self.sweep.seeds)
        more = "".join(
            f"; {text}" for text in (self.sweep.recovery, *self.sweep.conditions) if text
        )
        for time, spread in zip(self.sweep.times, self.sweep.interval(), strict=True):
            low, high = spread.ends or (None, None)
            found.append(
                Entry(
                    quantity=f"{self.sweep.metric} at {time}",
                    value=spread.mean,
                    unit="",
                    kind="simulated",
                    scope=f"mean of {counted(chips, 'simulated chip')}{more}",
                    low=low,
                    high=high,
                    note=self.sweep.note(time),
                )
            )
        return found

    @property
    def cells(self) -> str:
        """Which weights have several unit cells, in words; empty: none."""
        matrices = self.mapping.matrices
        counts = Counter(matrix.cells for matrix in matrices if matrix.cells > 1)
        if len(counts) == 1 and counts.total() == len(matrices):
            return f"{next(iter(counts))} unit cells hold each weight"
        return ", ".join(
            f"{n} unit cells hold each weight of {k} of {len(matrices)} matrices"
            for n, k in sorted(counts.items())
        )

    def _size(self) -> list[Entry]:
        chips, array = self.mapping.num_chips, self.chip.array
        more = f"; {self.cells}" if self.cells else ""
        found = [
            Entry(
                quantity="tiles",
                value=self.mapping.tiles_used,
                unit="",
                kind="counted",
                scope=f"of {array.tiles * chips} tiles of {array.rows}x{array.columns}{more}",
            ),
            Entry(quantity="chips", value=chips, unit="", kind="counted", scope="that it takes"),
        ]
        area = None if self.chip.cost is None else self.chip.cost.area
        if area is not None:
            found.append(
                Entry(
                    quantity="area",
                    value=chips * area.value,
                    unit="mm2",
                    kind=area.kind,
                    scope=f"{counted(chips, 'whole chip')}: {area.source}",
                )
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Comparison(Shown):
    """Chips side by side, as ``compare`` returns them; print it for a table."""

    chips: tuple[ComparedChip, ...]
    metric: str | None
    """Name of the metric; None: none was measured."""
    digital: float | None
    """The metric of the digital model; None: it was not measured."""
    higher_is_better: bool = True

    @property
    def recovery(self) -> str:
        """What the simulated chips correct of themselves at each time; empty: only drift."""
        return next((each.sweep.recovery for each in self.chips if each.sweep), "")

    @property
    def conditions(self) -> tuple[str, ...]:
        """What of the simulated chips is not as by default, such as their defects.

        What is not so of all of them ends with the names of those that it is of.
        """
        of = {each.name: each.sweep.conditions for each in self.chips if each.sweep}
        found = {text: [n for n in of if text in of[n]] for texts in of.values() for text in texts}
        return tuple(
            text if len(names) == len(of) else f"{text} ({', '.join(names)})"
            for text, names in found.items()
        )

    def __getitem__(self, name: str) -> ComparedChip:
        """Return the chip that ``name`` heads.

        Raises:
            KeyError: no column is called so.
        """
        for each in self.chips:
            if each.name == name:
                return each
        names = ", ".join(each.name for each in self.chips)
        raise KeyError(f"no chip is called {name!r}; the comparison has {names}")

    def _repr_html_(self) -> str:
        return as_html(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw metric over time and energy over latency, of the chips of which they are known.

        File and errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON: by chip and quantity, with kind and scope."""
        return {
            "metric": self.metric,
            "digital": self.digital,
            "higher_is_better": self.higher_is_better,
            **({"recovery": self.recovery} if self.recovery else {}),
            **listed(self.conditions),
            "chips": {
                each.name: {
                    "chip": each.chip.name,
                    "figures": {
                        entry.quantity: {k: v for k, v in asdict(entry).items() if k != "quantity"}
                        for entry in each.entries()
                    },
                    "sweep": None if each.sweep is None else each.sweep.to_dict(),
                }
                for each in self.chips
            },
        }

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return CSV of one line per chip and quantity, and write it to ``path`` if given.

        A first line without a chip has the metric of the digital model, if it was measured.

        Raises:
            OSError: the file cannot be written.
        """
        rows: list[list[Any]] = []
        if self.digital is not None:
            digital = Entry(
                quantity=f"{self.metric}, digital",
                value=self.digital,
                unit="",
                kind="computed",
                scope="the digital model",
            )
            rows.append(["", *asdict(digital).values()])
        for each in self.chips:
            rows += [[each.name, *asdict(entry).values()] for entry in each.entries()]
        header = ["chip", *Entry.__dataclass_fields__]
        return comma_separated([header, *rows], path)
