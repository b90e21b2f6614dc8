"""Every recorded table, figure and sentence of the notebooks is made from the records of this book, without a run."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from matplotlib import pyplot as plt
from pair import read, sources

from draglab.pages.study import Line

WITH_STUDIES = [source for source in sources() if "study(" in source.read_text() or ".gather()" in source.read_text()]
STARTS = ("study(", "chapter.gather(")


def shown(notebook: Any) -> list[tuple[str, Any]]:
    """(expression, value) of all that needs nothing but recorded studies and what the notebook imports."""
    parts = [part for cell in notebook.cells if cell.cell_type == "code" for part in ast.parse(cell.source).body]
    scope: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, ast.Import | ast.ImportFrom) and "google" not in ast.unparse(part):
            exec(compile(ast.Module([part], []), "imports", "exec"), scope)
    imported, recorded, out = {*scope, "print"}, set(), []
    for part in parts:
        text, nodes = ast.unparse(part), [node for node in ast.walk(part) if isinstance(node, ast.Name)]
        stored = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
        needed = {node.id for node in nodes} - stored
        if not needed <= imported | recorded or not (needed & recorded or any(start in text for start in STARTS)):
            continue
        if isinstance(part, ast.Assign):
            exec(text, scope)
            recorded |= stored
        elif isinstance(part, ast.Expr):
            out.append((text, eval(text, scope)))
            plt.close("all")
    return out


@pytest.mark.parametrize("source", WITH_STUDIES, ids=[source.stem for source in WITH_STUDIES])
def test_what_was_recorded_is_shown(source):
    views = shown(read(source))
    assert views, "the notebook shows a study, and this test did not find where"
    for text, value in views:
        assert value is not None or text.startswith("print("), text
        assert not (isinstance(value, Line) and "Not available" in value.text), text
