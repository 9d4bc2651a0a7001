"""A phase that is interrupted and resumed ends with the weights of one that was not."""

import csv
import logging
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import get_worker_info

import analogtorch as at
from analogtorch.speech.training import Batches, Phase, fit, read_curve
from tests.speech.training.conftest import PHASE, Kill


@pytest.mark.parametrize("step", [1, 4, 6, 8, 15], ids=lambda s: f"killed after step {s} of 16")
def test_resumed_equals_uninterrupted(step, toy, same, tmp_path: Path) -> None:
    whole = toy.train(tmp_path / "whole.ckpt")
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path / "killed.ckpt", callbacks=(Kill(step),))
    assert (tmp_path / "killed.ckpt").exists() == (step > 4)  # the first epoch ends with step 4
    resumed = toy.train(tmp_path / "killed.ckpt", resume=True)
    assert same(whole, resumed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.ckpt", "whole.ckpt"]


def test_killed_twice_and_resumed_with_workers_and_progress(
    toy, same, tmp_path: Path, capsys
) -> None:
    whole = toy.train(tmp_path / "whole.ckpt")
    for step in (6, 11):
        with pytest.raises(KeyboardInterrupt):
            toy.train(tmp_path / "killed.ckpt", resume=True, callbacks=(Kill(step),))
    resumed = toy.train(
        tmp_path / "killed.ckpt", resume=True, workers=1, progress=True, validation=(toy.x, toy.y)
    )
    assert same(whole, resumed)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "val_accuracy" in shown.err


def test_a_killed_worker_is_named_and_what_was_trained_stays(toy, same, tmp_path: Path) -> None:
    def make(indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        if epoch == 2 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return toy.make(indices, epoch)

    path = tmp_path / "a.ckpt"
    batches = Batches(make, 64, batch_size=16, seed=1, workers=1)
    given: dict[str, Any] = {"seed": 3, "teacher": toy.digital()}
    with pytest.raises(
        RuntimeError, match=r"makes batches has ended.*--resume`\), with --workers 0"
    ):
        fit(toy.analog(), batches, PHASE, checkpoint=path, **given)
    assert same(toy.train(tmp_path / "whole.ckpt"), toy.train(path, resume=True))


def test_resuming_a_finished_phase_trains_no_further(toy, same, tmp_path: Path) -> None:
    whole = toy.train(tmp_path / "a.ckpt")
    assert same(whole, toy.train(tmp_path / "a.ckpt", resume=True, callbacks=(Kill(17),)))


def test_seed_decides(toy, same, tmp_path: Path) -> None:
    a, b, c = (toy.train(tmp_path / "a.ckpt", seed=seed) for seed in (3, 3, 4))
    assert same(a, b)
    assert not same(a, c)


def test_it_learns_and_ends_in_evaluation_mode(toy, tmp_path: Path) -> None:
    phase = Phase(epochs=20, batch_size=16, learning_rate=1e-2, label_smoothing=0.0)
    network = fit(toy.digital(), toy.batches(), phase, seed=0, checkpoint=tmp_path / "a.ckpt")
    assert not any(m.training for m in network.modules())
    assert at.accuracy(network, [(toy.x, toy.y)]) > 0.8


def test_weights_are_clipped_and_ranges_learn(toy, tmp_path: Path) -> None:
    free, clipped = (
        toy.train(tmp_path / "a.ckpt", phase=Phase(epochs=4, batch_size=16, clip_sigma=sigma))
        for sigma in (None, 1.0)
    )
    layers = zip(
        *(at.analog_layers(network) for network in (toy.analog(), free, clipped)), strict=True
    )
    for (_, start), (_, without), (_, with_clip) in layers:
        assert with_clip.weight.abs().max() < 0.8 * without.weight.abs().max()
        assert not torch.equal(start.input_range, with_clip.input_range)


def test_the_teacher_stays_as_it_is(toy, same, tmp_path: Path) -> None:
    teacher = toy.digital()
    toy.train(tmp_path / "a.ckpt", teacher=teacher)
    assert same(teacher, toy.digital())


def test_checkpoint_holds_no_code_and_loads_into_the_digital_net(toy, tmp_path: Path) -> None:
    network = toy.train(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    weights = {k.removeprefix("network."): v for k, v in checkpoint["state_dict"].items()}
    digital = toy.digital()
    digital.load_state_dict(weights)
    assert torch.equal(digital[0].weight, network[0].weight)


def test_ctrl_c_still_works_afterwards(toy, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path / "a.ckpt", callbacks=(Kill(2),))
    assert signal.getsignal(signal.SIGINT) is handler


def test_filters_and_levels_are_restored(toy, tmp_path: Path) -> None:
    filters, level = list(warnings.filters), logging.getLogger("lightning.pytorch").level
    toy.train(tmp_path / "a.ckpt")
    assert (list(warnings.filters), logging.getLogger("lightning.pytorch").level) == (
        filters,
        level,
    )


def test_a_full_disk_names_the_checkpoint(toy, same, tmp_path: Path, monkeypatch) -> None:
    whole = toy.train(tmp_path / "whole.ckpt")

    class Fill(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, *args: object) -> None:
            if trainer.current_epoch == 2:
                monkeypatch.setattr("os.fsync", _no_space)

    with pytest.raises(OSError, match=r"could not write .*a\.ckpt.*No space left.*free some space"):
        toy.train(tmp_path / "a.ckpt", callbacks=(Fill(),))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.glob("*a.ckpt*")] == ["a.ckpt"]
    assert same(whole, toy.train(tmp_path / "a.ckpt", resume=True))


def _no_space(handle: int) -> None:
    raise OSError(28, "No space left on device")


def test_errors_before_training(toy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"distill=0.5 needs a teacher"):
        fit(toy.analog(), toy.batches(), PHASE, seed=0, checkpoint=tmp_path / "a.ckpt")
    plain = nn.Linear(8, 2)
    with pytest.raises(ValueError, match="no analog layer"):
        fit(
            plain,
            toy.batches(),
            Phase(epochs=1, batch_size=16, clip_sigma=2.0),
            seed=0,
            checkpoint=tmp_path / "a",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_network_is_refused(toy, tmp_path: Path) -> None:
    toy.train(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt.*does not fit.*another file"):
        fit(
            nn.Linear(8, 2),
            toy.batches(),
            Phase(epochs=1),
            seed=0,
            checkpoint=tmp_path / "a.ckpt",
            resume=True,
        )


def test_a_damaged_checkpoint_is_named(toy, tmp_path: Path) -> None:
    toy.train(tmp_path / "a.ckpt")
    data = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.ckpt is no checkpoint.*remove it"):
        toy.train(tmp_path / "a.ckpt", resume=True)


def test_the_curve_of_a_resumed_training_is_that_of_one_that_was_not_stopped(
    toy, same, tmp_path: Path
) -> None:
    plain = toy.train(tmp_path / "plain.ckpt")
    validation = (toy.x, toy.y)
    whole = toy.train(tmp_path / "a.ckpt", curve=tmp_path / "a.csv", validation=validation)
    assert same(plain, whole)  # looking on decides nothing
    for step in (6, 11):
        with pytest.raises(KeyboardInterrupt):
            toy.train(
                tmp_path / "b.ckpt",
                curve=tmp_path / "b.csv",
                validation=validation,
                resume=True,
                callbacks=(Kill(step),),
            )
    toy.train(tmp_path / "b.ckpt", curve=tmp_path / "b.csv", validation=validation, resume=True)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    rows = read_curve(tmp_path / "a.csv")
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    assert rows[-1][1] < rows[0][1]  # it learns
    assert rows[-1][2] == pytest.approx(at.accuracy(whole, [validation]))
    with pytest.raises(ValueError, match=r"a\.ckpt is no curve of a training|codec"):
        read_curve(tmp_path / "a.ckpt")
    whole_text = (tmp_path / "a.csv").read_text()
    for torn, message in ((whole_text[:-30], "is damaged"), ("", "its columns are")):
        (tmp_path / "b.csv").write_text(torn)
        with pytest.raises(ValueError, match=rf"b\.csv .*{message}"):
            read_curve(tmp_path / "b.csv")
        toy.train(tmp_path / "b.ckpt", curve=tmp_path / "b.csv", validation=validation, resume=True)
        assert (tmp_path / "b.csv").read_text() == whole_text  # from the checkpoint


def test_loggers_get_the_loss_of_batches(toy, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    toy.train(tmp_path / "a.ckpt", loggers=(logger,))
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4  # each 50 steps, or each epoch
    assert all(float(row["loss"]) > 0 for row in rows)


def test_a_warmup_of_one_step_trains(toy, tmp_path: Path) -> None:
    phase = Phase(epochs=1, batch_size=16, warmup=0.25)  # of four steps
    toy.train(tmp_path / "a.ckpt", phase=phase)
    rate = torch.load(tmp_path / "a.ckpt", weights_only=True)["lr_schedulers"][0]["_last_lr"]
    assert 0 < rate[0] < phase.learning_rate


def test_a_loss_that_is_no_number_ends_the_training(toy, same, tmp_path: Path) -> None:
    class Break(L.Callback):
        def on_train_batch_start(self, trainer, module, *args) -> None:
            if trainer.global_step == 6:  # of the second epoch
                with torch.no_grad():
                    next(module.network.parameters()).fill_(torch.nan)

    with pytest.raises(ValueError, match="the loss of the training is nan after 7 steps, in epoch"):
        toy.train(tmp_path / "a.ckpt", callbacks=(Break(),))
    resumed = toy.train(tmp_path / "a.ckpt", resume=True)
    assert same(toy.train(tmp_path / "whole.ckpt"), resumed)
