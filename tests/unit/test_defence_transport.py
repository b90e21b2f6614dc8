"""What is sent is as small as it says: k numbers, rank directions, 2^depth levels; and the server makes something of it."""

import math

import pytest
import torch

from dragkit import data, zoo
from dragkit.client import Layout
from dragkit.defenses import defend
from dragkit.defenses.public import public_tokens
from dragkit.defenses.transport import LowRank, Quantise, TopK

LAYOUTS = {"BND": (5, 8), "BCHW": (8, 2, 3), "BHWC": (2, 3, 8), "BD": (8,)}
D = 8


@pytest.fixture(scope="module")
def client():
    return zoo.load_client(at="block:6")


@pytest.fixture
def photos(monkeypatch):
    """Random images in the place of Imagenette."""
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(data, "pick", lambda subset, n, seed: (images, None, None))
    return images


def layout(axes):
    return Layout(axes, 0, False)


def message(axes):
    """A message, and a view of it with the features last."""
    h = torch.randn(4, *LAYOUTS[axes], generator=torch.Generator().manual_seed(1))
    return h, lambda t: t.movedim(1, -1) if axes == "BCHW" else t


@pytest.mark.parametrize("axes", LAYOUTS)
def test_topk_sends_exactly_k_of_each_token_those_far_from_the_mean(axes):
    h, view = message(axes)
    mean = torch.linspace(-2, 2, D)
    top = TopK(layout(axes), (5, D), 3 / 8, mean)
    sent = defend(top, h, 0)[0]
    there = view(sent) != 0
    assert (there.sum(-1) == 3).all() and torch.equal(view(sent)[there], view(h)[there])
    away = (view(h) - mean).abs()
    assert (away.where(there, torch.inf).amin(-1) >= away.where(~there, -torch.inf).amax(-1)).all()
    torch.testing.assert_close(view(top.receive(sent)), torch.where(there, view(h), mean))


@pytest.mark.parametrize("axes", LAYOUTS)
def test_lowrank_is_the_orthogonal_projection(axes):
    h, view = message(axes)
    basis = torch.linalg.qr(torch.randn(D, 3, dtype=torch.float64))[0]
    low = LowRank(layout(axes), (5, D), 3, basis, torch.full((D,), 10.0))
    sent = defend(low, h, 0)[0]
    torch.testing.assert_close(defend(low, sent, 0)[0], sent, atol=1e-5, rtol=0)
    rows = view(sent).reshape(-1, D) - 10
    assert torch.linalg.matrix_rank(rows.double(), atol=1e-4) == min(3, len(rows))
    assert ((view(h) - view(sent)) @ basis.float()).abs().max() < 1e-4


@pytest.mark.parametrize("axes", LAYOUTS)
@pytest.mark.parametrize("depth", [1, 3])
def test_quantise_has_few_levels_and_errs_by_half_a_step(axes, depth):
    h, view = message(axes)
    low, high = torch.linspace(-2, -1, D), torch.linspace(1, 3, D)
    made = Quantise(layout(axes), (5, D), depth, low, high)
    sent = view(defend(made, h, 0)[0])
    step = (high - low) / 2**depth
    inside = (view(h) >= low) & (view(h) <= high)
    assert 0 < inside.float().mean() < 1
    assert ((sent - view(h)).abs() <= step / 2 + 1e-5)[inside].all()
    assert (sent >= low).all() and (sent <= high).all()
    many = made(torch.randn(500, *LAYOUTS[axes]), None)
    for column in view(many).reshape(-1, D).T:
        assert len(column.unique()) == 2**depth
    torch.testing.assert_close(made(made(h, None), None), made(h, None))


def test_a_feature_that_never_varies_is_sent_as_it_is():
    made = Quantise(layout("BND"), (5, D), 2, torch.ones(D), torch.ones(D))
    torch.testing.assert_close(made(torch.randn(2, 5, D), None), torch.ones(2, 5, D))


def test_bits_of_a_message(client, photos):
    n, d = 65, 128
    assert Quantise.of(client, 3).bits == n * d * 3
    assert LowRank.of(client, 8).bits == n * 8 * 32
    top = TopK.of(client, 0.1)
    assert top.k == 13 and top.bits == math.ceil(n * (13 * 32 + math.log2(math.comb(d, 13))))
    assert TopK.of(client, 1).bits == n * d * 32
    assert TopK.of(client, 1e-9).k == 1


def test_principal_directions_keep_most_of_the_variance(client, photos):
    tokens = public_tokens(client).flatten(0, 1)
    left = [
        (tokens - low(tokens[None], None)[0]).square().sum() for low in (LowRank.of(client, k) for k in (1, 16, 128))
    ]
    assert left[0] > left[1] > left[2] and left[2] < 1e-12 * left[0]
    variances = torch.linalg.svdvals(tokens - tokens.mean(0)).square()
    torch.testing.assert_close(left[1], variances[16:].sum())
    assert LowRank.of(client, 16) == LowRank.of(client) and torch.equal(
        LowRank.of(client).basis, LowRank.of(client).basis
    )


def test_weak_limits_leave_the_answers_alone(client, photos):
    with torch.no_grad():
        h = client(photos[:2])
        for made in (TopK.of(client, 1), LowRank.of(client, 128)):
            torch.testing.assert_close(
                client.server(made.receive(defend(made, h, 0)[0])), client.server(h), atol=1e-3, rtol=1e-3
            )
        assert client.server(Quantise.of(client, 2)(h, None)).isfinite().all()


def test_a_batch_gives_what_single_messages_would(client, photos):
    with torch.no_grad():
        h = client(photos[:3])
    for made in (TopK.of(client, 0.1), LowRank.of(client, 8), Quantise.of(client, 2)):
        together = defend(made, h, [4, 5, 6])
        for i, seed in enumerate([4, 5, 6]):
            assert torch.equal(defend(made, h[i : i + 1], seed)[:, 0], together[:, i])


def test_wrong_strengths_are_named_before_anything_is_measured(client, monkeypatch):
    monkeypatch.setattr(data, "pick", lambda *_: pytest.fail("measured first"))
    for kind, name, values in (
        (TopK, "topk", (0, -1, 1.5, math.nan)),
        (LowRank, "lowrank", (0, 2.5, 129, math.nan)),
        (Quantise, "quantise", (0, 1.5, 17, math.inf)),
    ):
        for value in values:
            with pytest.raises(ValueError, match=f"{name} is given {value}"):
                kind.of(client, value)


def test_too_few_tokens_and_swapped_ends_are_refused(client, photos, monkeypatch):
    few = public_tokens(client)[:1, :10]
    monkeypatch.setattr("dragkit.defenses.transport.public_tokens", lambda client, photos: few)
    with pytest.raises(ValueError, match="lowrank is given 10, but 1 photos of 10 tokens have 9"):
        LowRank.of(client, 10)
    with pytest.raises(ValueError, match="low is above high"):
        Quantise(layout("BND"), (5, D), 2, torch.ones(D), torch.zeros(D))
