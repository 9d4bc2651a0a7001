"""The page of the validation: its groups of rows, and their text in Markdown."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.validation import costs, crossbar, devices, hermes, mvm, two_step, wires
from benchmarks.validation.published import SOURCES
from benchmarks.validation.row import HEADINGS, Outcome, Row


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows under one heading."""

    title: str
    text: str
    """What the rows are, and their setting."""
    rows: Callable[[], Iterator[Row]]
    picture: str = ""
    """File name of the figure below the table, of ``figures.FIGURES``."""
    caption: str = ""


GROUPS = (
    Group(
        title="Programming error over conductance",
        text="Standard deviation of the programmed conductance before it is clamped at 0, in % of "
        "the largest, by target conductance in units of the largest (on devices with a smallest "
        "conductance: by share of the range).",
        rows=devices.programming_rows,
        picture="validation_devices.png",
        caption="Left: standard deviation of programming over the target conductance. Right: mean "
        "drift factor of the largest conductance. Lines: the library; dots: the references.",
    ),
    Group(
        title="Drift",
        text="The mean of conductance over time, and how much devices differ. By time, or by "
        "conductance in units of the largest.",
        rows=devices.drift_rows,
    ),
    Group(
        title="Read noise",
        text="1/f noise with the spectrum `S_G / G^2 = Q^2 / f`. The reference integrates the "
        "spectrum numerically, from the frequency of the time since the programming pulse to that "
        "of two reads.",
        rows=devices.read_rows,
    ),
    Group(
        title="Weights of pairs",
        text="Mean and standard deviation of 400,000 weights in units of the largest, each a "
        "differential pair, programmed, drifted and read with noise.",
        rows=devices.pair_rows,
    ),
    Group(
        title="Weights as aihwkit drifts them",
        text="aihwkit stores the difference of two programmed conductances, and splits it again "
        "before drift, with the largest programmed weight as the largest conductance. The same "
        "path with the devices here gives its numbers; the bar is 2 %. So the spreads of the table "
        "above, where each device keeps its conductance, differ by up to 7 % from aihwkit's for "
        "this reason alone.",
        rows=two_step.rows,
    ),
    Group(
        title="MVM error over time",
        text="Mean of `||error|| / ||y||` in %, over 128 inputs and 4 chips: a layer of 512x512 "
        "on one tile, weights uniform in [-1, 1] with 30 % zeros, inputs with 50 % zeros, 8-bit "
        "inputs in the range of each vector, outputs not rounded. Devices are those of "
        "`hermes64`.",
        rows=mvm.rows,
        picture="validation_mvm.png",
        caption="Left: MVM error over time. Lines: the library; dots: the references. Right: "
        "outputs on a chip with `two_device` against exact ones, after a day with global drift "
        "compensation.",
    ),
    Group(
        title="What the HERMES core measured of itself",
        text="`hermes_core()` as it is, 256x256 Gaussian weights, inputs uniform in [-1, 1], 4 "
        "chips, read at 0 s. The papers do not say of what the 1.94 % of an MVM are a share; here "
        "it is the span of the ADC, from its smallest to its largest output. In units of half of "
        "it, or of the outputs themselves, the errors of the published weights alone are larger.",
        rows=hermes.rows,
    ),
    Group(
        title="Parts of the standard crossbar model",
        text="MVM error in % as above, of one part of the model at a time: 512 rows, normal "
        "weights with a standard deviation of 0.246, a weight scale per column, inputs uniform in "
        "[-1, 1], an ADC range of 10, output noise of 0.04, columns of 0.35 ohm between cells of "
        "at most 5 uS.",
        rows=crossbar.rows,
    ),
    Group(
        title="IR drop",
        text="The models of `chip.wires` against all nodes of a tile, solved by Kirchhoff's "
        "equations, with 256 rows of cells of 0 to 20 uS behind 0.35 ohm a segment. Pulses: 16 "
        "columns with a resistance, solved anew whenever a pulse ends and its cells are switched "
        "off; the drop is 2 to 6 % of the output. Their weights are uniform in [0, 1], or those of "
        "16 pairs of columns in [-1, 1], whose outputs are small differences of large currents if "
        "no input is negative. Else ladders against inputs that are voltages, 256 columns, "
        "resistance in rows and columns. Bars are the stated errors of the models. The ladder "
        "takes inputs for voltages: of normal pulses it errs by up to twice the drop, so that no "
        "model at all is closer there.",
        rows=wires.rows,
    ),
    Group(
        title="Time, energy and efficiency",
        text="An MVM of all tiles of a chip, in the scope of the published figure. The gain by "
        "drift is a range, whose middle is the reference and whose half is the bar. The chips are "
        "described by their published TOPS and TOPS/W, so that those rows check arithmetic and "
        "predict nothing.",
        rows=costs.rows,
    ),
)
HEAD = """# Validation

    python -m benchmarks.validation   # or make validation: 15 s of one core

What the models are checked against: each row has a reference from a paper, what the library gives,
the largest deviation of its values, and the bar that it must meet. Most bars are 1 % for means and
arithmetic, 3 % for standard deviations and 0.3 points for MVM errors in percent; others stand in
their rows. *Published* references stand in the paper, *derived* ones are arithmetic on its figures,
*recomputed* ones come from its formulas by code that shares nothing with the library's (those of
Kirchhoff from its solver of all nodes), *printed* ones from another program.
The command writes this page; the test suite compares it with what the command computes.
"""


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return how many rows meet their bars, and which do not."""
    failed = [each.row.quantity for each in outcomes if not each.meets]
    text = f"{len(outcomes) - len(failed)} of {len(outcomes)} rows meet their bar."
    return text + (f" Not met: {'; '.join(failed)}." if failed else "")


def page(outcomes: Sequence[Sequence[Outcome]]) -> str:
    """Return the page, from the outcomes of the rows of each group."""
    parts = [HEAD, summary([each for group in outcomes for each in group]), ""]
    for group, found in zip(GROUPS, outcomes, strict=True):
        parts += [f"## {group.title}", "", group.text, "", table(found), ""]
        if group.picture:
            parts += [f"![{group.caption}]({group.picture})", "", f"*{group.caption}*", ""]
    used = {each.row.reference.source for group in outcomes for each in group}
    parts += ["## Sources", ""]
    parts += [f"- **{name}**: {SOURCES[name]}." for name in sorted(used)]
    return "\n".join([*parts, ""])


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [HEADINGS, *(each.cells() for each in outcomes)]
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([text[0], "|---" * len(HEADINGS) + "|", *text[1:]])
