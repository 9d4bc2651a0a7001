"""Hardware-aware (HWA) training in a loop of your own: clipping, noise that grows, distillation;
with any optimizer.

The noise itself is in the layers, as ``TrainingNoise`` of their chip says; what stands here is
beside the loop:

    teacher = copy.deepcopy(model).eval() at.convert(model,
    at.chips.hermes64(training=at.TrainingNoise(weight="device", time="1 day"))) at.calibrate(model,
    batches) optimizer = torch.optim.SGD(at.hwa.parameter_groups(model, weight_decay=1e-4), lr=0.1,
    momentum=0.9) at.hwa.clip_after_step(optimizer, model, sigma=2.5) for step, (x, y) in
    enumerate(batches):
        at.hwa.training_noise_(model, min(1.0, 0.2 * (step // 100)))  # a fifth more every 100 steps
        with torch.no_grad():
            target = teacher(x)
        loss = at.hwa.distillation_loss(model(x), target, temperature=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

With the Trainer of Hugging Face, ``analogtorch.hwa.huggingface.KeepRanges`` puts the input ranges
into its checkpoints.

No step remaps weights to conductances: the weight that full conductance stands for is found anew in
every forward, as the largest of each placed block, or of each of its columns on a chip with
``weight_scale="column"``.
"""

from analogtorch.hwa.clip import clip_after_step, clip_weights_
from analogtorch.hwa.distill import distillation_loss
from analogtorch.hwa.groups import parameter_groups
from analogtorch.hwa.ramp import training_noise_

__all__ = [
    "clip_after_step",
    "clip_weights_",
    "distillation_loss",
    "parameter_groups",
    "training_noise_",
]
