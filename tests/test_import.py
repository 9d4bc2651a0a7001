"""Importing the library costs little beside torch, prints nothing and starts nothing."""

import importlib
import importlib.resources
import re
import subprocess
import sys
from pathlib import Path

import analogtorch as at

_SCRIPT = """
import sys
import torch
before = set(sys.modules)
import analogtorch
added = {name for name in set(sys.modules) - before if name.partition(".")[0] != "analogtorch"}
others = sorted(n for n in added if n.partition(".")[0] not in sys.stdlib_module_names)
print(torch.cuda.is_initialized(), others)
import analogtorch.report
print({"matplotlib", "lightning"} & set(sys.modules))
import analogtorch.cli.budget, analogtorch.cli.compare, analogtorch.cli.listen
print("lightning" in sys.modules)
"""


def test_import_is_lean() -> None:
    """Only modules of the standard library and our own are imported; others come when used."""
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
    )
    assert run.stdout == "False []\nset()\nFalse\n"
    assert run.stderr == ""


def test_public_names_exist_and_have_docstrings() -> None:
    for name in at.__all__:
        thing = getattr(at, name)
        assert name == "TIMES" or thing.__doc__, name


_GUARD = """
import sys, torch, analogtorch as at
from torch import nn
layers = [nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.Flatten(), nn.Linear(24, 8)]
layers.append(nn.TransformerEncoderLayer(8, 2, 8))
model = nn.Sequential(*layers)
at.convert(model, at.chips.hermes64(), fold_batch_norm=True, example=torch.ones(2, 4, 3))
at.guard(model, torch.ones(2, 4, 3))
print("torch._dynamo" in sys.modules)
"""


def test_the_guard_imports_no_compiler() -> None:
    """torch._dynamo takes seconds to import."""
    run = subprocess.run([sys.executable, "-c", _GUARD], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


_HELP = """
import contextlib, io, sys
import torch
before = set(sys.modules)
from analogtorch.__main__ import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main(["kws", "--help"])
assert "--hwa.learning_rate" in out.getvalue()
added = {name.partition(".")[0] for name in set(sys.modules) - before}
added -= {"analogtorch", "numpy"} | sys.stdlib_module_names
print(*sorted(name for name in added if name[0] != "_"))
"""


def test_help_imports_the_parser_and_nothing_else() -> None:
    """What reads recordings, trains and plots takes longer to import than all of the help."""
    run = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) <= {
        "jsonargparse",
        "docstring_parser",
        "typeshed_client",
        "yaml",
        "attr",
        "attrs",
    }


def test_type_checkers_find_the_types() -> None:
    assert (importlib.resources.files("analogtorch") / "py.typed").is_file()


def test_the_documentation_covers_every_room() -> None:
    root = Path(at.__file__).parent
    rooms = {file.parent.name for file in root.glob("*/__init__.py")}
    pages = [page.read_text("utf-8") for page in (root.parent / "docs" / "api").glob("*.md")]
    listed = {
        name
        for page in pages
        for name in re.findall(r"^::: analogtorch\.(\w+)", page, re.MULTILINE)
    }
    # what is public of these stands in analogtorch itself
    internal = {
        "calibration",
        "checkpoint",
        "cli",
        "conversion",
        "files",
        "graph",
        "values",
    }
    assert listed == rooms - internal
    assert any(re.search(r"^::: analogtorch$", page, re.MULTILINE) for page in pages)
    for room in rooms:
        module = importlib.import_module(f"analogtorch.{room}")
        assert module.__doc__, room
        assert isinstance(module.__all__, list), room
