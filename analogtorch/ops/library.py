"""Registration of the operators: one library, a kernel for every device, a fake one for tracing.

``torch.library.custom_op`` does the same with more checks on every call, which take tens of
microseconds, as much as a small layer; the checks run in the tests instead
(``torch.library.opcheck``).
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._decomp import register_decomposition
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import _disable_current_modes

LIBRARY = torch.library.Library("analogtorch", "FRAGMENT")

Made = TypeVar("Made", bound=Callable[..., torch.Tensor])


def untraced(make: Made) -> Made:
    """Let a function whose results are kept make tensors with numbers, whatever traces its caller.

    Inside a trace it would make fakes, and the process would keep those.
    """

    @functools.wraps(make)
    def made(*arguments: Any) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
            return make(*arguments)

    return cast("Made", made)


def define(
    signature: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    save: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    plain: Callable[..., Any] | None = None,
    tags: Sequence[torch.Tag] = (),
) -> Any:
    """Register an operator and return it.

    Args:
        signature: ``name(Tensor x, ...) -> Tensor``.
        kernel: computes the operator, on every device.
        fake: returns empty tensors of the shapes, types and strides of ``kernel``.
        save: ``save(ctx, inputs, outputs)`` keeps the data for the gradient; None: the operator has
            no gradient.
        backward: ``backward(ctx, saved, *gradients)`` returns one gradient or None per input, from
            the tensors that ``save`` saved; once differentiable.
        plain: the same in operators of torch, for tools that know no others, such as
            ``torch.onnx.export``.
        tags: tags of the operator.
    """
    name = signature[: signature.index("(")]
    LIBRARY.define(signature, tags=(torch.Tag.pt2_compliant_tag, *tags))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    traced = fake if plain is None else _kept_by_inductor(f"analogtorch::{name}", fake)
    torch.library.register_fake(f"analogtorch::{name}", traced, lib=LIBRARY)
    operator = getattr(torch.ops.analogtorch, name).default

    def below(keyset: Any, arguments: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    gradient = None if save is None else _gradient(name, below, save, backward)

    def differentiable(keyset: Any, *arguments: Any) -> Any:
        if (
            gradient is not None
            and torch.is_grad_enabled()
            and torch._C._any_requires_grad(*arguments)
        ):
            return gradient.apply(keyset, *arguments)
        return below(keyset, arguments)

    LIBRARY.impl(name, differentiable, "Autograd", with_keyset=True)
    if plain is not None:
        _decompose(operator, plain, fake)
    return operator


def _gradient(
    name: str,
    below: Callable[..., Any],
    save: Callable[..., None],
    backward: Callable[..., Any] | None,
) -> type[torch.autograd.Function]:
    """The operator ``name`` as a function of autograd; ``below`` computes it."""

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keyset: Any, *arguments: Any) -> Any:
            outputs = below(keyset, arguments)
            save(ctx, arguments, outputs)
            return outputs

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            assert backward is not None
            saved = ctx.saved_tensors  # checkpointing hands them out once
            with torch.no_grad():
                found = backward(ctx, saved, *gradients)
            return None, *once(name, found, (*gradients, *saved))

    return Gradient


def once(
    name: str, gradients: Sequence[Tensor | None], sources: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Return the gradients that the operator ``name`` has found, which have no gradient themselves.

    torch's ``once_differentiable`` cuts them off from ``sources``, of which they were made, so that
    a Hessian of ``torch.autograd.functional`` is zero without an error.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    return tuple(None if g is None else _Once.apply(name, g, *sources) for g in gradients)


class _Once(torch.autograd.Function):
    """A gradient as it is, which depends on its sources in a way that nobody knows."""

    @staticmethod
    def forward(ctx: Any, name: str, gradient: Tensor, *sources: Tensor | None) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            f"analogtorch::{ctx.name} is differentiable once: the gradient of its gradient is not "
            "defined. Compute Hessians and gradient penalties of the digital model, "
            "analogtorch.to_digital(copy.deepcopy(model))"
        )


def _kept_by_inductor(name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``fake`` made to tell torch.compile not to decompose the operator.

    If the environment has ``CI`` set, Inductor regards an operator in torch's table of
    decompositions as an oversight, and refuses it unless its list has the name. torch 2.14 has no
    public alternative: ``torch.onnx.export`` looks for ``plain`` in that table alone, and does not
    find a kernel under CompositeImplicitAutograd beside the others. The list is extended here
    because importing Inductor with the package would be slow, and because Inductor calls the fake
    operator before it lowers the real one.
    """

    def traced(*arguments: Any) -> Any:
        lowering = sys.modules.get("torch._inductor.lowering")
        if lowering is not None:
            lowering.FALLBACK_ALLOW_LIST.add(name)
        return fake(*arguments)

    return traced


def _decompose(operator: Any, plain: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register ``plain`` in torch's table of decompositions, which torch.compile does not use."""

    def decomposition(*arguments: Any) -> Any:
        # with symbolic sizes, fake tensors take what the table holds as well, and must see what the
        # kernel gives
        return (fake if get_proxy_mode() is None else plain)(*arguments)

    register_decomposition(operator)(decomposition)
