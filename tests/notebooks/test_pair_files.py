"""`notebooks/pair.py`: every .ipynb is its .py, and a difference is noticed."""

import nbformat
import pair
import pytest


def test_every_notebook_has_its_pair():
    assert pair.sources(), "no notebook at all"
    assert {source.name: pair.difference(source) for source in pair.sources() if pair.difference(source)} == {}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "07_x.py"
    path.write_text('# %% [markdown]\n# # Title\n\n# %% tags=["parameters"]\nseed = 0\n')
    assert pair.main([], tmp_path) == 0
    return path


def test_fresh_pair_is_accepted_and_has_no_outputs(source):
    assert pair.difference(source) is None
    assert pair.main(["--check"], source.parent) == 0
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert notebook.cells[1].metadata["tags"] == ["parameters"]
    assert notebook.cells[1].outputs == []


def test_changed_source_is_noticed(source):
    source.write_text(source.read_text().replace("seed = 0", "seed = 1"))
    assert "differs" in pair.difference(source)
    assert pair.main(["--check"], source.parent) == 1


def test_outputs_in_the_pair_are_noticed(source):
    path = source.with_suffix(".ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="0")]
    nbformat.write(notebook, path)
    assert "outputs" in pair.difference(source)


def test_pair_without_a_source_is_noticed(source):
    source.unlink()
    assert pair.main(["--check"], source.parent) == 1


def test_writing_twice_changes_nothing(source):
    before = source.with_suffix(".ipynb").read_bytes()
    source.with_suffix(".ipynb").unlink()
    pair.main([], source.parent)
    assert source.with_suffix(".ipynb").read_bytes() == before
