"""The last run's numbers and pictures are the goldens'; and the comparison does notice a change."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden import GOLDENS, RECORDS, ROOT, accept, changes

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_agrees_with_its_goldens(name: str):
    if not (RECORDS / name).is_dir():
        pytest.fail(f"{name} has not been executed: run `make run` first")
    found = changes(name)
    assert found == {}, (
        "\n".join(f"{key}: {text}" for key, text in found.items()) + "\n`make goldens` accepts it, on purpose"
    )


def test_every_golden_belongs_to_a_notebook():
    assert {path.stem for path in GOLDENS.iterdir() if path.name != ".gitkeep"} <= set(NOTEBOOKS)


@pytest.fixture
def run(tmp_path):
    """A made-up run with one panel and three numbers, accepted as golden; gives `(folder of the run, changes())`."""
    record = tmp_path / "records" / "99_x"
    record.mkdir(parents=True)
    write(record, ssim=0.50, loss=2.0, count=[1.0, 2.0])
    images = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    np.savez_compressed(record / "shot.npz", images=images, min_ssim=0.9)
    accept("99_x", tmp_path / "goldens", tmp_path / "records")
    return record, lambda: changes("99_x", tmp_path / "goldens", tmp_path / "records", tmp_path / "montages")


def write(record, **values):
    directions = {"ssim": "higher", "loss": "lower"}
    numbers = {
        key: {"value": value, "atol": 0.01, "rtol": 0.0, "direction": directions.get(key), "unit": ""}
        for key, value in values.items()
    }
    (record / "numbers.json").write_text(json.dumps({"provenance": {}, "numbers": numbers}))


def test_same_run_changes_nothing(run):
    assert run[1]() == {}


@pytest.mark.parametrize(
    ("new", "changed"),
    [
        ({"ssim": 0.492}, []),
        ({"ssim": 0.48}, ["ssim"]),
        ({"ssim": 0.90}, []),
        ({"loss": 2.02}, ["loss"]),
        ({"loss": 0.10}, []),
        ({"count": [1.0, 2.02]}, ["count"]),
        ({"count": [1.0, 1.98]}, ["count"]),
        ({"count": [1.0]}, ["count"]),
        ({"extra": 1.0}, ["extra"]),
    ],
)
def test_number_outside_its_tolerance_is_noticed(run, new, changed):
    write(run[0], **{"ssim": 0.50, "loss": 2.0, "count": [1.0, 2.0], **new})
    assert list(run[1]()) == changed


def test_number_that_vanished_is_noticed(run):
    write(run[0], ssim=0.50, loss=2.0)
    assert run[1]() == {"count": "no longer recorded"}


def test_picture_that_changed_is_noticed_and_shown(run, tmp_path):
    with np.load(run[0] / "shot.npz") as saved:
        images = saved["images"].copy()
    np.savez_compressed(run[0] / "shot.npz", images=images ^ 1, min_ssim=0.9)  # one grey level: not a change
    assert run[1]() == {}
    images[1] = images[1][:, ::-1]
    np.savez_compressed(run[0] / "shot.npz", images=images, min_ssim=0.0)  # the golden's bound counts, not the run's
    assert "SSIM" in run[1]()["shot"]
    assert (tmp_path / "montages" / "99_x-shot.png").stat().st_size > 100


def test_picture_of_another_size_is_noticed(run):
    np.savez_compressed(run[0] / "shot.npz", images=np.zeros((1, 16, 16, 3), np.uint8), min_ssim=0.9)
    assert "shape" in run[1]()["shot"]
