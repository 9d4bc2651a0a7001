"""Adam for Parameters in half precision, whose numbers lie further apart than its steps are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

_PRECISE = "precise"
"""Name of a Parameter in float32 in the state of the optimizer."""


def is_half(p: Tensor) -> bool:
    """Return whether numbers of floating point have fewer bits than those of float32."""
    return p.is_floating_point() and p.dtype.itemsize < torch.float32.itemsize


class HalfPrecisionAdam(torch.optim.Adam):
    """Adam that moves float32 copies of Parameters in half precision, and rounds them back.

    A step of 0.002 of a weight is half of what bfloat16 can tell apart: alone, it would be rounded
    to nothing, and so would all that follow. The copies and both averages of the gradients are
    float32 and belong to the state. A Parameter that was changed since its last step, as clipping
    does, goes on from what it is. Others step as in ``torch.optim.Adam``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step, and return what the closure gives; None: there is none."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> None:
        state, moved, grad = self.state[p], p, p.grad
        assert grad is not None
        if is_half(p):
            moved, grad = _precise(p, state.get(_PRECISE)), grad.float()
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(moved), torch.zeros_like(moved)
        beta1, beta2 = group["betas"]
        adam(
            *([moved], [grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]]),
            # in one pass, by a kernel that knows no strides; a group that is fused would get scaled
            # gradients from GradScaler
            fused=moved.device.type == "cpu"
            and moved.is_floating_point()
            and moved.is_contiguous()
            and grad.is_contiguous(),
            has_complex=p.is_complex(),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            **{name: group[name] for name in ("lr", "weight_decay", "eps", "maximize")},
        )
        if moved is not p:
            state[_PRECISE] = moved
            p.copy_(moved)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, which torch alone would round to the precision of the Parameters."""
        super().load_state_dict(state_dict)
        of_each = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(of_each, params, strict=True):
            if is_half(p):
                for name, value in state_dict["state"].get(i, {}).items():
                    if name != "step":
                        self.state[p][name] = value.to(p.device, torch.float32, copy=True)


def _precise(p: Tensor, kept: Tensor | None) -> Tensor:
    """Return a Parameter in float32: what was ``kept``, but for numbers that were changed since."""
    if kept is None:
        return p.detach().float()
    rounded = kept.to(p.dtype)
    return kept if rounded.equal(p) else torch.where(rounded == p, kept, p.detach())
