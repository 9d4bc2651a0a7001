"""A mapping as one HTML page: no scripts, no network, drawings as inline SVG."""

from typing import Any

from analogtorch.cost_model import CostReport
from analogtorch.mapping import ChipMapping
from analogtorch.report.floorplan import (
    Floorplan,
    colours,
    cost_shown,
    energy_split,
    energy_unit,
    floorplan,
    short,
)
from analogtorch.report.mapping import HEADER, layer_rows, summary
from analogtorch.values.shown import as_html

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; \
color: #222; }
table { border-collapse: collapse; } th, td { padding: 0.15em 0.7em; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 1px solid #888; }
tbody tr:nth-child(even) { background: #f4f4f4; } \
.key { display: inline-block; width: 0.8em; height: 0.8em; }
svg { width: 100%; height: auto; } rect.tile { fill: #eee; stroke: #999; stroke-width: 0.01; }
rect.chip { fill: none; stroke: #999; stroke-width: 0.05; }
rect.block { stroke: #000; stroke-width: 0.004; } \
dt { font-weight: 600; } pre { white-space: pre-wrap; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ title }}</title><style>{{ style }}</style></head>
<body>
<h1>{{ title }}</h1>
<dl>{% for name, text in facts %}<dt>{{ name }}</dt><dd>{{ text }}</dd>{% endfor %}</dl>
<h2>Floorplan</h2>
<p>Each square is a tile in use{% if plan.frames %}, each frame a chip{% endif %}; \
each coloured rectangle a block.
Point at one to read what it is.</p>
<svg viewBox="-0.1 -0.1 {{ plan.width + 0.2 }} {{ plan.height + 0.2 }}" \
role="img" aria-label="floorplan">
{%- for f in plan.frames %}
<rect class="chip" x="{{ r(f.x) }}" y="{{ r(f.y) }}" width="{{ r(f.width) }}" \
height="{{ r(f.height) }}"/>
<text x="{{ r(f.x + f.width * 0.03) }}" y="{{ r(f.y + f.width * 0.09) }}" \
font-size="{{ r(f.width * 0.08) }}">chip {{ f.chip }}</text>{% endfor %}
{%- for t in plan.tiles %}
<rect class="tile" x="{{ r(t.x) }}" y="{{ r(t.y) }}" width="1" height="1"/>
{%- for p in t.placements %}
<rect class="block" x="{{ r(t.x + p.col / array.columns) }}" y="{{ r(t.y + p.row / array.rows) }}" \
width="{{ r(p.block.cols / array.columns) }}" height="{{ r(p.block.rows / array.rows) }}" \
fill="{{ colour[p.block.matrix] }}">\
<title>{{ description(p) }}</title></rect>{% endfor %}{% endfor %}
</svg>
<h2>Utilisation</h2>
<p>Share of the cells taken, of each tile in use, in the order of the chips; \
the lines are at 50 and 100 %.</p>
<svg viewBox="0 -2 {{ width }} 106" preserveAspectRatio="none" style="height: 9em" \
role="img" aria-label="utilisation">
{%- for level in (0, 50) %}<line x1="0" x2="{{ width }}" y1="{{ level }}" y2="{{ level }}" \
stroke="#bbb"/>{% endfor %}
{%- for (c, t), share in used.items() %}
<rect x="{{ r(loop.index0 + 0.1) }}" y="{{ r(100 - 100 * share) }}" width="0.8" \
height="{{ r(100 * share) }}" fill="#4878a8"><title>chip {{ c }} tile {{ t }}: \
{{ "%.1f" | format(100 * share) }} %</title></rect>{% endfor %}
</svg>
{% if energy %}<h2>Energy of one inference</h2>
<table><thead><tr><th>consumer</th><th>{{ unit }}</th><th>share</th></tr></thead><tbody>
{%- for name, joule in energy.items() %}
<tr><td>{{ name }}</td><td>{{ short(joule / joules) }}</td>\
<td>{{ "%.1f" | format(100 * joule / total) }} %</td>
<td><svg viewBox="0 0 100 5" style="width: 20em">\
<rect width="{{ r(100 * joule / total) }}" height="5" fill="#a85448"/>
</svg></td></tr>{% endfor %}
</tbody></table>
<pre>{{ costs }}</pre>{% endif %}
<h2>Matrices</h2>
<table><thead><tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{%- for row in rows %}
<tr><td><span class="key" style="background: {{ colour[row[0]] }}"></span> {{ row[0] }}</td>
{%- for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table>
<h2>Digital operations</h2>
<table><thead><tr><th>operation</th><th>kind</th><th>numbers</th><th>operations</th></tr></thead><tbody>
{%- for op in digital %}
<tr><td>{{ op.name }}</td><td>{{ op.kind }}</td><td>{{ "{:,}".format(op.elements) }}</td><td>{{
 "{:,}".format(op.operations) }}</td></tr>{% endfor %}
</tbody></table>
{% if kept %}<h2>Digital weights</h2>
<table><thead><tr><th>parameter</th><th>weights</th></tr></thead><tbody>
{%- for name, count in kept %}<tr><td>{{ name }}</td>\
<td>{{ "{:,}".format(count) }}</td></tr>{% endfor %}
</tbody></table>{% endif %}
</body></html>
"""


@as_html.register
def html(mapping: ChipMapping, *, cost: CostReport | None = None) -> str:
    """Return one HTML page: totals, floorplan, utilisation, matrices and digital operations.

    Args:
        mapping: the mapping to show.
        cost: the cost report to show, with the energy by consumer; by default that of the pipelined
            mode, or none if the chip has no cost.

    Raises:
        ImportError: jinja2 is not installed.
    """
    cost = cost_shown("to_html", mapping, cost)
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ImportError('to_html needs jinja2; run: pip install "analogtorch[report]"') from error
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(**_content(mapping, floorplan(mapping), cost))


def _content(mapping: ChipMapping, plan: Floorplan, cost: CostReport | None) -> dict[str, Any]:
    energy = {} if cost is None else energy_split(cost)
    unit, joules = energy_unit(energy)
    used = mapping.tile_utilisation
    return {
        "title": f"{mapping.model} on {mapping.num_chips} x {mapping.chip.name}",
        "style": _STYLE,
        "facts": summary(mapping),
        "plan": plan,
        "array": mapping.chip.array,
        "colour": colours(mapping),
        "description": _description,
        "r": lambda number: f"{number:.4g}",
        "used": used,
        "width": max(len(used), 8),
        "energy": energy,
        "total": sum(energy.values()),
        "unit": unit,
        "joules": joules,
        "short": short,
        "costs": "" if cost is None else str(cost),
        "header": HEADER,
        "rows": layer_rows(mapping),
        "digital": mapping.digital,
        "kept": mapping.digital_weights,
    }


def _description(p: Any) -> str:
    b = p.block
    copy = f", copy {b.copy}" if b.copy else ""
    return (
        f"{b.matrix}{copy}: rows {b.row} to {b.row + b.rows - 1}, columns {b.col} to "
        f"{b.col + b.cols - 1}; chip {p.chip} tile {p.tile}, row {p.row}, column {p.col}"
    )
