"""The devices of one section of a layer: programmed, and read at any time."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from analogtorch.chips.tiling import Section
from analogtorch.devices import Cell
from analogtorch.devices.cell import Hold, program, shared, weights_as_written, written
from analogtorch.devices.drift_aware import bare
from analogtorch.devices.scaled import scaled
from analogtorch.nn import AnalogLayer
from analogtorch.ops import (
    Noise,
    block_scales,
    ir_drop,
    key_of,
    normal,
    over_rows,
    stream,
)
from analogtorch.ops.converters import digital_factor
from analogtorch.ops.elementwise import elementwise
from analogtorch.ops.physics import relative, wide
from analogtorch.ops.slices import cells
from analogtorch.simulate import tiles, wires
from analogtorch.simulate.cell_life import CellMethod, Draws, Programming, Reading
from analogtorch.simulate.compensation import column_gains
from analogtorch.simulate.readout import Block
from analogtorch.simulate.stuck import Broken, Stuck
from analogtorch.simulate.writing import Method, write

T = TypeVar("T")

_CELLS = 1 << 16
"""Cells that are programmed and read together, about."""
_SPAN = 1 << 18
"""Cells after which a run ends in any case. Torch computes the numbers that do not fill a vector by
other functions, which differ in the last bit. This happens at the end of a span only: the runs
within it are multiples of ``_VECTOR`` outputs."""
_VECTOR = 32
"""Numbers that two vectors of any machine hold."""
_OUTPUTS = 1024
"""Outputs that are corrected together; a multiple of ``_VECTOR`` too."""


class ProgrammedSection:
    """The devices of one section, programmed once, with fixed drift exponents."""

    def __init__(
        self,
        layer: AnalogLayer,
        section: Section,
        key: str,
        seed: int,
        blocks: list[ir_drop.Block],
        method: Method | None,
        state: tiles.State,
        keeps: bool = False,
    ) -> None:
        self.blocks = blocks
        self._kept: dict[tuple[str, int, int], Any] | None = {} if keeps else None
        """What reads at all times have in common, by kind and place; None: it is found anew."""
        # programmed and calibrated with the chip's ADC range: those of the layer suit an inference
        self.section, self.chip, self.key, self.seed = section, layer.chip, key, seed
        target = cells(section, layer.placed_matrix(layer.weight.detach()))
        self.dtype = target.dtype
        self.scale = block_scales(target, section.bounds, section.columns)
        full = over_rows(self.scale, section.bounds).view(section.shape)
        self.w = relative(target.contiguous(), full).to(wide(self.dtype))
        del full
        self.stuck = self._stuck(state)
        self._draws = Draws(layer.chip.cell, section, key, seed, self.w.device)
        self.g = self._programmed(layer.chip.cell)
        self.errors = state.errors.to(self.scale)
        """Errors of the ADCs, (kinds, row blocks, outputs)."""
        self.inl = None if state.inl is None else state.inl.to(self.scale)
        """INL of the ADCs, as ``Operands.adc_inl``."""
        self.row_gains = state.row_gains
        self.columns = (~state.silent).to(self.scale)
        """1, or 0 for columns that have no output, (row blocks, outputs)."""
        self.factor = digital_factor(self.errors) * self.columns
        """What ADC outputs are multiplied by digitally, (row blocks, outputs)."""
        devices = int(self._distinct().sum()) * section.rows
        self.writes = torch.tensor([0, devices], device="cpu")
        """Number of devices by the number of their writes, (writes + 1,)."""
        self._drifting = bare(layer.chip.cell.device)
        """The devices as they drift."""
        if method is not None:
            self._write(method)
            # no draw of programming is left in what pulses wrote: what time adds is one of its own
            self._drifting = scaled(self._drifting, {"programming_noise": 0.0})
        self.column = torch.ones_like(self.scale)
        """Digital gain of each column, found after programming."""
        if self.chip.periphery.column_calibration:
            # a column that conducts nothing, or is at the end of its ADC range, has no gain to find
            connected = (state.columns == 0).to(self.scale.device)
            self.column = torch.where(connected, column_gains(self), 1.0)

    def _stuck(self, state: tiles.State) -> Stuck | None:
        """Return the broken devices; None if there are none."""
        if state.faults is None or state.defects is None or not state.faults.any():
            return None
        size = (len(state.faults), *self.w.shape)
        levels = None if state.levels is None else state.levels.to(self.w.device).view(size)
        return Stuck(
            faults=state.faults.to(self.w.device).view(size),
            levels=levels,
            broken=Broken(state.defects, self.chip.cell.device),
        )

    def _programmed(self, cell: Cell) -> Tensor:
        """Return the conductances that programming gives at once, (devices, *shape)."""
        g, stuck = self.w.new_empty(cell.devices, *self.w.shape), self.stuck
        programming = Programming(cell, None if stuck is None else stuck.broken)
        for part in self._parts():
            w, draws = self.w[part], self._draws.of(part, Noise.PROGRAMMING)
            faults = () if stuck is None else (*stuck.codes(part), *stuck.levels_of(part))
            if elementwise(programming, (w, *faults), draws, g[:, part]):
                continue
            hold = self._hold((slice(None), part))
            g[:, part] = program(cell, w, self._draws.normals(draws), hold)
        return g

    def _hold(self, index: tuple[slice, ...]) -> Hold:
        """Return a function that puts the conductances of broken devices in their places.

        It takes the conductances of the devices at ``index``.
        """
        stuck = self.stuck
        return lambda g: g if stuck is None else stuck.held(g, index)

    def pieces(self) -> Iterator[tuple[int, slice, tuple[slice, ...]]]:
        """Yield the pieces that are corrected together.

        Each is the number of the row block, a run of its outputs, and the index of both into the
        weight.
        """
        for number, block in enumerate(self.section.row_blocks):
            for outputs in _runs(slice(0, self.section.shape[0]), _OUTPUTS):
                yield number, outputs, (outputs, *block)

    def block(self, number: int, outputs: slice) -> Block:
        """Return some outputs of a row block, to be read through their ADCs."""
        where = self.section.first_row, number

        def key(name: str) -> Tensor:
            word = stream(Noise.COMPENSATION, self.key, *where, name)
            return key_of(self.seed, word, device=self.w.device)

        w = self.w[(outputs, *self.section.row_blocks[number])].flatten(1)
        errors, columns = self.errors[:, number, outputs], self.columns[number, outputs]
        inl = self.inl
        if inl is not None:
            inl = inl[0] if len(inl) == 1 else inl[number]
            inl = inl if len(inl) == 1 else inl[outputs]
        return Block(w, outputs, errors, columns, self.chip, key, inl)

    def _parts(self) -> Iterator[slice]:
        """Yield runs of outputs that are small enough to compute one at a time in little memory."""
        rows = self.section.rows
        few = max(1, _CELLS // rows // _VECTOR) * _VECTOR
        for span in _runs(slice(0, self.section.shape[0]), max(1, _SPAN // rows)):
            yield from _runs(span, few)

    def _write(self, method: Method) -> None:
        """Write the cells by ``method``, row block by row block."""
        self.writes = torch.zeros(method.rounds + 2, dtype=torch.int64, device="cpu")
        for number, block in enumerate(self.section.row_blocks):
            index = (slice(None), *block)

            def draw(name: str, rows: int, columns: int, number: int = number) -> Tensor:
                first = self.section.first_row
                word = stream(Noise.PROGRAMMING, self.key, first, number, name)
                where = torch.arange(rows, device=self.w.device)
                key = key_of(self.seed, word, device=where.device)
                return normal(key, where, torch.zeros_like(where), columns).to(self.w.dtype)

            g = self.g[(slice(None), *index)]
            hold = self._hold((slice(None), *index))
            w = weights_as_written(self.chip.cell, self.w[index].flatten(1))
            closer, pulses = write(g.flatten(2), w, self.chip, method, draw, hold)
            self.g[(slice(None), *index)] = closer.view_as(g)
            each = pulses[self._distinct().to(pulses.device)].flatten()
            found = torch.bincount(1 + each, minlength=len(self.writes))
            self.writes += found.to(self.writes)

    def _distinct(self) -> Tensor:
        """Return which devices count, (devices, outputs) bool.

        Of those that the columns of a block share, the ones of its first column do.
        """
        found = torch.ones(self.chip.cell.devices, len(self.w), dtype=torch.bool, device="cpu")
        for device in shared(self.chip.cell):
            found[device] = False
            found[device, [block.start for block in self.section.col_blocks]] = True
        return found

    def weights(self, t: float | None, temperature: float | None = None) -> Tensor:
        """Return the weights of the conductances at ``t``; None: as programmed, unread.

        ``temperature`` is in K; None: the reference temperature of the chip.
        """
        if self.chip.wires.ideal:
            return self.driven(self._found(t, "weights", temperature))
        plus, minus = self.polarities(t, temperature)
        return self.driven(wires.at_full_inputs(self, plus, minus))

    def written(self, number: int, outputs: slice, index: tuple[slice, ...]) -> Tensor:
        """Return ``weights`` as programmed of a piece of ``pieces``, (outputs, rows).

        They are those without wires, which couple the cells of a whole block.
        """
        found = self.chip.cell.weights(self.g[(slice(None), *index)]).flatten(1)
        if self.row_gains is not None:
            first, end = self.section.bounds[number : number + 2]
            self.row_gains.scale_(found, outputs, slice(first, end))
        return found

    def driven(self, weights: Tensor, power: int = 1) -> Tensor:
        """Return the section's weights times the gains of their DACs; in place."""
        if self.row_gains is not None:
            whole = slice(0, self.section.shape[0]), slice(0, self.section.rows)
            self.row_gains.scale_(weights.view(len(weights), -1), *whole, power)
        return weights

    def weight_errors(self) -> list[Tensor]:
        """Return the errors of the weights as programmed, (outputs, rows), on each tile in turn.

        They are those of single cells, in units of full conductance: wires and digital gains do not
        count, but a column without output holds zeros.
        """
        stored = self._found(None, "weights").flatten(1)
        stored *= over_rows(self.columns, self.section.bounds)
        for part in self._parts():
            stored[part] -= weights_as_written(self.chip.cell, self.w[part]).flatten(1)
        return [stored[block.outputs, block.rows] for block in self.blocks]

    def negatives(self, t: float | None, temperature: float | None = None) -> Tensor:
        """Return the part of ``weights`` that the negative polarity holds."""
        if self.chip.wires.ideal:
            return self.driven(self._found(t, "negatives", temperature))
        plus, minus = self.polarities(t, temperature)
        if not self.chip.wires.by_input:
            minus = wires.behind(self, plus, minus)[1]
        return self.driven(minus)

    def read_variances(self, t: float | None, temperature: float | None = None) -> Tensor:
        """Return the variances of both polarities of the weights at ``t``, (2, *shape).

        They are those of the read noise of every MVM, which the wires do not reduce. Devices that
        are open or short have none.
        """
        fluctuations = self.chip.mvm_read_noise.of(self.chip.cell)
        assert fluctuations is not None
        found = self.w.new_empty(2, *self.w.shape)
        for part in self._parts():
            g = self._read(part, t, temperature)
            noisy = None if self.stuck is None else self.stuck.noisy((slice(None), part))
            found[:, part] = fluctuations.variances(g, noisy)
        for each in found:
            self.driven(each, 2)
        return found

    def curvatures(self, t: float | None, temperature: float | None = None) -> Tensor:
        """Return the weights of square and cube of the inputs at ``t``, (2, *shape).

        Both are relative to full scale; devices that conduct nothing have none.
        """
        iv, device = self.chip.iv, self.chip.cell.device
        volt, found = iv.read_voltage, self.w.new_zeros(2, *self.w.shape)
        assert volt is not None
        for part in self._parts():
            g = self._read(part, t, temperature)
            nothing = self.chip.cell.weights(torch.zeros_like(g))
            for each, curve, factor in ((0, iv.square, volt), (1, iv.cube, volt**2)):
                if curve is not None:
                    bend = torch.where(g > 0, curve(g / device.g_max) * factor, 0.0)
                    found[each, part] = self.chip.cell.weights(device.g_max * bend) - nothing
        self.driven(found[0], 2)
        self.driven(found[1], 3)
        return found

    def polarities(self, t: float | None, temperature: float | None) -> tuple[Tensor, Tensor]:
        """Return the weights of the two polarities at ``t``, before the wires."""
        weights = self._found(t, "weights", temperature)
        minus = self._found(t, "negatives", temperature)
        return weights + minus, minus

    def _found(
        self, t: float | None, method: CellMethod, temperature: float | None = None
    ) -> Tensor:
        """Return what cells hold at ``t``, by a method of theirs, computed part by part."""
        found = torch.empty_like(self.w)
        for part in self._parts():
            found[part] = self._read(part, t, temperature, method)
        if not torch.isfinite(found.sum()):
            when = "after programming" if t is None else f"at {t:g} s"
            raise ValueError(
                f"the device {self.chip.cell.device.name!r} has conductances that are NaN or "
                f"infinite {when}"
            )
        return found

    def scale_(self, weights: Tensor) -> Tensor:
        """Return ``weights`` in the units and type of the layer.

        They are scaled in place from full conductance.
        """
        bounds = self.section.bounds
        for scale, a, b in zip(self.scale, bounds[:-1], bounds[1:], strict=True):
            weights.view(len(weights), -1)[:, a:b] *= scale.unsqueeze(1)
        return weights.to(self.dtype)

    def _read(
        self,
        part: slice,
        t: float | None,
        temperature: float | None = None,
        method: CellMethod | None = None,
    ) -> Tensor:
        """Return the conductances of a run of outputs at ``t``, or what a method makes of them."""
        cell, draws, w, g = self.chip.cell, self._draws, self.w[part], self.g[:, part]
        if t is None:
            return g if method is None else getattr(cell, method)(g)
        broken, codes = None, None
        if self.stuck is not None:
            broken, codes = self.stuck.broken, self.stuck.codes(part)
        thermal = self.chip.thermal
        reading = Reading(cell, self._drifting, thermal, t, temperature, method, broken)
        drift, noise = draws.of(part, Noise.DRIFT), draws.of(part, Noise.READ, str(t))
        found = torch.empty_like(g if method is None else g[:1])
        if elementwise(reading, (w, *g, *(() if codes is None else codes)), drift + noise, found):
            return found if method is None else found[0]

        def coefficient() -> Tensor:
            z = draws.normals(drift)
            return reading.drift_coefficient(g, written(cell, w, g), codes, z)

        nu = self._once("drift", part.start, 0, coefficient)
        read = reading.read(g, nu, codes, draws.normals(noise))
        return read if method is None else getattr(cell, method)(read)

    def exact_mvms(self, number: int, outputs: slice, block: Block) -> tuple[Tensor, Tensor]:
        """Return the random inputs that gains are fitted on, and the MVMs of the exact weights.

        ``block`` has these outputs of row block ``number``; shapes are those of ``Block.targets``.
        """

        def found() -> tuple[Tensor, Tensor]:
            x = block.inputs()
            return x, block.targets(x)

        return self._once("exact", number, outputs.start, found)

    def _once(self, kind: str, at: int, of: int, find: Callable[[], T]) -> T:
        """Return what ``find`` does; if the section keeps it, as it was found first."""
        if self._kept is None:
            return find()
        if (kind, at, of) not in self._kept:
            self._kept[kind, at, of] = find()
        found: T = self._kept[kind, at, of]
        return found


def _runs(whole: slice, step: int) -> Iterator[slice]:
    """Yield ``whole`` cut into runs of ``step``; the last holds the remainder."""
    return (
        slice(first, min(first + step, whole.stop))
        for first in range(whole.start, whole.stop, step)
    )
