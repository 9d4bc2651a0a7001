"""Weight expansion: a matrix on more rows than it has inputs, by a random matrix."""

import math
from dataclasses import dataclass, field

from analogtorch.devices import register
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources


@register
@dataclass(frozen=True, kw_only=True)
class Expansion:
    """Weight expansion: cells hold ``W pinv(M)`` in place of ``W``, and rows get ``M x``.

    ``M`` (rows, inputs) is random with orthonormal columns, so that ``pinv(M)`` is its transpose
    and ``(W pinv(M)) (M x) = W x``: see ``analogtorch.ops.expansion``. The digital unit computes
    ``M x`` before the DACs. Each output sums over more devices, whose errors average, and inputs
    and weights without outliers use the converters and conductances better. The cost is the rows,
    and ``2 x rows x inputs`` digital operations for each input vector. Linear layers and the
    matrices of recurrent layers and attention have it. Other layers refuse such a chip.

    Source: Ambrogio et al., Nature 620, 768 (2023), which inserts a random matrix and its
    pseudo-inverse before the first encoder layer of a speech network. Orthonormal columns are this
    package's choice: they amplify no noise.
    """

    factor: float | None = None
    """Rows that hold a matrix, as a multiple of its inputs, from 1 to 64; the number of rows is
    rounded up. 1 mixes the inputs without more rows. None: weights lie as they are."""
    seed: int = 0
    """Seed of ``M``, an integer from 0 to 2^62. All matrices with the same number of inputs share
    one ``M``."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.numbers(self, "factor", optional=True, least=1, most=64)
        checks.counts(self, "seed", least=0, most=2**62)
        if not self.on:
            checks.idle(self, "seed", without="expansion: give factor, such as 2.0")
        check_sources(self)

    @property
    def on(self) -> bool:
        """Whether weights are expanded."""
        return self.factor is not None

    def rows(self, inputs: int) -> int:
        """Return the number of rows that hold a matrix with this many inputs."""
        return inputs if self.factor is None else math.ceil(round(self.factor * inputs, 9))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the matrix that cells hold, for one of ``shape`` (outputs, inputs).

        Without expansion it is the same, whatever its dimensions.
        """
        return (*shape[:-1], self.rows(shape[-1])) if self.on else shape
