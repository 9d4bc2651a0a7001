"""What a run found, as one value."""

from dataclasses import dataclass
from typing import Any

from analogtorch.evaluate.sweep import Sweep

ISO = 0.99
"""Share of the digital accuracy that counts as iso-accuracy: the line in plot and table."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The accuracies of one digital net and of what a chip makes of it."""

    digital: float
    """Accuracy of the digital net, 0..1."""
    direct: Sweep
    """Accuracy of that net mapped onto chips as it is."""
    hwa: Sweep
    """Accuracy on the same chips after hardware-aware training."""
    chip: str
    """Name of the chip."""
    tiles: int
    """Tiles that the net takes."""
    data: dict[str, Any]
    """Source, and clips per split."""
    seed: int
    """Of the run."""
    seconds: float
    """Time taken."""
    versions: dict[str, str]
    """Of the packages that the numbers depend on."""
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the numbers; shown prominently."""

    @property
    def iso(self) -> float:
        """The iso-accuracy line."""
        return ISO * self.digital

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "digital": {"accuracy": self.digital},
            "direct": self.direct.to_dict(),
            "hwa": self.hwa.to_dict(),
            "chip": self.chip,
            "tiles": self.tiles,
            "data": self.data,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "versions": self.versions,
        }
