"""Systems on solver chips, and the light of sensors."""

import torch

from benchmarks.record import api
from benchmarks.record.nets import random
from benchmarks.record.runs import Case, Found

_CHIPS = {
    "as it is": {},
    "two slices": {"inverse": {"slices": 2}},
    "least squares": {"inverse": {"circuit": "least_squares", "settling_time": 2e-6}},
    "analog Schur complements": {"inverse": {"schur": "analog"}},
    "corrections": {"mvm": {"multiplies": "correction"}},
    "noise": {"mvm": {"noise": 0.05}},
}


def _solver() -> Found:
    a = (torch.eye(12) + 0.06 * random(3, 12, 12)).double()
    b = random(3, 12, 2, seed=1).double()
    for name, changes in _CHIPS.items():
        leaves = x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        found = api.solve(x, y, api.rram_solver().replace(**changes), passes=5)
        found.x.square().sum().backward()
        yield (
            name,
            {
                "x": found.x,
                "residuals": found.residuals,
                "radius": found.spectral_radius,
                "gradients": [leaf.grad for leaf in leaves],
            },
        )


def _sensor() -> Found:
    image = random(2, 1, 8, 8).sigmoid()
    for name, lux in (("bright", 1000.0), ("dark", 0.1)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3))
        api.convert(model, api.photodiode_sensor(illuminance=lux))
        yield name, api.program(model, seed=1).at("0 s")(image)
    layers = torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(108, 5)
    both = api.convert(torch.nn.Sequential(*layers), api.hermes64(), sensor="0")
    parts = api.map_by_chip(both, image[:1])
    yield "two chips", [str(view) for part in parts for view in (part, api.cost(part))]


CASES: dict[str, Case] = {"solver": _solver, "sensor": _sensor}
