"""The energy of one inference on several chips."""

from collections.abc import Iterable
from dataclasses import fields

from analogtorch.cost_model.cost import CostReport, EnergySplit
from analogtorch.values import checks


def total_energy(reports: Iterable[CostReport]) -> EnergySplit:
    """Return the energy of one inference on several chips, by consumer.

    Args:
        reports: the cost of each mapping of ``mapping.map_by_chip``.

    Raises:
        TypeError: one is no ``CostReport``.
        ValueError: there is none.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 4, 3))
        >>> net = at.convert(net, at.chips.hermes64(), sensor="0")
        >>> parts = at.mapping.map_by_chip(net, torch.rand(1, 1, 8, 8))
        >>> total = at.cost_model.total_energy(at.cost(part) for part in parts)
        >>> total.system > max(at.cost(part).energy.system for part in parts)
        True
    """
    split = [
        checks.instance("total_energy: reports", report, CostReport, "[analogtorch.cost(mapping)]")
        for report in checks.items("total_energy: reports", reports, "[analogtorch.cost(mapping)]")
    ]
    if not split:
        raise ValueError("total_energy: reports is empty; give the cost of each chip's mapping")
    return EnergySplit(
        **{f.name: sum(getattr(r.energy, f.name) for r in split) for f in fields(EnergySplit)}
    )
