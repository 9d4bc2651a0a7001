"""The error of a system that the chip does not solve, with what would mend it."""

from typing import Literal

Condition = Literal["singular", "unstable", "diverging", "stalled"]


class NotSolvedError(ValueError):
    """A system that a solver chip does not solve: which condition failed, and what mends it.

    ``condition`` is ``singular`` (the matrix, or a block of it in the arrays, has no inverse),
    ``unstable`` (an inverse circuit does not settle), ``diverging`` (the spectral radius is not
    below 1, or residuals grow) or ``stalled`` (residuals stay above the tolerance). ``measured`` is
    the quantity that failed, ``system`` the number of the first such system in the batch.
    """

    def __init__(self, condition: Condition, system: int, measured: float, text: str) -> None:
        super().__init__(text)
        self.condition, self.system, self.measured = condition, system, measured
