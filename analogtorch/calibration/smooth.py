"""Scales of channels that move into the weights which read them, before a model is converted.

A few channels of a transformer are many times larger than the others. They set the DAC range of
every vector, and the errors of their cells outweigh those of all others. SmoothQuant (Xiao et al.,
ICML 2023, arXiv 2211.10438) divides each channel by a factor and multiplies the weights that read
it by the same. The layer or norm that writes the channels takes the factors.

The errors of cells in an output grow with ``||x|| ||w||``, over inputs ``x`` and weights ``w`` of a
row of the matrix. By Cauchy and Schwarz that is least if channel ``j`` has the factor
``sqrt(|x_j| / |w_j|)``, SmoothQuant's strength of 1/2. Factors are powers of two: then no product
rounds otherwise than before, and the digital model gives the same bits. That is also how it is
found out which layer writes what another reads: factors are tried, and outputs compared.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.batches import check_given, some_batches
from analogtorch.calibration.channels import (
    Kept,
    Move,
    exponents,
    head_of,
    is_linear,
    is_norm,
    undo,
    why_fixed,
    width_of,
    written_by,
)
from analogtorch.calibration.outputs import tensors, without_tensors
from analogtorch.calibration.passes import Forward, check_finite, one_pass
from analogtorch.conversion.kinds import analog_layers, refuse_meta
from analogtorch.conversion.restored import evaluated
from analogtorch.nn.tap import hooked
from analogtorch.values import checks
from analogtorch.values.listed import listed
from analogtorch.values.shown import Shown

NEAR = 6
"""Modules before a layer that are tried as those that write its input."""
TRIED = 6
"""Largest power of two among the factors that are tried."""
UNSEEN = (
    "a layer that reads as many channels did not run on the first batch, and could read the same"
)
"""Why layers are left where outputs cannot show it: a head that runs in training, or an expert."""


@dataclass(frozen=True, kw_only=True)
class Smoothed(Shown):
    """What ``smooth_channels`` moved, and what it could not move; print it for a summary."""

    moved: dict[str, tuple[str, ...]]
    """The layers whose weights took the scales of their channels, by the name of the module that
    writes these channels."""
    left: dict[str, str]
    """Why each other linear layer is as it was."""

    def __str__(self) -> str:
        count = sum(map(len, self.moved.values()))
        lines = [f"{count} of {count + len(self.left)} linear layers took the scales of channels"]
        for why in dict.fromkeys(self.left.values()):
            names = [name for name, reason in self.left.items() if reason == why]
            lines.append(f"left: {listed(names, 3)}: {why}")
        return "\n".join(lines)


@torch.no_grad()
def smooth_channels(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    untie: bool = False,
    forward: Forward | None = None,
) -> Smoothed:
    """Move the scales of channels into the weights that read them (SmoothQuant), in place.

    Do it before ``convert``. The digital model gives the same outputs, bit by bit, which is tested.
    A layer takes part if a norm or another linear layer writes its input and nothing else reads
    that, or what lies between keeps factors: products, ReLU, and the sum over positions of an
    attention. Norms whose output goes into a residual path as well, as in BERT, stay as they are,
    and so do layers that read as many channels as one that the first batch does not reach, such as
    an expert or a head for training, which could read the same.

    Args:
        model: a digital model, with ``nn.Linear`` or the ``Conv1D`` of transformers.
        batches: inputs, as ``calibrate`` takes them, to measure the size of each channel.
        untie: whether a layer that shares its weight, such as the head of a language model with
            its embedding, gets a weight of its own and takes part; it needs memory and cells.
            ``config.tie_word_embeddings`` of a transformer becomes False, so that
            ``save_pretrained`` keeps both.
        forward: as ``calibrate`` takes it. It must return the outputs.

    Returns:
        What was moved and what was not.

    Raises:
        TypeError: ``model`` or ``batches`` is of another type.
        ValueError: the model is converted already, is on the meta device, has no linear layer,
            gives no tensor, gives other outputs for the same batch in two runs, or there is no
            batch. The model is unchanged.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.LayerNorm(64), torch.nn.Linear(64, 10))
        >>> print(at.smooth_channels(model, [torch.randn(100, 64)]))
        1 of 1 linear layers took the scales of channels
    """
    check_given("smooth_channels", model, batches)
    checks.flag("smooth_channels: untie", untie)
    if any(True for _ in analog_layers(model)):
        raise ValueError(
            "smooth_channels: the model is converted already; smooth the digital model, then "
            "convert it"
        )
    refuse_meta(model, "smooth_channels")
    given = some_batches("smooth_channels", batches)
    names: dict[Any, str] = {
        layer: name for name, layer in model.named_modules() if is_linear(layer)
    }
    if not names:
        raise ValueError("smooth_channels: the model has no linear layer")
    with evaluated(model):
        return _Smoothing(model, given, forward, names).run(untie)


@dataclass(eq=False)
class _Call:
    """A call of a module in the first pass."""

    module: nn.Module
    inputs: Tensor
    outputs: Tensor


class _Smoothing:
    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        forward: Forward | None,
        names: dict[Any, str],
    ) -> None:
        self.model, self.batches, self.forward, self.names = model, batches, forward, names
        self.labels = {module: name for name, module in model.named_modules()}
        self.unseen: set[int] = set()
        """Channels that linear layers read which did not run."""

    def run(self, untie: bool) -> Smoothed:
        before = self._digest(self.batches[0])
        if before != self._digest(self.batches[0]):
            raise ValueError(
                "smooth_channels: the model gives other outputs for the same batch in two runs, so "
                "that nothing shows what changes them; make it deterministic"
            )
        own = self._untied() if untie else {}
        calls, left = self._calls()
        moves: list[Move] = []
        try:
            for kind in self._kinds(calls):
                found, reason = self._writers(calls, kind, before)
                moves += found
                done = {reader for move in found for reader in move.readers}
                left |= {r: reason for group in kind for r in group if r not in done}
            self._apply(moves)
        except BaseException:
            for layer, weight in own.items():
                layer.weight = weight
            raise
        changed = {id(m) for move in moves for m in (move.writer, *move.readers)}
        for layer in [layer for layer in own if id(layer) not in changed]:
            layer.weight = own.pop(layer)  # nothing moved into it, so that it may share it on
        config: Any = getattr(self.model, "config", None)
        if own and getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False
        return Smoothed(
            moved={
                self.labels[m.writer]: tuple(self.names[r] for r in m.readers) for m in moves
            },
            left={self.names[layer]: why for layer, why in left.items()},
        )  # fmt: skip

    @torch.inference_mode(False)  # Parameters must be able to learn afterwards
    @torch.no_grad()
    def _untied(self) -> dict[Any, nn.Parameter]:
        """Give linear layers that share their weight one of their own; return what they had."""
        users: dict[nn.Parameter, int] = {}
        for module in self.model.modules():
            for p in module.parameters(recurse=False):
                users[p] = users.get(p, 0) + 1
        plain = [layer for layer in self.names if why_fixed(layer) is None]
        shared = {layer: layer.weight for layer in plain if users[layer.weight] > 1}
        for layer, weight in shared.items():
            layer.weight = nn.Parameter(weight.clone(), requires_grad=weight.requires_grad)
        return shared

    def _calls(self) -> tuple[list[_Call], dict[nn.Module, str]]:
        """Return the calls of linear layers and norms in a pass, and layers that cannot take part.

        The tensors are kept, so that two with one address are the same.
        """
        calls: list[_Call] = []
        watched = [m for m in self.model.modules() if m in self.names or is_norm(m)]

        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls.append(_Call(module, inputs[0], output))

        with hooked(watched, after=keep):
            self._outputs(self.batches[0])
        counts = {m: sum(call.module is m for call in calls) for m in self.names}
        self.unseen = {width_of(m) for m, n in counts.items() if n == 0}
        left = {m: "it never ran" if n == 0 else "it runs more than once in a pass"
                for m, n in counts.items() if n != 1}  # fmt: skip
        left |= {m: why for m in self.names if (why := why_fixed(m)) is not None}
        return [call for call in calls if call.module not in left], left

    def _kinds(self, calls: Sequence[_Call]) -> Iterator[list[tuple[nn.Module, ...]]]:
        """Yield groups of layers that read one tensor, those of alike names together."""
        groups: dict[tuple[int, int], list[nn.Module]] = {}
        for call in calls:
            if call.module in self.names:
                key = (call.inputs.data_ptr(), call.inputs.numel())
                groups.setdefault(key, []).append(call.module)
        kinds: dict[tuple[str, ...], list[tuple[nn.Module, ...]]] = {}
        for group in groups.values():
            kinds.setdefault(tuple(map(self._kind, group)), []).append(tuple(group))
        yield from kinds.values()

    def _kind(self, module: nn.Module) -> str:
        """Return the name of a module without the numbers of its blocks.

        Others stay: ``fc1`` and ``fc2`` are two kinds.
        """
        return re.sub(r"(?<![^.])\d+(?![^.])", "#", self.labels[module])

    def _writers(
        self, calls: Sequence[_Call], groups: Sequence[tuple[nn.Module, ...]], before: str
    ) -> tuple[list[Move], str]:
        """Return the moves of groups of one kind, and why others are left."""
        if width_of(groups[0][0]) in self.unseen:
            return [], UNSEEN
        last = self._near(calls, groups[-1])
        for kind in dict.fromkeys(self._kind(move.writer) for move in last):
            moves = [
                next((m for m in self._near(calls, group) if self._kind(m.writer) == kind), None)
                for group in groups
            ]
            fitting = [move for move in moves if move is not None]
            if len({move.writer for move in fitting}) == len(fitting) and self._keeps(
                fitting, before
            ):
                return fitting, "no module before it writes its input alone"
        return [], "no module before it writes its input, with nothing else that reads it"

    def _near(self, calls: Sequence[_Call], readers: tuple[nn.Module, ...]) -> list[Move]:
        """Return the moves that may be right, the likely ones first."""
        order = [call.module for call in calls]
        first = order.index(readers[0])
        inputs, width = calls[first].inputs, width_of(readers[0])
        found = []
        for call in reversed(calls[max(0, first - NEAR - len(readers)) : first]):
            wide = written_by(call.module)
            if wide in self.unseen:
                continue
            head = 0
            if wide != width:
                head = head_of(self.model, self.names[readers[0]])
                if not head or width % wide or wide % head or call.module not in self.names:
                    continue
            if call.module not in readers:
                same = call.outputs.data_ptr() == inputs.data_ptr()
                found.append((not same, Move(call.module, readers, head)))
        return [move for _, move in sorted(found, key=lambda pair: pair[0])]

    def _keeps(self, moves: Sequence[Move], before: str) -> bool:
        """Return whether factors of all these moves leave the outputs as they are, bit by bit."""
        draws = torch.Generator().manual_seed(0)
        kept: Kept = {}
        try:
            for move in moves:
                size = (written_by(move.writer),)
                signs = torch.randint(0, 2, size, generator=draws, device=draws.device) * 2 - 1
                move.carry_out(TRIED * signs.to(move.writer.weight), kept)
            return self._digest(self.batches[0]) == before
        finally:
            undo(kept)

    def _apply(self, moves: Sequence[Move]) -> None:
        """Move the scales, and see that the outputs of every batch stay."""
        sizes, digests = self._sizes(move.readers[0] for move in moves)
        kept: Kept = {}
        try:
            for move in moves:
                move.carry_out(exponents(move, sizes[move.readers[0]]), kept)
            if [self._digest(batch) for batch in self.batches] != digests:
                raise ValueError(
                    "smooth_channels: the outputs change with the scales of channels, though those "
                    "that were tried on the first batch left them; the model is unchanged"
                )
        except BaseException:
            undo(kept)
            raise

    def _sizes(self, readers: Iterable[nn.Module]) -> tuple[dict[nn.Module, Tensor], list[str]]:
        """Return the size of each channel of the input of each layer, and digests of the outputs.

        Vectors count alike, whatever their length: it is the relative error of each that matters.
        """
        squares: dict[nn.Module, Tensor] = {}

        def look(layer: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
            x = inputs[0].flatten(0, -2).float() if inputs[0].dim() > 1 else inputs[0][None].float()
            check_finite("smooth_channels", "the input of a linear layer", x)
            found = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-30)).square().sum(0)
            squares[layer] = squares[layer] + found if layer in squares else found

        with hooked(list(readers), after=look):
            digests = [self._digest(batch) for batch in self.batches]
        return {layer: found.sqrt() for layer, found in squares.items()}, digests

    def _outputs(self, batch: Any) -> list[Tensor]:
        output = one_pass("smooth_channels", self.model, batch, self.forward)
        found = list(tensors(output))
        if not found:
            raise ValueError(f"smooth_channels: {without_tensors(output)}")
        return found

    def _digest(self, batch: Any) -> str:
        digest = hashlib.sha256()
        for y in self._outputs(batch):
            digest.update(y.flatten().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()
