"""The choice between the ranges that a net has learnt and new ones, as validation clips made it."""

from dataclasses import dataclass
from typing import Any, Literal

from analogtorch.evaluate import Sweep


@dataclass(frozen=True, kw_only=True)
class RangeChoice:
    """What a net keeps after its training: the ranges that it has learnt, or new ones."""

    learnt: Sweep
    """Validation accuracy, 0..1, with the ranges that it has learnt, on chips of their own."""
    new: Sweep
    """The same with ranges for its present weights, on the same chips."""
    margin: float
    """Accuracy, 0..1, that new ranges may cost."""

    @property
    def kept(self) -> Literal["learnt", "new"]:
        """New ranges, unless they cost more than the margin on average over chips and times."""
        before, after = (each.values.mean().item() for each in (self.learnt, self.new))
        return "new" if after >= before - self.margin else "learnt"

    def to_dict(self) -> dict[str, Any]:
        """Return the choice, ready for JSON."""
        return {
            "kept": self.kept,
            "margin": self.margin,
            "validation accuracy": {"learnt": self.learnt.to_dict(), "new": self.new.to_dict()},
        }
