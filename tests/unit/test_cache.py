"""What is stored is whole: damaged results are made again, full disks leave nothing behind, keys follow the weights."""

import errno
import json
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from dragkit import cache
from draglab.pages import claims
from draglab.pages.claims import Claim


def claim(id_: str) -> Claim:
    return Claim(id_, "a statement", "here", "key", 1.0, 0.5, 1.5, 3, "", True, "00")


def result_file(store: Path, spec: dict) -> Path:
    return cache.place(store, spec) / "result.safetensors"


@pytest.mark.parametrize("damage", [b"", b"{}", "half"])
def test_a_damaged_result_is_made_again(tmp_path, damage):
    spec, x = {"a": 1}, torch.arange(100.0)
    cache.remember(tmp_path, spec, lambda: {"x": x})
    file = result_file(tmp_path, spec)
    file.write_bytes(file.read_bytes()[:300] if damage == "half" else damage)
    with pytest.warns(UserWarning, match="is damaged"):
        assert torch.equal(cache.remember(tmp_path, spec, lambda: {"x": x})["x"], x)
    assert torch.equal(cache.remember(tmp_path, spec, lambda: pytest.fail("it is there"))["x"], x)


def test_a_result_without_its_tensors_is_made_again(tmp_path):
    cache.remember(tmp_path, {"a": 1}, lambda: {"x": torch.ones(1)})
    result_file(tmp_path, {"a": 1}).unlink()
    assert cache.remember(tmp_path, {"a": 1}, lambda: {"x": torch.zeros(1)})["x"].item() == 0


def test_who_is_second_takes_the_result_of_who_was_first(tmp_path):
    def slow():
        cache.remember(tmp_path, {"a": 1}, lambda: {"x": torch.ones(1)})  # another process, meanwhile
        return {"x": torch.zeros(1)}

    assert cache.remember(tmp_path, {"a": 1}, slow)["x"].item() == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_features_are_loaded_or_made(tmp_path):
    file = tmp_path / "deep" / "features.safetensors"
    assert cache.load_or_make(file, lambda: {"x": torch.ones(2)})["x"].tolist() == [1, 1]
    assert cache.load_or_make(file, lambda: pytest.fail("it is there"))["x"].tolist() == [1, 1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.load_or_make(file, lambda: {"x": torch.zeros(2)})["x"].tolist() == [0, 0]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    for write in (
        lambda: cache.remember(tmp_path / "store", {"a": 1}, lambda: {"x": torch.ones(1)}),
        lambda: cache.write_tensors(tmp_path / "file.safetensors", {"x": torch.ones(1)}),
    ):
        with pytest.raises(OSError, match=r"no space is left for .*DRAGKIT_CACHE") as caught:
            write()
        assert caught.value.errno == errno.ENOSPC
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_interrupted_write_keeps_the_previous_file(tmp_path):
    file = tmp_path / "figures.json"
    cache.write_json(file, [1])

    def interrupted():
        with cache.written_aside(file) as partial:
            partial.write_text("[1, 2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(file.read_text()) == [1] and list(tmp_path.iterdir()) == [file]


def test_the_digest_of_weights_changes_with_all_that_matters():
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

    same, other = cache.weights_digest(model()), model()
    assert same == cache.weights_digest(model())
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-6
    moved = model()
    moved[1].running_mean += 1
    assert len({same, *(cache.weights_digest(m) for m in (other, moved, model().bfloat16()))}) == 4


def test_a_digest_changes_with_values_shape_precision_and_order():
    x = torch.arange(6.0).reshape(2, 3)
    same = cache.digest("a", x, 1, 23)
    assert same == cache.digest("a", x.T.contiguous().T, 1, 23)
    others = [
        ("b", x, 1, 23),
        ("a", x + 1, 1, 23),
        ("a", x.flatten(), 1, 23),
        ("a", x.double(), 1, 23),
        ("a", x, 12, 3),
    ]
    others += [(x, "a", 1, 23), ("a", x.sum(), 1, 23)]
    assert len({same, *(cache.digest(*parts) for parts in others)}) == len(others) + 1


def test_two_writers_of_claims_lose_nothing(tmp_path):
    def write(writer):
        for i in range(15):
            claims.write(f"study-{writer}", "a command", [0], [claim(f"{writer}-{i}")], {}, tmp_path)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = json.loads((tmp_path / "claims.json").read_text())
    assert sorted(c["id"] for c in known) == sorted(f"{w}-{i}" for w in range(3) for i in range(15))
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "claims.json",
        *(f"study-{w}.json" for w in range(3)),
    ]


def test_damaged_claims_are_not_overwritten(tmp_path):
    (tmp_path / "claims.json").write_text('[{"id": "a", "state')
    with pytest.raises(ValueError, match=r"claims.json is damaged .*git checkout"):
        claims.write("study", "a command", [0], [claim("b")], {}, tmp_path)
    assert (tmp_path / "claims.json").read_text() == '[{"id": "a", "state'
