"""How a programmed chip is looked at, at any time after it was programmed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from torch import nn

from analogtorch.simulate.chip import ProgrammedChip
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.recalibration import Recalibration, check_read
from analogtorch.simulate.recovery import Recovery
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class Look:
    """How chips compute in the field: their temperature, and what they correct of themselves."""

    compensation: Compensation = "least_squares"
    """Drift compensation, as ``ProgrammedChip.at`` takes it."""
    temperature: str | float | None = None
    """Temperature of the chips, as ``ProgrammedChip.at`` takes it."""
    recalibration: Recalibration | None = None
    """When the compensation is read; None: at each look."""
    recovery: Recovery | None = None
    """What else is corrected at each of these reads; None: nothing."""

    def check(self, caller: str) -> None:
        """Check the fields as arguments of a function ``caller``.

        Raises:
            ValueError: the compensation is unknown, or there is a recalibration that nothing uses.
            TypeError: another field is of another type.
        """
        checks.choice(f"{caller}: compensation", self.compensation, get_args(Compensation))
        for name, kind, example in (
            ("recalibration", Recalibration, "at.Recalibration(every='30 days')"),
            ("recovery", Recovery, "at.Recovery(batches=batches)"),
        ):
            if (given := getattr(self, name)) is not None:
                checks.instance(f"{caller}: {name}", given, kind, f"{example}, or None")
        if self.recovery is None:
            or_else = ", or pass recovery=, which is fitted at these reads"
            check_read(caller, self.recalibration, self.compensation, or_else)

    def at(self, physical: ProgrammedChip) -> Callable[[float | None], nn.Module]:
        """Return a function from seconds (None: right after programming) to the chip as it is then.

        It keeps the last recovery: looks between the same two reads share it.
        """
        kept: dict[float, nn.Module] = {}

        def view(t: float | None) -> nn.Module:
            if self.recovery is None:
                return self._plain(physical, t, self.temperature, self.recalibration)
            if self.recalibration is None or t is None:
                return self.recovery.correct(self._plain(physical, t, self.temperature))
            read, asked = self.recalibration.last(t), self.recalibration.temperature
            if read not in kept:
                kept.clear()
                then = self._plain(physical, read, self.temperature if asked is None else asked)
                kept[read] = self.recovery.correct(then)
            return physical.at(t, temperature=self.temperature, corrected=kept[read])

        return view

    def _plain(
        self,
        physical: ProgrammedChip,
        t: float | None,
        temperature: str | float | None,
        recalibration: Recalibration | None = None,
    ) -> nn.Module:
        return physical.at(
            "programmed" if t is None else t,
            temperature=temperature,
            compensation=self.compensation,
            recalibration=recalibration,
        )
