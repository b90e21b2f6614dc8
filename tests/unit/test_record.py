"""What `draglab.pages.record` writes, what it refuses, and that it is silent outside a run."""

import json

import numpy as np
import pytest
import torch

from dragkit.provenance import provenance
from draglab.pages.record import record, record_panel


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_RECORD", str(tmp_path / "run"))
    return tmp_path / "run"


def test_nothing_is_written_outside_a_run(tmp_path, monkeypatch):
    monkeypatch.delenv("DRAGKIT_RECORD", raising=False)
    monkeypatch.chdir(tmp_path)
    images = torch.rand(1, 3, 8, 8)
    assert record("loss", 1.5) == 1.5
    assert record_panel("shot", images) is images
    assert list(tmp_path.iterdir()) == []


def test_numbers_keep_value_tolerance_and_provenance(folder):
    record("ssim", torch.tensor(0.5), atol=0.02, direction="higher", unit="")
    record("losses", [3, 2, 1])
    data = json.loads((folder / "numbers.json").read_text())
    assert data["numbers"]["ssim"] == {"value": 0.5, "atol": 0.02, "rtol": 0.0, "direction": "higher", "unit": ""}
    assert data["numbers"]["losses"]["value"] == [3.0, 2.0, 1.0]
    assert data["numbers"]["losses"]["rtol"] == 0.01
    assert data["provenance"]["packages"]["torch"] == torch.__version__.split("+")[0]


def test_panels_keep_the_pixels(folder):
    images = torch.rand(2, 3, 9, 8)
    record_panel("shot", images, min_ssim=0.8)
    with np.load(folder / "shot.npz") as saved:
        assert saved["images"].shape == (2, 9, 8, 3)
        np.testing.assert_allclose(saved["images"] / 255, images.permute(0, 2, 3, 1), atol=0.5 / 255 + 1e-6)
        assert saved["min_ssim"] == 0.8


def test_a_key_counts_once(folder):
    record("loss", 1.0)
    with pytest.raises(ValueError, match="already recorded"):
        record("loss", 2.0)
    record_panel("shot", torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match="already recorded"):
        record_panel("shot", torch.rand(3, 8, 8))


@pytest.mark.parametrize(
    ("key", "value", "options", "message"),
    [
        ("a b", 1.0, {}, "key"),
        ("../x", 1.0, {}, "key"),
        ("x", float("nan"), {}, "finite"),
        ("x", torch.zeros(2, 2), {}, "flat"),
        ("x", 1.0, {"atol": -1.0}, "atol"),
        ("x", 1.0, {"direction": "up"}, "direction"),
    ],
)
def test_bad_numbers_are_refused_even_outside_a_run(monkeypatch, key, value, options, message):
    monkeypatch.delenv("DRAGKIT_RECORD", raising=False)
    with pytest.raises(ValueError, match=message):
        record(key, value, **options)


@pytest.mark.parametrize("images", [torch.rand(2, 8, 8), torch.rand(1, 3, 4, 8), torch.full((1, 3, 8, 8), torch.nan)])
def test_bad_panels_are_refused(images):
    with pytest.raises(ValueError, match="images"):
        record_panel("shot", images)


def test_provenance_names_device_and_versions():
    told = provenance()
    assert set(told) == {"commit", "python", "packages", "device", "threads"}
    assert "absent" not in told["packages"].values()
