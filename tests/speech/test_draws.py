"""Keyed random numbers: stable for ever, uniform, and independent along every key."""

import numpy as np

from analogtorch.speech.draws import hashed, uniform


def test_the_numbers_never_change() -> None:
    """Cached clips and the claim that a seed repeats a run rest on these."""
    assert hashed(0).tolist() == [16294208416658607535]  # SplitMix64's first output from seed 0
    assert uniform(7, "train", np.array([0, 1])).round(6).tolist() == [0.971209, 0.287551]


def test_uniform_along_each_key() -> None:
    numbers = np.arange(10_000)
    for keys in ((3, numbers), (numbers, 3), (3, "gain", numbers), (2**63 + 1, numbers, 0)):
        values = uniform(*keys)
        assert values.min() >= 0
        assert values.max() < 1
        counts = np.histogram(values, bins=20, range=(0, 1))[0]
        # chi square with 19 degrees of freedom: 43.8 has a tail of 0.1 %
        assert ((counts - 500) ** 2 / 500).sum() < 43.8


def test_neighbours_and_swapped_keys_are_unrelated() -> None:
    numbers = np.arange(10_000)
    streams = [
        uniform(1, numbers),
        uniform(1, numbers + 1),
        uniform(2, numbers),
        uniform(numbers, 1),
        uniform(1, numbers, 0),
    ]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 0.045  # standard error 0.01: 4.5 of them


def test_keys_broadcast() -> None:
    assert uniform(0, np.arange(3)[:, None], np.arange(4)).shape == (3, 4)
    assert uniform(0, np.arange(3))[2] == uniform(0, 2)[0]
