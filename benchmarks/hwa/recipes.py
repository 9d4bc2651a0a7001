"""Recipes of hardware-aware training, as ``analogtorch kws --report.ablation`` takes them."""

from typing import Any

CONFIGURED = "configured"
"""The recipe of the configuration."""


def _devices(time: Any, scale: float | None = None) -> dict[str, Any]:
    return {
        "chip.training.weight": "device",
        "chip.training.scale": scale,
        "chip.training.time": time,
    }


RECIPES: dict[str, dict[str, Any]] = {
    "no noise": {"chip.training.weight": "none", "chip.training.output": False},
    "no weight noise": {"chip.training.weight": "none"},
    "no output noise": {"chip.training.output": False},
    "noise of programming": {
        "chip.training.weight": "programming",
        "chip.training.scale": 2.5,
    },
    "Gaussian noise": {
        "chip.training.scale": 0.05,
        "chip.training.weight": "gaussian",
    },
    "devices, 1 day": _devices("1 day"),
    "devices, 1 month": _devices("1 month"),
    "devices, 1 year": _devices("1 year"),
    "devices, 0 s or 1 month": _devices(("0 s", "1 month")),
    "devices, 1 month, 1.5 times as far": _devices("1 month", scale=1.5),
    "columns corrected in training": {"chip.training.corrected": True},
    "1 % of cells fail": {"chip.training.drop_connect": 0.01},
    "noise that grows": {"hwa.ramp": 0.3},
    "no clipping": {"hwa.clip_sigma": None},
    "clipping at 1.5": {"hwa.clip_sigma": 1.5},
    "clipping at 2.5": {"hwa.clip_sigma": 2.5},
    "learning rate 0.001": {"hwa.learning_rate": 0.001},
    "learning rate 0.004": {"hwa.learning_rate": 0.004},
    "no distillation": {"hwa.distill": 0.0},
    "program and verify": {"chip.writing": "program_and_verify"},
    "gradient-descent programming": {"chip.writing": "gradient_descent"},
    "columns not corrected": {"chip.correct": False},
    "columns that learn": {"chip.correct": True, "chip.correct_batches": 4},
}
"""Options of the configuration that a recipe changes, by its name."""
