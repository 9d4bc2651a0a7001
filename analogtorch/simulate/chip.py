"""A programmed chip: the conductances of a model's weights at any time after programming.

Weights, chip and seed decide all of them. The weights of the model stay as they are.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from analogtorch.chips import ADC_ERRORS
from analogtorch.chips.tiling import Section
from analogtorch.conversion.kinds import (
    analog_layers,
    check_module,
    refuse_programmed,
    refuse_unloaded,
)
from analogtorch.conversion.taken import refuse_taken
from analogtorch.conversion.unread import name_unread, named
from analogtorch.devices import seconds
from analogtorch.devices.device import beyond
from analogtorch.nn import AnalogComposite, AnalogLayer
from analogtorch.nn.programmed import Programmed
from analogtorch.ops import (
    Noise,
    block_scales,
    fold,
    ir_drop,
    normal,
    over_rows,
    seed_tensor,
    stream,
)
from analogtorch.ops.physics import digital_factor, fit_sums, magnitude_sums, ratio, relative, wide
from analogtorch.simulate import tiles
from analogtorch.simulate.defects import Defects, TileState, tile_state
from analogtorch.simulate.readout import Block
from analogtorch.simulate.writing import Method, write
from analogtorch.values import checks

if TYPE_CHECKING:
    from analogtorch.mapping import ChipMapping

Compensation = Literal["none", "global", "column", "least_squares"]
Readout = Literal["chip", "ideal"]


def program(
    model: nn.Module,
    *,
    seed: int,
    method: Method | None = None,
    defects: Defects | None = None,
    mapping: "ChipMapping | None" = None,
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
            weight. None: one block per tile, tile after tile.

    Raises:
        ValueError: the model has no analog layer; a weight is NaN or infinite; a layer is
            parametrized, on the meta device or replaced since the conversion; or the mapping
            belongs to another model or chip.
        RuntimeError: a weight of a recurrent layer or an attention was pruned or parametrized after
            the conversion.
        TypeError: the seed is not an integer, or an argument is not of its type.

    Example:
        >>> physical = at.program(model, seed=7)
        >>> aged = physical.at("1 day")
    """
    check_module("program", model)
    seed_tensor(seed)
    layers = dict(analog_layers(model))
    if not layers:
        raise ValueError(
            "program: the model has no analog layer; call analogtorch.convert(model, chip) first"
        )
    refuse_programmed(model, "program")
    refuse_taken(model, "program")
    refuse_unloaded(model, "program")
    for module in model.modules():
        if isinstance(module, AnalogComposite):
            module.refuse_changed()
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
            raise ValueError(
                f"program: layer {name!r} is parametrized or pruned; make that permanent first"
            )
        if not torch.isfinite(layer.weight).all():
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
    return ProgrammedChip(model, seed, method, defects, mapping)


class ProgrammedChip:
    """One programmed chip, made by ``program``; ``at`` returns its model at a time.

    Deterministic: one seed always gives the same devices.
    """

    def __init__(
        self,
        model: nn.Module,
        seed: int,
        method: Method | None = None,
        defects: Defects | None = None,
        mapping: "ChipMapping | None" = None,
    ) -> None:
        self.seed, self.method, self.defects, self.mapping = seed, method, defects, mapping
        layers = list(analog_layers(model))
        where = tiles.consecutive(layers) if mapping is None else tiles.mapped(model, mapping)
        self.warned: set[str] = set()
        """Notes on times beyond the devices' data that ``at`` has given; each is given once."""
        self._named = named(model)
        self._tiles = {
            (spot.chip, spot.tile): layer.chip
            for name, layer in layers
            for of_section in where[name]
            for spot in of_section
        }
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            self._placed: dict[str, list[_Devices]] = {}
            for name, layer, key in _keyed(self._model):
                placed = self._placed[name] = []
                for section, of_section in zip(layer.sections, where[name], strict=True):
                    state = tiles.state(section, of_section, layer.chip, defects, seed)
                    blocks = tiles.blocks(section, of_section)
                    placed.append(_Devices(layer, section, key, seed, blocks, method, state))

    def yield_map(self) -> dict[tuple[int, int], TileState]:
        """Return the state of every (chip, tile) with weights: working cells and ADC errors."""
        defects = self.defects or Defects()
        return {
            tile: tile_state(self._tiles[tile], defects, self.seed, *tile)
            for tile in sorted(self._tiles)
        }

    def at(
        self,
        time: str | float,
        *,
        compensation: Compensation = "least_squares",
        readout: Readout = "chip",
    ) -> nn.Module:
        """Return the model as it runs on this chip at ``time`` after programming.

        The result is an independent module, for evaluation only.

        Each MVM has its own output noise: a layer counts its inputs. Every call of ``at`` starts
        the count anew, and gives the same numbers for the same inputs in batches of any size.
        Threads may share a module: no two MVMs of a layer get the same noise, but the order of the
        threads decides which input gets which noise. Call ``at`` once per thread for numbers that
        repeat.

        Args:
            time: seconds, or a text for ``seconds``: ``"programmed"``, ``"0 s"``, ``"1 day"``.
            compensation: the digital correction of drift. ``least_squares`` (default): one factor
                per block, which fits MVMs of 256 random inputs best to those of the target weights.
                ``global``: one factor per block, the mean magnitude of its cells as read now over
                that as read after programming (Joshi et al. 2020). ``column``: the same per output
                of the block. ``none``: no correction. On a chip of 256x256 Gaussian weights, the
                MVM error after a day and a year is 18.7 and 22.9 % by ``least_squares``, 19.0 and
                24.0 by ``global``, 33.8 and 53.1 by ``none``; where all columns share an offset,
                ``global`` is better.
            readout: how the compensation reads the block. ``chip``: through the block's ADCs and
                noise, with as many reads of a single cell as the ADC step needs. ``ideal``:
                exactly.

        Raises:
            ValueError: the time, compensation or readout is unknown.

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
        for note in beyond_data(self._model, t):
            if note not in self.warned:
                warnings.warn(f"at({time!r}): {note}", stacklevel=2)
                self.warned.add(note)
        targets = [layer.weight for _, layer in analog_layers(self._model)]
        # the targets are shared, as nothing computes with them; all else is small and copied
        view = copy.deepcopy(
            self._model, {id(w): nn.Parameter(w.detach(), requires_grad=False) for w in targets}
        )
        with torch.no_grad():
            for name, layer in analog_layers(view):
                layer.hold(_programmed(self._placed[name], t, compensation, readout))
        name_unread(view, self._named)
        return view


def beyond_data(model: nn.Module, t: float | None) -> list[str]:
    """Return a note for each device of the model whose data end before ``t`` seconds."""
    devices = {
        id(layer.chip.cell.device): layer.chip.cell.device for _, layer in analog_layers(model)
    }
    return list(dict.fromkeys(note for device in devices.values() if (note := beyond(device, t))))


def _keyed(model: nn.Module) -> Iterator[tuple[str, AnalogLayer, str]]:
    """Yield the analog layers with the name that keys their noise.

    It is the name at the conversion, made unique. A model therefore keeps its devices when it is
    wrapped in another module, and copies of one layer get different devices.

    So a model keeps its chip when it is wrapped in another module, and copies of one layer get
    devices of their own.
    """
    seen: dict[str, int] = {}
    for name, layer in analog_layers(model):
        copies = seen[layer.layer_name] = seen.get(layer.layer_name, 0) + 1
        yield name, layer, layer.layer_name if copies == 1 else f"{layer.layer_name}#{copies}"


def _programmed(
    placed: "list[_Devices]", t: float | None, compensation: str, readout: str
) -> Programmed:
    """Return the weights that the chip holds at ``t`` for a layer with these sections."""
    weights, scales, gains = [], [], []
    for devices in placed:
        now, gain = devices.weights(t), devices.column * devices.factor
        if t is not None and compensation != "none":
            gain = gain * _gains(now, devices, compensation, readout, t)
        weights.append(devices.scale_(now))
        scales.append(devices.scale)
        gains.append(gain.to(devices.dtype))
    first, device = placed[0], weights[0].device
    blocks = max(devices.section.blocks for devices in placed)
    words = [stream(Noise.OUTPUT, first.key, str(t), block) for block in range(blocks)]
    keys = fold(seed_tensor(first.seed, device), torch.tensor(words, device=device))
    ideal = weights[0].new_tensor([error.ideal for error in ADC_ERRORS]).view(-1, 1, 1)
    uneven = any((devices.errors != ideal).any() for devices in placed)
    adc_errors = tuple(devices.errors for devices in placed) if uneven else None
    separate = first.chip.phases == 4
    negatives = None
    if separate:
        negatives = tuple(devices.scale_(devices.negatives(t)) for devices in placed)
    held = tuple(weights), tuple(scales), tuple(gains)
    return Programmed(*held, keys, adc_errors, negatives=negatives)


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


class _Devices:
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
    ) -> None:
        self.blocks = blocks
        # programmed and calibrated with the chip's ADC range: those of the layer suit an inference
        self.section, self.chip, self.key, self.seed = section, layer.chip, key, seed
        target = section.weight(layer.as_matrix(layer.weight.detach()))
        self.dtype = target.dtype
        self.scale = block_scales(target, section.bounds, section.columns)
        full = over_rows(self.scale, section.bounds).view(section.shape)
        self.w = relative(target.contiguous(), full).to(wide(self.dtype))
        del full
        cell = self.chip.cell
        self.g = self.w.new_empty(cell.devices, *self.w.shape)
        for part in self._parts():
            self.g[:, part] = cell.device.program(
                cell.targets(self.w[part]), self._draw(part, Noise.PROGRAMMING)
            )
        self.errors, self.columns = state.errors.to(self.scale), state.columns.to(self.scale)
        """Errors of the ADCs, (kinds, row blocks, outputs); columns that work, of 0 and 1."""
        self.factor = digital_factor(self.errors) * self.columns
        """What ADC outputs are multiplied by digitally, (row blocks, outputs)."""
        works = None
        if state.works is not None:
            works = state.works.to(self.w.device).view_as(self.w)
            self.g *= works
        if method is not None:
            self._write(method, torch.ones_like(self.w) if works is None else works)
        self.column = torch.ones_like(self.scale)
        """Digital gain of each column, found after programming."""
        if self.chip.periphery.column_calibration:
            self.column = self._calibrated()

    def _calibrated(self) -> Tensor:
        """Return the gain of each column that fits the programmed chip to the target weights."""
        weights, gains = self.weights(None), torch.empty_like(self.scale)
        for number, outputs, index in self.pieces():
            block = self.block(number, outputs)
            x = block.inputs()
            adc_outputs = block.two_mvms(weights[index].flatten(1), x, "columns")
            gains[number, outputs] = ratio(*fit_sums(block.targets(x), *adc_outputs)).to(gains)
        return gains

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

        def normals(name: str, rows: slice, columns: slice) -> Tensor:
            key = fold(
                seed_tensor(self.seed), stream(Noise.COMPENSATION, self.key, *where, name)
            ).to(self.w.device)
            each = torch.arange(rows.start, rows.stop, device=self.w.device)
            first = torch.full_like(each, columns.start)
            return normal(key, each, first, columns.stop - columns.start).to(self.w.dtype)

        w = self.w[(outputs, *self.section.row_blocks[number])].flatten(1)
        errors, columns = self.errors[:, number, outputs], self.columns[number, outputs]
        return Block(w, outputs, errors, columns, self.chip, normals)

    def _parts(self) -> Iterator[slice]:
        """Yield runs of outputs that are small enough to compute one at a time in little memory."""
        rows = self.section.rows
        few = max(1, _CELLS // rows // _VECTOR) * _VECTOR
        for span in _runs(slice(0, self.section.shape[0]), max(1, _SPAN // rows)):
            yield from _runs(span, few)

    def _write(self, method: Method, works: Tensor) -> None:
        """Write the cells by ``method``, row block by row block."""
        for number, block in enumerate(self.section.row_blocks):
            index = (slice(None), *block)

            def draw(name: str, rows: int, columns: int, number: int = number) -> Tensor:
                key = fold(
                    seed_tensor(self.seed),
                    stream(Noise.PROGRAMMING, self.key, self.section.first_row, number, name),
                )
                where = torch.arange(rows, device=self.w.device)
                return normal(key.to(where.device), where, torch.zeros_like(where), columns).to(
                    self.w.dtype
                )

            g = self.g[(slice(None), *index)]
            w, working = self.w[index].flatten(1), works[index].flatten(1)
            written = write(g.flatten(2), w, working, self.chip, method, draw)
            self.g[(slice(None), *index)] = written.view_as(g)

    def weights(self, t: float | None) -> Tensor:
        """Return the weights of the conductances at ``t``; None: as programmed, unread."""
        if self.chip.wires.ideal:
            return self._found(t, self.chip.cell.weights)
        plus, minus = self._polarities(t)
        return plus - minus

    def programmed(self, index: tuple[slice, ...]) -> Tensor:
        """Return the part of ``weights(None)`` at ``index``, outputs of a row block.

        The shape is (outputs, rows).
        """
        return self.chip.cell.weights(self.g[(slice(None), *index)]).flatten(1)

    def negatives(self, t: float | None) -> Tensor:
        """Return the part of ``weights`` that the negative polarity holds."""
        if self.chip.wires.ideal:
            return self._found(t, self.chip.cell.negatives)
        return self._polarities(t)[1]

    def _polarities(self, t: float | None) -> tuple[Tensor, Tensor]:
        """Return the weights of the two polarities at ``t``, as they act behind the wires."""
        weights = self._found(t, self.chip.cell.weights)
        minus = self._found(t, self.chip.cell.negatives)
        left = ir_drop.behind_wires(
            (weights + minus).flatten(1),
            minus.flatten(1),
            self.blocks,
            self.chip.wires,
            self.chip.cell,
        )
        return left[0].view_as(weights), left[1].view_as(weights)

    def _found(self, t: float | None, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``of`` the conductances at ``t``, computed part by part."""
        found = torch.empty_like(self.w)
        for part in self._parts():
            g = self.g[:, part]
            found[part] = of(g if t is None else self._read(part, g, t))
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

    def _read(self, part: slice, g: Tensor, t: float) -> Tensor:
        """Return the conductances of a run of outputs as read at ``t``."""
        # drawn anew each time: stored drift exponents would take as much memory as conductances
        cell, device = self.chip.cell, self.chip.cell.device
        nu = device.drift_coefficient(cell.targets(self.w[part]), self._draw(part, Noise.DRIFT))
        return device.read(g, device.drift(g, nu, t), t, self._draw(part, Noise.READ, str(t)))

    def _draw(self, part: slice, kind: Noise, *names: str) -> Tensor:
        words = [stream(kind, self.key, device, *names) for device in range(self.chip.cell.devices)]
        return torch.stack([self._normal(word, part) for word in words])

    def _normal(self, word: int, part: slice = slice(None)) -> Tensor:
        key = fold(seed_tensor(self.seed, self.w.device), word)
        outputs, first = self.section.positions(self.w.device)
        found = normal(key, outputs[part], first[part], self.section.rows)
        return found.view(-1, *self.section.shape[1:])


def _runs(whole: slice, step: int) -> Iterator[slice]:
    """Yield ``whole`` cut into runs of ``step``; the last holds the remainder."""
    return (
        slice(first, min(first + step, whole.stop))
        for first in range(whole.start, whole.stop, step)
    )


def _gains(now: Tensor, devices: _Devices, compensation: str, readout: str, t: float) -> Tensor:
    """Return the factor per row block and output that undoes drift after column calibration."""
    sums = now.new_empty(2, *devices.scale.shape)
    for number, outputs, index in devices.pieces():
        block = devices.block(number, outputs)
        column = devices.column[number, outputs]
        current = now[index].flatten(1)
        if compensation != "least_squares":
            then = devices.programmed(index)
            if readout == "ideal":
                cells = block.alone(then), block.alone(current)
            else:
                cells = block.cells(then, "programmed"), block.cells(current, str(t))
            before, after = (each * column.unsqueeze(1) for each in cells)
            found = magnitude_sums(before, after)
        elif readout == "ideal":  # one-hot inputs are the limit of many random ones
            exact = block.alone(current).T * column
            found = fit_sums(block.w.T, exact, exact)
        else:
            x = block.inputs()
            first, second = block.two_mvms(current, x, str(t))
            found = fit_sums(block.targets(x), first * column, second * column)
        sums[0, number, outputs], sums[1, number, outputs] = found
    if compensation != "column":
        by_block = [devices.section.block_sums(each) for each in sums.flatten(0, 1)]
        sums = torch.stack(by_block).view_as(sums)
    return ratio(*sums)
