"""``adapt``: one call from a digital model to one that survives the chip, without labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analogtorch.calibration.batches import check_batches, every_tensor, some_batches
from analogtorch.calibration.padding import padding_rule
from analogtorch.calibration.passes import EXCLUDE, Forward, numbered
from analogtorch.calibration.ranges import check_options
from analogtorch.calibration.settings import held_back
from analogtorch.chips import Chip
from analogtorch.conversion import analog_layers, convert
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.kinds import (
    check_module,
    refuse_distributed,
    refuse_meta,
    refuse_programmed,
    refuse_unloaded,
)
from analogtorch.conversion.restored import same_buffers, switched
from analogtorch.devices.serial import written
from analogtorch.evaluate.batches import batches_digest
from analogtorch.evaluate.checked import chip_seeds
from analogtorch.evaluate.described import name_of
from analogtorch.evaluate.identity import (
    attribute_digests,
    model_digest,
    options_digest,
    structure_digest,
)
from analogtorch.evaluate.metric import Metric, check_metric
from analogtorch.evaluate.metric_identity import forward_of, kept_of
from analogtorch.evaluate.times import checked_times
from analogtorch.hwa.adaptation import Adaptation, recovering
from analogtorch.hwa.adapted import Adapted
from analogtorch.hwa.budget import Budget
from analogtorch.hwa.on_chips import OnChips
from analogtorch.hwa.reached import refuse_silent, route_calls
from analogtorch.hwa.recipe import Recipe
from analogtorch.hwa.run_folder import RunFolder, goes_on
from analogtorch.hwa.twin import Twin
from analogtorch.nn.learning import expect
from analogtorch.ops import derived, seed_number
from analogtorch.simulate.chip import beyond_data
from analogtorch.values import checks
from analogtorch.values.listed import counted

HELD = 4
"""Most batches that are held back: chips are measured on them a dozen times."""

_CONVERT = "leave them digital: pass at.convert(model, chip, exclude=...) and leave out chip="
"""The remedy of whoever gives ``adapt`` a digital model; it takes no options of ``convert``."""


def adapt(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    chip: Chip | None = None,
    teacher: nn.Module | None = None,
    recipe: Recipe | None = None,
    steps: int = 1000,
    minutes: float | None = None,
    times: Sequence[str | float] = ("1 day", "1 year"),
    num_chips: int = 3,
    calibration: Mapping[str, Any] | None = None,
    metric: Metric | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    forward: Forward | None = None,
    writer: Any = None,
    progress: bool = False,
) -> Adapted:
    """Return a copy of ``model`` trained to keep its outputs on programmed chips, without labels.

    The copy is converted and calibrated, and the statistics of batch norm are moved to what they
    are under training noise. It is then trained to give the outputs of the digital model, and those
    of each of its layers, under that noise, which grows at first; its weights are clipped after
    each step. The noise is that of the chip's devices after a month or, at random, when their
    targets are right (``Recipe.training``). At the end it is calibrated and its statistics move
    again. Each of these steps is measured on programmed chips with batches that it did not see (the
    last quarter, at most four, or all if there are fewer than four), and one that makes the error
    larger is undone. A model that is only converted does not round the outputs of its tiles, as
    chips such as ``hermes64`` do: where calibration loses to that, it is compared with ranges per
    vector and outputs that are rounded, and the better one is kept. So the result is never worse
    there than the model that is only converted, on the same hardware. As it is chosen on these
    chips and batches, the last stages look a little better than others will: ``sweep`` the model
    with another seed, on data held back from this call. The given model stays as it
    is, and is the teacher.

    The same arguments give the same model, also after an interruption, if ``folder`` is given,
    unless the model itself draws random numbers in evaluation mode.

    Args:
        model: a digital model, or a converted one; its Parameters that require a gradient learn.
        batches: inputs, as ``calibrate`` takes them; kept in memory. They are the batches of the
            training: give them the size that a training step should have. Positions that their
            ``attention_mask`` leaves out are not compared in outputs and layers (samples,
            positions, numbers), as ``correct_columns`` has it.
        chip: the chip to convert a digital model for. For other choices, such as layers that stay
            digital, call ``convert`` yourself.
        teacher: a digital model to learn from instead, with the same outputs.
        recipe: the ingredients; by default ``Recipe()``.
        steps: number of training steps, >= 1.
        minutes: time for the whole call, > 0. It bounds the steps alone: they are as many as fit,
            by the time of a few, at least one and at most ``steps``; after each look at the
            chips fewer, if those so far took longer. Calibration and measurements before and after
            them are made in any case; ``recipe.looks`` are fewer where they would take over half
            of what is left. How many steps fit is up to the machine, and so is the model.
        times: times after programming at which chips are measured, as ``ProgrammedChip.at`` takes
            them. The state with the least mean error over them is kept.
        num_chips: number of chips that are measured, >= 1.
        calibration: options of ``calibrate``, which gets 32 of the batches at most. None: its
            defaults for a model that is not calibrated; a calibrated one keeps its ranges, which
            learn if ``recipe.learn_ranges``. The calibration after the training finds ranges alone.
        metric: a function of the model on a chip that returns a number, such as the accuracy. It is
            reported, and decides nothing. It is first called before the training.
        seed: seed of the noise, the order of the batches and the chips, a signed 64-bit integer.
        folder: a folder that keeps the state after each look at the chips, and ``log.csv``. The
            same call continues from it after an interruption, and returns at once after the end.
            It needs the same batches in the same order: a list, or a loader that does not shuffle
            or whose generator is seeded before each call, as each pass moves it on.
            Functions in ``calibration`` are known by their names, ``forward``, models and the
            metric as those of ``sweep`` are.
        forward: as ``calibrate`` takes it. It must return the outputs, of shapes that do not depend
            on values. Of a detector these are such as the scores of all boxes: detections do not
            count, as their order and number depend on the chip.
        writer: an object with ``add_scalar(tag, value, step)``, such as the ``SummaryWriter`` of
            TensorBoard; it gets each step.
        progress: if True, show progress bars, and the error on chips after each stage.

    Returns:
        The adapted model, with what each step gained.

    Raises:
        TypeError: an argument is of another type; or, with a folder, a batch holds what has no
            digest, such as an object of a class of your own.
        ValueError: there is no batch, or one without a sample; the call is inside
            ``torch.inference_mode()``, or a batch was made inside it; a weight is on the meta
            device; the model is digital and ``chip`` is None, or converted and ``chip`` is given,
            or a programmed chip; nothing learns; ``calibration`` holds what ``calibrate`` does not
            take; a layer never runs, such as one whose weight alone is used; model and teacher have
            no layer of one name, or their outputs differ in shape, are not finite or nothing but
            detections; the folder holds another run; or ``convert`` or ``calibrate`` refuse the
            model. The given model is unchanged.
        OSError: the folder cannot be written.

    Warns:
        UserWarning: the loss or a gradient became NaN or infinite; the best state so far is
            returned, and the warning names the first Parameters of such gradients. Or layers have
            no namesake in the teacher, or one of other channels, so that their outputs are not
            compared; or the metric is NaN or infinite; or ``minutes`` are used up before the
            training.

    Example:
        >>> adapted = at.hwa.adapt(model, batches, chip=at.chips.hermes64(), minutes=10)
        >>> print(adapted)
        >>> physical = at.program(adapted.model, seed=7)
    """
    recipe = _checked(model, chip, teacher, recipe, steps, minutes, metric, writer)
    batches = _learnable(batches)
    names = checked_times("adapt", times)
    seeds = chip_seeds(_key(seed, "chips"), checks.count("adapt: num_chips", num_chips))
    fitted, held = held_back(batches, HELD)
    options = _options(model, calibration)
    student = deep_copy(model)
    if chip is not None:
        student = convert(student, chip)
    exact = model if teacher is None else teacher
    with same_buffers(exact):  # those that a forward writes
        refuse_unloaded(student, "adapt")
        twin = Twin(student, exact, recipe, forward)
        twin.numbers = {id(batch): number for number, batch in enumerate(batches)}
        seen = route_calls(twin, fitted[0])
        if options is not None and not (folder is not None and goes_on(folder)):
            refuse_silent(twin, seen, fitted, options, EXCLUDE if chip is None else _CONVERT)
        run = None
        if folder is not None:
            head: dict[str, Any] = {
                "seed": seed_number(seed),
                "num_chips": num_chips,
                "steps": steps,
            }
            head |= {"times": list(names.values()), "minutes": minutes, "recipe": _fields(recipe)}
            head |= {"calibration": _recorded(options), **forward_of(forward)}
            head |= {**kept_of(metric), "metric": name_of(metric)}
            head |= {"padding": rule} if (rule := padding_rule(student, batches)) else {}
            run = RunFolder(folder, head | _digests(student, exact, batches))
        student.eval()
        recovery = recovering(twin, fitted) if twin.corrected else None
        adaptation = Adaptation(
            twin=twin,
            fitted=fitted,
            chips=OnChips(twin, held, seeds, list(names.values()), metric, recovery),
            options=options,
            seed=_key(seed, "training"),
            folder=run,
            writer=writer,
            progress=progress,
            budget=Budget(minutes),
        )
        with numbered(twin.numbers):
            training = adaptation.run(steps)
    for _, layer in analog_layers(student):
        expect(layer)  # whoever trains it on needs noise, too
    return Adapted(
        model=switched(student),
        times=tuple(names.values()),
        seeds=seeds,
        note="; ".join(dict.fromkeys(note for t in names for note in beyond_data(student, t))),
        compared=twin.compared,
        ways=twin.comparison.ways,
        stages=tuple(adaptation.stages),
        steps=tuple(training.history),
        seconds=adaptation.budget.spent,
        stopped=training.stopped,
        held_back=held is not fitted,
        with_teacher=exact is not model,
        generalisation=adaptation.generalisation,
        corrected=recovery is not None,
        recovered=adaptation.recovered,
        recovered_before=adaptation.recovered_before,
    )


def _checked(
    model: Any,
    chip: Any,
    teacher: Any,
    recipe: Any,
    steps: Any,
    minutes: Any,
    metric: Any,
    writer: Any,
) -> Recipe:
    """Return the recipe."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "adapt: nothing learns inside torch.inference_mode(); call adapt outside of it, or "
            "inside torch.inference_mode(False)"
        )
    check_module("adapt", model)
    refuse_programmed(model, "adapt")
    refuse_distributed(model, "adapt")
    converted = any(True for _ in analog_layers(model))
    if not converted and chip is None:
        raise ValueError(
            "adapt: the model has no analog layer; pass chip=, such as at.chips.hermes64(), or "
            "call analogtorch.convert(model, chip) first"
        )
    if converted and chip is not None:
        raise ValueError(
            "adapt: the model is converted already, so that chip= would have no effect; leave it "
            "out, or pass the digital model"
        )
    if teacher is not None:
        check_module("adapt", teacher)
        refuse_programmed(teacher, "adapt")
        refuse_meta(teacher, "adapt", " of the teacher")
    recipe = Recipe() if recipe is None else recipe
    checks.instance("adapt: recipe", recipe, Recipe, "at.hwa.Recipe(clip_sigma=2.5)")
    checks.count("adapt: steps", steps)
    if minutes is not None:
        checks.number("adapt: minutes", minutes, above=0)
    if metric is not None:
        check_metric("adapt", metric)
    if writer is not None and not callable(getattr(writer, "add_scalar", None)):
        raise TypeError(
            "adapt: writer must have add_scalar(tag, value, step), such as a SummaryWriter of "
            f"torch.utils.tensorboard, got {checks.shown(writer)}"
        )
    return recipe


def _learnable(batches: Any) -> list[Any]:
    """Return the batches, each of which has samples to learn from."""
    check_batches("adapt", batches)
    given = some_batches("adapt", batches)
    for number, batch in enumerate(given):
        held = list(every_tensor(batch))
        if held and not any(t.numel() for t in held):
            raise ValueError(
                f"adapt: batch {number}, counted from 0, has no sample, got "
                f"{counted(len(held), 'tensor')} of shape "
                f"{', '.join(str(tuple(t.shape)) for t in held)}; leave it out"
            )
        if any(t.is_inference() for t in held):
            raise ValueError(
                f"adapt: batch {number}, counted from 0, was made inside torch.inference_mode(), "
                "and nothing learns from its tensors; make batches inside torch.no_grad(), or give "
                "clones: tensor.clone(), outside of torch.inference_mode()"
            )
    return given


def _options(model: nn.Module, calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the options of ``calibrate``; None keeps the ranges that the model has."""
    if calibration is not None:
        checks.instance("adapt: calibration", calibration, Mapping, '{"effort": "ranges"}')
        check_options("adapt: calibration", calibration)
        return dict(calibration)
    layers = [layer for _, layer in analog_layers(model)]
    if any(layer.ranged for layer in layers):
        return None
    return None if layers and not any(layer.takes_range for layer in layers) else {}


def _fields(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as a file keeps it."""
    noise = recipe.training
    training = noise and {f.name: getattr(noise, f.name) for f in written(noise)}
    found = asdict(recipe) | {"training": training}
    if not recipe.attention:  # as in folders of earlier versions
        del found["attention"]
    return found


def _recorded(options: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the options of ``calibrate`` as a file keeps them: functions by name."""
    if options is None:
        return None
    return {name: name_of(v) if callable(v) else v for name, v in options.items()}


def _digests(student: nn.Module, teacher: nn.Module, batches: list[Any]) -> dict[str, Any]:
    return {
        "model": model_digest("adapt", student),
        "structure": structure_digest("adapt", student),
        "teacher": model_digest("adapt", teacher),
        "structure of the teacher": structure_digest("adapt", teacher),
        "options": options_digest(student),
        "options of the teacher": options_digest(teacher),
        "attributes": attribute_digests(student),
        "attributes of the teacher": attribute_digests(teacher),
        "batches": batches_digest(batches, "adapt: batches"),
    }


def _key(seed: int, what: str) -> int:
    """Return a seed of its own for the training or the chips, so that ``sweep`` has others."""
    return derived(seed, "adapt", what)
