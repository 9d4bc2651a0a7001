"""Lightning with a user's module, Trainer and ModelCheckpoint: resumed runs end like whole ones."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import analogtorch as at
from analogtorch.hwa.lightning import Clip, StepSeed, WeightClip
from tests.ecosystem.models import CHIP

# warnings that Lightning itself raises
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]

X = torch.randn(32, 4, 9, generator=torch.Generator().manual_seed(0))
Y = X.mean((1, 2)).gt(0).long()


@pytest.mark.parametrize(
    ("seed", "error"), [("a", TypeError), (0.5, TypeError), (2**70, ValueError)]
)
def test_seeds_of_steps_are_integers(seed: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed must"):
        StepSeed(seed)


@pytest.mark.parametrize("sigma", [-1.0, 0, "2"])
def test_limits_of_weights_are_above_zero(sigma: object) -> None:
    with pytest.raises(ValueError, match="Clip: sigma must"):
        Clip(at.convert(nn.Linear(4, 4), CHIP), sigma)


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.rnn, self.drop = (
            nn.Conv1d(4, 6, 3),
            nn.GRU(6, 5, batch_first=True),
            nn.Dropout(0.2),
        )
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.rnn(self.conv(x).relu().mT)[0][:, -1]))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def _fit(folder: Path, epochs: int, resume: Path | None = None) -> Module:
    model = at.calibrate(at.convert(Module(), CHIP), [X])
    saving = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StepSeed(3), saving],
    )
    trainer.fit(model, DataLoader(TensorDataset(X, Y), batch_size=8), ckpt_path=resume)
    assert isinstance(model, Module)
    return model


def _same(a: nn.Module, b: nn.Module) -> bool:
    """Weights and DAC ranges, bit for bit."""
    return all(map(torch.equal, a.parameters(), b.parameters()))


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = _fit(tmp_path / "whole", 2)
    first = _fit(tmp_path / "first", 1)
    resumed = _fit(tmp_path / "first", 2, resume=tmp_path / "first" / "epoch=0.ckpt")
    assert _same(whole, resumed)
    assert not _same(whole, first)

    saved = torch.load(tmp_path / "whole" / "epoch=1.ckpt", weights_only=True)["state_dict"]
    fresh = at.convert(Module(), CHIP)
    fresh.load_state_dict(saved)  # with the ranges
    assert _same(fresh, whole)
    Module().load_state_dict(saved, strict=True)


def test_the_batches_of_an_accumulated_step_have_noise_of_their_own() -> None:
    drawn: list[float] = []

    class Drawing(Module):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            drawn.append(torch.rand(1).item())
            return super().training_step(batch, index)

    def draws(parts: int) -> list[float]:
        drawn.clear()
        trainer = L.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
            accumulate_grad_batches=parts, callbacks=[StepSeed(3)],
        )  # fmt: skip
        trainer.fit(Drawing(), DataLoader(TensorDataset(X, Y), batch_size=4))
        return list(drawn)

    alone, in_pairs = draws(1), draws(2)
    assert len(set(in_pairs)) == len(in_pairs) == len(alone)
    assert in_pairs[::2] == alone[: len(in_pairs[::2])]  # the first batch of each step


def test_a_resumed_run_is_clipped_by_the_weights_of_the_start(tmp_path: Path) -> None:
    """Weights that a fit has clipped would have smaller limits; each other fit has its own."""
    data = DataLoader(TensorDataset(X, Y), batch_size=8)
    clip = WeightClip(2.0, per_channel=True)

    def fit(model: Module, epochs: int, callback: WeightClip, resume: Path | None = None) -> Path:
        trainer = L.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
            callbacks=[StepSeed(3), callback],
        )  # fmt: skip
        trainer.fit(model, data, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        return tmp_path / "a.ckpt"

    def made() -> Module:
        model = at.convert(Module(), CHIP)
        with torch.no_grad():
            model.rnn.weight_hh_l0.pow_(3).mul_(50)
        return at.calibrate(model, [X])

    whole, resumed, again = made(), made(), made()
    fit(whole, 2, clip)
    fit(again, 2, clip)
    assert _same(whole, again)
    saved = fit(made(), 1, WeightClip(2.0, per_channel=True))
    fit(resumed, 2, WeightClip(2.0, per_channel=True), saved)
    assert _same(whole, resumed)
