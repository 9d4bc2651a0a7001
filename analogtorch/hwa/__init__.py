"""Hardware-aware (HWA) training: in one call, or in your own loop.

``adapt`` trains a copy of a model for the chip without labels. Clipping, growing noise and
distillation for a loop of your own work with any optimizer. The noise itself is in the layers, as
the ``TrainingNoise`` of their chip describes it:

    teacher = copy.deepcopy(model).eval()
    at.convert(model, at.chips.hermes64())  # which trains on devices a month old
    at.calibrate(model, batches)
    groups = at.hwa.parameter_groups(model, weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    at.hwa.clip_after_step(optimizer, model, sigma=2.5)
    for step, (x, y) in enumerate(batches):
        at.hwa.training_noise_(model, min(1.0, 0.2 * (step // 100)))  # a fifth more per 100 steps
        with torch.no_grad():
            target = teacher(x)
        loss = at.hwa.distillation_loss(model(x), target, temperature=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

With the Trainer of Hugging Face, ``analogtorch.hwa.huggingface.KeepRanges`` puts the DAC ranges
into its checkpoints.

No step maps weights to conductances anew: every forward finds the weight scale again, which is the
largest weight of each block, or of each of its columns on a chip whose ``periphery.weight_scale``
is "column".
"""

from analogtorch.hwa.adapt import adapt
from analogtorch.hwa.adapted import Adapted
from analogtorch.hwa.clip import clip_after_step, clip_weights_
from analogtorch.hwa.distill import distillation_loss
from analogtorch.hwa.groups import parameter_groups
from analogtorch.hwa.ramp import training_noise_
from analogtorch.hwa.recipe import Recipe
from analogtorch.hwa.twin import Twin

__all__ = [
    "Adapted",
    "Recipe",
    "Twin",
    "adapt",
    "clip_after_step",
    "clip_weights_",
    "distillation_loss",
    "parameter_groups",
    "training_noise_",
]
