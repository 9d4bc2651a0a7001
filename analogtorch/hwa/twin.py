"""A converted model beside its digital twin: how far its outputs and its layers are off."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from analogtorch.calibration.batches import every_tensor, named
from analogtorch.calibration.judge import FIXED
from analogtorch.calibration.outputs import comparable, infinite, tensors, without_tensors
from analogtorch.calibration.padding import at_positions, read_positions
from analogtorch.calibration.passes import Forward, exactly, one_pass
from analogtorch.conversion import fast_path
from analogtorch.conversion.kinds import analog_layers, refuse_programmed
from analogtorch.conversion.restored import evaluating
from analogtorch.hwa.attention_maps import AttentionMaps, errors_of_maps
from analogtorch.hwa.comparison import Comparison, Found, last_channels, relative_error
from analogtorch.hwa.given import by_name, inputs
from analogtorch.hwa.layer_names import (
    OUTPUTS_ALONE,
    Shapes,
    by_layer,
    comparable_layers,
    name_unlike,
    unlike_channels,
)
from analogtorch.hwa.recipe import Outputs, Recipe
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.nn.learning import noisy_in_evaluation
from analogtorch.nn.placed import Executions
from analogtorch.nn.tap import hooked
from analogtorch.values import checks

_SCORES = ("start_logits", "end_logits", "prediction_logits", "class_queries_logits")
"""Outputs of transformers, beside ``logits``, whose softmax over the last dimension counts. Others
that end so may be decisions on their own, which a shift of them all changes: of each step or pixel,
or of an image and a text that fit."""
_NO_SCORES = ("multi_label_classification", "regression")
"""What ``config.problem_type`` of transformers calls outputs that exclude no other."""
_INNER = ("hidden", "state", "attention", "loss", "past", "cache", "mems", "embed", "router", "aux")
"""Parts of the names of what models return beside ``logits`` and few read."""


class Losses(NamedTuple):
    """The losses of a batch: scalars, >= 0, with a gradient."""

    total: Tensor
    """What is to be minimised: ``outputs``, and the others by their weights in the recipe."""
    outputs: Tensor
    """How far the outputs of the model are from the teacher's."""
    layers: Tensor
    """The mean relative squared error of the outputs of the layers; 0 without
    ``recipe.layers``."""
    attention: Tensor
    """The mean divergence of the attention maps; 0 without ``recipe.attention``."""


class Twin:
    """A student, which is a converted model, and its teacher, whose layers compute exactly.

    Args:
        student: a converted model; without ``recipe.layers`` it may be a digital one.
        teacher: the digital model; or a converted one, which computes as the digital one.
        recipe: how they are compared.
        forward: as ``calibrate`` takes it.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the student is a programmed chip; the outputs of layers are to be compared, and
            it has no analog layer, or none with the name of a module of the teacher, without what
            adapters add to it; or the teacher has Parameters of the student that learn.

    Warns:
        UserWarning: the teacher has no module of the name of some layers, whose outputs are not
            compared; or, at the first batch that shows it, their outputs differ in channels from
            those of the teacher's layers.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        recipe: Recipe | None = None,
        forward: Forward | None = None,
    ) -> None:
        example = "the model before at.convert"
        checks.instance("Twin: student", student, nn.Module, "at.convert(model, chip)")
        checks.instance("Twin: teacher", teacher, nn.Module, example)
        checks.function("Twin: forward", forward, "forward(model, batch)")
        recipe = Recipe() if recipe is None else recipe
        checks.instance("Twin: recipe", recipe, Recipe, "at.hwa.Recipe(clip_sigma=2.5)")
        refuse_programmed(student, "Twin")
        if recipe.layers and not any(True for _ in analog_layers(student)):
            raise ValueError(
                "Twin: the student has no analog layer whose outputs could be compared; give "
                "student=at.convert(model, chip), or, for a digital student, "
                "recipe=at.hwa.Recipe(layers=0)"
            )
        learning = {id(p): name for name, p in student.named_parameters() if p.requires_grad}
        if shared := [learning[id(p)] for p in teacher.parameters() if id(p) in learning]:
            raise ValueError(
                f"adapt: the teacher has Parameters of the student, such as {shared[0]!r}, which "
                "learn, so that it would learn too; give a copy that was made before convert: "
                "teacher = copy.deepcopy(model)"
            )
        self.student, self.teacher, self.forward = student, teacher, forward
        self.recipe = recipe
        self.names = comparable_layers(student, teacher, bool(self.recipe.layers))
        """The layers that both have, by their names without adapters. Their outputs are compared
        where they have one shape."""
        modules = by_layer(teacher)
        self._convolutions = {name for name in self.names if hasattr(modules[name], "kernel_size")}
        self.numbers: Mapping[int, int] = {}
        """The number of each batch by its id, for errors; empty: they have none."""
        self.comparison = Comparison(self.recipe)
        """How outputs are compared."""
        self._unlike = False
        """Whether a warning has named layers whose outputs differ in channels."""
        self._taps: dict[AnalogLayer, tuple[Executions, Tap]] = {}

    @property
    def corrected(self) -> bool:
        """Whether the student learns for chips that correct their columns."""
        if (noise := self.recipe.training) is not None:
            return noise.corrected
        return any(layer.chip.training.corrected for _, layer in analog_layers(self.student))

    @property
    def compared(self) -> Outputs:
        """How outputs are compared; the teacher's first outputs decide what the recipe does not."""
        return self.comparison.kind

    def outputs(self, model: nn.Module, batch: Any) -> list[Tensor]:
        """Return the outputs of a model that are compared: logits, or every tensor it returns.

        Positions that the ``attention_mask`` of a batch leaves out are not among them.

        Raises:
            ValueError: the model returns no tensor of floating point that could be compared.
        """
        return self._outputs(model, batch).compared()

    def _outputs(self, model: nn.Module, batch: Any) -> Found:
        caller = "adapt, teacher" if model is self.teacher else "adapt"
        given = one_pass(caller, model, batch, self.forward, self.numbers.get(id(batch)))
        by_name = named(given)
        logits = None if by_name is None else by_name.get("logits")
        found = comparable(given if logits is None else logits, batch)
        if not found:
            raise ValueError(f"adapt: {without_tensors(given)}")
        if not found[0].dim():
            raise ValueError(
                "adapt: the model returns no output of shape (samples, ...) to compare, got a "
                "number without dimensions, such as a loss; pass forward=, which must return its "
                "outputs"
            )
        parts = {} if by_name is None else by_name
        by_position = {id(part) for name, part in parts.items() if name in _SCORES}
        named_so = [id(y) in by_position for y in found]
        config = getattr(self.teacher, "config", None)
        no_scores = getattr(config, "problem_type", None) in _NO_SCORES
        named_so[0] |= logits is not None and not no_scores
        return Found(
            found,
            scores=by_name is None and not _is_spectrum(given),
            logits=named_so,
            positions=logits is None,
            read=read_positions(model, batch),
            beside=[] if logits is None else [n for n, y in parts.items() if _is_beside(n, y)],
        )

    def named(self, batch: Any) -> str:
        """Return a batch in words: by its number, if it has one."""
        number = self.numbers.get(id(batch))
        return "a batch" if number is None else f"batch {number} (from 0)"

    def exact(self, batch: Any) -> list[Tensor]:
        """Return the outputs of the teacher.

        Raises:
            ValueError: they hold NaN or infinite values, beside minus infinity as a mask, or one of
                them is empty.
        """
        return self._exact(batch).compared()

    def _exact(self, batch: Any) -> Found:
        given: list[Any] = []

        def keep(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            given.append(by_name(self.teacher.forward, args, options))

        with (
            last_channels(self.teacher, not self.comparison.decided) as channels,
            self.teacher.register_forward_pre_hook(keep, with_kwargs=True),
            torch.no_grad(),
            evaluating(self.teacher),
            exactly(self.teacher),
            fast_path.without(self.teacher),
        ):
            found = self._outputs(self.teacher, batch)
        for which, y in enumerate(found.outputs):
            if not y.numel():
                raise ValueError(
                    f"adapt: output {which}, counted from 0, of the digital model for "
                    f"{self.named(batch)} is empty, of shape {tuple(y.shape)}, so that there is "
                    f"nothing to compare. {FIXED}; leave out outputs that are always empty"
                )
        if not all(map(_is_finite, found.outputs)):  # gradients of the others would not be either
            raise ValueError(
                f"adapt: the digital outputs for {self.named(batch)} hold NaN or infinite values; "
                "check model and batches"
            )
        if not self.comparison.decided:
            if not given:  # a forward that calls parts of the model
                given = [batch[0] if isinstance(batch, tuple | list) else batch]
            found.inputs = [x for x in every_tensor(given, inputs) if x.is_floating_point()]
            found.tokens = [x for x in every_tensor(given) if not x.is_floating_point()]
            found.last = next(iter(channels), None)
            self.comparison.decide(found)
        return found

    def loss(self, batch: Any, run: nn.Module | None = None) -> Losses:
        """Return how far the student's outputs and those of its layers are from the teacher's.

        The student's analog layers run in training mode, with the training noise of the recipe; all
        else is in evaluation mode: dropout is off, batch norm uses its averages.

        Args:
            batch: inputs, as ``calibrate`` takes them.
            run: the module that runs the student, such as ``DistributedDataParallel`` around it,
                which sees no gradients otherwise; None: the student itself.

        Raises:
            ValueError: the shapes of the outputs differ, or no layer of both models ran, or none
                with outputs of one shape; or so with attention maps.
        """
        with self._layer_outputs(self.teacher) as of_teacher, self._maps() as maps_of_teacher:
            reference = self._exact(batch)
        exact, read = reference.compared(), reference.read.layers
        with self.running(), self._layer_outputs(self.student) as of_student, self._maps() as maps:
            found = self.outputs(self.student if run is None else run, batch)
        check_shapes(found, exact)
        pairs = zip(found, exact, strict=True)
        outputs = _mean([self.compare(y, t, which) for which, (y, t) in enumerate(pairs)])
        layers = attention = outputs.new_zeros(())
        if self.recipe.layers:
            compared = self._pairs(of_student, of_teacher, read)
            layers = _mean([relative_error(y, t) for y, t in compared])
        if maps is not None and maps_of_teacher is not None:
            attention = errors_of_maps(maps, maps_of_teacher, read)
        total = outputs + self.recipe.layers * layers + self.recipe.attention * attention
        return Losses(total, outputs, layers, attention)

    def _maps(self) -> contextlib.AbstractContextManager[AttentionMaps | None]:
        return AttentionMaps() if self.recipe.attention else contextlib.nullcontext()

    def _pairs(
        self,
        of_student: Mapping[str, list[Tensor]],
        of_teacher: Mapping[str, list[Tensor]],
        masks: tuple[Tensor, ...],
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the outputs of layers that are compared, with the teacher's.

        Those that differ in shape are left out, with one warning if they differ in channels, and
        positions that nobody reads, by ``masks``.
        """
        found, unlike = [], dict[str, Shapes]()
        for name, exact_ones in of_teacher.items():
            for y, t in zip(of_student.get(name, ()), exact_ones, strict=False):
                if y.shape == t.shape:
                    read = () if name in self._convolutions else masks
                    found.append((at_positions(y, read), at_positions(t, read)))
                else:
                    unlike.setdefault(name, (y.shape, t.shape))
        if found:
            unlike = {} if self._unlike else unlike_channels(self.student, unlike)
        if unlike:
            name_unlike(unlike, len(self.names), alike=bool(found))
            self._unlike = True
        if not found:
            raise ValueError(
                "adapt: no layer of the model ran under the same name as in the teacher; "
                f"{OUTPUTS_ALONE}"
            )
        return found

    def total(self, batch: Any, run: nn.Module | None = None) -> Tensor:
        """Return the loss to minimise: ``loss(batch, run).total``."""
        return self.loss(batch, run).total

    def compare(self, y: Tensor, exact: Tensor, which: int = 0) -> Tensor:
        """Return how far an output is from the exact one, as ``comparison`` has it: a scalar >= 0.

        Args:
            y: the output.
            exact: the exact one, of the same shape.
            which: its number in ``outputs``.

        Raises:
            RuntimeError: the recipe leaves it to the outputs, and there were none yet.
        """
        return self.comparison.loss(y, exact, which)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let the student run as ``loss`` runs it, while the context lasts.

        A backward belongs inside where it runs parts of the student again, as activation
        checkpointing does (``torch.utils.checkpoint``).

        Example:
            >>> with twin.running():
            ...     twin.total(batch).backward()
        """
        with evaluating(self.student), self.training_noise():
            for _, layer in analog_layers(self.student):
                layer.training = True
                noisy_in_evaluation(layer)  # as it will be in when the optimizer steps
            yield

    @contextlib.contextmanager
    def training_noise(self) -> Iterator[None]:
        """Let the student's layers compute with the training noise of the recipe.

        Inside the context they do so in evaluation mode, too.
        """
        noise = self.recipe.training
        if noise is None:
            yield
            return
        for _, layer in analog_layers(self.student):
            made_for, _ = self._taps.get(layer, (None, None))
            if made_for is not layer.executions:  # another chip, or another fraction of the noise
                chip = layer.chip.replace(training=noise)
                noisy = layer.executions_on(chip).training
                self._taps[layer] = layer.executions, Tap(execution=noisy)
        with tapped({layer: tap for layer, (_, tap) in self._taps.items()}):
            yield

    @contextlib.contextmanager
    def _layer_outputs(self, model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
        """Collect the outputs of the layers, in order of their calls, inside the context."""
        found: dict[str, list[Tensor]] = {}
        modules = by_layer(model)
        names = {modules[name]: name for name in self.names}

        def keep(module: nn.Module, _: Any, output: Any) -> None:
            # a digital layer that was swapped, but is still called, has the hooks of its layer
            if (name := names.get(module)) is not None:
                # copies: an activation in place would change them
                found.setdefault(name, []).extend(y.clone() for y in tensors(output))

        with hooked(names if self.recipe.layers else (), after=keep):
            yield found


def _is_beside(name: str, part: Any) -> bool:
    """Return whether a part of a mapping with ``logits`` is an output that a user may need."""
    if name == "logits" or any(inner in name for inner in _INNER):
        return False
    return isinstance(part, Tensor) and part.is_floating_point() and part.dim() > 0


def _is_spectrum(output: Any) -> bool:
    """Return whether the first tensor that is compared has complex numbers."""
    kinds = (y.is_complex() for y in every_tensor(output) if y.dim() and list(tensors(y)))
    return next(kinds, False)


def _is_finite(y: Tensor) -> bool:
    """Return whether an output holds finite numbers, and nothing but masks beside them."""
    masked = infinite(y)
    return bool((y.isfinite() | masked).all()) and not (y.numel() and bool(masked.all()))


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def check_shapes(found: list[Tensor], exact: list[Tensor]) -> None:
    """Raise ValueError if the outputs of the model differ in shape from those of the teacher."""
    shapes = [[tuple(y.shape) for y in outputs] for outputs in (found, exact)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"adapt: the model returns {_shown(shapes[0])} and the teacher {_shown(shapes[1])}. "
            f"{FIXED}; a teacher that is passed must be the digital model, or one with the same "
            "outputs"
        )


def _shown(shapes: list[tuple[int, ...]]) -> str:
    return "outputs of shape " + ", ".join(map(str, shapes))
