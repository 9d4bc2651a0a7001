"""A caveat for the report: the recordings that had to be changed to become clips."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from analogtorch.speech.data import SAMPLE_RATE, Clips, Recorded

_FEW = 10
"""Classes of fewer clips say nothing of how they were recorded."""
_APART = 0.5
"""Difference between the shares of two classes, 0..1, above which it is said."""
_KINDS: dict[str, Callable[[Recorded], bool]] = {
    "padded": lambda clip: clip.padded,
    "cut": lambda clip: clip.cut,
    "resampled": lambda clip: clip.rate != SAMPLE_RATE,
}


def changed_note(splits: Mapping[str, Clips]) -> str | None:
    """Return a caveat for the report if recordings were padded, cut or resampled, else None."""
    clips = [
        (each, name, part.classes[label])  # none of a source that does not know them
        for part in splits.values()
        for each, name, label in zip(part.recorded, part.names, part.labels.tolist(), strict=False)
    ]
    by_length = sorted(((each.seconds, name) for each, name, _ in clips))
    counts = {kind: sum(map(holds, (c for c, *_ in clips))) for kind, holds in _KINDS.items()}
    said = []
    if counts["padded"]:
        seconds, name = by_length[0]
        said.append(
            f"{counts['padded']:,} got zeros at their end (shortest {seconds:.2g} s: {name})"
        )
    if counts["cut"]:
        seconds, name = by_length[-1]
        said.append(
            f"of {counts['cut']:,} the loudest second was kept (longest {seconds:.3g} s: {name})"
        )
    if counts["resampled"]:
        rates = Counter(each.rate for each, *_ in clips if each.rate != SAMPLE_RATE)
        listed = ", ".join(f"{rate} Hz: {count:,}" for rate, count in sorted(rates.items()))
        said.append(f"{counts['resampled']:,} were resampled to {SAMPLE_RATE} Hz ({listed})")
    if not said:
        return None
    return f"Of {len(clips):,} clips {'; '.join(said)}.{_unlike((c, k) for c, _, k in clips)}"


def _unlike(clips: Iterable[tuple[Recorded, str]]) -> str:
    """Return a sentence on the changes that most clips of one class need and few of another."""
    by_class: dict[str, list[Recorded]] = {}
    for each, label in clips:
        by_class.setdefault(label, []).append(each)
    said = []
    for kind, holds in _KINDS.items():
        shares = sorted(
            (sum(map(holds, own)) / len(own), label)
            for label, own in by_class.items()
            if len(own) >= _FEW
        )
        if shares and shares[-1][0] - shares[0][0] > _APART:
            (least, fewest), *_, (most, mostly) = shares
            few = f"{100 * least:.0f} % of {fewest!r}"
            said.append(f"{kind} {100 * most:.0f} % of {mostly!r}, {few}")
    if not said:
        return ""
    return (
        f" Classes differ in that ({'; '.join(said)}): a net can learn how they were recorded in "
        "place of what is said."
    )
