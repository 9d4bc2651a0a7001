"""What a recogniser writes down, digitally and on chips over time, as one value."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from analogtorch.cost_model import CostReport
from analogtorch.evaluate import Sweep
from analogtorch.mapping import ChipMapping


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """One recording and its texts."""

    name: str
    """Name of the recording."""
    seconds: float
    """Its length, s."""
    said: str | None
    """What is said; None: nobody has written it down."""
    digital: str
    """The text of the digital net."""
    chips: tuple[tuple[str, ...], ...]
    """The text of each chip at each time."""


@dataclass(frozen=True, kw_only=True)
class Transcribed:
    """The texts of all recordings, with the word error rate where references are known."""

    transcripts: tuple[Transcript, ...]
    times: tuple[str, ...]
    """Times after programming."""
    seeds: tuple[int, ...]
    """Seed of each chip."""
    chip: str
    """Name of the chip."""
    recogniser: str
    """Name of the net."""
    share: str
    """How much of its weights is on the chip."""
    digital: float | None = None
    """Word error rate of the digital net; None: no reference is known."""
    wer: Sweep | None = None
    """Word error rate of the chips; None: no reference is known."""
    mapping: ChipMapping | None = None
    """Where the weights lie; None: all is silent."""
    cost: CostReport | None = None
    """Time and energy of one window; None if they are not known."""
    window: float = 0.0
    """Length of the window that the cost is of, s."""
    notes: tuple[str, ...] = ()
    """Caveats that a reader needs to judge the figures."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that the texts depend on."""
    took: float = 0.0
    """Time that the run took, s; if it was continued, since then."""
    continued: bool = False
    """Whether the run was stopped, or finished, before, and went on."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """All settings of the run."""
    command: str = ""
    """The command that repeats the run."""

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield a row for each recording, chip and time, after the header."""
        yield "recording", "chip", "seed", "time", "text", "reference"
        for found in self.transcripts:
            yield found.name, "digital", None, None, found.digital, found.said
            for number, (seed, texts) in enumerate(zip(self.seeds, found.chips, strict=True)):
                for time, text in zip(self.times, texts, strict=True):
                    yield found.name, number, seed, time, text, found.said

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "chip": self.chip,
            "recogniser": self.recogniser,
            "on chip": self.share,
            "digital": self.digital,
            "wer": None if self.wer is None else self.wer.to_dict(),
            "times": list(self.times),
            "seeds": list(self.seeds),
            "recordings": [
                {
                    "name": each.name,
                    "seconds": each.seconds,
                    "said": each.said,
                    "digital": each.digital,
                    "chips": [list(texts) for texts in each.chips],
                }
                for each in self.transcripts
            ],
            "mapping": None if self.mapping is None else self.mapping.to_dict(),
            "cost": None if self.cost is None else self.cost.to_dict(),
            "notes": list(self.notes),
            "versions": dict(self.versions),
            "took": self.took,
            "continued": self.continued,
            "config": dict(self.config),
        }


def text(found: Transcribed) -> str:
    """Return the texts for a terminal: of the digital net, and of the first chip at each time."""
    names = ["digital", *found.times]
    width = max(map(len, ["reference", *names]))
    lines = []
    for each in found.transcripts:
        lines.append(f"{each.name}, {each.seconds:.1f} s")
        if each.said is not None:
            lines.append(f"  {'reference':<{width}}  {each.said}")
        for name, written in zip(names, [each.digital, *each.chips[0]], strict=True):
            lines.append(f"  {name:<{width}}  {written or '(nothing)'}")
    if found.wer is not None and found.digital is not None:
        lines += ["", f"word error rate, digital {100 * found.digital:.1f} %", str(found.wer)]
    return "\n".join(lines)
