"""A mapping as one HTML page."""

from analogtorch.cost_model import CostReport
from analogtorch.mapping import ChipMapping
from analogtorch.report.floorplan import cost_shown
from analogtorch.report.mapping import summary
from analogtorch.report.page.as_html import render
from analogtorch.report.page.on_chip import cost_keys, cost_section, floorplan_section, tile_key
from analogtorch.report.page.parts import Code, Document, Facts, Key, Part, Section
from analogtorch.values.shown import as_html
from analogtorch.values.version import RELEASE


@as_html.register
def html(
    mapping: ChipMapping, *, cost: CostReport | None = None, command: str | None = None
) -> str:
    """Return one HTML page: key figures, floorplan with all matrices, latency and energy.

    It needs no network and runs no script.

    Args:
        mapping: the mapping to show.
        cost: the cost report to show; by default that of the pipelined mode, or none if the chip
            has no cost.
        command: the command that makes the page again, to be shown; None shows none.

    Raises:
        ImportError: jinja2 is not installed.
        TypeError: ``cost`` is no cost report.
        ValueError: it is that of another mapping.
    """
    cost = cost_shown("to_html", mapping, cost)
    facts = dict(summary(mapping))
    keys = [
        tile_key(mapping),
        Key(label="Weights on the chip", value=f"{mapping.weights:,}"),
        *([] if cost is None else cost_keys(cost)),
    ]
    more = mapping.cells != mapping.weights
    cells = [("cells taken", facts["model"].split(" in ", 1)[-1])] if more else []
    inside = ("retired", "an inference", "digital operations", "digital weights")
    described: list[Part] = [
        Facts(
            (
                *((name, facts[name]) for name in inside if name in facts),
                ("tiles at least", f"{mapping.tiles_lower_bound:,}, without waste"),
                *cells,
                ("version", f"analogtorch {RELEASE}"),
            )
        )
    ]
    if command is not None:
        described.append(
            Code(caption="The command that makes this page, where it was run", text=command)
        )
    sections = [floorplan_section(mapping)]
    sections += [] if cost is None else [cost_section(cost)]
    return render(
        Document(
            title=f"{mapping.model} on {mapping.num_chips} x {mapping.chip.name}",
            about="Where each weight lies on the chip, and what an inference takes.",
            keys=tuple(keys),
            sections=(*sections, Section("What was mapped", tuple(described))),
        )
    )
