"""How the house is built: who may import whom, how much a reader must read, and words that do not belong in it."""

import ast
import inspect
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from dragkit import distance

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"dragkit": ROOT / "dragkit", "draglab": ROOT / "book" / "draglab"}

# What one reads to know DRAG, beside the cosine distance.
ATTACK_PATH = (
    "schedule.py",
    "attacks/guidance.py",
    "attacks/message.py",
    "config.py",
    "attacks/drag.py",
    "priors/prior.py",
)


def module_files() -> dict[str, Path]:
    """Every module of both packages by its name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = module_files()


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports that are executed, also those inside functions; those for type checkers only are left out."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        children = iter(tree.orelse)
    else:
        children = ast.iter_child_nodes(tree)
        if isinstance(tree, ast.Import | ast.ImportFrom):
            yield tree
    for child in children:
        yield from imports(child)


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports; `from package import module` counts as that module."""
    names = set()
    for node in imports(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path} has a relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in below}
    return names


def graph(depth: int = 99) -> dict[str, set[str]]:
    """Who imports whom among our modules, their names cut after `depth` parts."""

    def cut(name: str) -> str:
        return ".".join(name.split(".")[:depth])

    arrows: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        targets = {cut(other) for other in imported(path) & MODULES.keys()}
        arrows.setdefault(cut(name), set()).update(targets - {cut(name)})
    return arrows


def test_the_library_never_imports_its_laboratory():
    for name, path in MODULES.items():
        if name.startswith("dragkit"):
            tree = ast.parse(path.read_text())  # imports for type checkers too
            for node in ast.walk(tree):
                named = [node.module] if isinstance(node, ast.ImportFrom) else []
                named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not [n for n in named if n and n.startswith("draglab")], path


@pytest.mark.parametrize("depth", [99, 2], ids=["modules", "folders"])
def test_arrows_point_down_only(depth):
    arrows = graph(depth)
    assert len(arrows) > 20 and sum(map(len, arrows.values())) > 50
    TopologicalSorter(arrows).prepare()  # CycleError names the circle


def test_drag_is_read_at_one_sitting():
    lines = {file: len((ROOT / "dragkit" / file).read_text().splitlines()) for file in ATTACK_PATH}
    lines["cosine_distance"] = len(inspect.getsourcelines(distance.cosine_distance)[0])
    assert sum(lines.values()) <= 800, lines


# Everything that is written for readers. This file names the words that it looks for.
WRITTEN = sorted(
    {
        *MODULES.values(),
        *ROOT.glob("*.md"),
        *(ROOT / "book").glob("*.md"),
        *(ROOT / "book").glob("*.py"),
        *(ROOT / "notebooks").glob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
    }
    - {Path(__file__).resolve()}
)

NAMES = r"He et al\.|He, |Kaiming He"


def lines_with(pattern: str, without: str = "$^") -> list[str]:
    """Lines of all that is written in which `pattern` stands, whatever the case, once `without` is taken out."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in WRITTEN
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, re.sub(without, "", line), re.I)
    ]


def test_nothing_refers_to_papers_that_are_not_here():
    found = lines_with(r"paper.notes|shared plan|\bshared/(?!data/)|\breviews?/|\bissue \d")
    assert not found, "\n".join(found)


def test_attackers_are_they():
    found = lines_with(r"\b(he|him|his|himself)\b", without=NAMES)
    assert not found, "\n".join(found)
