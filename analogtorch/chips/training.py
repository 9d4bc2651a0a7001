"""The noise of hardware-aware (HWA) training."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from analogtorch.devices import Device, DriftAware, register, seconds
from analogtorch.devices.device import beyond
from analogtorch.devices.serial import LATER
from analogtorch.values import checks

WeightNoise = Literal["none", "gaussian", "programming", "device"]

_MONTH = "1 month"
_DEFAULTS = (None, _MONTH, "1 day")
"""The default time, and those of earlier versions, which stand in their files."""


@register
@dataclass(frozen=True, kw_only=True)
class TrainingNoise:
    """The noise that HWA training adds in ``train()``; every forward draws it anew."""

    weight: WeightNoise = "programming"
    """Noise of the weights. ``programming``: shaped like the cell's programming noise, weight by
    weight. ``gaussian``: the same standard deviation for every cell. ``device``: every cell is
    programmed, drifted to ``time`` and read with noise, and exact factors fit columns, where the
    chip calibrates them, and blocks to their targets, as ``program(...).at(time)`` does. ``none``:
    exact weights. ``device`` has a CPU kernel for a ``DifferentialPair`` in float32 without
    ``drop_connect``, whose device is computed by functions that ``ops/formula.py`` knows, as all in
    ``analogtorch.devices`` are. The others are drawn in plain torch: several normals for each cell
    and forward."""
    scale: float | None = None
    """Strength of the noise, >= 0. ``programming``: multiple of the cell's programming noise, 2 if
    not given (Le Gallo 2023, Methods). ``gaussian``: standard deviation in units of the largest
    weight of the block; it must be given. ``device``: multiple of each weight's deviation from its
    target, 1 if not given; the correction of the drift is taken to this power. ``none``: without
    effect, and forgotten."""
    output: bool = True
    """Whether the chip's output noise and its read noise of every MVM are added before the ADC in
    training too."""
    time: tuple[float | str, ...] | float | str | None = None
    """Time after programming for ``device``, in seconds or as text such as ``"1 h"``;
    ``"programmed"``: before any drift and read. None: a month, or the end of the device's data if
    that is sooner; for targets that are right at another time (``Chip.drift_aware``), that and a
    month. A model that is trained so keeps its accuracy from a day to a year (``python -m
    benchmarks.hwa``, ``python -m benchmarks.adapt``). Of several times, every layer draws one at
    random in each forward."""
    drop_connect: float = 0.0
    """Probability that a cell fails in a forward, in [0, 1): its weight is exactly zero, without
    noise, and learns nothing from that forward. Nothing is rescaled. NeuRRAM's keyword spotter
    trains with 0.125 (Wan 2022)."""
    per_sample: bool = False
    """Whether every sample of the batch has its own weight noise and failed cells, as if it ran on
    its own chip, instead of one draw per forward. The first dimension of a layer's input counts
    samples, in recurrent layers that of the batch. Each sample is a separate product, which takes
    as many times longer to draw."""

    corrected: bool = field(default=False, metadata={LATER: True})
    """Whether gain and offset of each output are fitted to the product of the exact weights in
    every forward, as ``at.correct_columns`` and ``at.Recovery`` do on a chip: a model for such
    chips is better for it, and one for chips as they are programmed worse. The fit takes up to
    1,024 vectors of the forward, or 16 samples if these have more, spread over it, without output
    noise and ADCs, but for those of slices; with fewer than 10 nothing is corrected, nor are
    embeddings. It depends on the samples of a forward, as batch norm does, and gradients treat it
    as a constant. Not with ``per_sample``."""

    def __post_init__(self) -> None:
        checks.choice("TrainingNoise.weight", self.weight, get_args(WeightNoise))
        if self.weight == "gaussian" and self.scale is None:
            raise ValueError(
                "TrainingNoise(weight='gaussian') needs scale, such as 0.05 of the largest weight "
                "(training.scale=0.05, also where levels replace it)"
            )
        checks.numbers(
            self, "scale", optional=True, least=0, remedy="weight='none' trains without noise"
        )
        if self.weight == "none":
            checks.settle(self, "scale", None)  # without effect: equal noises compare equal
        if isinstance(self.time, list | tuple):
            checks.settle(self, "time", tuple(self.time))
            if not self.time:
                raise ValueError("TrainingNoise.time=() has no time; give one, such as '1 day'")
        try:
            for time in self.times:
                seconds(time)
        except ValueError as error:
            raise ValueError(f"TrainingNoise.time: {error}") from error
        if self.weight != "device":
            if self.time not in _DEFAULTS:
                raise ValueError(
                    f"TrainingNoise.time={self.time!r} needs weight='device', got "
                    f"weight={self.weight!r}"
                )
            checks.settle(self, "time", None)  # without effect: equal noises compare equal
        checks.numbers(
            self,
            "drop_connect",
            least=0,
            below=1,
            what="probability",
            remedy="write one such as 0.01",
        )
        for name in ("output", "per_sample", "corrected"):
            checks.flag(f"TrainingNoise.{name}", getattr(self, name))
        if self.corrected and self.per_sample:
            raise ValueError(
                "TrainingNoise(corrected=True, per_sample=True): columns are fitted to all samples "
                "of a forward, and each has its own chip; leave one of them out"
            )

    def within(self, device: Device) -> "TrainingNoise":
        """Return this noise; times at which a device's data have ended become their end."""
        if self.weight != "device" or not any(beyond(device, seconds(t)) for t in self.times):
            return self
        found = (device.valid_until if beyond(device, seconds(t)) else t for t in self.times)
        times = tuple(dict.fromkeys(found))
        return replace(self, time=times if len(times) > 1 else times[0])

    @property
    def strength(self) -> float:
        """``scale``, or its default."""
        default = 1.0 if self.weight == "device" else 2.0
        return default if self.scale is None else self.scale

    @property
    def times(self) -> tuple[float | str, ...]:
        """``time``, of which there may be several, or its default."""
        if self.time is None:
            return (_MONTH,)
        return self.time if isinstance(self.time, tuple) else (self.time,)

    def moments(self, device: Device) -> tuple[float | None, ...]:
        """Return the times for a device, in seconds; None: right after programming."""
        if self.time is not None or self.weight != "device":
            return tuple(seconds(time) for time in self.times)
        right = (device.time,) if isinstance(device, DriftAware) else ()
        found = replace(self, time=(*right, _MONTH)).within(device)
        return tuple(dict.fromkeys(seconds(time) for time in found.times))
