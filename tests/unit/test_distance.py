"""Distances are zero for what they claim not to notice, positive for the rest, and treat every image by itself."""

import pytest
import torch

from dragkit.adaptive.distances import (
    Assignment,
    Gram,
    LoudChannels,
    SlicedWasserstein,
    TopChannels,
    channel_cosine_distance,
    gram_distance,
    match,
    token_gram_distance,
    visible_distance,
)
from dragkit.adaptive.likelihood import Mahalanobis, linear_whitening
from dragkit.distance import cosine_distance

B, N, D = 3, 17, 12
DISTANCES = {
    "cosine": cosine_distance,
    "channelwise": channel_cosine_distance,
    "visible": visible_distance,
    "loud": LoudChannels(0.1),
    "top": TopChannels(0.5),
    "token gram": token_gram_distance,
    "gram": Gram(1),
    "sliced": SlicedWasserstein(1, 16),
    "assignment": Assignment(1),
    "mahalanobis": Mahalanobis(linear_whitening(torch.eye(D) / 0.5)),
}
SETS = ("gram", "sliced", "assignment")
each = pytest.mark.parametrize("name", DISTANCES)


def random(seed, *shape):
    return torch.randn(*shape or (B, N, D), generator=torch.Generator().manual_seed(seed))


def some_missing():
    mask = torch.ones(B, N, dtype=torch.bool)
    for i, count in enumerate((4, 0, 9)):  # another number for each image
        mask[i, 1 + torch.randperm(N - 1, generator=torch.Generator().manual_seed(i))[:count]] = False
    return mask


def order_of_patches(seed=0):
    return torch.cat(
        [torch.zeros(1, dtype=torch.long), 1 + torch.randperm(N - 1, generator=torch.Generator().manual_seed(seed))]
    )


@each
def test_zero_at_equality_and_positive_elsewhere(name):
    h = random(0)
    torch.testing.assert_close(DISTANCES[name](h, h), torch.zeros(B), atol=1e-5, rtol=0)
    other = DISTANCES[name](random(1), h)
    assert other.shape == (B,) and (other > 0.01).all()


@each
def test_gradients_are_finite_also_at_equality(name):
    h = random(0)
    h[0, 3], h[1, :, 2], h[2, 5, 4] = 0, 0, 0  # a token, a channel and a number that are missing
    mask = (h != 0).any(-1)
    for estimate in (random(1), h.clone(), torch.zeros_like(h)):
        leaf = estimate.requires_grad_(True)
        d = DISTANCES[name](leaf, h, mask)
        (grad,) = torch.autograd.grad(d.sum(), leaf)
        assert d.isfinite().all() and grad.isfinite().all()
    leaf = random(1).requires_grad_(True)
    (grad,) = torch.autograd.grad(DISTANCES[name](leaf, h, mask).sum(), leaf)
    step = leaf.detach() - 1e-2 * grad / grad.norm()
    assert DISTANCES[name](step, h, mask).sum() < DISTANCES[name](leaf, h, mask).sum()


@each
def test_a_batch_gives_what_single_images_give(name):
    h_hat, h, mask = random(1), random(0), some_missing()
    together = DISTANCES[name](h_hat, h, mask)
    for i in range(B):
        one = DISTANCES[name](h_hat[i : i + 1], h[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(one[0], together[i], rtol=1e-5, atol=1e-6)


@each
def test_what_did_not_arrive_changes_nothing(name):
    h_hat, h, mask = random(1), random(0), some_missing()
    nonsense = torch.where(mask[..., None], h, 1e3 * random(2))
    torch.testing.assert_close(DISTANCES[name](h_hat, nonsense, mask), DISTANCES[name](h_hat, h, mask))
    if name not in SETS:  # there the missing tokens of the estimate are not compared either
        elsewhere = torch.where(mask[..., None], h_hat, random(3))
        torch.testing.assert_close(DISTANCES[name](elsewhere, h, mask), DISTANCES[name](h_hat, h, mask))


@pytest.mark.parametrize("name", [name for name in DISTANCES if name != "cosine"])
def test_autocast_does_not_lower_the_precision(name):
    h_hat, h = random(1), random(0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = DISTANCES[name](h_hat.bfloat16(), h)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, DISTANCES[name](h_hat.bfloat16().float(), h), rtol=1e-5, atol=1e-6)
    assert DISTANCES[name](h_hat.double(), h.double()).dtype == torch.float64


@each
def test_shapes_and_masks_that_do_not_fit_are_refused(name):
    h = random(0)
    with pytest.raises(ValueError, match="must be tokens"):
        DISTANCES[name](h[:, :4], h)
    with pytest.raises(ValueError, match="one entry per token"):
        DISTANCES[name](h, h, torch.ones(B, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="token for image 1"):
        DISTANCES[name](h, h, torch.tensor([True, False, True])[:, None].expand(B, N))


# -- what each does not notice -----------------------------------------------------------------------------------------


def test_channelwise_ignores_gains_even_tiny_ones():
    h = random(0)
    gains = torch.logspace(-13, 0, D)[torch.randperm(D, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(channel_cosine_distance(h, h * gains), torch.zeros(B), atol=1e-5, rtol=0)
    assert (cosine_distance(h, h * gains) > 0.1).all()
    gains[:4] = 0  # a hard mask: those channels are not compared
    torch.testing.assert_close(channel_cosine_distance(h, h * gains), torch.zeros(B), atol=1e-5, rtol=0)


def test_visible_ignores_dropped_numbers():
    h = random(0)
    sent = h * (torch.rand(h.shape, generator=torch.Generator().manual_seed(0)) > 0.5)
    sent[0, 2] = 0
    torch.testing.assert_close(visible_distance(h, sent), torch.zeros(B), atol=1e-5, rtol=0)
    assert (cosine_distance(h, sent) > 0.1).all()
    torch.testing.assert_close(visible_distance(random(1), h), cosine_distance(random(1), h))


def test_loud_and_top_channels_ignore_pruned_ones():
    h = random(0)
    sent = h * torch.tensor([1.0] * 6 + [1e-3] * 6)
    for distance in (LoudChannels(0.1), TopChannels(0.5)):
        torch.testing.assert_close(distance(h, sent), torch.zeros(B), atol=1e-5, rtol=0)
    assert (TopChannels(0.75)(h, sent) > 0.01).all()
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="threshold is"):
            LoudChannels(wrong)
    with pytest.raises(ValueError, match="share is 0"):
        TopChannels(0)


def test_token_gram_ignores_rotated_features():
    h = random(0)
    rotation = torch.linalg.qr(random(5, D, D)).Q
    torch.testing.assert_close(token_gram_distance(h, h @ rotation), torch.zeros(B), atol=1e-5, rtol=0)
    assert (token_gram_distance(h, h[:, order_of_patches()]) > 0.1).all()


@pytest.mark.parametrize("name", SETS)
def test_sets_ignore_the_order_of_patches_but_not_the_prefix(name):
    h = random(0)
    mixed = h[:, order_of_patches()]
    torch.testing.assert_close(DISTANCES[name](h, mixed), torch.zeros(B), atol=1e-5, rtol=0)
    swapped = h.clone()
    swapped[:, [0, 1]] = h[:, [1, 0]]
    assert (DISTANCES[name](h, swapped) > 1e-3).all()
    torch.testing.assert_close(gram_distance(h, h.flip(1)), torch.zeros(B), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="prefix_tokens is 17"):
        type(DISTANCES[name])(N)(h, h)


def test_assignment_finds_the_tokens_that_arrived():
    h, mask = random(0), some_missing()
    mixed = h[:, order_of_patches()] * mask[..., None]
    torch.testing.assert_close(Assignment(1)(h, mixed, mask), torch.zeros(B), atol=1e-5, rtol=0)
    assert (Assignment(1)(random(1), mixed, mask) > 0.05).all()


def test_assignment_listens_to_what_is_known_of_the_places():
    h = random(0)
    places = torch.stack([torch.randperm(N - 1, generator=torch.Generator().manual_seed(i)) for i in range(B)])
    told = torch.nn.functional.one_hot(places, N - 1).float()
    torch.testing.assert_close(Assignment(1, torch.zeros(B, N - 1, N - 1))(random(1), h), Assignment(1)(random(1), h))
    put = h.clone()
    put[:, 1:] = torch.stack([one[torch.argsort(p)] for one, p in zip(h[:, 1:], places, strict=True)])
    trusted = Assignment(1, told, trust=10.0)
    torch.testing.assert_close(trusted(random(1), h), cosine_distance(random(1), put))
    with pytest.raises(ValueError, match="places is"):
        trusted(h[:1], h[:1])


def test_sliced_wasserstein_of_a_random_part_is_small():
    h = torch.randn(2, 401, D, generator=torch.Generator().manual_seed(0))
    part = torch.rand(2, 401, generator=torch.Generator().manual_seed(1)) > 0.5
    part[:, 0] = True
    sliced = SlicedWasserstein(1)
    near, far = sliced(h, h, part), sliced(h.abs(), h, part)
    assert (near < 0.02).all() and (far > 10 * near).all()


def test_match_gives_every_token_a_place_of_its_own():
    cost = random(0, 1, 4, 6)
    mask = torch.tensor([[True, False, True, True]])
    places = match(cost, mask)
    assert places[0, 1] == -1 and len(set(places[0, mask[0]].tolist())) == 3
    best = min(
        float(cost[0, 0, a] + cost[0, 2, b] + cost[0, 3, c])
        for a in range(6)
        for b in range(6)
        for c in range(6)
        if len({a, b, c}) == 3
    )
    assert float(cost[0, mask[0]].gather(1, places[0, mask[0]][:, None]).sum()) == pytest.approx(best)
    broken = cost.clone()
    broken[0, 0, 0] = torch.nan  # an image that diverged must not stop the others
    assert match(torch.cat([broken, cost]))[1].tolist() == match(cost)[0].tolist()


def test_mahalanobis_is_scaled_like_the_cosine_and_indifferent_to_the_strength_of_isotropic_noise():
    h_hat, h = random(1), random(0)
    a, b = torch.nn.functional.normalize(h_hat, dim=-1), torch.nn.functional.normalize(h, dim=-1)
    for std in (0.1, 3.0):
        distance = Mahalanobis(lambda delta, std=std: delta / std)
        torch.testing.assert_close(distance(a, b), cosine_distance(h_hat, h))
    every_number = Mahalanobis(linear_whitening(torch.eye(N * D)))
    torch.testing.assert_close(every_number(a, b), cosine_distance(h_hat, h))
    blind = Mahalanobis(linear_whitening(torch.eye(D)[:, :6]))
    torch.testing.assert_close(blind(h + torch.eye(D)[11], h), torch.zeros(B))
    with pytest.raises(ValueError, match="must have 12 or 204 rows"):
        Mahalanobis(linear_whitening(torch.eye(5)))(h, h)
