"""The house: which room may import from which, and the tests from none of their own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "harden").rglob("*.py"))
# a room imports from itself and from the rooms before it; what each is for: docs/architecture.md
ROOMS = [
    {"errors", "seeds", "signals", "progress", "types", "child"},
    {"storage"},
    {"config"},
    {"data"},
    {"envs"},
    {"nets"},
    {"policies"},
    {"attacks"},
    {"models"},
    {"method"},
    {"training"},
    {"evaluation"},
    {"stages"},
    {"benchmark"},
    {"cli", "__main__"},
]
OWNERS = {
    "h5py": "data",
    "click": "cli",
    "onnx": "policies",
    "onnxruntime": "policies",
    "pyarrow": "data",
}


def part(path: Path) -> str:
    """Return the part of the house that a file belongs to."""
    inside = path.relative_to(ROOT / "harden")
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def row(name: str) -> int:
    """Return where a room stands in the order of imports."""
    return next(i for i, names in enumerate(ROOMS) if name in names)


def imports(path: Path) -> list[str]:
    """Return the dotted names that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upwards_and_libraries_stay_with_their_owners(path: Path) -> None:
    mine = part(path)
    for name in imports(path):
        top = name.split(".")[0]
        assert top != "pickle", f"{path} imports pickle"
        if top in OWNERS:
            assert mine == OWNERS[top], f"{path} imports {top}, which belongs to harden/{OWNERS[top]}"
        if name.startswith("harden.") and mine != "__init__":
            theirs = name.split(".")[1]
            assert row(theirs) <= row(mine), f"{path} imports {name}, which stands below it"


def test_data_folders_hold_no_python() -> None:
    for name in ("datasets", "pipelines", "checkpoints"):
        assert not list((ROOT / name).rglob("*.py"))


def test_no_test_module_imports_from_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        shared = [name for name in imports(path) if name.startswith(("test_", "conftest"))]
        assert not shared, f"{path} imports {shared}; what several test modules use is in tests/support/"


def test_every_room_is_on_the_page_of_the_house_in_the_order_of_imports() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    picture = page.split("```")[1]
    words = re.findall(r"^ (\w[\w ]*?)  +\S", picture, re.MULTILINE)
    assert [set(names.split()) for names in words] == ROOMS


def test_every_file_on_the_page_of_the_house_is_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", page):
        assert (ROOT / name).is_file() or (ROOT / "harden" / name).is_file(), name
