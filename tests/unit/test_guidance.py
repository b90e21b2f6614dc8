"""From gradient to direction to step: torch's own Adam and clipping, the geometry of the sphere, one image at a time."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragkit.attacks import guidance
from dragkit.distance import cosine_distance

seeds = st.integers(0, 2**31)
rates = st.floats(0, 1)
kinds = st.sampled_from(["lerp", "slerp"])
quick = settings(deadline=None, max_examples=30)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- gradient -> direction


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.3), (0.0, 0.0)])
def test_adam_direction_is_torch_adams_update(betas):
    """With lr=1, what torch.optim.Adam subtracts is the direction; the state is kept through thirty updates."""
    p = torch.nn.Parameter(torch.zeros(1, 2, 3, 3, dtype=torch.float64))
    adam = torch.optim.Adam([p], lr=1.0, betas=betas)
    state = guidance.AdamState.zeros_like(p.detach())
    for i in range(30):
        p.grad = normal(i, 1, 2, 3, 3) * 10 ** (i % 5 - 4)
        before = p.detach().clone()
        adam.step()
        direction = guidance.adam_direction(p.grad, state, betas)
        torch.testing.assert_close(direction, before - p.detach(), rtol=1e-10, atol=1e-12)
    assert state.count == 30


def test_first_adam_direction_is_the_sign():
    grad = normal(0, 2, 3, 2, 2)
    state = guidance.AdamState.zeros_like(grad)
    torch.testing.assert_close(guidance.adam_direction(grad, state), grad.sign(), rtol=1e-5, atol=1e-5)


@quick
@given(seeds, st.floats(-6, 3), st.floats(1e-3, 1))
def test_clip_norm_is_torchs_for_each_image(seed, exponent, limit):
    grad = normal(seed, 3, 2, 4, 4) * 10**exponent * torch.tensor([0.01, 1, 100.0]).view(3, 1, 1, 1)
    clipped = guidance.clip_norm(grad, limit)
    for i in range(3):
        p = torch.nn.Parameter(torch.zeros(2, 4, 4, dtype=torch.float64))
        p.grad = grad[i].clone()
        torch.nn.utils.clip_grad_norm_([p], limit)
        torch.testing.assert_close(clipped[i], p.grad, rtol=1e-12, atol=0)
        assert clipped[i].norm() <= limit


def test_clip_norm_none_and_zero():
    grad = normal(0, 2, 2, 2, 2)
    assert guidance.clip_norm(grad, None) is grad
    assert not guidance.clip_norm(torch.zeros(1, 2, 2, 2), 0.02).any()


# -- direction -> step


@quick
@given(seeds, rates, st.floats(1e-3, 1), kinds, st.floats(-8, 8))
def test_spherical_step_has_the_radius_of_the_noise(seed, rate, sigma, kind, exponent):
    direction, noise = normal(seed, 2, 3, 4, 5, 6).unbind(0)
    step = guidance.spherical_step(direction * 10**exponent, noise, sigma, rate, kind)
    radius = torch.full((3,), sqrt(4 * 5 * 6) * sigma, dtype=torch.float64)
    torch.testing.assert_close(step.flatten(1).norm(dim=1), radius, rtol=1e-9, atol=0)


@quick
@given(seeds, kinds)
def test_rate_limits(seed, kind):
    """0 is the noise alone, 1 the direction alone, both brought to radius r."""
    direction, noise = normal(seed, 2, 3, 4, 5, 6).unbind(0)
    radius = sqrt(120) * 0.3
    free = guidance.spherical_step(direction, noise, 0.3, 0.0, kind)
    guided = guidance.spherical_step(direction, noise, 0.3, 1.0, kind)
    torch.testing.assert_close(free, radius * noise / guidance.norm(noise), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(guided, -radius * direction / guidance.norm(direction), rtol=1e-7, atol=1e-9)


@quick
@given(seeds, st.floats(1e-3, 1), rates)
def test_lerp_is_the_published_formula(seed, sigma, rate):
    direction, noise = normal(seed, 2, 1, 4, 5, 6).unbind(0)
    r = sqrt(120) * sigma
    d = sigma * noise + rate * (-r * direction / direction.norm() - sigma * noise)
    expected = r * d / d.norm()
    torch.testing.assert_close(guidance.spherical_step(direction, noise, sigma, rate), expected, rtol=1e-9, atol=1e-12)


@quick
@given(seeds, st.floats(0.01, 0.99))
def test_slerp_divides_the_angle(seed, rate):
    direction, noise = normal(seed, 2, 1, 4, 5, 6).unbind(0)
    step = guidance.spherical_step(direction, noise, 0.3, rate, "slerp").flatten()
    start, end = noise.flatten(), -direction.flatten()
    angle = lambda a, b: torch.arccos((a @ b) / (a.norm() * b.norm()))  # noqa: E731
    assert float(angle(start, step)) == pytest.approx(rate * float(angle(start, end)), abs=1e-6)
    assert float(angle(step, end)) == pytest.approx((1 - rate) * float(angle(start, end)), abs=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slerp_survives_parallel_vectors(sign):
    noise = normal(0, 1, 2, 3, 3)
    step = guidance.spherical_step(sign * noise, noise, 0.3, 0.5, "slerp")
    assert torch.isfinite(step).all()
    assert float(step.norm()) == pytest.approx(sqrt(18) * 0.3)


@quick
@given(seeds, rates)
def test_more_rate_is_more_descent(seed, rate):
    direction, noise = normal(seed, 2, 1, 4, 5, 6).unbind(0)
    along = [float((guidance.spherical_step(direction, noise, 0.3, r) * direction).sum()) for r in (0.0, rate, 1.0)]
    assert along[2] - 1e-9 <= along[1] <= along[0] + 1e-9


@pytest.mark.parametrize("kind", ["lerp", "slerp"])
def test_zero_direction_keeps_the_noise(kind):
    noise = normal(0, 2, 3, 4, 4)
    direction = normal(1, 2, 3, 4, 4)
    direction[0] = 0
    step = guidance.spherical_step(direction, noise, 0.3, 0.2, kind)
    assert torch.isfinite(step).all()
    torch.testing.assert_close(step[0], sqrt(48) * 0.3 * noise[0] / noise[0].norm(), rtol=1e-9, atol=1e-12)


def test_no_noise_no_step():
    noise = normal(0, 1, 3, 4, 4)
    assert not guidance.spherical_step(noise.roll(1, 1), noise, 0.0, 0.2).any()


def test_unknown_interpolation():
    noise = normal(0, 1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"interpolation is 'cubic'.*'lerp' or 'slerp'"):
        guidance.spherical_step(noise, noise, 0.1, 0.2, "cubic")


@quick
@given(seeds, rates, kinds)
def test_images_of_a_batch_do_not_mix(seed, rate, kind):
    scales = torch.tensor([1e-6, 1.0, 1e6]).view(3, 1, 1, 1)
    direction, noise = normal(seed, 2, 3, 2, 4, 4).unbind(0)
    direction = direction * scales
    together = guidance.spherical_step(direction, noise, 0.2, rate, kind), guidance.clip_norm(direction, 0.02)
    for i in range(3):
        one = slice(i, i + 1)
        alone = (
            guidance.spherical_step(direction[one], noise[one], 0.2, rate, kind),
            guidance.clip_norm(direction[one], 0.02),
        )
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[one], b, rtol=1e-12, atol=0)


def test_float32_is_kept_and_small_directions_are_not_lost():
    direction, noise = normal(0, 2, 1, 4, 8, 8).float().unbind(0)
    ordinary = guidance.spherical_step(direction, noise, 0.2, 0.2)
    tiny = guidance.spherical_step(direction * 1e-18, noise, 0.2, 0.2)
    assert ordinary.dtype == torch.float32
    torch.testing.assert_close(tiny, ordinary, rtol=1e-4, atol=1e-5)


def test_plain_steps():
    direction, noise, eps, x0 = normal(0, 4, 2, 3, 2, 2).unbind(0)
    torch.testing.assert_close(guidance.gradient_step(direction, noise, 0.3, 2.0), 0.3 * noise - 2 * direction)
    torch.testing.assert_close(guidance.guided_noise(eps, direction, 0.36, 2.0), eps + 1.6 * direction)
    torch.testing.assert_close(guidance.manifold_step(x0, direction, 2.0), x0 - 2 * direction)


# -- distance


def test_cosine_distance_by_hand():
    h = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    h_hat = torch.tensor([[[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]])  # 0, 1 and 2
    assert float(cosine_distance(h_hat, h)) == pytest.approx(1)
    assert float(cosine_distance(h_hat, h, torch.tensor([[True, True, False]]))) == pytest.approx(0.5)


@quick
@given(seeds, st.floats(-3, 3))
def test_cosine_distance_range_and_scale(seed, exponent):
    h_hat, h = normal(seed, 2, 3, 4, 5).unbind(0)
    d = cosine_distance(h_hat, h)
    assert d.shape == (3,)
    assert ((d >= 0) & (d <= 2)).all()
    torch.testing.assert_close(cosine_distance(h_hat * 10**exponent, h), d, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cosine_distance(h, h), torch.zeros_like(d), rtol=0, atol=1e-9)


def test_cosine_distance_refusals():
    h = normal(0, 2, 3, 4)
    with pytest.raises(ValueError, match=r"h_hat is \(2, 3, 4\) and h is \(2, 2, 4\)"):
        cosine_distance(h, h[:, :2])
    with pytest.raises(ValueError, match=r"mask is \(2, 2\); it must be \(2, 3\)"):
        cosine_distance(h, h, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask leaves no token for image 1"):
        cosine_distance(h, h, torch.tensor([[True] * 3, [False] * 3]))
