"""A secret basis costs nothing and hides nothing: transformed weights give the same answers, and give the secret away."""

import math

import pytest
import torch

from dragkit import zoo
from dragkit.client import Layout
from dragkit.defenses import defend
from dragkit.defenses.transforms import (
    FeaturePermutation,
    Rotation,
    first_weights,
    random_rotation,
    recover_permutation,
    recover_rotation,
    transformed_server,
)

KINDS = [Rotation, FeaturePermutation]


@pytest.fixture(scope="module")
def client():
    return zoo.load_client(at="block:6", dtype=torch.float64)


@pytest.fixture(scope="module")
def h(client):
    with torch.no_grad():
        return client(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def test_rotations_are_orthogonal_fix_the_ones_and_depend_on_the_key():
    q = random_rotation(16, 0)
    torch.testing.assert_close(q @ q.T, torch.eye(16, dtype=q.dtype))
    torch.testing.assert_close(q.sum(1), torch.ones(16, dtype=q.dtype))
    assert torch.equal(q, random_rotation(16, 0)) and (q - random_rotation(16, 1)).abs().max() > 0.1


def test_rotations_are_uniform():
    """Haar on the complement of 1: the mean of Q is 1 1^T / d, and an entry's variance is (1 - 1/d)^2 / (d - 1)."""
    many = torch.stack([random_rotation(4, key) for key in range(2000)])
    torch.testing.assert_close(many.mean(0), torch.full((4, 4), 0.25, dtype=many.dtype), atol=0.05, rtol=0)
    torch.testing.assert_close(many.var(0), torch.full((4, 4), 0.1875, dtype=many.dtype), atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_looks_different_and_is_undone(kind, client, h):
    made = kind.of(client, 7)
    sent = defend(made, h, 0)[0]
    assert (sent - h).abs().mean() > 1
    torch.testing.assert_close(made.receive(sent), h)
    torch.testing.assert_close(sent, h @ made.matrix)
    torch.testing.assert_close(sent @ sent.mT, h @ h.mT)  # Gram matrices of tokens are what they were
    assert made.key == 7 and kind.of(client).key == 0 and kind.of(client) != made
    torch.testing.assert_close(made.receive(made(h.float(), None)), h.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", ["block:0", "block:6", "block:12"])
def test_a_server_with_transformed_weights_gives_the_same_answers(kind, at, h):
    client = zoo.load_client(at=at, dtype=torch.float64)
    made = kind.of(client, 3)
    server = transformed_server(client, made)
    sent = defend(made, h, 0)[0]  # any tokens will do
    with torch.no_grad():
        want = client.server(h)
        torch.testing.assert_close(server.server(sent), want, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(client.server(made.receive(sent)), want, atol=1e-9, rtol=1e-9)
        assert (server.server(h) - want).abs().max() > 1e-2  # it takes messages in the secret basis only
        assert (client.server(sent) - want).abs().max() > 1e-2


def test_layernorm_does_not_commute_with_a_rotation_that_moves_the_ones(client, h):
    q = torch.linalg.qr(torch.randn(128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    made = Rotation(client.layout, None, q)
    with torch.no_grad():
        wrong = transformed_server(client, made).server(made(h, None))
        assert (wrong - client.server(h)).abs().max() > 1e-4


def test_a_float32_server_agrees_to_its_rounding(h):
    client = zoo.load_client(at="block:6")
    made = Rotation.of(client)
    with torch.no_grad():
        answer = transformed_server(client, made).server(made(h.float(), None))
        torch.testing.assert_close(answer, client.server(h.float()), atol=1e-4, rtol=1e-4)


def test_the_original_keeps_its_weights(client):
    before = {name: weight.clone() for name, weight in client.model.state_dict().items()}
    transformed_server(client, Rotation.of(client))
    assert all(torch.equal(weight, before[name]) for name, weight in client.model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_give_the_secret_away(kind, client, h):
    made = kind.of(client, 11)
    held = first_weights(transformed_server(client, made))  # what the operator's model file says
    public = first_weights(client)
    torch.testing.assert_close(held, made.hide(public))
    found = kind.recovered(client.layout, public, held)
    torch.testing.assert_close(found.matrix, made.matrix, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.receive(made(h, None)), h, atol=1e-6, rtol=1e-6)
    assert found.key is None


def test_a_model_file_in_half_precision_gives_it_away_too(client):
    public = first_weights(client)
    turn, order = Rotation.of(client, 1), FeaturePermutation.of(client, 1)
    assert (recover_rotation(public, turn.hide(public).half()) - turn.q).abs().max() < 0.01
    assert torch.equal(recover_permutation(public, order.hide(public).half()), order.order)


def test_maps_that_do_not_determine_the_secret_are_refused(client):
    public = first_weights(zoo.load_client(at="block:12"))
    assert public.shape == (10, 128)
    with pytest.raises(ValueError, match="public has rank 10; it takes 128"):
        recover_rotation(public, public)
    for recover in (recover_rotation, recover_permutation):
        with pytest.raises(ValueError, match="both are maps"):
            recover(public, public[:5])


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_and_query_has_the_same_secret(kind, client, h):
    made = kind.of(client)
    together = defend(made, h, [4, 5, 6], queries=2)
    assert torch.equal(together[0], together[1])
    for i, seed in enumerate([4, 5, 6]):
        assert torch.equal(defend(made, h[i : i + 1], seed)[0, 0], together[0, i])


def test_permuting_works_on_maps_and_rotating_refuses_them():
    class Maps:
        layout = Layout("BCHW", 0, False)
        h_shape = (6, 2, 2)

    made = FeaturePermutation.of(Maps())
    h = torch.randn(2, 6, 2, 2)
    sent = made(h, None)
    assert torch.equal(sent, h[:, made.order]) and torch.equal(made.receive(sent), h)
    with pytest.raises(ValueError, match="rotate needs tokens"):
        Rotation.of(Maps())


@pytest.mark.parametrize(("kind", "name"), [(Rotation, "rotate"), (FeaturePermutation, "permute")])
def test_wrong_keys_are_named(kind, name, client):
    for value in (-1, 0.5, math.nan):
        with pytest.raises(ValueError, match=f"{name} is given {value}"):
            kind.of(client, value)


def test_servers_that_cannot_be_transformed_are_refused():
    inside = zoo.load_client(at="vit.layernorm")
    with pytest.raises(ValueError, match="cut at a block"):
        first_weights(inside)
