"""Distance correlation is what it says, and its estimators differ as they should; NoPeek trains what its recipe names."""

from typing import get_args

import pytest
import torch

from dragkit import data, zoo
from dragkit.defenses.nopeek import distance_correlation, pairwise
from draglab.training import nopeek
from draglab.training.loop import TrainConfig
from draglab.training.nopeek import NopeekRecipe, NopeekTask


def _noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_scaled_copy_is_fully_correlated():
    x = _noise(32, 5)
    assert distance_correlation(x, 3 * x + 1) == pytest.approx(1, abs=1e-4)
    assert distance_correlation(x, 3 * x + 1, unbiased=True) == pytest.approx(1, abs=1e-4)


def test_squared_distances_give_linear_cka():
    x, z = _noise(20, 6), _noise(20, 4, seed=1)
    centred = [a - a.mean(0) for a in (x, z)]
    k, g = (a @ a.T for a in centred)
    cka = (k * g).sum() / (k.norm() * g.norm())
    assert distance_correlation(x, z, dx="squared", dz="squared") == pytest.approx(cka.sqrt().item(), rel=1e-4)


def test_independent_batches_look_dependent_to_the_biased_estimate_only():
    x, z = _noise(64, 3000), _noise(64, 2000, seed=1)
    assert distance_correlation(x, z) > 0.95
    assert abs(distance_correlation(x, z, unbiased=True, root=False)) < 0.1


def test_distances_are_those_of_cdist_and_cosines_are_per_token():
    x = _noise(5, 3, 4)
    torch.testing.assert_close(pairwise(x), torch.cdist(x.flatten(1), x.flatten(1)), atol=1e-4, rtol=1e-4)
    by_hand = 1 - torch.nn.functional.cosine_similarity(x[0], x[1], dim=-1).mean()
    assert pairwise(x, "cosine")[0, 1] == pytest.approx(by_hand.item(), abs=1e-5)


def test_gradients_are_finite_also_for_equal_photos():
    x, z = _noise(8, 6), _noise(8, 5, seed=1)
    x[1], z[1] = x[0], z[0]
    for unbiased in (False, True):
        z.grad = None
        distance_correlation(x, z.requires_grad_(True), unbiased=unbiased).backward()
        assert torch.isfinite(z.grad).all() and z.grad.abs().max() > 0


def test_what_cannot_be_correlated_is_refused():
    with pytest.raises(ValueError, match="4 or more"):
        distance_correlation(_noise(3, 2), _noise(3, 2), unbiased=True)
    with pytest.raises(ValueError, match="x holds 3 and z 4"):
        distance_correlation(_noise(3, 2), _noise(4, 2))
    with pytest.raises(ValueError, match="kind is 'l1'"):
        pairwise(_noise(3, 2), "l1")
    with pytest.raises(ValueError, match="weight is -1"):
        NopeekRecipe(weight=-1)
    with pytest.raises(ValueError, match="train is 'none'"):
        NopeekRecipe(train="none")
    with pytest.raises(ValueError, match=r"at is 'vit.layers.1'; NoPeek cuts after a block"):
        NopeekRecipe(at="vit.layers.1")


@pytest.fixture
def few_photos(monkeypatch, tmp_path):
    def imagenette(subset, size=64):
        generator = torch.Generator().manual_seed(len(subset))
        photos = torch.randint(0, 256, (16, 3, size, size), generator=generator, dtype=torch.uint8)
        return photos, torch.arange(16) % 10

    monkeypatch.setattr(nopeek, "imagenette", imagenette)
    monkeypatch.setattr(data, "imagenette", imagenette)
    monkeypatch.setattr("draglab.training.export.cache_dir", lambda: tmp_path)
    monkeypatch.setattr("dragkit.zoo.cards.cache_dir", lambda: tmp_path)
    zoo.verify.cache_clear()
    yield tmp_path
    zoo.verify.cache_clear()


def test_messages_are_those_of_the_split_client(few_photos):
    task = NopeekTask(NopeekRecipe(), 4, 0, torch.device("cpu"))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        h = task.answer(task.model.eval(), x)[1]
        torch.testing.assert_close(h, zoo.load_client(at="block:6")(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", get_args(nopeek.Halves))
def test_only_the_named_half_gets_gradients(few_photos, train):
    task = NopeekTask(NopeekRecipe(train=train), 4, 0, torch.device("cpu"))
    task.loss(0, torch.Generator().manual_seed(0))[0].backward()
    moved = {
        half: any(
            p.grad is not None and p.grad.abs().max() > 0 for name, p in task.model.named_parameters() if of(name)
        )
        for half, of in {
            "client": lambda name: "layers.2." in name or "embeddings" in name,
            "server": lambda name: "layers.9." in name or "classifier" in name,
        }.items()
    }
    assert moved == {"client": train != "server", "server": train != "client"}


def test_the_control_is_the_answer_alone(few_photos):
    task = NopeekTask(NopeekRecipe(weight=0), 4, 0, torch.device("cpu"))
    loss, logged = task.loss(0, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(logged["answer"])


def test_low_pass_photos_are_blind_to_fine_detail(few_photos):
    def term(photos, x):
        task = NopeekTask(NopeekRecipe(photos=photos), 4, 0, torch.device("cpu"))
        return task.correlation(x, torch.randn(4, 65, 128, generator=torch.Generator().manual_seed(0))).item()

    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    stripes = torch.tensor([1.0, -1.0]).repeat(32) * torch.rand(4, 1, 1, 1)
    assert term("low-pass", x + stripes) == pytest.approx(term("low-pass", x), abs=1e-5)
    assert term("pixels", x + stripes) != pytest.approx(term("pixels", x), abs=1e-5)


def test_a_trained_client_is_found_by_its_name(few_photos):
    config = TrainConfig(2, 4, 1e-4, warmup=1, device="cpu")
    nopeek.train_nopeek(config, NopeekRecipe(), "nopeek-toy")
    client = zoo.load_client("nopeek-toy", "block:6")
    assert client.name == "nopeek-toy" and client(torch.rand(1, 3, 64, 64)).shape == (1, 65, 128)
    assert "nopeek-toy" in zoo.trained("nopeek-", "ViTForImageClassification")
    with pytest.raises(ValueError, match="must begin with nopeek-"):
        nopeek.train_nopeek(config, NopeekRecipe(), "vit")


def test_a_client_that_always_says_the_same_is_uncorrelated():
    assert distance_correlation(_noise(8, 6), torch.ones(8, 6)) == pytest.approx(0, abs=1e-5)


def test_a_name_belongs_to_one_recipe(few_photos):
    config = TrainConfig(2, 4, 1e-4, warmup=1, device="cpu")
    nopeek.train_nopeek(config, NopeekRecipe(), "nopeek-toy")
    with pytest.raises(ValueError, match=r"another recipe \(weight 3.0 -> 0\)"):
        nopeek.train_nopeek(config, NopeekRecipe(weight=0), "nopeek-toy")


def test_measured_batches_are_drawn_from_the_whole_split(monkeypatch):
    monkeypatch.setattr(nopeek, "MEASURED_BATCH", 8)
    photos, seen = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 3, 4, 4), []

    def client(x):
        seen.append((x[:, 0, 0, 0] * 255).round().int().tolist())
        return x

    found = nopeek.measure_correlation(client, photos)
    assert seen == [[0, 2, 4, 6, 8, 10, 12, 14], [1, 3, 5, 7, 9, 11, 13, 15]]
    assert {name: entry["n"] for name, entry in found.items()} == {"correlation": 16, "correlation_unbiased": 16}
