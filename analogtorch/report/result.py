"""The result of a run, as one value."""

from dataclasses import asdict, dataclass
from typing import Any

from analogtorch.evaluate import Sweep, Verdict

ISO = 0.99
"""Share of the digital accuracy that counts as iso-accuracy; plot and table show it."""


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
    """Number of tiles that the net takes."""
    data: dict[str, Any]
    """Name of the data source, and number of clips per split."""
    seed: int
    """Seed of the run."""
    seconds: float
    """Time that the run took, s."""
    versions: dict[str, str]
    """Versions of the packages that the numbers depend on."""
    notes: tuple[str, ...] = ()
    """Caveats that a reader needs to judge the numbers; the report shows them on top."""

    @property
    def iso(self) -> float:
        """The iso-accuracy, from 0 to 1."""
        return ISO * self.digital

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the accuracy after HWA training is iso-accurate on average, at each time."""
        return self.hwa.keeps(self.iso)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of report.json."""
        return {
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
            "versions": self.versions,
        }
