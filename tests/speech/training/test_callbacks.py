"""Clipping and growing noise under Lightning."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import analogtorch as at
from analogtorch.hwa.lightning import NoiseRamp, WeightClip
from analogtorch.speech.training import Classifier, Phase, fit
from tests.speech.training.conftest import PHASE, Kill


class Watch(L.Callback):
    """Records the noise of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        self.seen.append(next(layer for _, layer in at.analog_layers(pl_module)).noise_fraction)


@pytest.mark.parametrize(
    "ramp", [NoiseRamp(8, start=0.2, changes=4), NoiseRamp(epochs=2, start=0.2, changes=4)]
)
def test_the_noise_grows_in_stairs_and_is_whole_after_the_fit(
    ramp: NoiseRamp, toy, tmp_path: Path
) -> None:
    watch = Watch()
    network = toy.train(tmp_path / "a.ckpt", callbacks=(ramp, watch))
    stairs = [0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8] + [1.0] * 8
    assert watch.seen == pytest.approx(stairs)
    assert {layer.noise_fraction for _, layer in at.analog_layers(network)} == {1.0}


@pytest.mark.parametrize("length", [{"steps": 12}, {"epochs": 3}])
def test_a_resumed_ramp_meets_the_same_noise(toy, same, length: dict, tmp_path: Path) -> None:
    def ramp() -> NoiseRamp:
        return NoiseRamp(**length)

    watch = Watch()
    whole = toy.train(tmp_path / "whole.ckpt", callbacks=(ramp(), watch))
    again = Watch()
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path / "killed.ckpt", callbacks=(ramp(), Kill(7)))
    resumed = toy.train(tmp_path / "killed.ckpt", resume=True, callbacks=(ramp(), again))
    assert again.seen == watch.seen[4:]
    assert same(whole, resumed)
    plain = toy.train(tmp_path / "plain.ckpt")
    assert not same(whole, plain)


class Several(L.LightningModule):
    """Steps two optimizers in each batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.automatic_optimization = network.train(), False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.network(batch[0]).square().mean())
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        layers = (self.network[0], self.network[4])
        return [torch.optim.SGD(layer.parameters(), lr=1e-3) for layer in layers]


@pytest.mark.filterwarnings("ignore")  # Lightning's about workers and validation
def test_a_ramp_of_epochs_counts_no_step_twice(toy, tmp_path: Path) -> None:
    def fitted(path: str | None, epochs: int, *callbacks: L.Callback) -> L.Trainer:
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
            callbacks=[NoiseRamp(epochs=2, start=0.2, changes=4), *callbacks],
        )  # fmt: skip
        data = DataLoader(TensorDataset(toy.x, toy.y), batch_size=16)
        trainer.fit(Several(toy.analog()), data, ckpt_path=path, weights_only=True)
        return trainer

    stairs = [0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8] + [1.0] * 4
    watch, again = Watch(), Watch()
    fitted(None, 3, watch)
    assert watch.seen == pytest.approx(stairs)
    fitted(None, 1).save_checkpoint(tmp_path / "one.ckpt")
    fitted(str(tmp_path / "one.ckpt"), 3, again)
    assert again.seen == pytest.approx(stairs[4:])


def test_an_interrupted_fit_leaves_the_chip_s_noise(toy, tmp_path: Path) -> None:
    network = toy.analog()
    with pytest.raises(KeyboardInterrupt):
        fit(
            network, toy.batches(), PHASE, seed=0, teacher=toy.digital(), checkpoint=tmp_path / "a",
            callbacks=(NoiseRamp(100), Kill(3)),
        )  # fmt: skip
    assert {layer.noise_fraction for _, layer in at.analog_layers(network)} == {1.0}


def test_weights_are_clipped_as_asked(toy, tmp_path: Path) -> None:
    phase = Phase(epochs=1, batch_size=16)
    for clip in (WeightClip(bound=0.05), WeightClip(1.0, per_channel=True)):
        network = fit(
            toy.analog(), toy.batches(), phase, seed=0, checkpoint=tmp_path / "a", callbacks=(clip,)
        )
        for _, layer in at.analog_layers(network):
            if clip.bound is not None:
                assert layer.weight.abs().max() <= 0.05
            weight = layer.weight.detach()
            # clipped at one sigma, many channels have several largest weights
            assert clip.bound is not None or (
                weight.abs().amax(1, keepdim=True) == weight.abs()
            ).sum() > 1.25 * len(weight)


def test_frozen_weights_are_not_clipped(toy, tmp_path: Path) -> None:
    network = toy.analog()
    network[4].weight.requires_grad_(False)
    before = [network[i].weight.detach().clone() for i in (0, 4)]
    phase = Phase(epochs=1, batch_size=16)
    clip = WeightClip(bound=0.05)
    fit(network, toy.batches(), phase, seed=0, checkpoint=tmp_path / "a", callbacks=(clip,))
    assert network[0].weight.abs().max() <= 0.05 < before[0].abs().max()
    assert torch.equal(network[4].weight, before[1])


@pytest.mark.filterwarnings("ignore")  # Lightning's about workers and validation
def test_weights_are_clipped_once_for_each_step_of_the_optimizer(
    toy, tmp_path: Path, monkeypatch
) -> None:
    steps = []
    monkeypatch.setattr(
        "analogtorch.hwa.clip.StepClip.clip",
        lambda *_, **__: steps.append(trainer.global_step),
    )
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=3, callbacks=[WeightClip(2.0)],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    # four batches: a step after three, one after the last
    data = DataLoader(TensorDataset(toy.x, toy.y), batch_size=16)
    trainer.fit(Classifier(toy.analog(), Phase(epochs=2, batch_size=16), steps=4), data)
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of steps and epochs, got steps=None and epochs=None"),
        ({"steps": 3, "epochs": 1}, "give one of steps and epochs"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"epochs": -1.0}, "epochs must be a positive number"),
        ({"epochs": "a"}, "epochs must be a positive number, got 'a'"),
        ({"steps": 3, "start": 1.5}, r"start must be a number in \[0, 1\]"),
        ({"steps": 3, "start": "a"}, r"start must be a number in \[0, 1\], got 'a'; 0 is no noise"),
        ({"steps": 3, "changes": 0}, "changes must be an integer >= 1"),
    ],
)
def test_bad_ramps_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseRamp(**options)


def test_bad_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="WeightClip: sigma=1.0 and bound=0.1 exclude each other"):
        WeightClip(1.0, bound=0.1)


def test_a_ramp_without_analog_layers_or_a_known_length_says_so(toy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no analog layer"):
        fit(
            nn.Linear(8, 2), toy.batches(), Phase(epochs=1, batch_size=16), seed=0,
            checkpoint=tmp_path / "a", callbacks=(NoiseRamp(5),),
        )  # fmt: skip

    class Endless:
        global_step, num_training_batches = 0, float("inf")

    with pytest.raises(ValueError, match="does not know its length; give steps"):
        NoiseRamp(epochs=1).on_train_batch_start(Endless(), None, None, 0)  # type: ignore[arg-type]
    assert torch.is_grad_enabled()
