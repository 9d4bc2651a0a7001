"""The proof that every analog layer of a model runs, and that nothing else uses its weight."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from analogtorch.conversion.example import Example, runner
from analogtorch.conversion.fresh import fresh
from analogtorch.conversion.kinds import check_module, some_layers
from analogtorch.conversion.multiplied import multiplied
from analogtorch.conversion.route import (
    name_in,
    route,
    routed_as_before_on_error,
    routed_layers,
    unroute,
)
from analogtorch.conversion.share import Share, share
from analogtorch.conversion.taken import refuse_taken
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import Bypass, Watch, watch
from analogtorch.values import checks
from analogtorch.values.shown import Shown

_SHOWN = 5
"""Most layers that an error lists; the others are counted."""


@dataclass(frozen=True)
class GuardRow:
    """One analog layer in the report of ``guard``."""

    name: str
    kind: str
    weights: int
    runs: int
    """Number of times that its analog forward ran."""
    routed: bool
    """Whether a module calls it by its weight, ``F.linear(x, layer.weight)``, and is routed to the
    layer."""
    digital_uses: tuple[str, ...]
    """Digital modules that hold the same weight and computed with it, such as the embedding that a
    head is tied to."""


@dataclass(frozen=True)
class GuardReport(Shown):
    """The report of ``guard``: how often each analog layer ran; print it."""

    layers: tuple[GuardRow, ...]
    share: Share = field(default_factory=lambda: Share(0))
    """The share of the multiplying weights that is on the chip."""
    digital: tuple[tuple[str, str, int], ...] = ()
    """What the model multiplies by that no layer has as its weight, such as buffers: name, reason,
    number of weights. ``summary`` lists it too from then on."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of the analog layers that the example did not reach."""
        return tuple(row.name for row in self.layers if row.runs == 0)

    def __str__(self) -> str:
        width = max(5, *(len(row.name) for row in self.layers))
        lines = [f"{'layer':<{width}}  {'kind':<8}  {'weights':>12}  {'runs':>5}"]
        for row in self.layers:
            note = ""
            if row.digital_uses:
                note += f"  also used digitally by {', '.join(row.digital_uses)}"
            note += "  called by its weight, routed" if row.routed else ""
            note += "  NOT REACHED by this example" if row.runs == 0 else ""
            lines.append(
                f"{row.name:<{width}}  {row.kind:<8}  {row.weights:>12,}  {row.runs:>5}{note}"
            )
        ran = len(self.layers) - len(self.unused)
        lines.append(
            f"{ran} of {len(self.layers)} analog layers ran their analog forward; none was "
            "bypassed."
        )
        lines.append(str(self.share))
        lines += [
            f"digital: {name} ({count:,} weights; {why})" for name, why, count in self.digital
        ]
        named = Counter[str]()
        for name, _, count in self.digital:
            named[name] += count
        if left := (Counter(self.share.digital) - named).total():
            more = "more " if self.digital else ""
            lines.append(
                f"digital: {left:,} {more}weights in layers that stay digital; "
                "analogtorch.summary(model) lists them with the reasons"
            )
        return "\n".join(lines)


def guard(
    model: nn.Module,
    example: Example,
    *,
    allow_unused: bool = False,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> GuardReport:
    """Run a converted model once and prove that every analog layer ran and was not bypassed.

    A bypass is an operator that combines the weight of an analog layer, or a view or copy of it,
    with other data outside of that layer: ``F.linear(x, layer.weight)``, or the fused kernels of
    ``nn.TransformerEncoderLayer`` and ``nn.MultiheadAttention``. A digital module that holds the
    same weight, such as a tied embedding, may use it. Where a module calls ``F.linear``,
    ``F.conv1d`` to ``3d`` or ``F.multi_head_attention_forward`` with the weight of a layer inside
    it, and otherwise as that layer would, the call is routed to the layer from then on, and the
    report shows it; the module keeps its class and its ``state_dict``. Any other bypass is an
    error.

    The report also names the buffers, embeddings and other tensors that the model multiplies by in
    code of its own, ``x @ self.filters``: they are digital, and count in the share from then on. So
    are filters that it computes from such tensors, ``x @ torch.cos(self.f * self.n)``.

    The run is in evaluation mode and without gradients. It shows nothing about code that runs in
    training only, nor about a copy of a weight that was made before. Modes, buffers (batch norm's
    statistics, a programmed chip's counters) and the random states of torch, numpy and Python are
    as before. Hooks are registered for all modules of torch, because hooks of a single module would
    disable its fast path.

    Args:
        model: a converted model, or a programmed chip at a time.
        example: the model's input: a tensor, a tuple of arguments or a dictionary of keyword
            arguments.
        allow_unused: if True, report a layer that the example does not reach instead of raising an
            error.
        forward: a function that runs the model on the example, ``forward(model, example)``, if the
            rule above does not fit.

    Returns:
        The report: how often each analog layer ran.

    Raises:
        TypeError: ``model``, ``example`` or ``forward`` is of another type.
        ValueError: there is no analog layer; one was replaced since ``convert``; one is bypassed,
            where the message has the module and the line of code; or one did not run.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
        >>> model = at.convert(model, at.chips.hermes64())
        >>> at.guard(model, torch.randn(2, 8)).layers[0].runs
        1
    """
    check_module("guard", model)
    checks.flag("guard: allow_unused", allow_unused)
    layers = some_layers(model, "guard")
    refuse_taken(model, "guard")
    checks.function("guard: forward", forward, "forward(model, example)")
    run: Callable[[nn.Module], Any]
    if forward is None:
        run = runner("guard", example, "; for anything else pass forward=")
    else:
        given = forward

        def run(model: nn.Module) -> Any:
            return given(model, fresh(example))

    with routed_as_before_on_error(model):
        with quiet():
            seen = route_bypasses(model, run, watch(model, run))
        routed = set(routed_layers(model))
        report = GuardReport(
            tuple(
                GuardRow(
                    name=name or "(root)",
                    kind=type(layer).__name__.removeprefix("Analog"),
                    weights=layer.weight.numel(),
                    runs=seen.runs[name],
                    routed=name in routed,
                    digital_uses=tuple(sorted(seen.digital_uses[name])),
                )
                for name, layer in layers.items()
            ),
            share(model),
            tuple((name, why, count) for name, _, why, count in multiplied(model)),
        )
        _raise_for(report, seen.bypasses, allow_unused)
    return report


def route_bypasses(model: nn.Module, run: Callable[[nn.Module], Any], seen: Watch) -> Watch:
    """Route what bypasses a layer, and watch again, until nothing more can be routed.

    Args:
        model: the model.
        run: a function that runs it.
        seen: a run of it that was watched.

    Returns:
        The last run, which is ``seen`` if no route was tried.
    """
    tried = set[tuple[nn.Module, str]]()
    while added := [
        (name, user, inner)
        for name, user in seen.users
        if user is not None and (inner := _route(model, name, user, tried))
    ]:
        before, seen = seen.users, watch(model, run)
        for name, user, inner in added:
            if seen.users[name, user] >= before[name, user]:  # other calls than the layer's
                unroute(user, [inner])
                tried.add((user, inner))
    return seen


def _route(
    model: nn.Module, name: str, user: nn.Module, tried: set[tuple[nn.Module, str]]
) -> str | None:
    """Route calls of a layer in the module that bypasses it, and return the layer's name there.

    It is None if there can be no route, or is one already, or was one without effect.
    """
    inner = name_in(user, model.get_submodule(name))
    known = getattr(vars(user).get("forward"), "names", ())
    if not inner or inner in known or (user, inner) in tried:
        return None
    return inner if route(user, [inner]) else None


def _raise_for(report: GuardReport, bypasses: dict[str, Bypass], allow_unused: bool) -> None:
    bypassed = [name or "(root)" for name in bypasses]
    unused = [name for name in report.unused if name not in bypassed]
    total = len(report.layers)
    parts = []
    if bypasses:
        parts.append(
            f"{len(bypassed)} of {total} analog layers are bypassed: "
            f"something else computes with their weights.{listed(bypasses)}\n"
            "Call the layers instead, from attributes of modules or lists and dictionaries of "
            "them, or leave them digital with convert(..., exclude=...). If forward computes "
            "gradients, which may be digital, guard the network whose gradients they are."
        )
    if unused and not (allow_unused and not bypasses):
        parts.append(
            f"{len(unused)} of {total} analog layers did not run: "
            f"{_some(list(map(repr, unused)), ', ')}. Use an example that reaches them, pass "
            "allow_unused=True, or leave them digital with convert(..., exclude=...)."
        )
    if parts:
        raise ValueError("guard: " + "\n".join(parts))


def listed(bypasses: Mapping[str, Bypass]) -> str:
    """Return a line for each layer that is bypassed: where the model computes with its weight."""
    return _some([f"\n  {name or '(root)'!r}: {bypass}" for name, bypass in bypasses.items()], "")


def _some(lines: list[str], separator: str) -> str:
    text = separator.join(lines[:_SHOWN])
    if len(lines) <= _SHOWN:
        return text
    return f"{text}{separator or chr(10) + '  '}and {len(lines) - _SHOWN} more"
