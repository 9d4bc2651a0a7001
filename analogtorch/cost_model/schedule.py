"""The schedule of one inference: MVMs on tiles, transfers and digital operations.

These are the conventions:

- A block takes one MVM of its tile per input vector; blocks that share a tile run one after
  another, those on different tiles at the same time. Where the chip runs one group of a convolution
  at a time, a block takes one per group in it.
- A one-hot vector, as of an embedding, drives one row of one block. Tokens are taken to be spread
  evenly over the rows; one pulse of one sign applies each.
- Signed inputs take ``Cost.signed_passes`` MVMs each, and each of their pulses takes one, unless
  the cost covers them. ``ADC.asymmetry_balance`` takes twice as many. Copies of a matrix divide
  its vectors; those that hold the unit cells of one weight take all of them.
- Digital operations on the chip, among them additions of partial sums, run on the units of the
  chips where their result lies, in equal parts; those of the host at ``Cost.host.rate`` for each
  chip in use. With ``Cost.sums_on_host`` additions of partial sums are a step of the host.
- Ports and links carry the inputs of one operation at a time.
- An operation starts when its inputs are complete. So the latency is an upper bound for
  convolutions, which could start on the first positions of an image. ``sequential`` runs one
  operation at a time and one inference after another; ``pipelined`` lets branches overlap, and
  inferences follow each other as fast as the busiest resource allows.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from analogtorch.chips import Chip
from analogtorch.cost_model.clock import Clock
from analogtorch.cost_model.steps import Mode, Run, Schedule
from analogtorch.cost_model.traffic import Arrived, Source, additions, locations, traffic
from analogtorch.cost_model.use import use_of
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.checked import checked, passes
from analogtorch.mapping.types import Placement


def schedule(
    mapping: Any, *, mode: Mode = "pipelined", signed_inputs: Collection[str] | None = None
) -> Schedule:
    """Compute the schedule of one inference of a mapped model.

    Args:
        mapping: a ``ChipMapping``, or anything with ``chip``, ``operations``, ``matrices`` and
            ``placements``.
        mode: ``pipelined`` or ``sequential``.
        signed_inputs: names of the matrices whose inputs have both signs; None means all, the
            dearer case if a chip's rows take unsigned inputs only. It has no effect on other chips.

    Returns:
        The schedule, with latency, interval and the use of each tile.

    Raises:
        ValueError: the mode is unknown; the chip has no ``cost``; there are no placements or no
            vectors; a block is outside its tile or chip; or an operation, matrix or input does not
            exist.
        TypeError: ``mapping`` lacks one of the four attributes.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
    chip, operations, matrices, placed = checked(mapping)
    operations = (*operations, *_unreturned(operations))
    times = passes(chip, matrices, signed_inputs)
    gates = {name: op for op in operations if op.steps > 1 and not op.matrix for name in op.inputs}
    if chip.expansion.on:  # the digital product before a recurrent matrix takes the past results
        gates = {}
    if chip.costs.sums_on_host:
        operations = _summed(operations, matrices, placed, chip)
    results = locations(operations, matrices, placed, chip)
    elements, arrived = {op.name: op.elements for op in operations}, Arrived()
    runs, steps, clock = [], [], Clock(chip, mode, placed, matrices)
    for op in operations:
        matrix = matrices[op.matrix] if op.matrix is not None else None
        own = placed[matrix.name] if matrix else []
        sources = [Source(n, results[n], k, elements[n]) for n, k in op.takes(elements).items()]
        if op.steps > 1 and op.name in gates:
            past = op.vectors * matrix.rows if matrix else gates[op.name].elements
            sources = [Source(op.name, results[gates[op.name].name], past, past)]
        moved = traffic(op, matrix, own, sources, results[op.name], chip, arrived)
        if op.kind == "input":
            clock.given(op)
            continue
        if op.kind == "output":
            clock.leave(moved)
            continue
        mine = _runs(op, matrix, own, times[matrix.name], chip) if matrix else []
        runs += mine
        steps.append(clock.step(op, mine, moved, results[op.name]))
    if chip.costs.signed_passes > 1:
        signed = {op.matrix for op in operations if not op.one_hot}
        clock.signed = tuple(
            n for n in matrices if n in (signed if signed_inputs is None else signed_inputs)
        )
    return clock.finish(tuple(steps), tuple(runs))


def _summed(
    operations: Sequence[Operation],
    matrices: Mapping[str, Matrix],
    placed: Mapping[str, Sequence[Placement]],
    chip: Chip,
) -> tuple[Operation, ...]:
    """Return the operations with those of the host that add the partial sums of several blocks."""
    found: list[Operation] = []
    sums: dict[str, str] = {}
    for op in operations:
        op = replace(op, inputs=tuple(sums.get(name, name) for name in op.inputs))
        added = additions(op, matrices[op.matrix], placed[op.matrix], chip) if op.matrix else 0
        # the results of the product are its partial sums
        found.append(replace(op, elements=op.elements + added))
        if added:
            sums[op.name] = f"{op.name}.partial_sums"
            found.append(
                Operation(
                    name=sums[op.name],
                    kind="partial_sums",
                    matrix=None,
                    vectors=0,
                    elements=op.elements,
                    operations=added,
                    inputs=(op.name,),
                )
            )
    return tuple(found)


def _runs(
    op: Operation, matrix: Matrix, placed: Sequence[Placement], times: int, chip: Chip
) -> list[Run]:
    copies = (1 + max(p.block.copy for p in placed)) // matrix.cells
    runs = []
    for p in placed:
        block, use = p.block, use_of(p.block, matrix, chip)
        rows, cols, weights = block.rows, use.cols, use.cells
        vectors = _share(op, copies, block.copy // matrix.cells)
        mvms = vectors * times * use.mvms
        if op.one_hot:
            first, end = (vectors * row // matrix.rows for row in (block.row, block.row + rows))
            mvms, rows, weights = (end - first) * chip.adc.reads, 1, cols
        runs.append(
            Run(
                operation=op.name,
                placement=p,
                mvms=mvms,
                rows=rows,
                cols=cols,
                weights=weights,
            )
        )
    return runs


def _share(op: Operation, copies: int, copy: int) -> int:
    """Return the number of vectors that one copy takes.

    Vectors of one step are dealt to the copies in turn.
    """
    each, extra = divmod(op.vectors, op.steps)
    return sum(
        steps * ((vectors + copies - 1 - copy) // copies)
        for steps, vectors in ((op.steps - extra, each), (extra, each + 1))
    )


def _unreturned(operations: Sequence[Operation]) -> list[Operation]:
    """Return the output of a mapping without one: the results that no operation takes."""
    if any(op.kind == "output" for op in operations):
        return []
    used = {name for op in operations for name in op.inputs}
    return [Operation.returned({op.name: op.elements for op in operations if op.name not in used})]
