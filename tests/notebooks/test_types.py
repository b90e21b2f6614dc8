"""A notebook names only what exists: mypy reads it, so that a renamed attribute or parameter does not wait for a long run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pair import sources

from dragkit import zoo

ROOT = Path(__file__).resolve().parents[2]
BROKEN = re.compile(r"\[(attr-defined|call-arg|name-defined|import-not-found)\]$")
CHAPTERS = sorted((ROOT / "book" / "draglab" / "chapters").glob("*.py"))
FGET = 'has no attribute "fget"'  # mypy does not know that a property, taken from its class, has one


def broken(files: list[str], folder: Path) -> list[str]:
    """What mypy says of missing names, attributes and parameters."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--scripts-are-modules"]
    done = subprocess.run([*command, "--cache-dir", str(folder), *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if BROKEN.search(line) and FGET not in line]


def test_notebooks_name_what_exists_and_a_renamed_attribute_is_noticed(tmp_path):
    stale = tmp_path / "stale.py"
    stale.write_text("from dragkit import DragConfig\nDragConfig().title\n")
    said = broken([*(str(file) for file in sources()), str(stale)], tmp_path / "cache")
    assert len(said) == 1, said
    assert 'has no attribute "title"' in said[0]


def of_clients(text: str) -> set[str]:
    """Attributes that code takes from a client: mypy lets any of them pass, as every `torch.nn.Module` may have any."""
    taken = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in taken if isinstance(node.value, ast.Name) and node.value.id in ("client", "cut")}


@pytest.fixture(scope="module")
def client():
    return zoo.load_client(at="block:1")


@pytest.mark.parametrize("file", [*CHAPTERS, *sources()], ids=lambda file: file.stem)
def test_clients_have_the_attributes_that_chapters_and_notebooks_take(file, client):
    known = {*dir(client), *dir(str)}  # in some chapters these are the names of clients and cuts
    assert of_clients(file.read_text()) <= known


def test_a_renamed_attribute_of_a_client_is_noticed(client):
    assert not of_clients("print(client.cut_at)") <= {*dir(client), *dir(str)}
