"""Hidden randomness leaves out what it says, for each photo on its own, and only inside the client half."""

import pytest
import tiny
import torch

from dragkit import zoo
from dragkit.adaptive.replies import hear
from dragkit.client import SplitClient
from dragkit.defenses import Chain, ChainInside, TokenDrop, defend, defend_images, make
from dragkit.defenses.base import chain
from dragkit.defenses.stochastic import ExpectedClient, StochasticDepth, StochasticHeads

KINDS = (StochasticDepth, StochasticHeads)


@pytest.fixture(scope="module")
def client():
    return zoo.load_client(at="block:3")


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_left_out_is_the_client(kind, client, images):
    assert torch.equal(defend_images(kind.of(client, 0), client, images, 0)[0], client(images))


@pytest.mark.parametrize("kind", KINDS)
def test_every_photo_and_every_query_has_a_choice_of_its_own(kind, client, images):
    same = images[:1].expand(3, -1, -1, -1)
    sent = defend_images(kind.of(client, 0.5), client, same, 0, queries=2)
    assert sent.shape == (2, 3, *client.h_shape)
    for a in range(6):
        for b in range(a):
            assert (sent.flatten(0, 1)[a] - sent.flatten(0, 1)[b]).abs().max() > 0.1
    assert torch.equal(sent, defend_images(kind.of(client, 0.5), client, same, 0, queries=2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_single_messages_would(kind, client, images):
    defence = kind.of(client, 0.5)
    together = defend_images(defence, client, images, [4, 5, 6], queries=2)
    for i, seed in enumerate([4, 5, 6]):
        alone = defend_images(defence, client, images[i : i + 1], seed, queries=2)
        torch.testing.assert_close(alone[:, 0], together[:, i], rtol=1e-4, atol=1e-4)


def test_without_any_branch_a_block_is_the_identity(client, images):
    depth = StochasticDepth.of(client)
    assert len(depth.sites) == 6  # two branches in each of three blocks
    kept = torch.ones(3, 6, 1, dtype=torch.bool)
    kept[0] = False  # the first photo: no branch at all; the second: all; the third: none in the last block
    kept[2, 4:] = False
    with depth.running(client, kept):
        h = client(images)
    torch.testing.assert_close(h[0], zoo.load_client(at="block:0")(images)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(h[1], client(images)[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(h[2], zoo.load_client(at="block:2")(images)[2], rtol=1e-5, atol=1e-5)


def test_a_silent_head_has_no_say(images):
    client = zoo.load_client(at="block:1")
    heads = StochasticHeads.of(client)
    assert heads.units == client.model.config.num_attention_heads and len(heads.sites) == 1
    kept = torch.tensor([[[True, True, False, True]]])
    with heads.running(client, kept):
        h = client(images)
    assert (h - client(images)).abs().max() > 1e-2
    projection = client.model.get_submodule(heads.sites[0])
    width = projection.in_features // heads.units
    weights = projection.weight.clone()
    projection.weight[:, 2 * width : 3 * width] = 0
    try:
        torch.testing.assert_close(client(images), h, rtol=1e-5, atol=1e-5)
    finally:
        projection.weight.copy_(weights)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_left_out_as_often_as_it_says(kind, client):
    defence = kind.of(client, 0.3)
    generator = torch.Generator().manual_seed(1)
    kept = torch.stack([defence.draw(generator) for _ in range(2000)]).double().mean(0)
    assert kept.shape == (len(defence.sites), defence.units)
    assert ((kept - 0.7).abs() < 0.05).all()  # five standard errors


def test_the_client_is_itself_again_even_after_an_error(client, images):
    before = client(images)
    scores = client.server(before)
    depth = StochasticDepth.of(client, 0.5)
    defend_images(depth, client, images, 0)
    with pytest.raises(TypeError):
        defend_images(depth, client, images.long(), 0)
    assert torch.equal(client(images), before) and torch.equal(client.server(before), scores)
    assert not any(client.model.get_submodule(site)._forward_hooks for site in depth.sites)


def test_the_attacker_expects_the_mean_of_the_messages(client, images):
    depth = StochasticDepth.of(client, 0.2)
    expected = ExpectedClient(client, depth, draws=200)
    assert isinstance(expected, SplitClient) and expected.h_shape == client.h_shape
    guess, plain = expected(images[:1]), client(images[:1])
    mean = defend_images(depth, client, images[:1].expand(200, -1, -1, -1), 1000)[0].mean(0, keepdim=True)
    assert (guess - mean).norm() < 0.5 * (plain - mean).norm()
    assert torch.equal(guess, expected(images[:1]))
    assert torch.equal(ExpectedClient(client, StochasticDepth.of(client, 0), draws=1)(images), client(images))


def test_gradients_flow_through_the_expected_client(client, images):
    with torch.enable_grad():
        x = images[:1].clone().requires_grad_()
        ExpectedClient(client, StochasticHeads.of(client), draws=2)(x).square().sum().backward()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("library", ["clip", "timm-vit", "dinov2"])
def test_blocks_of_other_libraries(library, tmp_path):
    folder = tiny.write_client(library, tmp_path / "m")
    client = SplitClient.from_pretrained(f"local-dir:{folder}" if library == "timm-vit" else folder, "block:2")
    x = torch.rand(2, 3, *client.image_size, generator=torch.Generator().manual_seed(0))
    assert len(StochasticDepth.of(client).sites) == 4 and StochasticHeads.of(client).units == 2
    for kind in KINDS:
        sent = defend_images(kind.of(client, 0.5), client, x, 0)[0]
        assert sent.shape == client(x).shape and not torch.equal(sent, client(x))


def test_what_cannot_work_is_refused(client, images):
    for kind in KINDS:
        with pytest.raises(ValueError, match=f"{kind.name} is given 1; the share"):
            kind.of(client, 1)
        with pytest.raises(ValueError, match="needs a cut after a block"):
            kind.of(zoo.load_client(at="block:0"))
    depth = StochasticDepth.of(client)
    with pytest.raises(TypeError, match=r"StochasticDepth acts inside the client.*use defend_images"):
        defend(depth, client(images), 0)
    with pytest.raises(ValueError, match="queries is 0"):
        defend_images(depth, client, images, 0, queries=0)
    with pytest.raises(ValueError, match="draws is 0"):
        ExpectedClient(client, depth, draws=0)
    with pytest.raises(ValueError, match="seeds has 2 entries"):
        defend_images(depth, client, images, [1, 2])


def test_only_the_first_of_a_chain_may_act_inside(client, images):
    both = make("heads:0.25+drop:0.5", client)
    assert isinstance(both, ChainInside) and [type(part).__name__ for part in both.parts] == [
        "StochasticHeads",
        "TokenDrop",
    ]
    sent = defend_images(both, client, images, 5)[0]
    alone = defend_images(make("heads:0.25", client), client, images, 5)[0]
    there = both.arrived(sent)
    assert there.sum(1).tolist() == [33] * 3 and torch.equal(sent[there], alone[there])
    assert both.receive(sent).shape == (3, 33, 128)
    for spec in ("shuffle+heads:0.25", "drop:0.5+shuffle+depth", "heads+heads"):
        with pytest.raises(ValueError, match="acts inside the client, so it can only come first"):
            make(spec, client)
    drop = TokenDrop.of(client)
    with pytest.raises(ValueError, match="StochasticHeads acts inside the client"):
        chain([drop, StochasticHeads.of(client)])
    assert chain([drop]) is drop and isinstance(chain([drop, drop]), Chain)


def test_the_reply_to_hidden_parts_attacks_the_mean_of_instances(client, images):
    heads = make("heads:0.25", client)
    message, threat = hear("instances", defend_images(heads, client, images, 0, 4), heads, client)
    assert isinstance(message.client, ExpectedClient) and threat.queries == 4
    torch.testing.assert_close(message.measure(images), message.distance(message.client(images), message.h))
    for reply in ("expectation", "channelwise"):
        with pytest.raises(ValueError, match="acts inside the client, not on IRs"):
            hear(reply, defend_images(heads, client, images, 0), heads, client)
    with pytest.raises(ValueError, match="does not suit the defence TokenDrop"):
        hear("instances", client(images)[None], TokenDrop.of(client), client)
