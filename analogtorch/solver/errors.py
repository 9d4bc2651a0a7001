"""The error of systems that the chip does not solve, with what would mend them."""

from typing import Any, Literal

Condition = Literal["singular", "unstable", "diverging", "stalled", "range"]


class NotSolvedError(ValueError):
    """Systems that a solver chip does not solve: which condition failed, and what mends it.

    ``condition`` is ``singular`` (the matrix, or a block of it in the arrays, has no inverse),
    ``unstable`` (an inverse circuit does not settle), ``diverging`` (corrections are added, and the
    spectral radius is not below 1), ``stalled`` (residuals stay above the tolerance) or ``range``
    (the solution is too large or too small for its type). The message is about ``system``, the
    first that fails it, with the quantity ``measured``. ``systems`` are the numbers of all that are
    refused, whatever the condition. Numbers count a batch row by row.
    """

    def __init__(
        self,
        condition: Condition,
        system: int,
        measured: float,
        systems: tuple[int, ...],
        text: str,
    ) -> None:
        super().__init__(text)
        self.condition, self.system, self.measured = condition, system, measured
        self.systems = systems

    def __reduce__(self) -> Any:
        """Return what makes the error anew in another process."""
        return type(self), (self.condition, self.system, self.measured, self.systems, str(self))
