"""What a study of a defence records beside the pictures: how its models were trained, and what a trained server answers."""

import pytest
import torch

from dragkit import zoo
from draglab import accuracy, tables
from draglab.studies import defence_study
from draglab.studies.randomness import COMPARED, SEEDS_EACH, _over_seeds

CARD = {
    "command": "dragkit train server",
    "config": {"steps": 5, "lr": 0.1},
    "recipe": {"mix": 0.5},
    "measured": {"top1": {"value": 0.6, "n": 4}},
    "sha256": {"model.safetensors": "0"},
}


@pytest.fixture
def toy(monkeypatch):
    """Two cases whose pictures are given, and a server that was trained for one of the two defences."""
    server = zoo.server_name(zoo.CLIENT, defence_study.AT, "drop:0.5")
    monkeypatch.setattr(zoo, "available", lambda name: name == server)
    monkeypatch.setattr(zoo, "card", lambda name: CARD)
    rows = {"drop:0.5": {"st_lpips": {"mean": 0.1}}, "undefended": {}, "prior only": {}}
    monkeypatch.setattr(defence_study, "compare", lambda name, cases: (rows, {}))
    monkeypatch.setattr(defence_study, "_found_first", lambda images, case: {})
    monkeypatch.setattr(
        accuracy, "measured_accuracy", lambda client, at, defence: (0.6 if client == server else 0.4, 0, 1)
    )
    return server


def test_a_trained_server_is_a_row_with_the_same_leak_and_its_own_accuracy(toy):
    cases = {
        label: defence_study.attacked(recipe, n=2) for label, recipe in (("undefended", ""), ("drop:0.5", "drop:0.5"))
    }
    rows = defence_study.study("toy", cases)
    assert list(rows) == ["drop:0.5", "undefended", "prior only", "drop:0.5, trained server"]
    plain, tuned = rows["drop:0.5"], rows["drop:0.5, trained server"]
    assert (plain["server"], tuned["server"]) == (zoo.CLIENT, toy)
    assert (plain["accuracy"][0], tuned["accuracy"][0]) == (0.4, 0.6) and plain["st_lpips"] == tuned["st_lpips"]
    assert plain["models"] == {} and tuned["models"] == {toy: {k: v for k, v in CARD.items() if k != "sha256"}}
    assert "accuracy" not in rows["prior only"]


def test_inverse_networks_are_attacked_with_where_they_are_there(monkeypatch):
    monkeypatch.setattr(zoo, "available", lambda name: name == "inverse/vit-imagenette64/block-6+shuffle")
    assert defence_study.rebuilt("drop:0.5", n=2) == {}
    (case,) = defence_study.rebuilt("shuffle", n=2).values()
    assert case.adaptive == "retrained" and case.config is None and case.defence == "shuffle"


def test_what_a_training_changes_is_told_by_recipe_and_settings():
    other = {"config": {"steps": 5, "lr": 0.2}, "recipe": {"mix": 0.5, "new": 1}}
    assert defence_study.changed(other, CARD) == "lr=0.2" and defence_study.changed(CARD, CARD) == ""
    masked = [{"config": {}, "recipe": {"mask": {"ratio": ratio, "hard": False}}} for ratio in (0.9, 0.5)]
    assert defence_study.changed(*masked) == "ratio=0.9"


def test_more_than_half_is_judged_photo_by_photo():
    values = {
        "undefended": [0.9, 0.8, 0.9, 0.8],
        "prior only": [0.1, 0.2, 0.1, 0.2],
        "much": [0.7] * 4,
        "little": [0.3] * 4,
    }
    rows = {label: {"per_photo": {"ms_ssim": v}} for label, v in values.items()}
    assert (
        defence_study.above_half(rows, "much").mean == pytest.approx(0.2)
        and defence_study.above_half(rows, "little").high < 0
    )
    assert tables.difference(rows, "much", "little", "ms_ssim").mean == pytest.approx(0.4)
    assert torch.isfinite(torch.tensor(defence_study.above_half(rows, "much"))).all()


def test_small_differences_are_judged_by_the_mean_over_seeds():
    def row(value):
        return {"per_photo": {m: [value, value + 0.2] for m in tables.METRICS}, "retrieval_top1": [value, 0, 1]}

    rows = {"undefended": row(0.9)}
    for label in COMPARED:
        rows |= {label: row(0.1)} | {f"{label}, seed {i}": row(0.1 + i / 10) for i in range(1, SEEDS_EACH)}
    found = _over_seeds(rows)
    assert list(found) == ["undefended", *COMPARED]
    first = found[COMPARED[0]]
    assert first["per_photo"]["ms_ssim"] == pytest.approx([0.25, 0.45]) and first["ms_ssim"]["mean"] == pytest.approx(
        0.35
    )
    assert first["seeds"] == 4 and first["retrieval_top1"][0] == 0.1 and "seeds" not in found["undefended"]
