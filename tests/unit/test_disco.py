"""DISCO: what the masks do to a message, who learns from which loss, and what a training run leaves behind."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dragkit import data, zoo
from dragkit.adaptive.distances import channel_cosine_distance
from dragkit.adaptive.replies import hear
from dragkit.client import Layout, SplitClient
from dragkit.defenses import defend
from dragkit.defenses import disco as defence
from dragkit.defenses.disco import Disco, DiscoHard, DiscoRandom, DiscoStatic, Mask, Pruner, PrunerShape, channel_mask
from dragkit.distance import cosine_distance
from dragkit.priors.inverse_network import InverseNetwork
from draglab import accuracy
from draglab.training import classifier, disco, export
from draglab.training import disco as training
from draglab.training.loop import TrainConfig, fit

D, N = 16, 65
BND = Layout("BND", 1, True)


def messages(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pruner(mask: Mask) -> Pruner:
    """An untrained pruner in float64, which has seen some messages."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Pruner(PrunerShape(D, 1, 8, mask))
    made.standardise_on(messages(64, seed=9) + 0.5)
    made.average.copy_(torch.linspace(-1, 1, D))
    return made.double().requires_grad_(False)


def send(mask: Mask, h: torch.Tensor, seed: int = 0, kind: type[Disco] = Disco) -> torch.Tensor:
    return defend(kind(BND, pruner(mask), kind.variant(mask)), h, seed)[0]


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "kept"), [(0, 100), (0.25, 75), (0.29, 71), (0.5, 50), (0.99, 1)])
def test_the_share_of_kept_channels(ratio, kept):
    scores = torch.randn(7, 100, generator=torch.Generator().manual_seed(0))
    hard, soft = (channel_mask(scores, ratio, 0.03, hard) for hard in (True, False))
    assert hard.sum(1).tolist() == [kept] * 7 and set(hard.unique().tolist()) <= {0, 1}
    assert (soft >= 0.5).sum(1).tolist() == [kept] * 7
    assert torch.equal(soft >= 0.5, hard == 1)


def test_the_gain_is_the_sigmoid_of_the_distance_to_the_threshold():
    gains = channel_mask(torch.tensor([[3.0, 0.0, 1.0, 2.0]]), 0.5, 0.5)
    torch.testing.assert_close(gains, torch.sigmoid(torch.tensor([[2.0, -4.0, -2.0, 0.0]])))


def test_the_gradient_of_a_hard_mask_is_that_of_the_soft_one():
    grads = []
    for hard in (True, False):
        scores = torch.linspace(-1, 1, 8)[None].requires_grad_(True)
        (channel_mask(scores, 0.5, 0.3, hard) * torch.arange(8)).sum().backward()
        grads.append(scores.grad)
    assert torch.equal(*grads) and grads[0].abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, "ratio is 1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"scores": "best"}, "learned, static, random"),
        ({"fill": "noise"}, "zero, mean"),
    ],
)
def test_a_mask_says_what_is_wrong_with_it(settings, message):
    with pytest.raises(ValueError, match=message):
        Mask(**settings)


# -- the defence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", ["learned", "static", "random"])
def test_a_soft_mask_destroys_nothing_and_a_channelwise_cosine_does_not_notice_it(scores):
    h = messages()
    sent = send(Mask(0.5, scores=scores), h)
    assert (sent != 0).all() and sent.abs().min() < 1e-4
    gains = sent / h
    torch.testing.assert_close(gains, gains[:, :1].expand_as(gains), rtol=1e-12, atol=0)  # shared by all tokens
    assert channel_cosine_distance(h, sent).abs().max() < 1e-14
    assert (cosine_distance(h, sent) > 0.05).all()


def test_a_hard_mask_sends_the_kept_channels_as_they_are():
    h = messages()
    sent, soft = send(Mask(0.25), h, kind=DiscoHard), send(Mask(0.25), h)
    there = (sent != 0).all(1)
    assert there.sum(1).tolist() == [12] * len(h) and torch.equal(there, (sent != 0).any(1))
    assert torch.equal(sent, h * there[:, None]) and torch.equal(there, (soft / h >= 0.5)[:, 0])


def test_static_masks_are_all_the_same_random_ones_all_different_learned_ones_depend_on_the_message():
    h, hard = messages(), Mask(0.5, hard=True)
    for kind, same in ((DiscoStatic, True), (DiscoRandom, False), (Disco, False)):
        channels = (send(hard, h, kind=kind) != 0)[:, 0]
        assert torch.equal(channels, channels[:1].expand_as(channels)) is same
    assert (send(hard, h, kind=DiscoStatic) != 0)[0, 0].tolist() == [False] * 8 + [
        True
    ] * 8  # the highest average scores
    assert not torch.equal(send(hard, h, 0, DiscoRandom), send(hard, h, 100, DiscoRandom))
    assert torch.equal(send(hard, h, 0), send(hard, h, 100))  # nothing random in a learned mask


@pytest.mark.parametrize("temperature", [0.03, 0.3])
def test_the_centred_reply_does_not_notice_a_mean_fill(temperature):
    h, mask = messages().float(), Mask(0.5, temperature, fill="mean")
    masked = Disco(BND, pruner(mask).float(), mask)
    client = SimpleNamespace(tokens=lambda h: h, layout=BND, h_shape=h.shape[1:])
    sent = defend(masked, h, 0)
    heard, _ = hear("centred", sent, masked, client)
    assert (heard.distance(h, heard.h) < 1e-4).all() and (heard.distance(h.flip(0), heard.h) > 0.3).all()
    assert (cosine_distance(h, sent[0]) > 0.02).all()
    with pytest.raises(ValueError, match="puts no mean in place"):
        hear("centred", sent, replace(masked, mask=replace(mask, fill="zero")), client)


def test_a_mean_fill_puts_the_mean_where_nothing_is_sent():
    h, mask = messages(), Mask(0.5, hard=True, fill="mean")
    sent, zeroed = send(mask, h), send(replace(mask, fill="zero"), h)
    mean = pruner(mask).mean_tokens(N)
    assert torch.equal(mean[1], mean[-1]) and not torch.equal(mean[0], mean[1])
    assert torch.equal(sent, torch.where(zeroed == 0, mean, h))


def test_maps_are_pruned_like_tokens():
    h = messages()
    flat = Pruner(PrunerShape(D, 0, 8)).double()
    tokens = Disco(Layout("BND", 0, True), flat, Mask())(h[:, 1:], torch.Generator())
    maps = Disco(Layout("BCHW", 0, False), flat, Mask())(h[:, 1:].mT.reshape(6, D, 8, 8), torch.Generator())
    torch.testing.assert_close(maps, tokens.mT.reshape(6, D, 8, 8))


def test_a_pruner_comes_back_as_it_was(tmp_path):
    mask = Mask(0.4, 0.1, True, "static", "mean")
    saved = pruner(mask).float()
    saved.save_pretrained(tmp_path)
    loaded = Pruner.from_pretrained(tmp_path)
    assert loaded.shape == saved.shape and loaded.shape.mask == mask
    torch.testing.assert_close(loaded(messages()), saved(messages()), rtol=0, atol=0)
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    (tmp_path / "config.json").write_text(json.dumps({"mask": {}, "width": 3}))
    with pytest.raises(ValueError, match="does not describe a pruner"):
        Pruner.from_pretrained(tmp_path)


def test_a_pruner_for_the_embedded_client_is_small_and_exact_under_autocast(tmp_path):
    network = Pruner(PrunerShape(128, 1))
    tokens = torch.randn(4, N, 128)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(tokens), network(tokens.float())) and network(tokens).dtype == torch.float32
    network.half().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 0.3 * 2**20
    with pytest.raises(ValueError, match=r"this pruner takes \(B, N, 128\)"):
        network(tokens[..., :64])


def test_a_client_without_a_pruner_is_told_so():
    with pytest.raises(ValueError, match=r"client 'vit-imagenette64' has no pruner at 'block:6'.*dragkit train disco"):
        Disco.of(zoo.load_client(at="block:6"))


# -- who learns from what ----------------------------------------------------------------------------------------------


def fake_imagenette(subset, size=64):
    coarse = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(len(subset)))
    big = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (big * 255).to(torch.uint8), torch.arange(60) % 10


@pytest.fixture(autouse=True)
def toy_photos(monkeypatch):
    for module in (training, export, data):
        monkeypatch.setattr(module, "imagenette", fake_imagenette)


def tiny_task(recipe: training.DiscoRecipe) -> training.DiscoTask:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = classifier.build(classifier.ClassifierRecipe(width=D, heads=2, blocks=2))
        client = SplitClient(model, "block:1", image_size=64, mean=classifier.MEAN, std=classifier.STD, name="tiny")
        adversary = InverseNetwork.for_client(client, 64, width=16, depth=1, heads=2)
    return training.DiscoTask(recipe, client, adversary, 8, 0, torch.device("cpu"))


def gradients(recipe: training.DiscoRecipe, which: int) -> dict[str, torch.Tensor]:
    """Gradient of the adversary's error (0) or of the answer's loss (1) in each part, all its numbers in a row."""
    task = tiny_task(recipe)
    x, y = fake_imagenette("train")
    task.losses(x[:8] / 255, nn.functional.one_hot(y[:8], 10).float(), torch.Generator().manual_seed(0))[
        which
    ].backward()
    vit = task.model.client.model
    parts = {"client": vit.vit.layers[0], "server": vit.vit.layers[1]}
    parts |= {"pruner": task.model.pruner, "adversary": task.model.adversary}
    flat = lambda p: torch.zeros_like(p) if p.grad is None else p.grad  # noqa: E731
    return {name: torch.cat([flat(p).flatten() for p in part.parameters()]) for name, part in parts.items()}


def reached(recipe: training.DiscoRecipe, which: int) -> set[str]:
    return {name for name, grad in gradients(recipe, which).items() if grad.abs().max() > 0}


def test_the_adversary_teaches_itself_and_the_pruner_the_answer_everybody_else():
    recipe = training.DiscoRecipe(mask=Mask(temperature=0.3))
    assert reached(recipe, 0) == {"pruner", "adversary"}
    assert reached(recipe, 1) == {"pruner", "client", "server"}


@pytest.mark.parametrize(
    ("change", "of_error", "of_answer"),
    [
        ({"adversarial": False}, {"adversary"}, {"pruner", "client", "server"}),
        ({"adversary_frozen": True}, {"pruner"}, {"pruner", "client", "server"}),
        ({"answer_into_pruner": False}, {"pruner", "adversary"}, {"client", "server"}),
        ({"client_frozen": True}, {"pruner", "adversary"}, {"pruner", "server"}),
        ({"mask": Mask(hard=True, temperature=0.3)}, {"pruner", "adversary"}, {"pruner", "client", "server"}),
        ({"mask": Mask(scores="static", temperature=0.3)}, {"pruner", "adversary"}, {"pruner", "client", "server"}),
        ({"mask": Mask(scores="random", temperature=0.3)}, {"adversary"}, {"client", "server"}),
    ],
)
def test_every_switch_cuts_one_gradient(change, of_error, of_answer):
    recipe = replace(training.DiscoRecipe(mask=Mask(temperature=0.3)), **change)
    assert reached(recipe, 0) == of_error and reached(recipe, 1) == of_answer


def test_the_pruner_climbs_what_the_adversary_descends(monkeypatch):
    recipe = training.DiscoRecipe(mask=Mask(temperature=0.3))
    turned = gradients(recipe, 0)
    monkeypatch.setattr(training, "reverse", lambda x: x)
    plain = gradients(recipe, 0)
    torch.testing.assert_close(turned["pruner"], -plain["pruner"])
    torch.testing.assert_close(turned["adversary"], plain["adversary"])


def test_reversing_changes_no_value():
    x = torch.randn(100, generator=torch.Generator().manual_seed(0)).exp()
    assert torch.equal(training.reverse(x), x)


def test_a_recipe_says_what_is_wrong_with_it():
    for change, message in (
        ({"rho": -1}, "rho is -1"),
        ({"pruner_lr": 0}, "pruner_lr is 0"),
        ({"adversarial": False, "answer_into_pruner": False}, "nothing trains the pruner"),
    ):
        with pytest.raises(ValueError, match=message):
            training.DiscoRecipe(**change)
    training.DiscoRecipe(Mask(scores="random"), adversarial=False, answer_into_pruner=False)


def test_the_task_refuses_an_adversary_for_other_tokens():
    client = tiny_task(training.DiscoRecipe()).model.client
    other = zoo.load_inverse(at="block:6")
    with pytest.raises(ValueError, match=r"adversary takes tokens \(65, 128\), but the client sends \(65, 16\)"):
        training.DiscoTask(training.DiscoRecipe(), client, other, 8, 0, torch.device("cpu"))


# -- a run -------------------------------------------------------------------------------------------------------------

CONFIG = TrainConfig(steps=2, batch=8, lr=1e-3, warmup=1, device="cpu")


def test_every_part_is_trained_and_the_pruner_faster(tmp_path):
    task = tiny_task(training.DiscoRecipe(pruner_lr=7.0))
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    groups = [g for o in task.optimizers(CONFIG) for g in o.param_groups]
    given = [id(p) for o in task.optimizers(CONFIG) for g in o.param_groups for p in g["params"]]
    assert len(given) == len(set(given)) and [g["lr"] for g in groups] == pytest.approx([1e-3, 1e-3, 7e-3])
    model = fit(task, CONFIG, tmp_path, show=False)
    moved = {n for n, p in task.model.named_parameters() if not torch.equal(p, before[n])}
    assert {n.split(".")[0] for n in moved} == {"client", "pruner", "adversary"}
    figures = task.evaluate(model)
    assert 0 <= figures["top1"] <= 1 and figures == task.evaluate(model)


def test_training_exports_a_client_and_its_pruner_that_the_defence_finds(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    recipe = training.DiscoRecipe(mask=Mask(0.25, scores="static"), client_frozen=True)
    out, pruner = disco.train_disco(CONFIG, recipe, "disco-test")
    assert pruner == zoo.find("pruner/disco-test/block-6")
    assert out == zoo.find("disco-test") and zoo.card("disco-test")["class"] == "ViTForImageClassification"
    card = zoo.card("pruner/disco-test/block-6")
    assert card["class"] == "Pruner" and card["recipe"]["mask"]["scores"] == "static" and card["steps"] == 2
    assert card["command"] == "dragkit train disco --name disco-test --steps 2"
    client = zoo.load_client("disco-test", "block:6")
    found = Disco.of(client)
    assert found.mask == recipe.mask and Disco.of(client, 0.9).mask.ratio == 0.9
    assert DiscoRandom.of(client).mask.scores == "random" and DiscoHard.of(client).mask.hard
    assert found.pruner.average.std() > 0  # the mean scores were measured
    right = accuracy.per_photo_right(client, found)  # what was measured is what was shipped
    assert card["measured"]["top1"] == {"value": right.double().mean().item(), "n": 60}
    assert set(card["measured"]) == {"top1", "top1_no_mask", "adversary_psnr"}
    start, x = zoo.load_client(at="block:6"), torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(client(x), start(x), rtol=2e-2, atol=2e-2)  # frozen, up to half precision
    assert [(tmp_path / "runs" / run / "export" / "card.json").exists() for run in disco.disco_runs("disco-test")]
    assert isinstance(defence.load_pruner(client), Pruner)


def test_names_that_would_overwrite_or_wander_are_refused():
    for name in (zoo.CLIENT, "", "a/b", "a:b"):
        with pytest.raises(ValueError, match="it must be a new one"):
            disco.disco_runs(name)
