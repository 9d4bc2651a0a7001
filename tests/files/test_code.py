"""Classes and functions of the user's, by the name of their file or module."""

import sys
import types
from pathlib import Path

import pytest

from analogtorch.files import digests_of, is_code, load_code


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parts_of_mine.py").write_text("SIZE = 3\n")
    net = "from parts_of_mine import SIZE\nclass Net:\n    size = SIZE\n"
    (tmp_path / "net_of_mine.py").write_text(net)
    monkeypatch.chdir(tmp_path)
    for name in ("parts_of_mine", "net_of_mine"):  # those of the test before
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_class_of_a_file_finds_what_lies_beside_it(folder: Path, monkeypatch) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    net = load_code("../net_of_mine.py:Net", where="model.name")
    assert net.size == 3
    assert load_code(f"{folder}/net_of_mine.py:Net", where="model.name") is net
    (folder / "net_of_mine.py").write_text("class Net:\n    size = 4\n")
    assert load_code("../net_of_mine.py:Net", where="model.name").size == 4


def test_a_class_of_a_module() -> None:
    assert load_code("net_of_mine:Net", where="model.name").size == 3
    assert load_code("collections.abc:Mapping", where="model.name").__name__ == "Mapping"


def test_digests_are_those_of_the_file_and_of_what_it_imports(folder: Path) -> None:
    for name in ("net_of_mine.py:Net", "net_of_mine:Net"):
        load_code(name, where="model.name")
        before = digests_of(name)
        assert list(before) == [name, "parts_of_mine"]
        assert {len(digest) for digest in before.values()} == {64}
    (folder / "parts_of_mine.py").write_text("SIZE = 4\n")
    after = digests_of("net_of_mine.py:Net")
    changed = [part for part in after if after[part] != before.get(part, after[part])]
    assert changed == ["parts_of_mine"]
    (folder / "net_of_mine.py").write_text("class Net: pass\n")
    assert list(digests_of("net_of_mine.py:Net")) == ["net_of_mine.py:Net"]
    assert digests_of("sys:path") == {"sys:path": ""}  # compiled into Python


def test_digests_cover_the_package_and_nothing_that_is_installed(folder: Path) -> None:
    (folder / "nets_of_mine").mkdir()
    for name, text in {
        "__init__": "from .nets import Net\n",
        "nets": "import torch\nfrom . import sizes\nfrom nets_of_mine.more import x\n"
        "class Net:\n    def late(self): from .late import y\n",
        "sizes": "import json\n",
        "more": "x = 1\n",
        "late": "y = 1\n",
    }.items():
        (folder / f"nets_of_mine/{name}.py").write_text(text)
    load_code("nets_of_mine.nets:Net", where="model.name")
    load_code("nets_of_mine.late:y", where="model.name")
    assert sorted(digests_of("nets_of_mine.nets:Net")) == [
        "nets_of_mine",
        "nets_of_mine.more",
        "nets_of_mine.nets:Net",
        "nets_of_mine.sizes",
    ]
    assert list(digests_of("torch.nn:Linear")) == ["torch.nn:Linear"]


def test_names_of_code_have_a_colon() -> None:
    assert is_code("a.py:Net")
    assert not is_code("conv")
    assert not is_code(3)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("net_of_mine.py:", ValueError, "model.name 'net_of_mine.py:': write my_net.py:Net"),
        (":Net", ValueError, "write my_net.py:Net"),
        ("net_of_mine.py:a b", ValueError, "write my_net.py:Net"),
        ("net_of_mine.py:Nett", ValueError, "net_of_mine.py has no 'Nett'"),
        ("nowhere.py:Net", FileNotFoundError, "model.name: there is no file .*nowhere.py"),
        ("nowhere:Net", ImportError, "there is no module 'nowhere'; a file is written with .py"),
    ],
)
def test_what_is_not_there_is_named(name: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        load_code(name, where="model.name")


def test_a_file_that_fails_is_not_kept(folder: Path) -> None:
    (folder / "fails_of_mine.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_code("fails_of_mine.py:Net", where="model.name")


def test_a_helper_of_the_name_of_anothers_is_refused(folder: Path, monkeypatch) -> None:
    for place in ("a", "b"):
        (folder / place / "kit_of_mine").mkdir(parents=True)
        for name, text in {
            "blocks_of_mine": f"PLACE = {place!r}\n",
            "kit_of_mine/tools": "SIZE = 3\n",
            "plain": "import json\nfrom blocks_of_mine import PLACE\n",
            "deep": "import between_of_mine\n",
            "between_of_mine": "from blocks_of_mine import *\n",
            "package": "import kit_of_mine.tools\n",
            "alone": "import torch\n",
        }.items():
            (folder / place / f"{name}.py").write_text(text)
    for name in ("blocks_of_mine", "between_of_mine", "kit_of_mine", "kit_of_mine.tools"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("plain", "deep", "package"):
        load_code(f"a/{name}.py:__doc__", where="features.name")
    for name, helper in {
        "plain": "blocks_of_mine",
        "deep": "between_of_mine",
        "package": "kit_of_mine.tools",
    }.items():
        file = helper.replace(".", "/")
        with pytest.raises(
            ValueError,
            match=f"{name}.py imports {helper}, which is .*/a/{file}.py"
            f" .* not .*/b/{file}.py.*rename",
        ):
            load_code(f"b/{name}.py:__doc__", where="model.name")
        load_code(f"a/{name}.py:__doc__", where="model.name")
    load_code("b/alone.py:torch", where="model.name")
    (folder / "b/between_of_mine.py").rename(folder / "b/other_of_mine.py")
    (folder / "b/deep.py").write_text("import other_of_mine\n")
    with pytest.raises(ValueError, match=r"deep\.py imports blocks_of_mine, which is .*/a/blocks"):
        load_code("b/deep.py:__doc__", where="model.name")


def test_a_helper_that_python_finds_elsewhere_first_is_refused(folder: Path, monkeypatch) -> None:
    (folder / "a").mkdir()
    (folder / "a/net.py").write_text("from parts_of_mine import SIZE\n")
    (folder / "a/parts_of_mine.py").write_text("SIZE = 4\n")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(ValueError, match="imports parts_of_mine, which is"):
        load_code("a/net.py:SIZE", where="model.name")
    (folder / "a/parts_of_mine.py").unlink()
    (folder / "a/parts_of_mine.py").symlink_to(folder / "parts_of_mine.py")
    assert load_code("a/net.py:SIZE", where="model.name") == 3  # the same file
    (folder / "a/json.py").write_text("SIZE = 4\n")  # what is installed comes first
    (folder / "a/net.py").write_text("import json\nSIZE = json.loads('5')\n")
    assert load_code("a/net.py:SIZE", where="model.name") == 5


def test_a_file_that_python_does_not_import_is_not_read(folder: Path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    for name in ("json", "sys", "wave", "torch/nets_of_mine"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text('print "of Python 2"\n')
    (folder / "shadowed.py").write_text("import json, sys, wave\nSIZE = json.loads('5')\n")
    assert load_code("shadowed.py:SIZE", where="model.name") == 5
    (folder / "below.py").write_text("import torch.nets_of_mine\n")  # torch is the installed one
    with pytest.raises(ImportError, match=r"there is no module 'torch\.nets_of_mine'"):
        load_code("below.py:SIZE", where="model.name")


def test_a_helper_that_is_imported_for_types_or_scripts_alone_is_not_refused(
    folder: Path, monkeypatch
) -> None:
    (folder / "a").mkdir()
    (folder / "a/parts_of_mine.py").write_text("SIZE = 4\n")
    monkeypatch.syspath_prepend(str(folder))  # where another parts_of_mine.py is found first
    for test in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
        '__name__ == "__main__"',
        "'__main__' == __name__",
    ):
        text = f"import typing\nfrom typing import TYPE_CHECKING\nif {test}:\n"
        text += "    from parts_of_mine import SIZE\nelse:\n    SIZE = 5\n"
        (folder / "a/net.py").write_text(text)
        assert load_code("a/net.py:SIZE", where="model.name") == 5
    (folder / "a/net.py").write_text(text.replace("else:", "else:\n    import parts_of_mine"))
    with pytest.raises(ValueError, match="imports parts_of_mine, which is"):
        load_code("a/net.py:SIZE", where="model.name")


def test_digests_cover_what_is_imported_for_types_alone(folder: Path) -> None:
    """As they did, so that runs go on."""
    (folder / "typed.py").write_text(
        "from typing import TYPE_CHECKING\nimport net_of_mine\n"
        "if TYPE_CHECKING:\n    import parts_of_mine\n"
    )
    load_code("typed.py:net_of_mine", where="model.name")
    (folder / "net_of_mine.py").write_text("")
    assert set(digests_of("typed.py:Net")) == {"typed.py:Net", "net_of_mine", "parts_of_mine"}


def test_modules_that_were_made_by_hand_keep_no_code_from_loading(
    folder: Path, monkeypatch
) -> None:
    made = types.ModuleType("made_by_hand")
    made.sub = 6  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_by_hand", made)
    (folder / "made_by_hand").mkdir()
    (folder / "made_by_hand/sub.py").write_text("SIZE = 4\n")
    (folder / "net.py").write_text("from made_by_hand import sub as SIZE\n")
    assert load_code("net.py:SIZE", where="model.name") == 6
