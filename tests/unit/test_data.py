"""Where photos come from: clear errors, balanced choices, nothing twice."""

import pytest
import torch
from PIL import Image

from dragkit import data


@pytest.fixture
def tiny_imagenette(tmp_path, monkeypatch):
    """A folder in Imagenette's layout: 3 photos of each class in both subsets, read by torchvision's own class."""
    generator = torch.Generator().manual_seed(0)
    wnids = [
        "01440764",
        "02102040",
        "02979186",
        "03000684",
        "03028079",
        "03394916",
        "03417042",
        "03425413",
        "03445777",
        "03888257",
    ]
    for subset in ("train", "val"):
        for wnid in (f"n{digits}" for digits in wnids):
            folder = tmp_path / "data" / "imagenette2-160" / subset / wnid
            folder.mkdir(parents=True)
            for i in range(3):
                pixels = torch.randint(0, 255, (40, 60, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{wnid}_{i}.JPEG")
    monkeypatch.setenv("DRAGKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_DATA", str(tmp_path))
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="DRAGKIT_DATA") as error:
        data.imagenette("val")
    assert str(tmp_path) in str(error.value) and "python -m dragkit.data" in str(error.value)


def test_without_a_folder_named_the_cache_is_the_only_place(tiny_imagenette, monkeypatch, tmp_path):
    monkeypatch.delenv("DRAGKIT_DATA")
    with pytest.raises(FileNotFoundError, match=r"python -m dragkit\.data"):
        data.find_data()
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))  # the photos lie in tmp_path / "data"
    assert data.find_data() == tiny_imagenette


@pytest.mark.parametrize(("arguments", "message"), [(("test",), "'train' or 'val'"), (("val", 4), "between 8 and 160")])
def test_wrong_subset_and_size(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.imagenette(*arguments)


def test_photos_are_resized_labelled_and_cached(tiny_imagenette):
    images, labels = data.imagenette("val", 32)
    assert images.shape == (30, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [3] * 10
    (tiny_imagenette / "imagenette2-160").rename(tiny_imagenette / "gone")
    again, _ = data.imagenette("val", 32)  # from the cache: the photos are not needed any more
    assert torch.equal(images, again)


def test_pick_is_balanced_repeatable_and_nested(tiny_imagenette):
    x, labels, chosen = data.pick("val", 20, size=16, seed=3)
    assert labels.bincount(minlength=10).tolist() == [2] * 10
    assert len(set(chosen)) == 20 and x.min() >= 0 and x.max() <= 1
    assert data.pick("val", 10, size=16, seed=3)[2] == chosen[:10]
    assert data.pick("val", 20, size=16, seed=4)[2] != chosen
    with pytest.raises(ValueError, match="has 30 photos"):
        data.pick("val", 31, size=16)


def test_demo_images_are_photos_every_installation_has():
    photos = data.demo_images(48)
    assert set(photos) == {"astronaut", "cat", "coffee", "rocket"}
    for photo in photos.values():
        assert photo.shape == (3, 48, 48) and photo.min() >= 0 and photo.max() <= 1 and photo.std() > 0.05
