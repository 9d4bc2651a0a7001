"""A programmed chip: the conductances of a model's weights at any time after programming.

Weights, chip and seed decide all of them. The weights of the model stay as they are.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn

from analogtorch.conversion.kinds import (
    analog_layers,
    check_module,
    refuse_changed,
    refuse_distributed,
    refuse_lazy,
    refuse_programmed,
    refuse_unloaded,
    some_layers,
)
from analogtorch.conversion.taken import refuse_taken
from analogtorch.conversion.unread import name_unread, named
from analogtorch.cost_model import ReadCost
from analogtorch.cost_model.recalibration import Reads
from analogtorch.devices import seconds
from analogtorch.devices.device import beyond
from analogtorch.nn import AnalogLayer
from analogtorch.nn.adapters import watch_adapters
from analogtorch.nn.programmed import Origin
from analogtorch.ops import seed_number
from analogtorch.simulate import tiles
from analogtorch.simulate.carried import check_corrected, keyed
from analogtorch.simulate.compensation import Compensation, Readout
from analogtorch.simulate.copied import copied, view_of
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.field_cost import batch_reads, of_all_cells, recalibration_cost
from analogtorch.simulate.full_precision import full_precision
from analogtorch.simulate.layer_state import layer_state
from analogtorch.simulate.moment import compensated, warmth
from analogtorch.simulate.recalibration import Recalibration, check_read
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.section import ProgrammedSection
from analogtorch.simulate.tile_state import tile_state
from analogtorch.simulate.writes import Writes
from analogtorch.simulate.writing import Method
from analogtorch.simulate.yield_map import YieldMap, weight_errors
from analogtorch.values import checks
from analogtorch.values.warned import warn

if TYPE_CHECKING:
    from analogtorch.mapping import ChipMapping


_SMALL = 1 << 20
"""Weights up to which a chip keeps drift exponents and exact MVMs from one time to the next: they
take several times the memory of the weights."""


def program(
    model: nn.Module,
    *,
    seed: int,
    method: Method | None = None,
    defects: Defects | None = None,
    mapping: "ChipMapping | None" = None,
    programmed_before: int = 0,
) -> "ProgrammedChip":
    """Manufacture and program one chip with the analog layers of ``model``.

    The ADC of every column has its own gain (``ADC.gain_std``). A chip with
    ``Periphery.column_calibration`` corrects it digitally right after programming: one factor per
    column, fitted to MVMs of 256 random inputs. The factor also corrects the mean error of the
    column's weights.

    Args:
        model: a converted model; it is copied, and neither changed by this nor able to change the
            result later.
        seed: chooses the chip: the same seed gives the same devices on any machine. Any signed
            64-bit integer.
        method: how the cells are written. None: at once, with the programming error of the device's
            fit, which is what the published chip reached. ``ProgramAndVerify`` and
            ``GradientDescent`` continue from there, pulse by pulse.
        defects: which share of the chip is broken, and how its tiles differ; None: no defects.
        mapping: the tiles of the layers, from ``map_to_chip``; it decides which defects affect a
            weight, which ADCs, with the errors of their gain and offset, read it, and the IR drop
            of its place, if wires have a resistance. The devices are the same. Of copies
            (``duplicate`` of ``map_to_chip``) the first alone is simulated, with a warning. None:
            one block per tile, tile after tile; layers on chips with arrays of other sizes are on
            chips of their own.
        programmed_before: how often the devices were programmed before in the same way, >= 0. It
            adds to the writes that ``ProgrammedChip.writes`` counts, and changes no conductance.

    Raises:
        ValueError: the model has no analog layer; a weight is NaN or infinite; a weight or
            bias of a layer is no plain Parameter (it is parametrized, pruned, or another tensor); a
            layer is on the meta device or was replaced since the conversion; or the mapping
            belongs to another model or chip; or a layer is lazy and never ran.
        RuntimeError: a weight or bias of a recurrent layer or an attention is no plain Parameter
            since the conversion.
        TypeError: the seed is not an integer, or an argument is not of its type.

    Example:
        >>> physical = at.program(model, seed=7)
        >>> aged = physical.at("1 day")
    """
    check_module("program", model)
    seed = seed_number(seed)
    layers = some_layers(model, "program")
    refuse_programmed(model, "program")
    refuse_distributed(model, "program")
    refuse_taken(model, "program")
    refuse_unloaded(model, "program")
    refuse_lazy(model, "program")
    refuse_changed(model, "program")
    for name, layer in layers.items():
        if not torch.isfinite(layer.weight.detach()).all():
            raise ValueError(f"program: the weight of layer {name!r} has NaN or infinite values")
    for argument, given, kind in (("method", method, Method), ("defects", defects, Defects)):
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"program: {argument} must be None or {kind}, got {given!r}")
    if mapping is not None and not (
        hasattr(mapping, "matrices") and hasattr(mapping, "matrix_blocks")
    ):
        raise TypeError(
            f"program: mapping must be what map_to_chip gives, or None, got {checks.shown(mapping)}"
        )
    before = checks.count("program: programmed_before", programmed_before, least=0)
    return ProgrammedChip(model, seed, method, defects, mapping, before)


class ProgrammedChip:
    """One programmed chip, made by ``program``; ``at`` returns its model at a time.

    Deterministic: one seed always gives the same devices.
    """

    @torch.inference_mode(False)  # views give gradients, whatever the chip is made under
    @full_precision()
    def __init__(
        self,
        model: nn.Module,
        seed: int,
        method: Method | None = None,
        defects: Defects | None = None,
        mapping: "ChipMapping | None" = None,
        programmed_before: int = 0,
    ) -> None:
        self.programmed_before = programmed_before
        self.seed, self.method, self.defects, self.mapping = seed, method, defects, mapping
        layers = list(analog_layers(model))
        where = tiles.consecutive(layers) if mapping is None else tiles.mapped(model, mapping)
        self.warned: set[str] = set()
        """Notes on times beyond the devices' data that ``at`` has given; each is given once."""
        self._named = named(model)
        self._parts = where
        self._tiles = {
            (part.chip, part.tile): layer.chip
            for name, layer in layers
            for of_section in where[name]
            for part in of_section
        }
        self._model = copied(model)
        cells = sum(layer.weight.numel() for _, layer in layers)
        self._keeps = cells <= _SMALL
        with torch.no_grad():
            self._placed = {
                key: list(self._programmed(layer, key, where[name]))
                for name, layer, key in keyed(self._model)
            }

    def _programmed(
        self, layer: AnalogLayer, key: str, where: list[list[tiles.TilePart]]
    ) -> Iterator[ProgrammedSection]:
        """Yield the sections of a layer with their devices, on these parts of tiles."""
        for section, parts in zip(layer.sections, where, strict=True):
            state = tiles.state(section, parts, layer.chip, self.defects, self.seed)
            blocks = tiles.blocks(section, parts)
            yield ProgrammedSection(
                layer, section, key, self.seed, blocks, self.method, state, self._keeps
            )

    def __repr__(self) -> str:
        names = " and ".join(dict.fromkeys(chip.name for chip in self._tiles.values()))
        text = (
            f"programmed {names} of seed {self.seed}: {len(self._placed):,} layers on "
            f"{len(self._tiles):,} tiles, {self.writes().devices:,} devices"
        )
        if self.method is not None:
            text += f", by {type(self.method).__name__}"
        present = () if self.defects is None else self.defects.present()
        if present:
            text += f"; defects: {', '.join(present)}"
        return text

    def yield_map(self, *, within: float = 0.2) -> YieldMap:
        """Return what works on every tile with weights, and how well the weights were programmed.

        Args:
            within: error up to which a weight counts as right for the analog yield, in units of the
                largest weight, >= 0. 0.2 as on the 34-tile chip (Ambrogio et al., Nature 620, 768
                (2023)).

        Returns:
            The state of each tile by (chip, tile), with the errors of its weights right after
            programming.

        Raises:
            ValueError: ``within`` is negative or no number.
        """
        within = checks.number("yield_map: within", within, least=0)
        defects = self.defects or Defects()
        states = {
            tile: tile_state(self._tiles[tile], defects, self.seed, *tile)
            for tile in sorted(self._tiles)
        }
        wrong: dict[tuple[int, int], list[Tensor]] = {tile: [] for tile in states}
        with torch.no_grad():
            for name, _, key in keyed(self._model):
                for section, parts in zip(self._placed[key], self._parts[name], strict=True):
                    for part, errors in zip(parts, section.weight_errors(), strict=True):
                        wrong[part.chip, part.tile].append(errors.flatten())
        found = {tile: weight_errors(torch.cat(each), within) for tile, each in wrong.items()}
        return YieldMap(states=states, errors=found)

    def writes(self) -> Writes:
        """Return how often the devices were written; print it, or compare it with an endurance.

        Example:
            >>> at.program(model, seed=7, programmed_before=99).writes().left(1e6)
            999900
        """
        found = [section.writes for sections in self._placed.values() for section in sections]
        total = torch.zeros(max(map(len, found)), dtype=torch.int64, device="cpu")
        for each in found:
            total[: len(each)] += each
        return Writes(counts=tuple(total.tolist()), times=1 + self.programmed_before)

    def recalibration_cost(
        self, compensation: Compensation = "least_squares", recovery: Recovery | None = None
    ) -> ReadCost:
        """Return what one read of the drift compensation costs, by the cost of the chip.

        ``least_squares`` takes 256 MVMs of random inputs per block, twice that if the ADC has
        noise, and twice with ``ADC.asymmetry_balance``; ``global`` and ``column`` read every row
        alone, as often as the ADC step needs, and no row, which cancels offsets instead. With
        a ``recovery``, the MVMs of its batches are added, as for inputs of both signs. Blocks are
        on the tiles of the ``mapping`` that ``program`` was given, and those on one tile are read
        one after the other; without it each has a tile of its own, all of which are read at once.
        Only a mapping knows that the weights of all layers take several unit cells of the chip:
        without it one is counted. Layers on several chips are charged by the cost of their own;
        the chips are read at once. A chip that senses light is not read.

        Raises:
            ValueError: the compensation is unknown, a chip has no ``cost``, or the batches do not
                run.
            TypeError: ``recovery`` is of another type.
        """
        checks.choice("recalibration_cost: compensation", compensation, get_args(Compensation))
        more: Iterable[Reads] = ()
        parts = of_all_cells(self._model, self._parts, self.mapping)
        if recovery is not None:
            checks.instance(
                "recalibration_cost: recovery", recovery, Recovery, "at.Recovery(batches=batches)"
            )
            more = batch_reads(self.at("0 s", compensation="none"), recovery, parts)
        layers = dict(analog_layers(self._model))
        return recalibration_cost(layers, parts, compensation, more)

    @torch.inference_mode(False)
    @full_precision()
    def at(
        self,
        time: str | float,
        *,
        temperature: str | float | None = None,
        compensation: Compensation = "least_squares",
        readout: Readout = "chip",
        recalibration: Recalibration | None = None,
        corrected: nn.Module | None = None,
    ) -> nn.Module:
        """Return the model as it runs on this chip at ``time`` after programming.

        The result is an independent module, for evaluation only: nothing of it learns but what
        learns in ``corrected``, such as adapters.

        Each MVM has its own output noise: a layer counts its inputs. Every call of ``at`` starts
        the count anew, and gives the same numbers for the same inputs in batches of any size,
        unless a forward calls a layer more than once: its second call is counted after its first.
        (Where a chip runs in plain torch, see the page on performance, a few outputs may differ by
        an ADC step, as torch's own products depend on the batch in their last bit.)
        Threads may share a module: no two MVMs of a layer get the same noise, but the order of the
        threads decides which input gets which noise. Call ``at`` once per thread for numbers that
        repeat.

        Args:
            time: seconds, or a text for ``seconds``: ``"programmed"``, ``"0 s"``, ``"1 day"``.
            temperature: temperature of the chip, K, or a text such as ``"85 C"``. None: that of the
                device model (``chip.thermal.reference``). Another one needs an activation energy.
            compensation: the digital correction of drift. ``least_squares`` (default): one factor
                per block, which fits MVMs of 256 random inputs best to those of the target weights.
                ``global``: one factor per block, the mean magnitude of its cells as read now over
                that as read after programming (Joshi et al. 2020). ``column``: the same per output
                of the block. ``none``: no correction, as on chips that sense light in any case: in
                the field they see no known inputs, and photodiodes do not drift. On a chip of
                256x256 Gaussian weights, the MVM error after a day and a year is 18.7 and 22.9 % by
                ``least_squares``, 19.0 and 24.0 by ``global``, 33.8 and 53.1 by ``none``; where all
                columns share an offset, ``global`` is better. The best fit to noisy weights makes
                outputs a little smaller, which adds up in deep nets without normalisation.
            readout: how the compensation reads the block. ``chip``: through the block's ADCs and
                noise, with as many reads of a single cell as the ADC step needs. ``ideal``:
                exactly.
            recalibration: when the compensation is read, as on a chip in the field. None: at
                ``time``, and at its temperature. Compensation ``none`` takes none.
            corrected: what ``at`` of this chip gave for an earlier time, once it was corrected,
                such as by ``correct_columns`` or adapters around it. Its whole digital side stays,
                as in the registers of a chip: gains (drift compensation included, so that none is
                read) and offsets, batch norm, adapters, DAC ranges. Conductances and noise are
                those of ``time``. ``compensation`` and ``readout`` have no effect then. Long after,
                that can be worse than no correction with drift read at ``time``: correct the result
                anew, such as by ``Recovery.correct``.

        Raises:
            ValueError: the time, temperature, compensation or readout is unknown; there is a
                temperature where the chip has no activation energy; ``corrected`` is of another
                model or chip, or of a later time, or comes with ``recalibration``; or that comes
                with compensation ``none``.
            TypeError: ``recalibration`` or ``corrected`` is of another type.

        Warns:
            UserWarning: once, if the time lies beyond the data of a device model, which is then
                held at its last value. After the first call of the module, once for each model, if
                some of its layers did not run.
        """
        t = seconds(time)
        if compensation not in get_args(Compensation):
            raise ValueError(
                f"compensation must be one of {get_args(Compensation)}, got {compensation!r}"
            )
        if readout not in get_args(Readout):
            raise ValueError(f"readout must be one of {get_args(Readout)}, got {readout!r}")
        origin = Origin(self.seed, (self.method, self.defects), -math.inf if t is None else t)
        if corrected is not None:
            check_corrected(self._model, corrected, recalibration, origin)
        warm = warmth(self._model, t, temperature)
        read = compensated(self._model, t, warm, recalibration)
        check_read("at", recalibration, compensation)
        for note in beyond_data(self._model, t):
            if note not in self.warned:
                warn(f"at({time!r}): {note}")
                self.warned.add(note)
        view = view_of(self._model if corrected is None else corrected)
        if corrected is not None:
            compensation = "none"  # the gains hold it
        with torch.no_grad():
            for _, layer, key in keyed(view):
                before = layer.programmed
                placed = self._placed[key]
                now = layer_state(
                    placed, t, compensation, readout, temperature=warm, compensated=read
                )
                now = dataclasses.replace(now, origin=origin)
                if before is not None:  # the rest of the digital side is that of the copy
                    now = dataclasses.replace(now, gains=before.gains, offset=before.offset)
                layer.hold(now)
        watch_adapters(view)
        name_unread(view, self._named)
        return view


def beyond_data(model: nn.Module, t: float | None) -> list[str]:
    """Return a note for each device of the model whose data end before ``t`` seconds."""
    devices = {
        id(layer.chip.cell.device): layer.chip.cell.device for _, layer in analog_layers(model)
    }
    return list(dict.fromkeys(note for device in devices.values() if (note := beyond(device, t))))
