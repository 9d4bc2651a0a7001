"""aihwkit's path of a weight through programming and drift, with the devices of this library.

aihwkit keeps the difference of the two programmed conductances as the weight, and splits it again
before it drifts: the empty device of a pair becomes exactly 0, and the largest programmed weight
of the matrix counts as the largest conductance. Here each device keeps its conductance.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from analogtorch.devices import DifferentialPair, pcm_like
from benchmarks.validation import published
from benchmarks.validation.row import Bar, Row

WEIGHTS = 400_000
"""Of each value; the largest of them decides a little."""
BAR = Bar(limit=0.02, relative=True)


@functools.cache
def weights() -> dict[float | None, Tensor]:
    """Return weights of the values of ``published.AIHWKIT``, by time in s; None: as programmed."""
    cell = DifferentialPair(device=pcm_like())
    device, generator = cell.device, torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        size = (2, len(published.AIHWKIT), WEIGHTS)
        return torch.randn(size, generator=generator, dtype=torch.float64)

    w = torch.tensor(list(published.AIHWKIT), dtype=torch.float64)
    targets = cell.targets(w.unsqueeze(1).expand(-1, WEIGHTS))
    programmed = cell.weights(device.program(targets, draw()))
    nu = device.drift_coefficient(targets, draw())
    found: dict[float | None, Tensor] = {None: programmed}
    largest = programmed.abs().max()
    again = cell.targets(programmed / largest)
    for time in published.AIHWKIT_TIMES:
        t = published.SECONDS[time]
        if t is not None:
            read = device.read(again, device.drift(again, nu, t), t, draw())
            found[t] = cell.weights(read) * largest
    return found


def moments(number: int, mean: bool) -> list[float]:
    """Return mean or standard deviation of a value, by its number, at the times of the row."""
    times = [published.SECONDS[time] for time in published.AIHWKIT_TIMES]
    each = [weights()[t][number] for t in times]
    return [(w.mean() if mean else w.std()).item() for w in each]


def rows() -> Iterator[Row]:
    """Yield mean and standard deviation of the weights."""
    for number, (w, (means, spreads)) in enumerate(published.AIHWKIT.items()):
        for name, reference in (("mean", means), ("standard deviation", spreads)):
            if reference is not None:
                yield Row(
                    quantity=f"pair of `pcm_like()` split twice, weight {w:g}: {name}",
                    reference=reference,
                    found=lambda n=number, mean=name == "mean": moments(n, mean),
                    bar=BAR,
                )
