"""Noise moves every number by what it says, dropout erases the share it says, and both measure the IR on training photos."""

import math

import pytest
import torch

from dragkit import data, zoo
from dragkit.client import Layout
from dragkit.defenses import Chain, TokenDrop, defend
from dragkit.defenses.additive import Dropout, GaussianNoise, LaplaceNoise
from dragkit.defenses.public import mean_token, public_tokens, spread

TOKENS = Layout("BND", 1, True)
LAYOUTS = {"BND": (65, 128), "BCHW": (128, 8, 8), "BHWC": (8, 8, 128), "BD": (128,)}


@pytest.fixture(scope="module")
def client():
    return zoo.load_client(at="block:6")


@pytest.fixture
def photos(monkeypatch):
    """Random images in the place of Imagenette."""
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(data, "pick", lambda subset, n, seed: (images, None, None))
    return images


def added(defence, h):
    return (defend(defence, h, 5)[0] - h).double().flatten()


@pytest.mark.parametrize(("kind", "kurtosis"), [(GaussianNoise, 3), (LaplaceNoise, 6)])
@pytest.mark.parametrize("axes", LAYOUTS)
def test_noise_moves_every_number_by_its_std(kind, kurtosis, axes):
    h = torch.ones(1024 if axes == "BD" else 16, *LAYOUTS[axes])
    noise = added(kind(Layout(axes, 0, False), 1.5, 0.7), h)
    assert abs(noise.mean()) < 5 * 0.7 / math.sqrt(len(noise)) and noise.std() == pytest.approx(0.7, rel=0.02)
    assert (noise != 0).all()
    assert (noise**4).mean() / noise.var() ** 2 == pytest.approx(kurtosis, rel=0.1)


@pytest.mark.parametrize("kind", [GaussianNoise, LaplaceNoise])
def test_the_unit_is_the_spread_of_public_tokens(kind, client, photos):
    with torch.no_grad():
        h = client(photos)
    made = kind.of(client, 0.5)
    assert made.std == pytest.approx(0.5 * (h - h.mean((0, 1))).square().mean().sqrt().item(), rel=1e-4)
    assert made == kind.of(client, 0.5) and kind.of(client).scale == 1


def test_spread_is_measured_around_the_mean_token():
    tokens = torch.randn(50, 20, 4, dtype=torch.float64) * 3 + torch.tensor([100.0, 0, -7, 2], dtype=torch.float64)
    assert spread(tokens) == pytest.approx(3, rel=0.1)
    torch.testing.assert_close(mean_token(tokens), tokens.flatten(0, 1).mean(0))


def test_public_tokens_are_double_and_the_same_twice(client, photos):
    tokens = public_tokens(client)
    assert tokens.shape == (8, 65, 128) and tokens.dtype == torch.float64 and torch.equal(tokens, public_tokens(client))


@pytest.mark.parametrize("axes", LAYOUTS)
def test_dropout_erases_the_share_and_the_server_fills_in_the_mean(axes):
    h = torch.randn(1024 if axes == "BD" else 16, *LAYOUTS[axes]) + 3
    mean = torch.arange(128.0) + 1
    drop = Dropout(Layout(axes, 0, False), 0.3, mean)
    sent = defend(drop, h, 7)[0]
    gone = sent == 0
    assert gone.float().mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(sent[~gone], h[~gone])
    shaped = mean[:, None, None] if axes == "BCHW" else mean
    assert torch.equal(drop.receive(sent), torch.where(gone, shaped, h))


def test_dropout_erases_cls_too_and_leaves_missing_tokens_missing():
    h = torch.randn(1, 65, 128)
    drop = Dropout(TOKENS, 0.5, torch.ones(128))
    both = Chain(TOKENS, (TokenDrop(TOKENS, 0.5), drop))
    sent = defend(both, h, 0)[0]
    assert 0 < (sent[:, 0] == 0).sum() < 128
    assert both.receive(sent).shape == (1, 33, 128) and (both.receive(sent) != 0).all()


def test_defended_messages_reach_the_server(client, photos):
    with torch.no_grad():
        h = client(photos[:2])
        for made in (GaussianNoise.of(client, 0.5), LaplaceNoise.of(client, 0.5), Dropout.of(client, 0.2)):
            answer = client.server(made.receive(defend(made, h, 0)[0]))
            assert answer.shape == (2, 10) and answer.isfinite().all()


@pytest.mark.parametrize(
    "made", [GaussianNoise(TOKENS, 1, 1), LaplaceNoise(TOKENS, 1, 1), Dropout(TOKENS, 0.5, torch.zeros(8))]
)
def test_a_batch_gives_what_single_messages_would(made):
    h = torch.randn(3, 5, 8)
    together = defend(made, h, [4, 5, 6], queries=2)
    assert not torch.equal(together[0], together[1])
    for i, seed in enumerate([4, 5, 6]):
        assert torch.equal(defend(made, h[i : i + 1], seed, queries=2)[:, 0], together[:, i])


def test_wrong_strengths_are_named_before_anything_is_measured(client, monkeypatch):
    monkeypatch.setattr(data, "pick", lambda *_: pytest.fail("measured first"))
    for kind, name, values in (
        (GaussianNoise, "gaussian", (0, -1, math.nan, math.inf)),
        (LaplaceNoise, "laplace", (0, -1, math.nan, math.inf)),
        (Dropout, "dropout", (-0.1, 1, math.nan)),
    ):
        for value in values:
            with pytest.raises(ValueError, match=f"{name} is given {value}"):
                kind.of(client, value)
    with pytest.raises(ValueError, match="std is 0"):
        GaussianNoise(TOKENS, 1, 0)
