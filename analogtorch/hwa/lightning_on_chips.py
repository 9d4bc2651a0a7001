"""A callback of Lightning that measures the model on programmed chips as it trains."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from analogtorch.conversion import analog_layers
from analogtorch.evaluate.metric import Metric
from analogtorch.hwa.lightning_averaging import LAST, Ordered, averaged
from analogtorch.hwa.on_chips import Validation
from analogtorch.simulate.recovery import Recovery
from analogtorch.values import checks
from analogtorch.values.warned import warn


class ValidateOnChips(Ordered):
    """Log a metric of a converted network on programmed chips, every ``every`` optimizer steps.

    It is logged as ``chips/1 day`` and so on, which ``ModelCheckpoint(monitor=...)`` and
    ``EarlyStopping`` can watch. By default they look at the end of an epoch: let ``every`` divide
    its steps, or they take the last number, of earlier weights, with a warning, or find none yet.
    Every logger gets it at once, at its own step, whatever ``log_every_n_steps`` of the Trainer is.
    It is measured after the ``WeightClip`` or ``Clip`` of the step, in whatever order they are
    given; give callbacks of yours that clip before this one. With ``WeightAveraging`` of Lightning
    the averaged weights are measured, as in Lightning's own validation: those that the checkpoint
    of the step has in its ``state_dict``. Of several processes, each measures and logs the numbers
    of the first, which writes the checkpoints.

    Args:
        metric: a function of the network on a chip that returns a number, such as the accuracy.
        every: number of optimizer steps between two measurements, >= 1. Lightning counts those of
            every optimizer; of the steps of a batch, the measurement follows the last.
        network: name of the converted network in the Lightning module; empty: the module itself.
        times: times after programming, as ``ProgrammedChip.at`` takes them.
        num_chips: number of chips, >= 1, the same each time.
        seed: seed of the chips, as ``sweep`` takes it.
        recovery: how the chips correct themselves at each time; None: they do not.
        name: what its numbers are called, before the time. Several callbacks need several.

    Raises:
        TypeError: the metric cannot be called, or the recovery is no ``Recovery``.
        ValueError: another option is not allowed; or, when the fit starts, the module has no such
            network, or another callback has the same name.

    Warns:
        UserWarning: the metric is NaN or infinite on a chip; its numbers are NaN.
    """

    place = LAST

    def __init__(
        self,
        metric: Metric,
        *,
        every: int = 100,
        network: str = "student",
        times: Sequence[str | float] = ("1 day",),
        num_chips: int = 3,
        seed: int = 0,
        recovery: Recovery | None = None,
        name: str = "chips",
    ) -> None:
        self.measure = Validation(metric, times, num_chips, seed, recovery, name)
        self.every = checks.count("ValidateOnChips: every", every)
        checks.instance("ValidateOnChips: network", network, str, "network='student'")
        self.network = network
        self._step = self._measured = 0
        self._names = frozenset[str]()
        self._warned = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        converted = [n for n, m in pl_module.named_modules() if any(True for _ in analog_layers(m))]
        if self.network not in converted:
            near = [name for name in converted if "." not in name]
            raise ValueError(
                f"ValidateOnChips: network must name a converted network of the "
                f"{type(pl_module).__name__}, such as {near}, got {self.network!r}"
            )
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, ValidateOnChips) and each is not self:
                self.measure.refuse_alike(each.measure.names)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        # several optimizers count several steps in a batch
        if trainer.global_step // self.every > self._step // self.every:
            with averaged(trainer, pl_module):
                network = pl_module.get_submodule(self.network)
                values = self.measure(network, trainer.global_step)
            # batch norm has other statistics in each process; checkpoints have those of the first
            values = trainer.strategy.broadcast(values)
            found = {
                n: torch.tensor(v, dtype=torch.float64, device="cpu") for n, v in values.items()
            }
            # loggers would get it at another step, or never
            pl_module.log_dict(values, logger=False)
            trainer._logger_connector.log_metrics(found)
            self._measured, self._names = trainer.global_step, frozenset(values)

    def on_train_epoch_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        """Warn of a callback that takes the number of earlier weights for that of these."""
        epoch, step = trainer.current_epoch + 1, trainer.global_step
        if step == self._measured or self._warned or trainer.check_val_every_n_epoch != 1:
            return
        for each in trainer.callbacks:
            monitor = getattr(each, "monitor", None)
            looks = getattr(each, "every_n_epochs", 1)  # 0: a checkpoint at steps of its own
            if isinstance(monitor, str) and monitor in self._names and looks and epoch % looks == 0:
                warn(
                    f"ValidateOnChips: {type(each).__name__} watches {monitor!r} at step {step}, "
                    f"where it is that of step {self._measured}: let every={self.every} divide the "
                    "steps of an epoch, or save by ModelCheckpoint(every_n_train_steps="
                    f"{self.every})"
                )
                self._warned = True
                return
