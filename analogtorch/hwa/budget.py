"""The time that an adaptation may take."""

import math
import time
from dataclasses import dataclass, field

_MARGIN = 1.25
"""What comes after the training is given this many times what it is expected to take."""


@dataclass
class Budget:
    """The time that an adaptation took and has left, in seconds."""

    minutes: float | None
    """Time for all of it; None: any."""
    earlier: float = 0.0
    """What earlier parts of an interrupted run took."""
    after: float = 0.0
    """What comes after the training is expected to take."""
    began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """What the run took so far."""
        return self.earlier + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """What is left for the training; it may be negative."""
        if self.minutes is None:
            return math.inf
        return 60 * self.minutes - self.spent - _MARGIN * self.after
