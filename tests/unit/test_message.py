"""The message: what an attacker holds, whole, and unchangeable from outside."""

from __future__ import annotations

import pytest
import torch
from toys import photos, token_client

from dragkit.adaptive.distances import Assignment
from dragkit.attacks.checkpoint import fingerprint
from dragkit.attacks.message import Message

MASK = torch.tensor([[True, True, False], [True, False, True]])


@pytest.fixture
def client():
    return token_client()


def test_precision_and_graph(client):
    h = client(photos(2))
    assert Message(h.double(), client).h.dtype == torch.float64
    assert Message(h.half(), client).h.dtype == Message(h.float(), client).h.dtype == torch.float32
    assert not Message(h.clone().requires_grad_(), client).h.requires_grad


def test_later_changes_do_not_reach_in(client):
    h, mask = client(photos(2)), MASK.clone()
    message = Message(h, client, mask)
    kept = message.h.clone()
    h += 1
    mask[:] = True
    assert torch.equal(message.h, kept) and torch.equal(message.mask, MASK)


def test_it_measures_as_an_attack_does(client):
    x = photos(2)
    message = Message(client(x), client, MASK)
    torch.testing.assert_close(message.measure(x), torch.zeros(2, dtype=message.h.dtype), atol=1e-6, rtol=0)
    assert (message.measure(x.flip(0)) > 1e-3).all() and len(message) == 2
    assert "2 images" in repr(message) and "2 tokens missing" in repr(message) and "tensor" not in repr(message)


def test_rows_take_everything_of_an_image_along(client):
    places = torch.arange(18.0).view(2, 3, 3).log_softmax(-1)
    message = Message(client(photos(2)), client, MASK, Assignment(0, places))
    swapped = message.rows(torch.tensor([1, 0, 1]))
    assert torch.equal(swapped.h, message.h[[1, 0, 1]]) and torch.equal(swapped.mask, MASK[[1, 0, 1]])
    x = photos(2, seed=4)
    torch.testing.assert_close(swapped.measure(x[[1, 0, 1]]), message.measure(x)[[1, 0, 1]])


def test_identity_changes_with_everything_an_attack_depends_on(client):
    h = client(photos(2))
    other = token_client()
    other.matrix = 2 * other.matrix
    variants = [
        Message(h, client),
        Message(h.flip(0), client),
        Message(h, client, MASK),
        Message(h, client, distance=Assignment(0)),
        Message(h, client, distance=Assignment(1)),
        Message(h, other),
    ]
    assert len({fingerprint(message) for message in variants}) == len(variants)
    assert fingerprint(Message(h, client)) == fingerprint(Message(h.clone(), token_client()))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"client": "vit-imagenette64"}, TypeError, "client is a str; it must be a SplitClient"),
        ({"distance": "l2"}, TypeError, "distance is 'l2'; it must be a function"),
        ({"mask": [[True, True, False]]}, TypeError, "mask is a list; it must be bool"),
        ({"mask": MASK.float()}, TypeError, "mask is torch.float32"),
        ({"mask": MASK[:1]}, ValueError, "mask is"),
        ({"mask": torch.zeros_like(MASK)}, ValueError, "mask leaves no token for image 0"),
        ({"h": torch.zeros(0, 3, 4)}, ValueError, "h holds no image"),
        ({"h": torch.zeros(2, 3, 4, dtype=torch.long)}, TypeError, "h is torch.int64"),
    ],
)
def test_what_cannot_be_attacked_is_refused_at_once(client, change, error, words):
    with pytest.raises(error, match=words):
        Message(**{"h": client(photos(2)), "client": client, **change})
