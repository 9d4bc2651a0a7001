"""The Hugging Face ``Trainer``: ranges in its checkpoints, chips in its log, and distillation.

This module imports transformers, so nothing else in AnalogTorch imports it: ``from
analogtorch.hwa.huggingface import KeepRanges``.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerCallback, TrainerState

from analogtorch.calibration.padding import has_decoder
from analogtorch.conversion import analog_layers
from analogtorch.evaluate.metric import Metric
from analogtorch.hwa.clip import Tails, tails
from analogtorch.hwa.finite import refuse_broken
from analogtorch.hwa.huggingface_ranges import KeepRanges, load_ranges
from analogtorch.hwa.on_chips import Validation
from analogtorch.hwa.ramp import training_noise_
from analogtorch.hwa.recipe import Recipe
from analogtorch.hwa.schedule import Schedule, relative_adam
from analogtorch.hwa.twin import Twin
from analogtorch.ops.scope import noise
from analogtorch.simulate.recovery import Recovery
from analogtorch.values import checks
from analogtorch.values.warned import warn

__all__ = ["DistillationTrainer", "KeepRanges", "ValidateOnChips", "load_ranges"]


_OF_DECODER = "decoder_input_ids", "decoder_inputs_embeds"


class ValidateOnChips(TrainerCallback):
    """Measure a metric of the model on programmed chips, every ``every`` optimizer steps.

    It is in the Trainer's ``log_history`` as ``chips/1 day`` and so on, and so in
    ``trainer_state.json``, and among the metrics of an evaluation after the same step:
    ``TrainingArguments(metric_for_best_model="chips/1 day", greater_is_better=True)`` keeps the
    model that is best on chips if ``eval_steps`` is a multiple of ``every``. Give it before an
    ``EarlyStoppingCallback``, which would not find the numbers yet. A callback cannot log by the
    Trainer: trackers, such as TensorBoard, do not get them.

    Args:
        metric: a function of the model on a chip that returns a number, such as the accuracy.
        every: number of optimizer steps between two measurements, >= 1.
        times: times after programming, as ``ProgrammedChip.at`` takes them.
        num_chips: number of chips, >= 1, the same each time.
        seed: seed of the chips, as ``sweep`` takes it.
        recovery: how the chips correct themselves at each time; None: they do not.
        name: what its numbers are called, before the time. Several callbacks need several.

    Raises:
        TypeError: the metric cannot be called, or the recovery is no ``Recovery``.
        ValueError: another option is not allowed; or, at a measurement, another callback has logged
            under the same name.

    Warns:
        UserWarning: the metric is NaN or infinite on a chip; its numbers are NaN.
    """

    def __init__(
        self,
        metric: Metric,
        *,
        every: int = 100,
        times: Sequence[str | float] = ("1 day",),
        num_chips: int = 3,
        seed: int = 0,
        recovery: Recovery | None = None,
        name: str = "chips",
    ) -> None:
        self.measure = Validation(metric, times, num_chips, seed, recovery, name)
        self.every = checks.count("ValidateOnChips: every", every)
        self._last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget what a run that was interrupted has measured."""
        self._last = {}

    def on_step_end(
        self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Measure, if it is time."""
        self._last, step = {}, state.global_step
        if step % self.every == 0:
            for row in state.log_history:
                if row.get("step") == step:
                    self.measure.refuse_alike(row)
            self._last = self.measure(model, step)
            state.log_history.append({"step": step, **self._last})

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Add what was measured after this step to the metrics of the evaluation."""
        given["metrics"] |= {f"eval_{name}": value for name, value in self._last.items()}

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget it: the Trainer may have loaded the best model."""
        self._last = {}


class DistillationTrainer(Trainer):
    """A Trainer whose model learns from its digital twin, with the recipe of ``adapt``.

    Its rows need no labels. It takes the optimizer of the recipe with a learning rate for each
    Parameter, lets noise and clipping grow, and keeps the DAC ranges in its checkpoints
    (``KeepRanges``); the optimizer and schedule of ``TrainingArguments`` have no effect, those that
    are given as ``optimizers`` have. ``eval_loss`` is that of the distillation, with all the noise
    of the recipe.

    Args:
        model: a converted model, calibrated if its DAC ranges are to learn.
        teacher: the digital model, which stays as it is.
        recipe: the ingredients; by default ``Recipe()``. Looks and patience have no effect here.
        options: the arguments of ``Trainer``.

    Warns:
        UserWarning: activation (or gradient) checkpointing is asked for, which has no effect here.

    Raises:
        ValueError: one process has several GPUs, among which ``DataParallel`` would copy the model;
            or model and teacher have no layer of one name.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        recipe: Recipe | None = None,
        **options: Any,
    ) -> None:
        twin = Twin(model, teacher, recipe)
        super().__init__(model=model, **options)
        if self.args.n_gpu > 1:
            raise ValueError(
                f"DistillationTrainer: this process has {self.args.n_gpu} GPUs; start one process "
                "for each by torchrun, or let CUDA_VISIBLE_DEVICES show one"
            )
        names = ("activation_checkpointing", "gradient_checkpointing")  # new and old transformers
        if any(getattr(self.args, name, False) for name in names):
            warn(
                "DistillationTrainer: activation_checkpointing=True of TrainingArguments has no "
                "effect: transformers checkpoints layers in training mode alone, and the student "
                "runs in evaluation mode; leave it out"
            )
        # the loss is a mean over the batch, so that accumulated ones are to be averaged
        self.model_accepts_loss_kwargs = False
        twin.teacher.to(self.args.device)
        self.twin, self._start = twin, tails(model, twin.recipe.clip_sigma)
        self._step: ExitStack | None = None
        """What is closed after the backward of a step; None: there is no step now."""
        if not any(isinstance(c, KeepRanges) for c in self.callback_handler.callbacks):
            self.add_callback(KeepRanges())
        # the first: callbacks that are given, such as ValidateOnChips, see the clipped weights
        self.callback_handler.callbacks.insert(0, _Scheduled(twin.recipe, self._start))

    def train(self, *args: Any, **options: Any) -> Any:
        """Train, and leave the model with all the noise of its chip, also where it is interrupted.

        The noise cannot wait for ``on_train_end``: the Trainer calls no callback on an exception.
        """
        try:
            return super().train(*args, **options)
        finally:
            training_noise_(self.twin.student, 1.0)

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """Step with the student as the loss ran it, for what the backward runs again.

        Raises:
            ValueError: a gradient is NaN or infinite, which would leave no weight finite, and no
                scaler of half precision skips it.
        """
        with ExitStack() as self._step:
            self._step.callback(setattr, self, "_step", None)
            loss = super().training_step(*args, **options)
        if self.accelerator.sync_gradients and self.accelerator.scaler is None:
            refuse_broken("DistillationTrainer", self.twin.student, self.state.global_step)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return how far the model and its layers are from the teacher's.

        From then on until the step's backward ends the student runs as in this loss: in evaluation
        mode, with training noise. So does what a subclass computes of it after this.
        """
        if self._step is not None:  # the Trainer has set the modes of the model by now
            self._step.enter_context(self.twin.running())
        # whose reducer has to see the forward; torch.compile's wrapper would not see the hooks
        ranked = isinstance(model, DistributedDataParallel)
        loss = self.twin.total(inputs, run=model if ranked else None)
        return (loss, {}) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Evaluate with all the noise of the recipe, the same each time."""
        student, recipe = self.twin.student, self.twin.recipe
        fraction = next(layer for _, layer in analog_layers(student)).noise_fraction
        training_noise_(student, recipe.noise)
        try:
            # the noise of the training goes on as without
            with noise(self.args.seed, rank=self.args.process_index):
                return super().evaluation_loop(*args, **options)
        finally:
            training_noise_(student, fraction)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Return the loss of the distillation, which needs no labels; then outputs and labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).detach()
        if prediction_loss_only:
            return loss, None, None
        names, rows = self.label_names, inputs
        labels = tuple(inputs[name] for name in names if name in inputs)
        if has_decoder(model) and not any(name in inputs for name in _OF_DECODER):
            # it makes its inputs of the labels
            if ignore_keys is None:
                config = getattr(self.model, "config", None)
                ignore_keys = getattr(config, "keys_to_ignore_at_inference", ["cache"])
            ignore_keys = [*ignore_keys, "loss"]
            self.label_names = []  # else the Trainer asks for the loss, which has no outputs
        else:
            rows = {name: value for name, value in inputs.items() if name not in names}
        try:
            _, outputs, _ = super().prediction_step(model, rows, False, ignore_keys)
        finally:
            self.label_names = names
        return loss, outputs, labels[0] if len(labels) == 1 else labels or None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make Adam with a learning rate for each Parameter, unless there is an optimizer."""
        if self.optimizer is None:
            self.optimizer = relative_adam(self.twin.student, self.twin.recipe)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Let the learning rates fall to 0, unless there is a schedule."""
        if self.lr_scheduler is None:
            schedule = Schedule(self.twin.recipe, num_training_steps, self._start)
            optimizer = self.create_optimizer() if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
            self._created_lr_scheduler = True  # so that the next run makes its own
        return self.lr_scheduler


class _Scheduled(TrainerCallback):
    """Lets the noise and the clipping of a ``DistillationTrainer`` grow."""

    def __init__(self, recipe: Recipe, start: Tails) -> None:
        self.recipe, self.start = recipe, start

    def on_step_begin(
        self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any
    ) -> None:
        Schedule(self.recipe, state.max_steps, self.start).before(model, state.global_step)

    def on_step_end(
        self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any
    ) -> None:
        # the step has been counted already
        Schedule(self.recipe, state.max_steps, self.start).after(model, state.global_step - 1)
