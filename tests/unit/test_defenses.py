"""Defences act as they say: shuffling is free, dropped tokens are zero, recipes are read, replies get what they need."""

import pytest
import torch

from dragkit import defenses, zoo
from dragkit.adaptive import replies
from dragkit.adaptive.replies import hear
from dragkit.defenses import Chain, TokenDrop, TokenShuffle, defend, make, parse_spec


@pytest.fixture(scope="module")
def client():
    return zoo.load_client(at="block:4")


@pytest.fixture(scope="module")
def h(client):
    with torch.no_grad():
        return client(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def test_shuffle_moves_patches_only_and_the_server_does_not_mind(client, h):
    mixed = defend(TokenShuffle.of(client), h, 1)[0]
    assert torch.equal(mixed[:, 0], h[:, 0]) and not torch.equal(mixed[:, 1:], h[:, 1:])
    torch.testing.assert_close(mixed.sum(1), h.sum(1), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(client.server(mixed), client.server(h), rtol=1e-3, atol=1e-4)


def test_drop_leaves_out_the_share_and_the_server_runs_on_the_rest(client, h):
    drop = TokenDrop.of(client, 0.25)
    sent = defend(drop, h, 1)[0]
    mask = drop.arrived(sent)
    assert mask.sum(1).tolist() == [65 - 16] * 3 and mask[:, 0].all()
    assert torch.equal(sent[mask], h[mask])
    received = drop.receive(sent)
    assert received.shape == (3, 49, 128)
    with torch.no_grad():
        assert client.server(received).shape == (3, 10)


def test_a_batch_gives_what_single_messages_would(client, h):
    both = make("drop:0.5+shuffle", client)
    together = defend(both, h, [4, 5, 6], queries=2)
    assert together.shape == (2, *h.shape) and not torch.equal(together[0], together[1])
    for i, seed in enumerate([4, 5, 6]):
        assert torch.equal(defend(both, h[i : i + 1], seed, queries=2)[:, 0], together[:, i])


def test_a_chain_is_undone_from_the_end(client, h):
    both = make("drop:0.5+shuffle", client)
    assert isinstance(both, Chain)
    sent = defend(both, h, 0)[0]
    assert both.arrived(sent).sum(1).tolist() == [33] * 3 and both.receive(sent).shape == (3, 33, 128)
    assert make("shuffle", client).arrived(h) is None


def test_recipes_say_what_is_wrong_with_them(client):
    assert parse_spec("drop:0.5+shuffle") == [("drop", 0.5), ("shuffle", None)]
    for recipe, message in {
        "blur": "defence is 'blur'; the known ones are",
        "drop:much": "must be a number",
        "shuffle:2": "has no strength",
        "drop:1": "share of the tokens",
    }.items():
        with pytest.raises(ValueError, match=message):
            make(recipe, client)


def test_models_that_look_at_positions_are_refused(client):
    class Ordered:
        layout = client.layout.__class__("BND", 1, False)

    for name in ("shuffle", "drop"):
        with pytest.raises(ValueError, match="ignores their order"):
            defenses.DEFENCES[name].of(Ordered())


def test_replies_get_the_messages_and_the_defence(client, h):
    drop = TokenDrop.of(client, 0.5)
    messages = defend(drop, h, 0, queries=2)
    heard, threat = hear("mask", messages, drop, client)
    assert torch.equal(heard.mask, drop.arrived(messages[0])) and threat.defence_known and threat.queries == 2
    heard, threat = hear("", messages, drop, client)
    assert heard.mask is None and not threat.defence_known
    with pytest.raises(ValueError, match="adaptive is 'guess'"):
        replies.check_reply("guess")
    with pytest.raises(ValueError, match="queries is 0"):
        defend(drop, h, 0, queries=0)
