"""Replies undo what they claim to undo, and refuse defences that they do not suit."""

from dataclasses import dataclass

import pytest
import torch

from dragkit import zoo
from dragkit.adaptive import replies
from dragkit.adaptive.expectation import Expectation
from dragkit.adaptive.likelihood import average
from dragkit.adaptive.reorder import PositionNetwork, Positions, accuracy, fit_positions, reorder, train
from dragkit.adaptive.replies import REPLIES, hear
from dragkit.client import Layout
from dragkit.defenses import Chain, Defence, defend, make
from dragkit.distance import cosine_distance

LAYOUT = Layout("BND", 1, True)


@dataclass(frozen=True)
class Toy(Defence):
    """A defence made of a function of `(h, generator)`."""

    act: object = None

    @classmethod
    def of(cls, client, value=None, photos=None):
        raise NotImplementedError

    def __call__(self, h, generator):
        return self.act(h, generator)


@dataclass(frozen=True)
class Noise(Toy):
    std: float = 0.5

    def __call__(self, h, generator):
        return h + self.std * torch.randn(h.shape, generator=generator)


def gains(h, generator):
    return h * torch.rand(h.shape[0], 1, h.shape[2], generator=generator)


def dropout(h, generator):
    return h * (torch.rand(h.shape, generator=generator) < 0.5)


def rotate(h, generator):
    return h @ torch.linalg.qr(torch.randn(h.shape[2], h.shape[2], generator=torch.Generator().manual_seed(9))).Q


@pytest.fixture(scope="module")
def client():
    return zoo.load_client(at="block:6")


@pytest.fixture(scope="module")
def h(client):
    with torch.no_grad():
        return client(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def coded(n, places=9, features=16, seed=0):
    """Patch tokens that begin with their position, one-hot, behind one prefix token."""
    tokens = torch.randn(n, places + 1, features, generator=torch.Generator().manual_seed(seed))
    tokens[:, 1:, :places] = torch.eye(places)
    return tokens


# -- what is random ----------------------------------------------------------------------------------------------------


def test_averaging_k_noisy_messages_divides_the_variance_by_k(client, h):
    noise = Noise(LAYOUT)
    for k in (1, 4, 16):
        heard, threat = hear("average", defend(noise, h, 0, k), noise, client)
        assert float((heard.h - h).var()) == pytest.approx(0.25 / k, rel=0.05) and heard.mask is None
        assert threat.queries == k


def test_averaging_fills_in_what_other_messages_left_out(client, h):
    heard, _ = hear("average", defend(Toy(LAYOUT, act=dropout), h, 0, 6), Toy(LAYOUT, act=dropout), client)
    there = heard.h != 0
    assert 0.97 < there.float().mean() < 1
    torch.testing.assert_close(heard.h[there], h[there])
    torch.testing.assert_close(heard.distance(h, heard.h, heard.mask), torch.zeros(3), atol=1e-5, rtol=0)

    drop = make("drop:0.5", client)
    messages = defend(drop, h, 0, 3)
    heard, _ = hear("average", messages, drop, client)
    assert torch.equal(heard.mask, (messages != 0).any(-1).any(0)) and 33 < heard.mask.sum(1).min() < 65
    torch.testing.assert_close(heard.h[heard.mask], h[heard.mask])
    assert average(torch.zeros(2, 1, 3)).isfinite().all()


def test_likelihood_takes_the_noise_from_the_defence(client, h):
    noise = Noise(LAYOUT)
    heard, _ = hear("likelihood", defend(noise, h, 0, 4), noise, client)
    want = (h - heard.h).square().sum((1, 2)) / (2 * heard.h.square().sum((1, 2)))
    torch.testing.assert_close(heard.distance(h, heard.h, None), want)

    class Shaped(Noise):
        def whiten(self, delta):
            return delta[..., :1]  # the noise is without bounds in all features but the first

    heard, _ = hear("likelihood", h[None], Shaped(LAYOUT), client)
    elsewhere = h + torch.cat([torch.zeros(1), torch.ones(h.shape[2] - 1)])
    torch.testing.assert_close(heard.distance(elsewhere, h, None), torch.zeros(3))


def test_expectation_is_the_mean_over_draws_and_the_same_each_time(h):
    toy = Toy(LAYOUT, act=dropout)
    distance = Expectation(toy, draws=5, seed=1)
    estimate = (h + 0.5 * torch.randn(h.shape, generator=torch.Generator().manual_seed(1))).requires_grad_(True)
    got = distance(estimate, h)
    drawn = [toy(estimate[:1], torch.Generator().manual_seed(1 + k * 1_000_003)) for k in range(5)]
    want = torch.stack([cosine_distance(one, h[:1]) for one in drawn]).mean(0)
    torch.testing.assert_close(got[:1], want)
    torch.testing.assert_close(distance(estimate, h), got)
    torch.testing.assert_close(distance(estimate[2:], h[2:]), got[2:])
    (grad,) = torch.autograd.grad(got.sum(), estimate)
    assert grad.isfinite().all() and grad.abs().max() > 0
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(distance(estimate, h), got)
    with pytest.raises(ValueError, match="draws is 0"):
        Expectation(toy, draws=0)
    with pytest.raises(ValueError, match="layout BND"):
        Expectation(Toy(Layout("BCHW", 0, False), act=dropout))


# -- what is out of order ----------------------------------------------------------------------------------------------


def test_reorder_recovers_the_order_of_a_position_code_exactly():
    tokens = coded(4)
    messages = torch.stack([torch.cat([x[:1], x[1:][torch.randperm(9)]]) for x in tokens])
    assert not torch.equal(messages, tokens)
    ordered, mask = reorder(messages, 1, messages[:, 1:, :9])
    assert torch.equal(ordered, tokens) and mask is None
    with pytest.raises(ValueError, match="a place per token"):
        reorder(messages, 1, messages[:, :, :9])


def test_reorder_puts_the_tokens_that_arrived_where_they_belong():
    tokens = coded(2)
    messages = torch.stack([torch.cat([x[:1], x[1:][torch.randperm(9)]]) for x in tokens])
    messages[0, [2, 5, 7]], messages[1, 1] = 0, 0
    arrived = (messages != 0).any(-1)
    ordered, mask = reorder(messages, 1, messages[:, 1:, :9], arrived)
    assert torch.equal(mask.sum(1), arrived.sum(1)) and torch.equal(mask, (ordered != 0).any(-1))
    assert torch.equal(ordered[mask], tokens[mask])


def test_the_position_network_learns_a_code_ignores_order_and_is_deterministic():
    tokens = coded(64)
    network = train(tokens[:, 1:], steps=120, seed=0)
    alone, together = accuracy(Positions(network, 1, {}), coded(8, seed=1))
    assert alone.mean() == 1 and together.mean() == 1
    order = torch.randperm(9)
    torch.testing.assert_close(
        network(tokens[:4, 1:][:, order]), network(tokens[:4, 1:])[:, order], rtol=1e-3, atol=1e-4
    )
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[:, 3] = False
    nonsense = tokens[:4, 1:].clone()
    nonsense[:, 3] = 99.0
    torch.testing.assert_close(network(nonsense, mask)[mask], network(tokens[:4, 1:], mask)[mask], rtol=1e-3, atol=1e-4)
    again = train(tokens[:, 1:], steps=120, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_position_classifiers_are_kept_with_a_card_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    client = zoo.load_client(at="block:1")
    photos = torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("dragkit.data.pick", lambda subset, n, seed: (photos[:n], None, None))
    small = {"n_train": 32, "n_held_out": 4, "steps": 2}
    first, again = (fit_positions(client, **small) for _ in range(2))
    files = list((tmp_path / "probes").glob("*.safetensors"))
    assert len(files) == 1 and first.card == again.card and first.card["measured"]["right place, Hungarian"]["n"] == 4
    assert "--at block:1" in first.card["command"] and first.prefix == 1
    assert torch.equal(first(photos.new_ones(1, 65, 128)), again(photos.new_ones(1, 65, 128)))
    files[0].write_bytes(files[0].read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(ValueError, match="not the file its card describes"):
        fit_positions(client, **small)
    with pytest.raises(ValueError, match="n_train is 4"):
        fit_positions(client, n_train=4)


@pytest.mark.parametrize("recipe", ["shuffle", "drop:0.5+shuffle"])
def test_replies_to_shuffling_get_tokens_masks_and_distances(client, h, recipe, monkeypatch):
    defence = make(recipe, client)
    messages = defend(defence, h, 0, 2)
    torch.manual_seed(0)
    toy = Positions(PositionNetwork(128, 64).eval().requires_grad_(False), 1, {})
    monkeypatch.setattr(replies, "fit_positions", lambda client, photos: toy)
    for reply in ("placed", "assignment", "gram", "sliced", "reorder"):
        heard, threat = hear(reply, messages, defence, client)
        d = heard.distance(h, heard.h, heard.mask)
        assert d.shape == (3,) and d.isfinite().all() and threat.defence_known
        assert (heard.mask is None) == (recipe == "shuffle")
        if reply == "assignment" or (reply in ("gram", "sliced") and recipe == "shuffle"):
            torch.testing.assert_close(d, torch.zeros(3), atol=1e-5, rtol=0)


# -- what suits --------------------------------------------------------------------------------------------------------


def test_replies_to_gains_and_rotations_do_not_notice_them(client, h):
    for reply, act in (("channelwise", gains), ("token gram", rotate)):
        toy = Toy(LAYOUT, act=act)
        heard, _ = hear(reply, defend(toy, h, 0), toy, client)
        torch.testing.assert_close(heard.distance(h, heard.h, heard.mask), torch.zeros(3), atol=1e-4, rtol=0)
    hear("loud channels", defend(Toy(LAYOUT, act=gains), h, 0), Toy(LAYOUT, act=gains), client)


UNSUITABLE = [
    ("mask", "shuffle", "leaves no token out"),
    ("visible", "shuffle", "leaves no number out"),
    ("average", "shuffle", "shuffles tokens"),
    ("average", "drop:0.5+shuffle", "shuffles tokens"),
    ("likelihood", "drop:0.5", "TokenDrop has neither whiten"),
    ("expectation", "shuffle", "shuffles tokens"),
    ("reorder", "drop:0.5", "does not shuffle"),
    ("assignment", "drop:0.5", "does not shuffle"),
    ("gram", "drop:0.5", "does not shuffle"),
    ("sliced", "drop:0.5", "does not shuffle"),
    ("channelwise", "shuffle", "shuffles tokens"),
]


@pytest.mark.parametrize(("reply", "recipe", "why"), UNSUITABLE)
def test_unsuitable_defences_are_refused(client, h, reply, recipe, why):
    defence = make(recipe, client)
    with pytest.raises(ValueError, match=why):
        hear(reply, defend(defence, h, 0), defence, client)


def test_distances_that_would_notice_the_defence_are_refused(client, h):
    noise = Noise(LAYOUT)
    for reply in ("channelwise", "loud channels", "token gram"):
        with pytest.raises(ValueError, match=f"reply '{reply}' does not suit the defence Noise: it changes"):
            hear(reply, defend(noise, h, 0), noise, client)


def test_a_fixed_part_is_no_expectation_since_it_may_hold_a_secret_key(client, h):
    secret = Toy(LAYOUT, act=rotate)
    for defence in (secret, Chain(LAYOUT, (Noise(LAYOUT), secret))):
        with pytest.raises(ValueError, match="defence Toy: it draws nothing at random"):
            hear("expectation", defend(defence, h, 0), defence, client)
    heard, _ = hear("expectation", defend(Noise(LAYOUT), h, 0), Noise(LAYOUT), client)
    assert heard.distance(h, heard.h, None).isfinite().all()


def test_rounding_twice_is_rounding_once_but_does_change_the_channels(client, h):
    coarse = Toy(LAYOUT, act=lambda h, generator: h.round())
    for reply in ("channelwise", "token gram"):
        with pytest.raises(ValueError, match="changes what it compares"):
            hear(reply, defend(coarse, h, 0), coarse, client)


def test_every_reply_has_a_label_of_its_own_and_unknown_ones_are_refused():
    assert len({reply.label for reply in REPLIES.values()}) == len(REPLIES)
    with pytest.raises(ValueError, match="adaptive is 'guess'"):
        replies.check_reply("guess")
