"""Runs of a model over batches, and the contexts that undo their changes."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from analogtorch.calibration.batches import EMPTY, every_tensor
from analogtorch.chips import Chip, Slices, TrainingNoise
from analogtorch.conversion.example import as_one, is_one_input, takes_one
from analogtorch.conversion.fresh import fresh
from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.restored import same_buffers
from analogtorch.conversion.unread import named as named_in_chips
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import eager
from analogtorch.devices import DifferentialPair
from analogtorch.nn import AnalogLayer, Tap, tapped
from analogtorch.nn.execution import Execution
from analogtorch.ops import Plan
from analogtorch.ops.operands import Operands
from analogtorch.values.listed import listed
from analogtorch.values.progress import Progress
from analogtorch.values.warned import warn

Forward = Callable[[nn.Module, Any], Any]
_Seen = TypeVar("_Seen")


_WORTH_A_TEAM = 2**31
"""Multiplications of a layer, some 0.1 s of one thread, from which on its tap uses all threads."""


def few_threads(look: Callable[..., _Seen]) -> Callable[..., _Seen]:
    """Return ``look``, of a tap at products, without gradients and with few threads.

    A forward that computes gradients itself has them on. A small layer has one thread.

    It computes many short steps. In each, threads wait for one another, and they wait by spinning:
    where other processes use the cores too, calibration took five times as long with two threads as
    with one.
    """

    @functools.wraps(look)
    @torch.no_grad()
    def looked(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> _Seen:
        threads = torch.get_num_threads()
        few = y.numel() * inputs.w[0].numel() < _WORTH_A_TEAM
        try:
            if few:
                torch.set_num_threads(1)
            return look(inputs, plan, outputs, y)
        finally:
            if few:
                torch.set_num_threads(threads)

    return looked


def exact(chip: Chip) -> Chip:
    """Return the chip without converters and noise, on which a layer is the digital one."""
    silent = TrainingNoise(weight="none", output=False)
    return chip.without("dac", "adc").replace(
        array={"grouped": "sequential"},
        # the cells hold nothing here, and those of slices may have no sign
        cell=DifferentialPair(device=chip.cell.device) if chip.slices.weight_bits else chip.cell,
        slices=Slices(),
        adc={"noise": 0.0},
        training=silent,
    )


def exact_execution(layer: AnalogLayer) -> Execution:
    """Return the execution with which ``layer`` computes what the digital layer does."""
    return layer.executions_on(exact(layer.chip)).evaluation


def without_adc(chip: Chip) -> Chip:
    """Return the chip without ADC, and so without a digital unit that rounds."""
    return chip.without("adc")


@contextlib.contextmanager
def exactly(model: nn.Module) -> Iterator[None]:
    """Let every analog layer compute what the digital one does, while the context lasts.

    Layers of a programmed chip are included.
    """
    taps = {layer: Tap(execution=exact_execution(layer)) for _, layer in analog_layers(model)}
    with tapped(taps), quiet():  # no layer of the chip runs here, so that none can be missing
        yield


@contextlib.contextmanager
def as_before_on_error(model: nn.Module) -> Iterator[None]:
    """Restore programmed layers and their counts if the context fails or is stopped."""
    before = [
        (x, x.programmed, x.vectors_read.clone())
        for _, x in analog_layers(model)
        if x.programmed is not None
    ]
    try:
        yield
    except BaseException:
        for layer, held, count in before:
            layer.programmed = held
            layer.vectors_read.copy_(count)
        raise


def run(
    caller: str,
    model: nn.Module,
    batches: Iterable[Any],
    forward: Forward | None,
    progress: bool,
    first: Callable[[Callable[[nn.Module], Any]], None] | None = None,
    begin: Callable[[Any], None] | None = None,
) -> None:
    """Run ``model`` on every batch, from its state of now, which is the same afterwards.

    Args:
        caller: name of the calling function, for errors and the progress bar.
        model: the model to run.
        batches: batches. A tensor, a ``PackedSequence``, or a named tuple or list that the model is
            annotated to take is passed as it is; of any other tuple or list, the first element; a
            mapping as keyword arguments, or as it is if the model's one argument takes it.
        forward: a function that runs the model on a batch instead.
        progress: if True, show a progress bar.
        first: a function that runs the first batch, by the function that it gets, which runs a
            model on it; None: that batch runs as the others do.
        begin: a function that gets each batch before it runs.

    Raises:
        ValueError: there is no batch.
        TypeError: a batch is of another type, and ``forward`` is None.
        Exception: what the model raises, with a note that names the batch.
    """
    count = 0
    with same_buffers(model, analog=False):
        for batch in Progress(batches, desc=caller, unit="batch", disable=not progress):
            if begin is not None:
                begin(batch)
            one = functools.partial(one_pass, caller, batch=batch, forward=forward, number=count)
            if count == 0 and first is not None:
                first(one)
            else:
                one(model)
            count += 1
    if count == 0:
        raise ValueError(f"{caller}: {EMPTY}")


def one_pass(
    caller: str,
    model: nn.Module,
    batch: Any,
    forward: Forward | None,
    number: int | None = None,
) -> Any:
    """Return what ``model`` returns for a batch, of that ``number`` if it has one; see ``run``.

    Compiled parts run as written: they would compile taps and hooks, or not call them. The model
    gets a copy of the batch, into which it may write.
    """
    with eager():
        return passed(caller, model, batch, forward, number)


def passed(
    caller: str, model: nn.Module, batch: Any, forward: Forward | None, number: int | None = None
) -> Any:
    """Return what ``one_pass`` does, with compiled parts as they are."""
    _refuse_meta(caller, model, batch)
    with noted(caller, model, batch, forward, number):
        given = fresh(batch)
        if forward is not None:
            return forward(model, given)
        if is_one_input(model, given):
            return model(given)
        if isinstance(given, (tuple, list)) and given:
            return model(given[0])
        if isinstance(given, Mapping):
            return model(**given)
    raise TypeError(
        f"{caller}: a batch must be a tensor, a PackedSequence, a tuple, a list or a mapping, got "
        f"{type(batch).__name__}{as_one(batch, 'batch')}; for anything else pass forward="
    )


def _refuse_meta(caller: str, model: nn.Module, batch: Any) -> None:
    """Raise ValueError for inputs without numbers, unless the model has none either.

    ``nn.Embedding`` takes such tokens, and returns what happens to lie in memory.
    """
    if any(t.is_meta for t in every_tensor(batch)) and any(
        not p.is_meta for p in model.parameters()
    ):
        raise ValueError(
            f"{caller}: a batch has tensors on the meta device, which hold no numbers; give inputs "
            "with numbers"
        )


_NUMBERS = ContextVar[Mapping[int, int] | None]("numbers of batches", default=None)
"""Numbers of batches by their id, which errors name; None: batches count where they run."""


@contextlib.contextmanager
def numbered(numbers: Mapping[int, int]) -> Iterator[None]:
    """Let errors in the context name batches by these numbers, given by id."""
    token = _NUMBERS.set(numbers)
    try:
        yield
    finally:
        _NUMBERS.reset(token)


@contextlib.contextmanager
def noted(
    caller: str, model: nn.Module, batch: Any, forward: Forward | None, number: int | None = None
) -> Iterator[None]:
    """Add notes to an error in the context: which batch it was, and how the model got it."""
    try:
        yield
    except Exception as error:
        number = (_NUMBERS.get() or {}).get(id(batch), number)
        if number is not None:
            error.add_note(f"{caller}: the model failed on batch {number}, counted from 0")
        if forward is None and (how := _passed_how(model, batch)):
            error.add_note(f"{caller}: {how}")
        raise


def _passed_how(model: nn.Module, batch: Any) -> str:
    """Return how a model gets a batch, and how it gets it otherwise; empty: as it is."""
    kind = type(batch).__name__
    if isinstance(batch, Mapping):
        if is_one_input(model, batch):
            return (
                f"the model gets the {kind} as its one argument; for a part of it, pass forward=, "
                "such as forward=lambda model, batch: model(batch['x'])"
            )
        return (
            f"the model gets {', '.join(map(str, batch))} as keyword arguments; for others, pass "
            "forward=, such as forward=lambda model, batch: model(batch['x'])"
        )
    if not isinstance(batch, tuple | list) or is_one_input(model, batch):
        return ""
    more, given = ("all of it", "batch") if takes_one(model) else ("more", "*batch")
    as_one = "" if given == "batch" else f", or model(batch) for the {kind} as one argument"
    return (
        f"of a {kind}, the model gets the first element alone; for {more}, pass forward=, such as "
        f"forward=lambda model, batch: model({given}){as_one}"
    )


def shares(vectors: Tensor) -> Tensor | None:
    """Return the share of each of the vectors (V, n) by which those that are the same count once.

    Silent frames and padding give the same vector again and again behind a bias, which says nothing
    of the others. Vectors of zeros have a share of 1, as recurrent layers have them in each batch.
    None: of the others less than half are repeated, so that all count.
    """
    if vectors.shape[1] == 1 and vectors.dtype.itemsize < 4:
        return None  # in half precision many numbers are rounded to the same
    x = vectors.detach().float()
    sizes = x.norm(dim=1)
    there = sizes > 0
    if not there.any():
        return None
    # The same vectors have the same size and direction, but for what is rounded otherwise at the
    # edge of a product: a number stands for each, in steps of 1e-5.
    along = torch.arange(1.0, 1 + x.shape[1], dtype=x.dtype, device=x.device).cos()
    size, direction = sizes[there].log(), (x @ along)[there] / sizes[there]
    step = (1e5 * torch.stack([size, direction])).round().long()
    _, which, counts = (step[0] * 2**32 + step[1]).unique(return_inverse=True, return_counts=True)
    if 2 * len(counts) > len(which):
        return None
    found = torch.ones(len(x), dtype=torch.float64, device=x.device)
    found[there] = 1 / counts[which].double()
    return found


def check_finite(caller: str, what: str, x: Tensor) -> None:
    """Raise ValueError if ``x``, which ``what`` describes, has NaN or infinite values."""
    if not torch.isfinite(x.detach().abs().sum()) and not torch.isfinite(x).all():
        raise ValueError(f"{caller}: {what} has NaN or infinite values")


EXCLUDE = "leave them digital with convert(..., exclude=...)"


def check_ran(
    caller: str,
    names: Iterable[str],
    ran: set[str],
    kind: str = "analog layers",
    remedy: str = EXCLUDE,
) -> None:
    """Raise ValueError if one of ``names`` is not in ``ran``; the error ends with ``remedy``."""
    names = list(names)
    if silent := [name for name in names if name not in ran]:
        raise ValueError(
            f"{caller}: {len(silent)} of {len(names)} {kind} never ran: "
            f"{listed(map(repr, silent))}. Either the batches do not reach them, or the "
            f"model uses their weights without calling them; {remedy}"
        )


def name_silent(
    caller: str,
    model: nn.Module,
    names: Iterable[str],
    ran: set[str],
    kept: str,
    kind: str = "analog layers",
    remedy: str = EXCLUDE,
) -> None:
    """Warn of those of ``names`` that are not in ``ran``, once for all chips of a model.

    Args:
        caller: the function of messages.
        model: the model that ran, or a programmed chip at a time.
        names: what could have run.
        ran: what did.
        kept: what the others keep, as a part of the sentence.
        kind: what they are.
        remedy: the end of the error.

    Raises:
        ValueError: none of them ran.
    """
    names = list(names)
    if not ran:
        check_ran(caller, names, ran, kind, remedy)
    silent = [name for name in names if name not in ran]
    # beside those that another warning names: here they ran in none of the batches
    where = "chip" if any(x.programmed is not None for _, x in analog_layers(model)) else "model"
    found, known = {f"{caller}, {where}: {name}" for name in silent}, named_in_chips(model)
    if not known.issuperset(found):
        known.update(found)
        warn(
            f"{caller}: {len(silent)} of {len(names)} {kind} did not run, and keep {kept}: "
            f"{listed(map(repr, silent))}. Either the batches do not reach them, as for heads "
            "that run in training only and experts that no sample is routed to, or the model uses "
            "their weights without calling them. Where they run later, give batches that reach them"
        )
