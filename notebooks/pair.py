"""Write `NN_name.ipynb` (no outputs, for Colab and the launch buttons) beside every `NN_name.py`, the source.

    python notebooks/pair.py            # write the pairs that differ
    python notebooks/pair.py --check    # only compare; exit status 1 when a pair differs

The comparison reads both files. It does not look at modification times, which git does not keep.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from jupytext.compare import NotebookDifference, compare_notebooks
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources(folder: Path = HERE) -> list[Path]:
    """The notebooks' sources, in reading order."""
    return sorted(folder.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> NotebookNode:
    """The notebook in a py:percent file, with cell ids that depend on nothing but the position."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata["kernelspec"] = KERNEL
    for position, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{position:03d}"
    return notebook


def difference(source: Path) -> str | None:
    """What keeps `source` and its pair from being one notebook; None when nothing does."""
    pair = source.with_suffix(".ipynb")
    if not pair.exists():
        return f"{pair.name} is missing"
    notebook = nbformat.read(pair, as_version=4)
    if any(
        cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells
    ):
        return f"{pair.name} holds outputs"
    try:
        compare_notebooks(read(source), notebook, fmt="py:percent")
    except NotebookDifference as error:
        return f"{pair.name} differs from {source.name}: {error}"
    return None


def main(arguments: list[str], folder: Path = HERE) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    found = {source: difference(source) for source in sources(folder)}
    stray = [
        path.name
        for path in folder.glob("*.ipynb")
        if path.with_suffix(".py") not in found
    ]
    for source, problem in found.items():
        if problem and not arguments:
            nbformat.write(read(source), source.with_suffix(".ipynb"))
            print(f"wrote {source.stem}.ipynb")
    complaints = [problem for problem in found.values() if problem] if arguments else []
    complaints += [f"{name} has no .py source" for name in stray]
    for complaint in complaints:
        print(complaint, "(`make pair` writes the pairs)", file=sys.stderr)
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
