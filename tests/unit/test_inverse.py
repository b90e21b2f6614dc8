"""The inverse network learns to invert, says for whom it was made, and gives DRAG++ its first guess."""

import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from toys import photos as small_photos
from toys import standard_prior

from dragkit import zoo
from dragkit.attacks.drag import drag
from dragkit.attacks.dragpp import drag_plus_plus
from dragkit.attacks.inverse import inverse
from dragkit.attacks.message import Message
from dragkit.attacks.threat import ThreatModel
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.defenses import Defence, defend
from dragkit.distance import cosine_distance
from dragkit.images import resize_images
from dragkit.measures.metrics import psnr
from dragkit.priors.inverse_network import InverseNetwork, InverseShape
from dragkit.zoo import cards
from draglab.training import export
from draglab.training import inverse as training
from draglab.training.loop import TrainConfig, fit

CONFIG = TrainConfig(steps=150, batch=32, lr=5e-3, warmup=10, ema=0.9, device="cpu")
RECIPE = training.InverseRecipe(width=32, depth=1, heads=2, crop=1.0)
ATTACKER = ThreatModel(public_data=True)


def linear_client(side: int, patch: int, width: int, name: str = "linear") -> SplitClient:
    """Patches mapped linearly to `width` numbers each, as maps `(width, side / patch, side / patch)`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, width, patch, stride=patch), nn.Conv2d(width, 2, 1))
    return SplitClient(model, "0", image_size=side, mean=(0, 0, 0), std=(1, 1, 1), name=name)


def smooth(n: int, seed: int) -> torch.Tensor:
    """Images `(n, 3, 64, 64)` of 48 random numbers each."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=64, mode="bilinear")


@pytest.fixture(scope="module")
def client():
    return linear_client(64, 16, 64)


def fake_imagenette(subset, size=64):
    images = (255 * smooth(*{"train": (256, 0), "val": (64, 1)}[subset])).round().to(torch.uint8)
    return images, torch.zeros(len(images), dtype=torch.long)


@pytest.fixture(autouse=True)
def toy_photos(monkeypatch):
    for module in (training, export):
        monkeypatch.setattr(module, "imagenette", fake_imagenette)


def make_task(client, recipe=RECIPE):
    return training.InverseTask(recipe, client, CONFIG.batch, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def trained(client, tmp_path_factory):
    """A network that has seen some tokens missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "imagenette", fake_imagenette)
        task = make_task(client, training.InverseRecipe(width=32, depth=1, heads=2, crop=1.0, drop=0.2))
        return fit(task, CONFIG, tmp_path_factory.mktemp("run"), show=False).requires_grad_(False)


@pytest.fixture(scope="module")
def guess():
    """An untrained network at 4 px for a client at 4 px; the Gaussian prior of the toys has 2 px."""
    client = linear_client(4, 2, 8, "small")
    torch.manual_seed(1)
    return client, InverseNetwork.for_client(client, image_size=4, width=8, depth=1, heads=2)


# -- the network -----------------------------------------------------------------------------------------------------


def test_beats_the_mean_image_on_photos_it_has_not_seen(client, trained):
    x = smooth(32, seed=1)
    mean = fake_imagenette("train")[0].float().mean(0, keepdim=True) / 255
    found = inverse(Message(client(x), client), trained, threat=ATTACKER)
    assert (psnr(found.images, x) > psnr(mean.expand_as(x), x) + 3).all()
    assert found.nfe == 1 and found.failed_at == [None] * 32
    torch.testing.assert_close(
        found.distance, cosine_distance(client.tokens(client(found.images)), client.tokens(client(x)))
    )


def test_every_token_is_drawn_at_its_own_place():
    """Without attention to others, token i changes patch i only; the prefix token is no patch."""
    network = InverseNetwork(
        InverseShape(token_width=5, num_tokens=10, prefix_tokens=1, image_size=12, width=8, heads=2)
    )
    network.blocks = nn.Identity()
    tokens = torch.randn(1, 10, 5, generator=torch.Generator().manual_seed(0))
    before = network.predict(tokens)
    for token in range(10):
        changed = tokens.clone()
        changed[:, token] += 1
        places = (network.predict(changed) != before).any(1)[0].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2).any(-1)
        expected = torch.zeros(9, dtype=torch.bool)
        if token:
            expected[token - 1] = True
        assert places.flatten().tolist() == expected.tolist()


def test_features_are_standardised_and_dead_ones_are_not_blown_up():
    network = InverseNetwork(InverseShape(token_width=3, num_tokens=4, image_size=4, width=8, heads=2))
    tokens = torch.randn(64, 4, 3) * torch.tensor([4.0, 0.5, 0.0]) + torch.tensor([7.0, 0.0, 1.0])
    network.standardise_on(tokens)
    scaled = (tokens - network.mean) / network.std
    torch.testing.assert_close(scaled[..., :2].std((0, 1)), torch.ones(2), atol=2e-3, rtol=0)
    assert scaled.mean((0, 1)).abs().max() < 0.02 and scaled.isfinite().all()
    with pytest.raises(ValueError, match="all the same"):
        network.standardise_on(torch.ones(2, 4, 3))


def test_missing_tokens_do_not_matter_and_cost_quality(client, trained):
    x = smooth(16, seed=1)
    h = client(x)
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) > 0.3
    whole, masked = (inverse(Message(h, client, m), trained, threat=ATTACKER) for m in (torch.ones_like(mask), mask))
    torch.testing.assert_close(whole.images, inverse(Message(h, client), trained, threat=ATTACKER).images)
    garbage = torch.where(mask.view(16, 1, 4, 4), h, 100.0)
    torch.testing.assert_close(
        inverse(Message(garbage, client, mask), trained, threat=ATTACKER).images, masked.images, rtol=0, atol=0
    )
    unmarked = inverse(Message(garbage, client), trained, threat=ATTACKER)
    assert psnr(whole.images, x).mean() > psnr(masked.images, x).mean() > psnr(unmarked.images, x).mean() + 3


def test_a_batch_is_its_single_images(client, trained):
    h = client(smooth(4, seed=5))
    together = inverse(Message(h, client), trained, threat=ATTACKER)
    for i in range(4):
        alone = inverse(Message(h[i : i + 1], client), trained, threat=ATTACKER)
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.distance[0], together.distance[i], rtol=0, atol=1e-5)


def test_saved_and_loaded_again(client, trained, tmp_path):
    trained.save_pretrained(tmp_path)
    loaded = InverseNetwork.from_pretrained(tmp_path)
    assert loaded.shape == trained.shape and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    tokens = client.tokens(client(smooth(2, seed=5)))
    torch.testing.assert_close(loaded(tokens), trained(tokens))
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(ValueError, match="does not describe an inverse network"):
        InverseNetwork.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"num_tokens": 8}, "8 patch tokens; they must form a square"),
        ({"image_size": 65}, "image_size is 65; it must be a multiple of the grid's side, 3"),
        ({"prefix_tokens": 9}, "prefix_tokens is 9"),
        ({"heads": 5}, "width is 192; it must be a multiple of heads, 5"),
        ({"drop": 1.0}, "drop is 1.0"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_impossible_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        InverseShape(**{"token_width": 4, "num_tokens": 9, "image_size": 63, **shape})


# -- the attack ------------------------------------------------------------------------------------------------------


def test_refusals(client, trained, guess):
    h = client(smooth(2, seed=5))
    with pytest.raises(PermissionError, match="inverse network needs public_data"):
        inverse(Message(h, client), trained, threat=ThreatModel())
    with pytest.raises(ValueError, match="network for linear at 0, but the client is other at 0"):
        inverse(Message(h, linear_client(64, 16, 64, "other")), trained)
    elsewhere = SplitClient(client.model, "1", image_size=64, name="linear")
    with pytest.raises(ValueError, match="for linear at 0, but the client is linear at 1"):
        inverse(Message(elsewhere(smooth(2, seed=5)), elsewhere), trained)
    with pytest.raises(ValueError, match="h has shape"):
        inverse(Message(h[:, 1:], client), trained)
    with pytest.raises(TypeError, match=r"mask is torch\.float32"):
        inverse(Message(h, client, torch.ones(2, 16)), trained)
    with pytest.raises(ValueError, match=r"mask is \(2, 9\); it must be \(2, 16\)"):
        inverse(Message(h, client, torch.ones(2, 9, dtype=torch.bool)), trained)
    small, untrained = guess
    mask = torch.tensor([[True, True, True, False]])
    with pytest.raises(ValueError, match="trained on whole representations; train one with --drop"):
        inverse(Message(small(torch.rand(1, 3, 4, 4)), small, mask), untrained)


def test_precision_follows_h(client, trained):
    h = client(smooth(1, seed=5))
    assert inverse(Message(h.double(), client), trained).images.dtype == torch.float64
    assert inverse(Message(h.half(), client), trained).images.dtype == torch.float32


# -- DRAG++ ----------------------------------------------------------------------------------------------------------


def test_presets_run_the_last_three_tenths():
    seen = {c.strength * c.num_steps * c.recurrence for c in (DragConfig.paper_plus(), DragConfig.published_plus(120))}
    assert seen == {75 * 16, 30 * 4}


def test_dragpp_is_drag_from_the_guess_at_the_priors_size(guess):
    client, network = guess
    h, prior = client(small_photos(3).float()), standard_prior()
    start = resize_images(inverse(Message(h, client), network).images, (2, 2)).clamp(0, 1)
    config = DragConfig(num_steps=10, recurrence=2, strength=0.3)
    found = drag_plus_plus(Message(h, client), prior, config, inverse_network=network, seeds=5)
    expected = drag(Message(h, client), prior, config, start=start, seeds=5)
    torch.testing.assert_close(found.images, expected.images, rtol=0, atol=0)
    assert found.nfe == 6 and found.threat.public_data


def test_dragpp_with_little_noise_stays_near_the_guess_and_moves_with_more(guess):
    client, network = guess
    h = client(small_photos(3).float())
    start = resize_images(inverse(Message(h, client), network).images, (2, 2))
    near, far = (
        drag_plus_plus(
            Message(h, client),
            standard_prior(),
            DragConfig(num_steps=250, recurrence=1, strength=s),
            inverse_network=network,
        )
        for s in (0.004, 0.5)
    )
    assert (near.images - start).abs().max() < 0.01 < (far.images - start).abs().max() / 3


def test_dragpp_of_a_batch_is_that_of_its_single_images(guess):
    client, network = guess
    h, prior = client(small_photos(4).float()), standard_prior()
    config = DragConfig(num_steps=10, recurrence=2, strength=0.3)
    together = drag_plus_plus(Message(h, client), prior, config, inverse_network=network, seeds=[3, 4, 5, 6])
    for i in range(4):
        alone = drag_plus_plus(Message(h[i : i + 1], client), prior, config, inverse_network=network, seeds=[3 + i])
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-5)


def test_dragpp_needs_public_photos(guess):
    client, network = guess
    with pytest.raises(PermissionError, match=r"DRAG\+\+ needs public_data"):
        drag_plus_plus(
            Message(client(small_photos(1).float()), client),
            standard_prior(),
            inverse_network=network,
            threat=ThreatModel(),
        )


# -- training and shipping -------------------------------------------------------------------------------------------


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(client, tmp_path):
    short = TrainConfig(steps=8, batch=32, lr=5e-3, device="cpu")
    recipe = training.InverseRecipe(width=16, depth=1, heads=2, drop=0.3)
    whole = fit(make_task(client, recipe), short, tmp_path / "whole", show=False)
    task = make_task(client, recipe)
    learn = task.loss

    def until_ctrl_c(step, generator):
        if step == 5:
            raise KeyboardInterrupt
        return learn(step, generator)

    task.loss = until_ctrl_c
    with pytest.raises(KeyboardInterrupt):
        fit(task, short, tmp_path / "cut", show=False)
    resumed = fit(make_task(client, recipe), short, tmp_path / "cut", show=False)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_trained_measured_shipped_and_loaded(client, tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cards, "FOLDER", tmp_path / "zoo")
    monkeypatch.setattr(zoo, "load_client", lambda name, at: client)
    with pytest.raises(
        ValueError, match="no inverse network is shipped for client 'linear' at '0'; there are none yet"
    ):
        zoo.load_inverse("linear", "0")
    training.train_inverse(TrainConfig(steps=2, batch=32, lr=1e-3, device="cpu"), RECIPE, "linear", "0")
    assert export.ship(training.inverse_run("linear", "0")) == tmp_path / "zoo" / "inverse" / "linear" / "0"
    card = zoo.card("inverse/linear/0")
    assert card["command"] == "dragkit train inverse --client linear --at 0 --steps 2"
    assert set(card["measured"]) == {"psnr", "ms_ssim", "st_lpips"}
    assert all(figure["n"] == 64 for figure in card["measured"].values())
    network = zoo.load_inverse("linear", "0")
    x = smooth(64, seed=1)
    found = inverse(Message(client(x), client), network)
    assert psnr(found.images, x).mean().item() == pytest.approx(card["measured"]["psnr"]["value"], abs=0.01)
    assert training.inverse_run(zoo.CLIENT, "block:9") == "inverse-vit-imagenette64-block-9"
    with pytest.raises(ValueError, match="there are inverse/linear/0"):
        zoo.load_inverse("linear", "block:3")


@pytest.mark.parametrize(
    ("start", "defence", "began"),
    [
        ("auto", "", ""),
        ("auto", "drop:0.5", "inverse/vit-imagenette64/block-6"),
        ("none", "drop:0.5", ""),
        ("inverse/vit-imagenette64/block-3", "", "inverse/vit-imagenette64/block-3"),
    ],
)
def test_the_command_finds_where_to_begin(start, defence, began, monkeypatch):
    seen = []

    def task(recipe, *rest):
        seen.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "InverseTask", task)
    with pytest.raises(KeyboardInterrupt):
        training.train_inverse(recipe=replace(training.RECIPE, start=start), at="block:6", defence=defence)
    assert seen[0].start == began


# -- trained against a defence ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hidden(Defence):
    """Half of the positions are set to zero, at random; the rest is turned around."""

    @classmethod
    def of(cls, client, value=None, photos=None):
        return cls(client.layout)

    def __call__(self, h, generator):
        kept = torch.rand(len(h), 1, *h.shape[2:], generator=generator) > 0.5
        return -h * kept

    def arrived(self, h):
        return (h != 0).any(1).flatten(1)


@pytest.fixture(scope="module")
def retrained(client, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "imagenette", fake_imagenette)
        task = training.InverseTask(RECIPE, client, CONFIG.batch, 0, torch.device("cpu"), Hidden.of(client))
        return fit(task, CONFIG, tmp_path_factory.mktemp("run"), show=False).requires_grad_(False)


def test_retraining_pays_and_takes_the_mask_of_the_defence(client, trained, retrained):
    x, defence = smooth(32, seed=1), Hidden.of(client)
    sent = defend(defence, client(x), 0)[0]
    mask = defence.arrived(sent)
    assert retrained.shape.drop == pytest.approx(0.5, abs=0.05) and 0.4 < mask.float().mean() < 0.6
    knows, guesses = (
        inverse(Message(sent, client, mask), network, threat=ATTACKER) for network in (retrained, trained)
    )
    assert psnr(knows.images, x).mean() > psnr(guesses.images, x).mean() + 3


def test_defended_training_draws_anew_at_every_step_and_judges_on_the_same_messages(client):
    task = training.InverseTask(RECIPE, client, 32, 0, torch.device("cpu"), Hidden.of(client))
    x = smooth(4, seed=1)
    one, two = (task._heard(x, torch.Generator().manual_seed(s))[0] for s in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(task.rebuild(task.model, x), task.rebuild(task.model, x))
    bare, mask = training.InverseTask(RECIPE, client, 32, 0, torch.device("cpu"))._heard(x, torch.Generator())
    assert mask is None and torch.equal(bare, client.tokens(client(x)))


def test_training_goes_on_from_a_network_and_refuses_one_that_does_not_fit(client, trained, tmp_path, monkeypatch):
    trained.save_pretrained(tmp_path)
    monkeypatch.setattr(zoo, "verify", lambda name: tmp_path)
    task = make_task(client, replace(RECIPE, start="inverse/linear/0"))
    for name, weight in task.model.state_dict().items():
        torch.testing.assert_close(weight, trained.state_dict()[name], rtol=0, atol=0)
    assert task.model.shape.drop == 0  # what it is trained on from here on
    with pytest.raises(ValueError, match="start is 'inverse/linear/0', made for"):
        make_task(client, replace(RECIPE, start="inverse/linear/0", width=16))


def test_the_start_is_the_clients_own_network_or_that_of_its_parent():
    own = "inverse/vit-imagenette64/block-6"
    assert training.inverse_start(zoo.CLIENT, "block:6") == ""
    assert training.inverse_start(zoo.CLIENT, "block:6", "drop:0.5") == own
    assert training.inverse_start("nopeek-vit", "block:6") == own
    assert training.inverse_start(zoo.WILD_CLIENT, "block:6") == ""
    assert training.inverse_start(zoo.CLIENT, "block:5", "drop:0.5") == ""


def test_a_retrained_network_has_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    recipe = replace(RECIPE, start="inverse/vit-imagenette64/block-6", width=192, depth=2, heads=4)
    config = TrainConfig(steps=1, batch=8, lr=1e-3, device="cpu")
    training.train_inverse(config, recipe, zoo.CLIENT, "block:6", "drop:0.5")
    network, card = (
        f(zoo.CLIENT, "block:6", "drop:0.5") for f in (zoo.load_inverse, lambda *n: zoo.card(zoo.inverse_name(*n)))
    )
    assert network.shape.client == zoo.CLIENT and network.shape.drop == pytest.approx(32 / 65, abs=1e-6)
    assert card["recipe"]["start"] == "inverse/vit-imagenette64/block-6"
    assert card["command"] == (
        "dragkit train inverse --client vit-imagenette64 --at block:6 --defence drop:0.5 --steps 1"
    )


def test_a_client_trained_on_this_machine_goes_by_its_own_name(tmp_path, monkeypatch):
    """Its folder is called "export", and an inverse network is made for a client by name."""
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    shutil.copytree(zoo.find(zoo.CLIENT), tmp_path / "runs" / "nopeek-vit" / "export")
    assert zoo.load_client("nopeek-vit", "block:6").name == "nopeek-vit"
    assert zoo.load_client(zoo.CLIENT, "block:6").name == zoo.CLIENT
