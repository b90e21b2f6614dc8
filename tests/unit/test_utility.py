"""Accuracy of a defended client: paired by photo, free for a defence that does nothing, and where it falls to a target."""

import json
import shutil
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dragkit import data, zoo
from dragkit.client import SplitClient
from dragkit.defenses import Defence, make
from dragkit.defenses.base import defend
from dragkit.measures import utility
from dragkit.measures.intervals import rate
from dragkit.zoo import cards
from draglab import accuracy
from draglab.training import classifier, export, server
from draglab.training import server as training
from draglab.training.loop import TrainConfig


def fake_imagenette(subset, size=64):
    """120 coarse random photos whose labels the tests replace by what the model says."""
    coarse = torch.rand(120, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = (255 * nn.functional.interpolate(coarse, size=size)).to(torch.uint8)
    return images, torch.arange(120) % 10


@dataclass(frozen=True)
class Nothing(Defence):
    @classmethod
    def of(cls, client, value=None, photos=None):
        return cls(client.layout)

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        return h


@dataclass(frozen=True)
class Blend(Nothing):
    """The message moves towards noise: more strength, less of the photo."""

    share: float = 0.5

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        return (1 - self.share) * h + self.share * 3 * torch.randn(h.shape, generator=generator)


@pytest.fixture(scope="module")
def client():
    """A small classifier, right about most of its photos because the labels are its answers (with a few wrong ones)."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = classifier.build(classifier.ClassifierRecipe(width=32, blocks=2))
        for parameter in model.parameters():
            parameter.data *= 4 if parameter.ndim > 1 else 1
        model.half().float()  # as precise as it is shipped
    return SplitClient(model, "block:1", image_size=64, mean=classifier.MEAN, std=classifier.STD, name="tiny")


@pytest.fixture(autouse=True)
def toy_photos(client, tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    images = fake_imagenette("val")[0]
    with torch.no_grad():
        labels = client.model(classifier.normalise(images.float() / 255)).logits.argmax(1)
    labels[::7] = (labels[::7] + 1) % 10

    def labelled(subset, size=64):
        return fake_imagenette(subset, size)[0], labels

    for module in (data, training, export):
        monkeypatch.setattr(module, "imagenette", labelled)


def test_a_defence_that_does_nothing_costs_nothing(client):
    plain = accuracy.per_photo_right(client)
    assert plain.dtype == torch.bool and plain.tolist() == [i % 7 != 0 for i in range(120)]
    assert torch.equal(accuracy.per_photo_right(client, Nothing.of(client)), plain)
    assert tuple(accuracy.accuracy_drop(plain, plain)) == (0, 0, 0)
    assert rate(accuracy.per_photo_right(client)).mean == pytest.approx(102 / 120)


def test_the_message_is_what_costs_and_the_interval_is_paired(client):
    plain, defended = accuracy.per_photo_right(client), accuracy.per_photo_right(client, Blend(client.layout, 0.5))
    lost = accuracy.accuracy_drop(plain, defended)
    assert lost.low > 0 and lost.mean == pytest.approx(102 / 120 - defended.double().mean().item())


def test_a_photo_has_its_own_stream_whatever_else_is_measured(client):
    strong = Blend(client.layout, 0.3)
    whole = accuracy.per_photo_right(client, strong)
    for indices in ([5, 6, 90, 7], range(1, 120, 2)):
        assert torch.equal(accuracy.per_photo_right(client, strong, indices=indices, batch=7), whole[list(indices)])
    assert not torch.equal(accuracy.per_photo_right(client, strong, seed=1000), whole)


def test_dropped_tokens_reach_the_server_as_fewer(client):
    drop = make("drop:0.75+shuffle", client)
    some = list(range(30))
    h = accuracy.features(client)[some].float()
    received = drop.receive(defend(drop, h, 0)[0])
    assert received.shape == (30, 17, 32)
    with torch.no_grad():
        expected = client.server(received).argmax(1) == data.imagenette("val")[1][some]
    assert torch.equal(accuracy.per_photo_right(client, drop, indices=some), expected)


def test_representations_are_cached_by_what_they_depend_on(client, tmp_path, monkeypatch):
    h = accuracy.features(client)
    assert h.dtype == torch.float16 and h.shape == (120, 65, 32)
    monkeypatch.setattr(type(client), "forward", lambda *_: pytest.fail("computed again"))
    assert torch.equal(accuracy.features(client), h)
    monkeypatch.undo()
    assert len(list((tmp_path / "features").glob("ir-*"))) == 1


def test_a_server_that_does_not_classify_is_refused():
    client = SplitClient(
        nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(4, 2, 1)), "0", image_size=64, name="maps"
    )
    with pytest.raises(ValueError, match="client is maps; its server answers"):
        accuracy.per_photo_right(client)


# -- equal cost --------------------------------------------------------------------------------------------------------


def test_bisection_finds_the_root_of_a_falling_function_and_never_misses_the_target():
    asked = []

    def value(strength):
        asked.append(strength)
        return 1 - strength**2

    found = accuracy.last_above(value, 0.75, 0.0, 2.0, steps=12)
    assert found == pytest.approx(0.5, abs=2 / 2**12) and value(found) >= 0.75
    assert len(asked) == 2 + 12 + 1


@pytest.mark.parametrize(("target", "ends"), [(1.5, (0.0, 1.0)), (0.2, (0.0, 0.5))])
def test_a_target_outside_of_the_range_is_refused(target, ends):
    with pytest.raises(ValueError, match="widen the range"):
        accuracy.last_above(lambda s: 1 - s, target, *ends, steps=3)


def test_the_strength_is_chosen_on_photos_that_are_neither_attacked_nor_reported():
    chosen_on, report = accuracy.halves(attacked=20)
    attacked = data.pick("val", 20, seed=0)[2]
    assert set(chosen_on).isdisjoint(report) and set(chosen_on).isdisjoint(attacked)
    assert len(report) == 60 and 40 <= len(chosen_on) < 60


def test_calibration_costs_what_was_asked_for_on_its_photos(client):
    found = accuracy.calibrate(lambda s: Blend(client.layout, s), client, 0.1, (0.0, 0.1), steps=6)
    fit, report = accuracy.halves()
    plain = rate(accuracy.per_photo_right(client, indices=fit)).mean
    assert plain - 0.1 <= found.chosen_on.mean < plain
    chosen = Blend(client.layout, found.strength)
    assert found.defended == rate(accuracy.per_photo_right(client, chosen, indices=report))
    assert found.lost.mean == pytest.approx(found.plain.mean - found.defended.mean)
    stronger = Blend(client.layout, found.strength + 0.1 / 2**6)
    assert rate(accuracy.per_photo_right(client, stronger, indices=fit)).mean < plain - 0.1
    with pytest.raises(ValueError, match="drop is 2"):
        accuracy.calibrate(lambda s: Blend(client.layout, s), client, 2, (0.1, 0.9))


# -- one photo ---------------------------------------------------------------------------------------------------------


def test_the_consequence_is_told_in_words(client):
    h = accuracy.features(client)[:1].float()
    said = utility.consequence(client, h, h)
    assert "(unchanged)" in said and any(name in said for name in data.CLASSES)
    with torch.no_grad():
        answers = client.server(accuracy.features(client).float()).argmax(1)
    other = int((answers != answers[0]).nonzero()[0])
    assert "(CHANGED)" in utility.consequence(client, h, accuracy.features(client)[other : other + 1].float())


def test_the_consequence_for_a_server_that_does_not_classify(client):
    deep = SplitClient(client.model.vit, "block:1", image_size=64)
    h = torch.randn(1, *deep.h_shape)
    assert "cosine similarity 1.000" in utility.consequence(deep, h, h)


# -- a server that is trained for the defence, and what is remembered --------------------------------------------------


@pytest.fixture
def shipped(client, tmp_path, monkeypatch):
    """The tiny client in a zoo of its own, and a server trained for it by a few steps."""
    monkeypatch.setattr(cards, "FOLDER", tmp_path / "zoo")
    zoo.verify.cache_clear()
    folder = tmp_path / "zoo" / "tiny"
    client.model.save_pretrained(folder)
    classifier.image_processor().save_pretrained(folder)
    sha = {"model.safetensors": zoo.file_sha256(folder / "model.safetensors")}
    card = {"class": "ViTForImageClassification", "sha256": sha, "command": ""}
    (folder / "card.json").write_text(json.dumps(card))
    yield "tiny"
    zoo.verify.cache_clear()


def test_a_trained_server_has_the_same_client_half_and_another_server(shipped, client):
    config = TrainConfig(steps=4, batch=8, lr=1e-2, warmup=1, device="cpu")
    server.train_server(config, training.ServerRecipe(), shipped, "block:1", defence="drop:0.5")
    name = zoo.server_name(shipped, "block:1", "drop:0.5")
    assert name == "server/tiny/block-1+drop-0.5" and zoo.available(name)
    card = zoo.card(name)
    assert set(card["measured"]) == {"top1", "top1_before", "top1_undefended"} and card["measured"]["top1"]["n"] == 120
    assert card["command"] == "dragkit train server --client tiny --at block:1 --defence drop:0.5 --steps 4"
    before, after = zoo.load_client(shipped, "block:1"), zoo.load_client(name, "block:1")
    assert after.name == name and accuracy.same_client(before, after)
    h = accuracy.features(before)[:4].float()
    assert not torch.equal(before.server(h), after.server(h))
    right = accuracy.measured_right(shipped, "block:1", "drop:0.5", server=name)
    assert right.double().mean().item() == card["measured"]["top1"]["value"]
    assert torch.equal(accuracy.measured_right(name, "block:1", "drop:0.5"), right)


def test_measured_once_and_refused_before_work(shipped, monkeypatch):
    first = accuracy.measured_accuracy(shipped, "block:1", "drop:0.5")
    client = zoo.load_client(shipped, "block:1")
    assert first == rate(accuracy.per_photo_right(client, make("drop:0.5", client)))
    monkeypatch.setattr(accuracy, "per_photo_right", lambda *_, **__: pytest.fail("measured again"))
    assert accuracy.measured_accuracy(shipped, "block:1", "drop:0.5") == first
    with pytest.raises(ValueError, match="known ones are"):
        accuracy.measured_accuracy(shipped, "block:1", "magic")
    with pytest.raises(ValueError, match="no embedded model is called 'other'"):
        accuracy.measured_accuracy("other", "block:1")
    with pytest.raises(ValueError, match="whose client half at block:2 is not that of 'tiny'"):
        accuracy.measured_accuracy(shipped, "block:2", server=_retrained(shipped))


def _retrained(name: str) -> str:
    """The same model with another first block."""

    folder = cards.FOLDER / "changed"
    shutil.copytree(cards.FOLDER / name, folder)
    weights = load_file(folder / "model.safetensors")
    key = next(k for k in weights if "layer" in k and k.endswith("weight") and weights[k].ndim == 2)
    save_file({**weights, key: weights[key] + 0.1}, folder / "model.safetensors", {"format": "pt"})
    card = json.loads((folder / "card.json").read_text())
    card["sha256"]["model.safetensors"] = zoo.file_sha256(folder / "model.safetensors")
    (folder / "card.json").write_text(json.dumps(card))
    return "changed"
