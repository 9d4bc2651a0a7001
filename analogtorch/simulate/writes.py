"""How often the devices of a chip were written, against what they endure."""

from dataclasses import dataclass

from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class Writes:
    """Writes of the devices of a programmed chip, as ``ProgrammedChip.writes`` counts them.

    Programming at once counts as one write of each device, though the published method behind its
    error took several pulses; each pulse of a writing method counts as one more.
    """

    counts: tuple[int, ...]
    """Number of devices by the number of their writes in one programming: none, one, two, ..."""
    times: int
    """How often the chip was programmed, this time included, >= 1."""

    @property
    def devices(self) -> int:
        """Number of devices with weights."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean number of writes of a device, all times together."""
        return self.times * sum(n * each for n, each in enumerate(self.counts)) / self.devices

    @property
    def most(self) -> int:
        """Largest number of writes of a device.

        An upper bound where the chip was programmed several times: the same device is taken to have
        had the most pulses each time.
        """
        return self.times * max(n for n, each in enumerate(self.counts) if each)

    def left(self, endurance: float) -> int:
        """Return how often the chip can still be programmed in this way.

        Args:
            endurance: writes that a device endures, > 0. No device model here states it: give that
                of your devices.

        Raises:
            ValueError: ``endurance`` is no positive number.
        """
        endurance = checks.number("Writes.left: endurance", endurance, above=0)
        return max(0, int((endurance - self.most) // (self.most // self.times)))

    def worn(self, endurance: float) -> float:
        """Return the share of devices that were written more often than ``endurance``, 0..1.

        Raises:
            ValueError: ``endurance`` is no positive number.
        """
        endurance = checks.number("Writes.worn: endurance", endurance, above=0)
        beyond = sum(n for writes, n in enumerate(self.counts) if writes * self.times > endurance)
        return beyond / self.devices

    def __str__(self) -> str:
        return (
            f"{self.devices:,} devices written {self.mean:,.1f} times on average, at most "
            f"{self.most:,} (programmed {self.times:,} time{'s' * (self.times != 1)})"
        )
