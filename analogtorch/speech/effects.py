"""Settings of a chip that would change nothing, and are refused."""

from analogtorch.simulate.defects import Defects


def check_correction(correct: bool, batches: int) -> None:
    """Raise ValueError if chips that correct nothing are given batches to correct with."""
    if batches > 1 and not correct:
        raise ValueError(
            f"chip.correct_batches={batches} has no effect with chip.correct=false; use "
            "chip.correct=true, or leave out chip.correct_batches"
        )


def check_levels(defects: Defects) -> None:
    """Raise ValueError if defects have a level of devices of which none is broken.

    It is for new runs: earlier ones have such a level in what identifies their measurements.
    """
    for level, fault in defects.idle().items():
        raise ValueError(
            f"chip.defects.{level}={getattr(defects, level)} has no effect with "
            f"chip.defects.{fault}=0; give {fault} a share, such as 0.002, or leave out {level}"
        )
