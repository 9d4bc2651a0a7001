"""Every step of a user's work on one model, and its result."""

import copy
import tempfile
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import analogtorch as at
from analogtorch.conversion.example import runner
from benchmarks.coverage.nets import Net

SKIPPED = "not tried"
"""Result of a step that a model is too large for."""


@dataclass
class Row:
    """One model."""

    name: str
    weights: int = 0
    """Number of weights of the digital model."""
    layers: int = 0
    """Analog layers."""
    share: str = "0 %"
    """Share of the weights that multiply that is on the chip."""
    tiles: int = 0
    """Number of tiles of hermes64, as mapped."""
    digital: list[str] = field(default_factory=list)
    """What stays digital, and why; what multiplies first."""
    results: dict[str, str] = field(default_factory=dict)
    """Result of each step: "" if it worked, else the error, or ``SKIPPED``."""

    @property
    def failed(self) -> dict[str, str]:
        """Steps that did not work, and their errors."""
        return {step: error for step, error in self.results.items() if error not in ("", SKIPPED)}

    @property
    def skipped(self) -> list[str]:
        """Steps that were not tried."""
        return [step for step, error in self.results.items() if error == SKIPPED]


def cover(name: str, net: Net, largest: float = 4e6, values: float = 60e6) -> Row:
    """Take one model through all steps.

    Args:
        name: name of the model.
        net: the model.
        largest: most weights that are programmed; programming takes about a second per million.
        values: most weights that there is memory for. A larger model is on the meta device: it is
            converted, guarded, mapped and restored, and not calibrated, programmed or saved.
    """
    torch.manual_seed(0)
    row, model, example = Row(name), net.build().eval(), net.example()
    row.weights = sum(p.numel() for p in model.parameters())
    here = row.weights <= values
    if not here:
        model, example = (
            model.to("meta"),
            tree_map_only(torch.Tensor, lambda t: t.to("meta"), example),
        )
    tried = _Steps(row, model, example, net.exclude)
    for step, possible in (
        (tried.convert, True),
        (tried.guard, True),
        (tried.calibrate, here),
        (tried.map, True),
        (tried.cost, True),
        (tried.program, here and row.weights <= largest),
        (tried.generate, here and net.generates),
        (tried.save, here),
        (tried.restore, True),
    ):
        if not possible:
            if step != tried.generate or net.generates:
                row.results[step.__name__] = SKIPPED
            continue
        try:
            step()
        except Exception as error:  # whatever a model's code raises is what the table shows
            row.results[step.__name__] = (
                f"{type(error).__name__}: {str(error).strip() or 'no message'}"
            )
        else:
            row.results[step.__name__] = ""
        if row.results["convert"]:
            break
    return row


class _Steps:
    """The steps; each raises an error if it fails."""

    def __init__(self, row: Row, model: nn.Module, example: Any, exclude: tuple[str, ...]) -> None:
        self.row, self.model, self.example, self.chip = row, model, example, at.chips.hermes64()
        self.exclude = exclude
        self.digital = copy.deepcopy(model)
        self.mapping: at.ChipMapping | None = None

    def run(self, model: nn.Module) -> list[Tensor]:
        """Return the outputs of the example that are numbers."""
        torch.manual_seed(0)  # some draw in evaluation mode, too
        with torch.no_grad():
            output = runner("coverage", self.example)(model)
        return [t for t in tree_leaves(output) if isinstance(t, Tensor)]

    def convert(self) -> None:
        """Convert all that can be analog, and note what is."""
        self.model = at.convert(self.model, self.chip, exclude=self.exclude or None)
        found = at.summary(self.model)
        self.row.layers, self.row.digital = len(found.layers), _digital(found)
        self.row.share = found.share.percent(found.share.analog)

    def guard(self) -> None:
        """Check that nothing is bypassed; a layer may be for training only."""
        at.guard(self.model, self.example, allow_unused=True)

    def calibrate(self) -> None:
        """Calibrate on the example."""
        at.calibrate(
            self.model, [self.example], allow_unused=True, forward=lambda model, _: self.run(model)
        )

    def map(self) -> None:
        """Map onto as many chips as it takes."""
        self.mapping = at.map_to_chip(self.model, self.example, chip=self.chip, num_chips=None)
        self.row.tiles = self.mapping.tiles_used

    def cost(self) -> None:
        """Compute the cost of the mapping."""
        if self.mapping is None:
            raise ValueError("not mapped")
        at.cost(self.mapping)

    def program(self) -> None:
        """Program at the mapped positions, and check that every layer of the guard runs."""
        view = at.program(self.model, seed=0, mapping=self.mapping).at("1 day")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* did not run")  # the guard has said so
            found = self.run(view)
        if any(t.isnan().any() for t in found):
            raise ValueError("the programmed chip computes NaN")

    def generate(self) -> None:
        """Generate four tokens, with the model's cache."""
        given = {
            key: value for key, value in self.example.items() if not key.startswith("decoder_")
        }
        model: Any = self.model
        model.generate(**given, max_new_tokens=4, do_sample=False)

    def save(self) -> None:
        """Save, and load into the digital model."""
        with tempfile.TemporaryDirectory() as folder:
            again = at.load(at.save(self.model, folder), copy.deepcopy(self.digital))
        self._same("the loaded model", self.model, again)

    def restore(self) -> None:
        """Check that the digital model comes back."""
        found = at.to_digital(self.model)
        if list(found.state_dict()) != list(self.digital.state_dict()):
            raise ValueError("the restored model has other keys")
        if [type(m) for m in found.modules()] != [type(m) for m in self.digital.modules()]:
            raise ValueError("the restored model has other classes")
        if not next(found.parameters()).is_meta:
            self._same("the restored model", self.digital, found)

    def _same(self, what: str, one: nn.Module, other: nn.Module) -> None:
        before, after = self.run(one), self.run(other)
        if len(before) != len(after) or not all(map(torch.equal, before, after)):
            raise ValueError(f"{what} computes otherwise")


def _digital(found: at.Summary) -> list[str]:
    """Return the modules that stay digital, by reason, with their share.

    Those that multiply come first.
    """
    names: dict[str, list[str]] = {}
    for name, why, _ in found.skipped:
        names.setdefault(why, []).append(name)
    shares = {
        why: sum(found.share.digital.get(name, 0) for name in listed)
        for why, listed in names.items()
    }
    return [
        f"{len(names[why])} x {why}" + (f" ({found.share.percent(weights)})" if weights else "")
        for why, weights in sorted(shares.items(), key=lambda item: -item[1])
    ]
