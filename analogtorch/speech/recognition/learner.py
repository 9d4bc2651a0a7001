"""How Lightning trains a recogniser."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.calibration.padding import IGNORED
from analogtorch.hwa import distillation_loss
from analogtorch.speech.recognition.networks import Recordings, Transcripts, Transducer
from analogtorch.speech.training.module import Learner
from analogtorch.speech.training.phase import Phase

_LONGEST = 1.0
"""Norm to which gradients are cut: those of rare, badly heard utterances are huge."""


class Recogniser(Learner):
    """Trains a recogniser on what is said, or a CTC net on the label of each of its codes.

    Raises:
        ValueError: the phase mixes recordings or smooths labels, which has no meaning here. In
            training: labels are for another stride, or the network is a transducer.
    """

    def __init__(self, network: nn.Module, phase: Phase, **options: Any) -> None:
        super().__init__(network, phase, **options)
        self.network: Any  # its loss, and which of its logits count, are its own
        for name in ("mixup", "label_smoothing"):
            if value := getattr(phase, name):
                raise ValueError(f"{name}={value} is not for recognisers; write {name}=0")

    def training_step(
        self, batch: tuple[Recordings, Transcripts | Tensor], batch_idx: int
    ) -> Tensor:
        heard, said = batch
        if isinstance(said, Tensor) and isinstance(self.network, Transducer):
            raise ValueError(
                "Recogniser: labels of codes (Examples.aligned) are for CTC, and a Transducer "
                "takes the tokens before as well; train it on batches of Examples.make"
            )
        logits = self.network(heard, said)
        if isinstance(said, Tensor):
            if logits.shape[:2] != said.shape:
                raise ValueError(
                    f"Recogniser: {said.shape[1]} labels for the {logits.shape[1]} codes of a "
                    "recording; write Examples.aligned(network.encoder.stride)"
                )
            loss = F.cross_entropy(logits.flatten(0, 1), said.flatten(), ignore_index=IGNORED)
        else:
            loss = self.network.loss(logits, heard, said)
        if self._teacher:
            with torch.no_grad():
                target = self._teacher[0](heard, said)
            counted = self.network.counted(heard, said)
            divergence = distillation_loss(
                logits[counted], target[counted], temperature=self.phase.temperature
            )
            loss = (1 - self.phase.distill) * loss + self.phase.distill * divergence
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(heard.lengths))
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=_LONGEST, gradient_clip_algorithm="norm")
