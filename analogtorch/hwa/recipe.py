"""The ingredients of ``adapt``, each of which can be changed or switched off."""

from dataclasses import dataclass
from typing import Literal, get_args

from analogtorch.chips import TrainingNoise
from analogtorch.values import checks

Outputs = Literal["error", "divergence"]

_DEVICES = TrainingNoise(weight="device")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model learns to live on a chip.

    The defaults were chosen on DNN_L, CNN_L and DS-CNN, nets of ``python -m benchmarks.adapt``.
    """

    learning_rate: float = 0.002
    """Step of Adam, > 0, in units of the root mean square of each Parameter, so that every layer
    moves by the same share of itself. It grows over ``ramp``, and falls to 0 by a half cosine."""
    training: TrainingNoise | None = _DEVICES
    """The training noise. By default the devices as they are after a month, or when their targets
    are right (``TrainingNoise.time``). None: ``chip.training`` of each layer. Nets that must also
    serve fresh or behind exact weights learn with ``TrainingNoise(weight="device", time=("0 s", "1
    month"))``: that of ``python -m benchmarks.adapt --noise "0 s and 1 month"``, which costs
    accuracy after a year."""
    noise: float = 1.0
    """Fraction of the training noise, in [0, 1]; 0 trains without noise, the control that tells
    what noise is worth."""
    ramp: float = 0.3
    """Share of the steps, in [0, 1], in which the noise grows from 0 to ``noise``, in six stairs,
    the clipping from the largest weight to ``clip_sigma``, and the learning rate from 0."""
    clip_sigma: float | None = 2.0
    """Weights are clipped to this many standard deviations after each step, > 0: of a layer,
    or of each output, about zero, where the chip scales weights by column; of the start, if they
    have become smaller. A layer that would lose more of its weights than Gaussian ones lose there,
    in the sum of squares, is clipped further out, where it loses as much. None does not clip."""
    outputs: Outputs | None = None
    """How outputs are compared. ``divergence``: as distributions, by the Kullback-Leibler
    divergence of their softmax, which keeps classes and next tokens; outputs of fewer than three
    numbers by ``error``, and so those of shape (samples,), which have one number each, unless all
    inputs have one dimension at most: then they are the vector of a single sample. ``error``:
    squared error over the square of the digital output, which embeddings, regression and logits of
    independent labels (multi-label) need: the softmax does not see a common error of all logits. A
    ``config.problem_type`` of transformers may say that outputs are of these kinds.
    Quantities of several units are compared each over its variance in the batch: fewer than 32
    numbers, whose standard deviations differ by a factor of 50 or more in the first one. None:
    ``divergence`` for the first output alone, if it may be scores, and of a mapping for ``logits``,
    beside which nothing is compared, or else for ``start_logits``, ``end_logits``,
    ``prediction_logits`` and ``class_queries_logits``; ``error`` for all others, those of fewer
    than three numbers, numbers in [0, 1] of other sums than 1, which are independent probabilities,
    vectors of one length, such as normalised embeddings, those of the shape of an input, flat or
    not, as of an autoencoder, quantities of several units that are not called scores, a number for
    each token by a last layer of one, and those of more than two dimensions that are not known to
    be scores: by such a name, logarithms of probabilities, a vector for each token or label, and
    sequences whose last dimension is that of the last linear layer's outputs and of no input. So a
    sequence of a convolution, and an image, are compared by ``error``. Inputs are the
    floating-point tensors that the model gets, but for those by a name with ``label`` in it, or by
    ``target`` and ``targets``.

    Classes are the channels of the last layer that runs, in whatever dimension they are, or are
    that along which there are probabilities; or else the last dimension, of more than three that
    after the samples, as ``torch.nn.CrossEntropyLoss`` has them."""
    temperature: float | None = None
    """Temperature of ``divergence``, > 0: the outputs are divided by it before the softmax. None:
    a quarter of the standard deviation of the numbers of an output vector, so that outputs of any
    scale can be compared. Masks do not count: minus infinity, and a far lower number than all
    others that the model writes more than once, such as -1e4."""
    layers: float = 1.0
    """Weight, >= 0, of the mean relative squared error of the outputs of the layers, beside that
    of the model's outputs."""
    attention: float = 0.0
    """Weight, >= 0, of the mean divergence of the attention maps, in nats: how far what each
    position reads of the others is from the teacher's. They are those of
    ``F.scaled_dot_product_attention``, and of a softmax over the last of three or four dimensions,
    as transformers write attention; what a compiled graph computes is not seen. By default they
    count by the outputs of the layers alone, which they come from."""
    learn_ranges: bool = True
    """Whether the DAC ranges learn."""
    looks: int = 10
    """How often the error is measured on programmed chips while training, >= 1. The best of these
    states is kept."""
    patience: int | None = 3
    """In the second half of the steps, training stops after this many looks in a row without a
    smaller error than at a look before, >= 1; None never stops early."""

    def __post_init__(self) -> None:
        if self.training is not None:
            checks.instance(
                "Recipe.training", self.training, TrainingNoise, "at.TrainingNoise(), or None"
            )
        checks.numbers(self, "learning_rate", above=0)
        checks.numbers(self, "noise", "ramp", least=0, most=1)
        checks.numbers(
            self, "clip_sigma", optional=True, above=0, remedy="None does not clip weights"
        )
        if self.outputs is not None:
            checks.choice("Recipe.outputs", self.outputs, get_args(Outputs))
        checks.numbers(self, "temperature", optional=True, above=0)
        if self.outputs == "error" and self.temperature is not None:
            raise ValueError(
                f"Recipe.temperature={self.temperature!r} is that of outputs='divergence', and has "
                "no effect on outputs='error'; leave it out"
            )
        checks.numbers(self, "layers", "attention", least=0)
        checks.flag("Recipe.learn_ranges", self.learn_ranges)
        checks.counts(self, "looks")
        checks.counts(self, "patience", optional=True)
