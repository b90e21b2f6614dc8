"""`notebooks/run.py`: strict parameters, a cache that knows what a result depends on, and pages without clutter."""

import json
import shutil

import nbformat
import pytest
import run as driver
from pair import read

SOURCE = """# %% [markdown]
# # Title

# %% tags=["parameters"]
budget = "ci"
seed = 0

# %%
import os
from draglab.pages.record import record
record("seed", seed)
print(budget, seed, os.environ["DRAGKIT_STATIC"], os.listdir())
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "07_x.py"
    path.write_text(SOURCE)
    return path


def start(source, parameters, **options):
    return driver.run(source, parameters, timeout=200, build=source.parent / "build", **options)


def test_run_cache_and_merge(source):
    first = start(source, {"budget": "laptop", "seed": 3})
    build = source.parent / "build"
    page = nbformat.read(build / "notebooks" / "07_x.ipynb", as_version=4)
    assert [cell.cell_type for cell in page.cells] == ["markdown", "code", "code", "code"]
    assert "remove-cell" in page.cells[2].metadata["tags"]
    assert "laptop 3 1 []" in page.cells[3].outputs[0].text
    assert "papermill" not in (build / "notebooks" / "07_x.ipynb").read_text()
    assert json.loads((build / "records" / "07_x" / "numbers.json").read_text())["numbers"]["seed"]["value"] == 3
    assert first.seconds > 0
    assert first.peak_mib > 20

    # New prose is shown and nothing runs again (a result put into the cache by hand is what comes back).
    kept = build / "cache" / "07_x" / first.key / "run.json"
    kept.write_text(kept.read_text().replace(f'"seconds": {first.seconds}', '"seconds": 12345.0'))
    source.write_text(SOURCE.replace("# Title", "# Another title"))
    assert start(source, {"budget": "laptop", "seed": 3}).seconds == 12345.0
    assert "Another title" in nbformat.read(build / "notebooks" / "07_x.ipynb", as_version=4).cells[0].source


def test_unknown_parameter_is_refused(source):
    with pytest.raises(ValueError, match=r"no parameter sede; it declares: budget, seed"):
        start(source, {"budget": "ci", "sede": 3})


def test_failing_cell_is_an_error_and_keeps_the_last_good_copy(source):
    good = source.parent / "build" / "notebooks" / "07_x.ipynb"
    good.parent.mkdir(parents=True)
    good.write_text("good")
    source.write_text(SOURCE + "\n# %%\nraise OSError('no such luck')\n")
    with pytest.raises(RuntimeError, match="no such luck"):
        start(source, {"budget": "ci"})
    assert good.read_text() == "good"
    assert (source.parent / "build" / "failed" / "07_x.ipynb").exists()


def test_notebook_that_takes_too_long_is_stopped(source):
    source.write_text(SOURCE + "\n# %%\nimport time; time.sleep(500)\n")
    with pytest.raises(TimeoutError, match="not done after 3 s"):
        driver.run(source, {"budget": "ci"}, timeout=3, build=source.parent / "build")


@pytest.fixture
def tree(tmp_path):
    """A small repository with a file for every kind of input."""
    for name in ("dragkit/a/b.py", "dragkit/zoo/p/w.safetensors", "dragkit/zoo/p/card.json", "book/results/r.json"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text("1")
    for name in ("constraints.txt", "notebooks/run.py", "README.md"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text("1")
    return tmp_path / "tree"


@pytest.mark.parametrize(
    "name",
    [
        "dragkit/a/b.py",
        "dragkit/zoo/p/w.safetensors",
        "dragkit/zoo/p/card.json",
        "book/results/r.json",
        "constraints.txt",
    ],
)
def test_key_changes_with_every_input(source, tree, name):
    before = driver.content_key(read(source), {"budget": "ci"}, tree)
    (tree / name).write_text("2")
    assert driver.content_key(read(source), {"budget": "ci"}, tree) != before
    (tree / name).write_text("1")
    assert driver.content_key(read(source), {"budget": "ci"}, tree) == before
    shutil.move(tree / name, tree / (name + "2" if name == "constraints.txt" else name.replace(".", "2.")))
    assert driver.content_key(read(source), {"budget": "ci"}, tree) != before


def test_key_depends_on_code_and_parameters_but_not_on_prose(source, tree):
    key = driver.content_key(read(source), {"budget": "ci"}, tree)
    assert driver.content_key(read(source), {"budget": "paper"}, tree) != key
    (tree / "README.md").write_text("2")
    source.write_text(SOURCE.replace("Title", "Name"))
    assert driver.content_key(read(source), {"budget": "ci"}, tree) == key
    source.write_text(SOURCE.replace("seed = 0", "seed = 1"))
    assert driver.content_key(read(source), {"budget": "ci"}, tree) != key


def test_live_widgets_are_refused(source):
    executed = read(source)
    executed.metadata["widgets"] = {}
    with pytest.raises(ValueError, match="live widgets"):
        driver.merge(read(source), executed)
