"""What a notebook must look like to run on Colab, in the driver and on the page (CONTRIBUTING.md gives the list)."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
import types

import pytest
from pair import read, sources

from dragkit.attacks.glass import GlassConfig
from dragkit.attacks.image_prior import ImagePriorConfig
from dragkit.attacks.rmle import RmleConfig
from dragkit.config import DragConfig

NAMES = [source.stem for source in sources()]
HIDDEN = {"remove-cell", "remove-input", "hide-input", "hide-cell"}
VISIBLE_LINES, VISIBLE_WIDTH = 20, 88
PROSE_PER_CODE = 1.2  # over the book
READERS = {"open", "Path", "read_csv", "read_json", "read_parquet", "load", "imread", "load_file"}


@pytest.fixture(params=NAMES)
def notebook(request):
    return read(next(source for source in sources() if source.stem == request.param))


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_starts_with_a_title_then_the_colab_cell_then_the_parameters(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert "google.colab" in code(notebook)[0].source
    assert "remove-cell" in code(notebook)[0].metadata.get("tags", [])
    tagged = [cell.source for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    scope: dict = {}
    exec(tagged[0], scope)
    assert scope["budget"] == "ci"
    assert isinstance(scope["seed"], int)


def test_colab_cell_installs_dragkit_and_leaves_torch_alone(notebook, monkeypatch):
    ran: list[list[str]] = []
    for name in ("run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, lambda command, **options: ran.append([str(part) for part in command]))
    exec(code(notebook)[0].source, {})
    assert ran == [], "at home it must do nothing"
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(code(notebook)[0].source, {})
    assert len(ran) == 1
    assert ran[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert re.fullmatch(r"dragkit(\[[\w,]+\])? @ git\+https://github\.com/[\w-]+/[\w-]+(@[\w.-]+)?", ran[0][-1])
    assert not any("torch" in part for part in ran[0])


def problems(source: str) -> list[str]:
    """What in this code would break on another machine."""
    found = []
    for node in ast.walk(ast.parse(source)):
        imported = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        found += [f"import of {name}" for name in imported if name.split(".")[0] in ("myst_nb", "scrapbook")]
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0].value
            if name in READERS and isinstance(first, str) and not re.match(r"~|https?:|data:", first):
                found.append(f"{name}({first!r}) reads a path of one machine")
    return found


def test_code_runs_anywhere(notebook):
    for cell in code(notebook):
        assert not re.search(r"^\s*[%!]", cell.source, re.M), "magics and shell commands do not run outside Jupyter"
        assert problems(cell.source) == []


@pytest.mark.parametrize(
    "bad", ["from myst_nb import glue", "import scrapbook as sb", "open('a.png')", "pd.read_csv('x/y.csv')"]
)
def test_lint_finds_what_breaks(bad):
    assert problems(bad)


def test_markdown_is_plain(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"^:::|^```\{|\{(ref|numref|cite|doc|term)[:\w]*\}`", cell.source, re.M)
            assert not re.search(r"!\[[^]]*\]\(https?:|<img[^>]+src=.https?:", cell.source), (
                "pages load nothing from outside"
            )


def test_figures_have_a_text_and_keep_their_pixels(notebook):
    for cell in code(notebook):
        if re.search(r"plt\.show|\bshow_\w+\(|\bplots\.\w+\(|\.imshow\(", cell.source):
            image = cell.metadata.get("mystnb", {}).get("image", {})
            assert 10 <= len(image.get("alt", "")) <= 250, f"alt text missing: {cell.source[:80]}"
            assert "dark-light" in image.get("classes", "")


@pytest.mark.parametrize("budget", ["ci", "laptop", "colab", "paper"])
def test_settings_exist_at_every_budget(notebook, budget):
    """Runs the statements that need nothing but `budget`, the settings of attacks and what such statements gave."""
    scope = {c.__name__: c for c in (DragConfig, GlassConfig, ImagePriorConfig, RmleConfig)} | {"budget": budget}
    follows = {"budget"}
    for statement in (part for cell in code(notebook)[1:] for part in ast.parse(cell.source).body):
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        read_ = {node.id for node in names} - stored
        known = read_ <= scope.keys() | set(dir(builtins))
        if isinstance(statement, ast.Assign) and read_ & follows and known:
            exec(ast.unparse(statement), scope)
            follows |= stored
    assert follows != {"budget"} or notebook.cells[0].source.startswith("# Split inference"), (
        "the budget changes nothing"
    )


def visible(notebook) -> list[list[str]]:
    """Non-blank lines of every code cell that a reader of the page sees."""
    shown = [cell for cell in code(notebook) if not HIDDEN & set(cell.metadata.get("tags", []))]
    return [[line for line in cell.source.splitlines() if line.strip()] for cell in shown]


def test_visible_code_is_short_and_narrow(notebook):
    for lines in visible(notebook):
        assert len(lines) <= VISIBLE_LINES, f"{len(lines)} lines; hide the plumbing or move it: {lines[0]}"
        assert max(map(len, lines)) <= VISIBLE_WIDTH, max(lines, key=len)


def test_nothing_private_is_imported(notebook):
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], cell.source
            if isinstance(node, ast.Attribute):
                assert not re.match(r"_[a-z]", node.attr), f"{node.attr} is private: {ast.unparse(node)}"


def test_prose_carries_the_book():
    prose = seen = 0
    for source in sources():
        book = read(source)
        texts = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
        prose += sum(bool(line.strip()) for text in texts for line in text.splitlines())
        seen += sum(map(len, visible(book)))
    assert prose >= PROSE_PER_CODE * seen, f"{prose} lines of prose, {seen} of visible code"
