"""Hardware-aware training with some settings changed, measured on the chips of the run."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from analogtorch.speech.config import KWSConfig
from analogtorch.speech.levels import at_level
from analogtorch.speech.report_config import ABLATED, MEASURED
from analogtorch.values import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One other training, or the same net on other chips."""

    name: str
    """Its name in the report."""
    key: str
    """Name of its files in the folder of the run, which tells its settings from any others."""
    config: KWSConfig
    """The configuration of the run with the settings changed."""
    trained: bool
    """Whether it is another training; False: the net of the run, on chips made otherwise."""

    @property
    def chips(self) -> str:
        """The folder that keeps its measurements."""
        return f"chips/{self.key}"


def variants(config: KWSConfig) -> tuple[Variant, ...]:
    """Return the other trainings that ``config.report.ablation`` names.

    Each has one level of the noise, ``chip.training.scale``, whatever ``chip.levels`` are.

    Raises:
        ValueError: a setting does not exist, or its value is refused.
    """
    chip, found = dataclasses.replace(config.chip, levels=()), []
    for name, changes in config.report.ablation.items():
        whole = dict(changes)
        if changes.get("chip.correct") is False:  # as many as the run has would have no effect
            whole = {"chip.correct_batches": 1} | whole
        try:
            changed = _changed(dataclasses.replace(config, chip=chip), whole)
        except ValueError as error:
            raise ValueError(
                f"report.ablation: {name}: {error}; options are those of analogtorch kws that "
                f"begin with {' or '.join(ABLATED)}"
            ) from error
        text = json.dumps([sorted(changes.items())])
        key = f"ablation-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        trained = not set(changes) <= set(MEASURED)
        found.append(Variant(name=name, key=key, config=changed, trained=trained))
    return tuple(found)


def check_distinct(config: KWSConfig) -> None:
    """Check that what ``config.report.ablation`` names differs from the run and among itself.

    Of a run with levels of the noise, one is chosen later: what differs at one of them differs.

    Raises:
        ValueError: one has the settings of the run or of another, and would be measured for the
            same accuracies.
    """
    runs = [at_level(config, level) for level in config.chip.levels] or [config]
    seen = [("the run", runs)]
    for found in zip(*map(variants, runs), strict=True):
        name, settings = found[0].name, [each.config for each in found]
        for other, before in seen:
            if settings == before:
                raise ValueError(
                    f"report.ablation: {name}: {config.report.ablation[name]} gives the same "
                    f"settings as {other}; change others, or leave it out"
                )
        seen.append((f"{name!r}", settings))


def _changed(owner: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a frozen dataclass with the fields at some paths of names changed, all at once.

    Together they can be right where one alone, or another order, is not.

    Args:
        owner: the dataclass.
        changes: new values by path, such as ``training.scale``.
        prefix: the path of the dataclass, for messages.

    Raises:
        ValueError: there is no such field, or its value is refused.
    """
    fields = dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ()
    known = [each.name for each in fields]
    values: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        field, *rest = path.split(".", 1)
        if field not in known:
            raise ValueError(
                f"{prefix}{path}={value!r}: no such option{checks.nearest(field, known)}"
            )
        if rest:
            inner.setdefault(field, {})[rest[0]] = value
            continue
        try:
            values[field] = _of_type(get_type_hints(type(owner)).get(field, Any), value)
        except ValueError as error:
            raise ValueError(f"{prefix}{path}={value!r}: {error}") from error
    for field, below in inner.items():
        values[field] = _changed(getattr(owner, field), below, f"{prefix}{field}.")
    try:
        return dataclasses.replace(owner, **values)
    except (TypeError, ValueError) as error:
        said = ", ".join(f"{prefix}{path}={value!r}" for path, value in changes.items())
        raise ValueError(f"{said}: {error}") from error


def _of_type(kind: Any, value: Any) -> Any:
    """Return a value as the command line takes it for an option of this type.

    Raises:
        ValueError: it is of another type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.parse_object({"value": value}).value
    except ArgumentError as error:
        raise ValueError(f"must be of type {getattr(kind, '__name__', kind)}") from error
