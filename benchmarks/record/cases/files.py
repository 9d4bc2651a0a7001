"""Files that are written and read again: checkpoints, chips and reports."""

import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.record import api
from benchmarks.record.cases.layers import chip as usual
from benchmarks.record.nets import NETS, batches
from benchmarks.record.runs import Case, Found, calibrated, evaluated


def _checkpoint(net: str, calibration: str) -> Found:
    make, shape = NETS[net]
    x = batches(*shape, count=2)
    options = (
        {"method": "absmax", "per": "tile", "adc": "mse", "adc_per": "column"}
        if calibration == "by tile"
        else {}
    )
    model = calibrated(api.convert(make(), usual()), [(t,) for t in x], **options)
    with tempfile.TemporaryDirectory() as folder:
        api.save(model, folder)
        yield (
            "files",
            {
                file.name: file.read_bytes()
                for file in sorted(Path(folder).iterdir())
                if file.suffix != ".lock"
            },
        )
        other = api.load(folder, make())
        yield "state", dict(other.state_dict())
        yield "ranges", api.ranges(other)
        yield "evaluation", evaluated(other, x[:1])
    with tempfile.TemporaryDirectory() as folder:
        api.save(api.program(model, seed=3, defects=api.Defects(cells=0.01)), folder)
        yield "programmed", evaluated(api.load(folder, make()).at("1 day"), x[:1])
    with tempfile.TemporaryFile() as file:
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = api.convert(make(), usual())
        other.load_state_dict(torch.load(file, weights_only=True))
        yield "torch.save", [api.ranges(other), evaluated(other, x[:1])]


def _chip(name: str) -> Found:
    chip = api.chips()[name]
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".json", ".yaml"):
            path = Path(folder) / f"chip{suffix}"
            api.save_chip(chip, path)
            yield suffix, path.read_text()
            yield f"{suffix} again", api.load_chip(path) == chip


def _report() -> Found:
    model, x = api.convert(NETS["mlp"][0](), usual()), batches(32, 40, count=1)[0]

    def metric(chip: torch.nn.Module) -> float:
        return 0.9 + evaluated(chip, [x]).mean().item() / 100

    direct, hwa = (
        api.sweep(model, metric, num_chips=2, times=["0 s", "1 day"], seed=seed) for seed in (0, 1)
    )
    with tempfile.TemporaryDirectory() as folder:
        yield "texts", api.report_texts(direct, hwa, Path(folder))


CASES: dict[str, Case] = {
    **{
        f"checkpoint/{net}/{way}": partial(_checkpoint, net, way)
        for net in NETS
        for way in ("by default", "by tile")
    },
    **{f"chip file/{name}": partial(_chip, name) for name in api.chips()},
    "report": _report,
}
