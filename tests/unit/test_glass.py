"""GLASS finds what its generator can draw, per image, and keeps to the rules of all attacks."""

import sys

import pytest
import torch
from torch import nn

from dragkit.attacks.glass import NEEDS_ENCODER, GlassConfig, divergence, glass
from dragkit.attacks.message import Message
from dragkit.attacks.threat import ThreatModel
from dragkit.client import SplitClient
from dragkit.priors.gan import StyleGenerator, WEncoder

CONFIG = GlassConfig(restarts=4, z_iterations=30, w_iterations=120, z_lr=0.1, w_lr=0.05, kl=0.01)


@pytest.fixture(scope="module")
def generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = StyleGenerator((16, 12, 8), latent_dim=16, style_dim=16, mapping_layers=2)
        for colour in made.colours:  # an untrained generator is grey: more contrast, so that there is something to find
            nn.init.normal_(colour.weight, std=0.3)
    made.update_statistics(500)
    return made


@pytest.fixture(scope="module")
def client():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 48, 4, stride=4), nn.Flatten(2))
    return SplitClient(model, "0", image_size=16, name="toy")


@pytest.fixture(scope="module")
def photos(generator):
    """Images of the generator itself, from z that the attack does not draw."""
    with torch.no_grad():
        return generator(torch.randn(3, 16, generator=torch.Generator().manual_seed(99))).clamp(0, 1)


def encoder(client="toy", at="0", layers=6):
    torch.manual_seed(1)
    return WEncoder(16, 48, layers, 16, 16, 1, 2, client=client, at=at)


def test_finds_an_image_of_its_own_generator(generator, client, photos):
    found = glass(Message(client(photos), client), generator, CONFIG)
    error = (found.images - photos).square().mean((1, 2, 3))
    guess = (photos.mean(0) - photos).square().mean((1, 2, 3))
    assert (error < guess / 10).all() and found.distance.max() < 0.01
    restarts = found.trace["restarts"]
    assert restarts.shape == (4, 3) and found.trace["distance"].shape == (120, 3)
    # The search in W+ goes on from the best restart.
    assert ((found.trace["distance"][0] - restarts.min(0).values).abs() < 0.1 * restarts.max(0).values).all()
    assert found.nfe == 4 * 30 + 120 and found.failed_at == [None] * 3 and not found.interrupted


def test_a_batch_gives_what_single_runs_give(generator, client, photos):
    few = CONFIG.with_(restarts=3, z_iterations=8, w_iterations=12)
    exact = generator.double(), SplitClient(client.model.double(), "0", image_size=16, name="toy")
    h = exact[1](photos.double())
    together = glass(Message(h, exact[1]), exact[0], few)
    for i in range(3):
        alone = glass(Message(h[i : i + 1], exact[1]), exact[0], few, seeds=3407 + i)
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-5)
    generator.float()
    client.model.float()


def test_portions_of_restarts_do_not_change_the_result(generator, client, photos, monkeypatch):
    few = CONFIG.with_(restarts=5, z_iterations=6, w_iterations=6)
    h = client(photos)
    whole = glass(Message(h, client), generator, few)
    monkeypatch.setattr(sys.modules["dragkit.attacks.glass"], "AT_ONCE", 6)  # two restarts of three images at a time
    parts = glass(Message(h, client), generator, few)
    torch.testing.assert_close(parts.images, whole.images, rtol=0, atol=1e-3)
    torch.testing.assert_close(parts.trace["restarts"], whole.trace["restarts"], rtol=1e-3, atol=1e-4)
    assert parts.nfe == whole.nfe


@pytest.mark.parametrize("at", [5, 20, 31], ids=["first portion", "second portion", "in W+"])
def test_interrupted_anywhere_it_returns_the_best_and_resumes(generator, client, photos, tmp_path, monkeypatch, at):
    monkeypatch.setattr(sys.modules["dragkit.attacks.glass"], "AT_ONCE", 6)
    few = CONFIG.with_(restarts=4, z_iterations=12, w_iterations=14)  # two portions of 12, then 14
    h, file = client(photos), tmp_path / "run"
    whole = glass(Message(h, client), generator, few)
    seen = []

    def ctrl_c(state):
        seen.append(state.iteration)
        if len(seen) == at:
            raise KeyboardInterrupt

    cut = glass(Message(h, client), generator, few, callback=ctrl_c, checkpoint=file)
    assert cut.interrupted and cut.distance.isfinite().all() and len(seen) == at
    resumed = glass(Message(h, client), generator, few, checkpoint=file)
    torch.testing.assert_close(resumed.images, whole.images, rtol=0, atol=1e-6)
    assert resumed.nfe == whole.nfe and not resumed.interrupted
    with pytest.raises(ValueError, match="another attack"):
        glass(Message(h, client), generator, few.with_(kl=0.5), checkpoint=file)


def test_a_callback_ends_it(generator, client, photos):
    found = glass(Message(client(photos), client), generator, CONFIG, callback=lambda state: state.iteration == 3)
    assert found.interrupted and found.nfe == 4 * 3


def test_one_broken_representation_does_not_stop_the_others(generator, client, photos):
    few = CONFIG.with_(restarts=2, z_iterations=5, w_iterations=5)

    def poisoned(h_hat, h, mask):
        return (
            (h_hat - h).square().mean((1, 2))
            / torch.where(h.sum((1, 2)) == bad, 0.0, 1.0)
            * torch.where(h.sum((1, 2)) == bad, torch.nan, 1.0)
        )

    h = client(photos)
    bad = client.tokens(h)[1].sum()
    found = glass(Message(h, client, distance=poisoned), generator, few)
    assert found.failed_at == [None, 0, None]
    assert found.distance[1].isnan() and found.distance[[0, 2]].isfinite().all() and found.images.isfinite().all()


def test_missing_tokens_are_not_compared_in_either_search(generator, client, photos):
    h = client(photos[:1])
    mask = torch.ones(1, 16, dtype=torch.bool)
    mask[:, 8:] = False
    holes = h.clone()
    holes.flatten(2)[:, :, 8:] = 1e3  # what stands where nothing arrived must not matter
    few = CONFIG.with_(restarts=2, z_iterations=5, w_iterations=10)
    one, two = (glass(Message(given, client, mask), generator, few) for given in (h, holes))
    torch.testing.assert_close(one.images, two.images)


def test_the_encoder_replaces_the_search_for_z(generator, client, photos):
    h = client(photos)
    few = CONFIG.with_(w_iterations=10, noise=0.0)
    made = encoder()
    found = glass(Message(h, client), generator, few, encoder=made, threat=NEEDS_ENCODER)
    start = client.tokens(client(generator.synthesis(made(client.tokens(h)))))
    want = 1 - nn.functional.cosine_similarity(start, client.tokens(h), dim=-1).mean(1)
    torch.testing.assert_close(found.trace["distance"][0], want.detach(), rtol=1e-4, atol=1e-5)
    assert found.nfe == 10 and "restarts" not in found.trace


def test_refusals_come_before_the_work(generator, client, photos):
    h = client(photos)
    with pytest.raises(PermissionError, match="GLASS needs weights"):
        glass(Message(h, client), generator, threat=ThreatModel(weights=False))
    with pytest.raises(PermissionError, match=r"GLASS\+\+ needs public_data"):
        glass(Message(h, client), generator, encoder=encoder())
    with pytest.raises(ValueError, match="encoder was trained for 'other'"):
        glass(Message(h, client), generator, encoder=encoder(client="other"), threat=NEEDS_ENCODER)
    with pytest.raises(ValueError, match=r"w\+ of \(4, 16\)"):
        glass(Message(h, client), generator, encoder=encoder(layers=4), threat=NEEDS_ENCODER)
    mask = torch.arange(16).expand(3, 16) < 5
    with pytest.raises(ValueError, match="leaves tokens out"):
        glass(Message(h, client, mask), generator, encoder=encoder(), threat=NEEDS_ENCODER)
    with pytest.raises(ValueError, match="one entry per token"):
        glass(Message(h, client, mask[:, 1:]), generator)
    with pytest.raises(TypeError, match="prior is a Linear"):
        glass(Message(h, client), nn.Linear(1, 1))


@pytest.mark.parametrize(
    "bad", [{"restarts": 0}, {"w_iterations": 1.5}, {"z_lr": 0.0}, {"kl": -1.0}, {"psi": 0.0}, {"noise": -0.1}]
)
def test_config_refuses(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        GlassConfig(**bad)
    assert (GlassConfig.paper().z_iterations, GlassConfig.paper().w_iterations) == (10_000, 10_000)


def test_divergence_is_zero_at_the_standard_normal():
    z = torch.tensor([[1.0, -1.0, 1.0, -1.0], [3.0, 1.0, 3.0, 1.0], [2.0, -2.0, 2.0, -2.0]])
    assert divergence(z)[:2].tolist() == pytest.approx([0.0, 2.0], abs=1e-6)
    assert divergence(z)[2].item() == pytest.approx(0.5 * (4 - 1 - torch.tensor(4.0).log().item()), abs=1e-5)
