"""DDIM arithmetic: golden values of the published configuration, diffusers' scheduler, and the identities behind it."""

from __future__ import annotations

from math import sqrt

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragkit import schedule
from dragkit.attacks import guidance

SD = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "clip_sample": False,
}
TABLE = schedule.scaled_linear_alpha_bar(0.00085, 0.012)
GOLDEN = {  # t: sigma, radius of the guidance sphere of (4, 64, 64) latents, deviation of the renoising
    996: (0.21639, 27.698, 0.21642),
    500: (0.13753, 17.604, 0.13804),
    296: (0.10460, 13.389, 0.10549),
    4: (0.02612, 3.343, 0.05867),
    0: (0.0, 0.0, 0.0),
}
alphas = st.floats(0.004, 0.9995)
quick = settings(deadline=None, max_examples=40)


def ddim_pair(t: int, num_steps: int) -> tuple[float, float]:
    before = schedule.previous_timestep(t, num_steps)
    return schedule.alpha_bar_at(TABLE, t), schedule.alpha_bar_at(TABLE, before)


def test_alpha_bar_golden():
    assert TABLE.dtype == torch.float64
    assert TABLE.shape == (1000,)
    assert float(TABLE[996]) == pytest.approx(0.00483, abs=5e-6)
    assert float(TABLE[0]) == pytest.approx(0.99915, abs=5e-6)
    assert (TABLE.diff() < 0).all()


def test_alpha_bar_past_the_end_is_the_first():
    assert schedule.alpha_bar_at(TABLE, -4) == float(TABLE[0])
    assert schedule.alpha_bar_at(TABLE, 7) == float(TABLE[7])


def test_table_equals_diffusers():
    theirs = diffusers.DDIMScheduler(**SD).alphas_cumprod
    assert torch.allclose(theirs.double(), TABLE, rtol=1e-4, atol=0)  # theirs is accumulated in float32


@pytest.mark.parametrize("t", GOLDEN)
def test_golden_step(t):
    sigma, radius, renoise_std = GOLDEN[t]
    a_t, a_prev = ddim_pair(t, 250)
    got = schedule.ddim_sigma(a_t, a_prev)
    assert got == pytest.approx(sigma, abs=5e-6)
    noise = torch.randn(1, 4, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = guidance.spherical_step(noise.roll(1, -1), noise, got, 0.2)
    assert float(step.norm()) == pytest.approx(radius, abs=5e-4)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert float(schedule.renoise(zero, one, a_t, a_prev)) == pytest.approx(renoise_std, abs=5e-6)


def test_published_timesteps():
    assert schedule.ddim_timesteps(250) == list(range(996, -1, -4))
    assert schedule.previous_timestep(996, 250) == 992
    assert schedule.previous_timestep(0, 250) == -4


@quick
@given(st.integers(1, 1000))
def test_timesteps_equal_diffusers(n):
    scheduler = diffusers.DDIMScheduler(**SD, steps_offset=0)
    scheduler.set_timesteps(n)
    assert schedule.ddim_timesteps(n) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_number_of_steps_is_checked(n):
    with pytest.raises(ValueError, match=f"num_inference_steps is {n}.*between 1 and 1000"):
        schedule.ddim_timesteps(n)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_steps", [10, 40, 250])
def test_step_equals_diffusers(num_steps, eta):
    scheduler = diffusers.DDIMScheduler(**SD, steps_offset=0)
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = TABLE, TABLE[0]  # float64, so that equality is sharp
    scheduler.set_timesteps(num_steps)
    g = torch.Generator().manual_seed(num_steps)
    z, eps, noise = torch.randn(3, 2, 4, 4, 4, generator=g, dtype=torch.float64).unbind(0)
    for t in schedule.ddim_timesteps(num_steps):
        theirs = scheduler.step(eps, t, z, eta=eta, variance_noise=noise)
        a_t, a_prev = ddim_pair(t, num_steps)
        sigma = schedule.ddim_sigma(a_t, a_prev, eta)
        x0_hat = schedule.tweedie(z, eps, a_t)
        ours = schedule.ddim_mean(x0_hat, eps, a_prev, sigma) + sigma * noise
        torch.testing.assert_close(x0_hat, theirs.pred_original_sample, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [996, 500, 4, 0])
def test_add_noise_equals_diffusers(t):
    scheduler = diffusers.DDIMScheduler(**SD)
    scheduler.alphas_cumprod = TABLE
    z, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(t), dtype=torch.float64).unbind(0)
    theirs = scheduler.add_noise(z, noise, torch.tensor([t] * 3))
    torch.testing.assert_close(schedule.add_noise(z, noise, float(TABLE[t])), theirs, rtol=1e-12, atol=1e-12)


@quick
@given(alphas, st.integers(0, 2**31))
def test_tweedie_inverts_add_noise(a_t, seed):
    z, noise = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind(0)
    back = schedule.tweedie(schedule.add_noise(z, noise, a_t), noise, a_t)
    torch.testing.assert_close(back, z, rtol=1e-10, atol=1e-10)


@quick
@given(st.integers(1, 500), st.integers(0, 499), st.floats(0, 1))
def test_step_lands_on_the_marginal_of_the_previous_timestep(num_steps, i, eta):
    """Given the true noise, signal and noise power of the step are those of q(z_prev | z_0): a_prev and 1 - a_prev."""
    t = schedule.ddim_timesteps(num_steps)[i % num_steps]
    a_t, a_prev = ddim_pair(t, num_steps)
    sigma = schedule.ddim_sigma(a_t, a_prev, eta)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert float(schedule.ddim_mean(one, zero, a_prev, sigma)) ** 2 == pytest.approx(a_prev, rel=1e-12)
    kept = float(schedule.ddim_mean(zero, one, a_prev, sigma)) ** 2
    assert kept + sigma**2 == pytest.approx(1 - a_prev, rel=1e-9)
    assert sigma**2 <= 1 - a_prev + 1e-12


@quick
@given(st.integers(1, 500), st.integers(0, 499))
def test_renoise_returns_to_the_marginal_of_t(num_steps, i):
    t = schedule.ddim_timesteps(num_steps)[i % num_steps]
    a_t, a_prev = ddim_pair(t, num_steps)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    keep, fresh = (float(schedule.renoise(z, n, a_t, a_prev)) for z, n in ((one, zero), (zero, one)))
    assert keep**2 * a_prev == pytest.approx(a_t, rel=1e-12)  # signal power
    assert keep**2 * (1 - a_prev) + fresh**2 == pytest.approx(1 - a_t, rel=1e-9)  # noise power
    assert keep**2 + fresh**2 == pytest.approx(1)  # so that unit variance stays unit variance


def test_renoise_keeps_unit_variance_in_samples():
    g = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 200_000, generator=g, dtype=torch.float64).unbind(0)
    out = schedule.renoise(z, noise, *ddim_pair(500, 10))
    assert float(out.var()) == pytest.approx(1, abs=5 * sqrt(2 / 200_000))
    assert float(out.mean()) == pytest.approx(0, abs=5 / sqrt(200_000))


@quick
@given(st.integers(1, 500), st.integers(0, 499))
def test_eta_one_is_the_ddpm_posterior(num_steps, i):
    """eta = 1 gives sigma^2 = beta_tilde, the variance of q(z_prev | z_t, z_0) (arXiv 2006.11239, eq. 7)."""
    t = schedule.ddim_timesteps(num_steps)[i % num_steps]
    a_t, a_prev = ddim_pair(t, num_steps)
    beta = 1 - a_t / a_prev
    assert schedule.ddim_sigma(a_t, a_prev) ** 2 == pytest.approx((1 - a_prev) / (1 - a_t) * beta, rel=1e-9)
    assert schedule.ddim_sigma(a_t, a_prev, 0.0) == 0
    assert schedule.ddim_sigma(a_t, a_prev, 0.5) == pytest.approx(0.5 * schedule.ddim_sigma(a_t, a_prev))


def test_last_step_changes_nothing():
    z, eps, noise = torch.randn(3, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(
        0
    )
    a_t, a_prev = ddim_pair(0, 250)
    sigma = schedule.ddim_sigma(a_t, a_prev)
    assert sigma == 0
    after = schedule.ddim_mean(schedule.tweedie(z, eps, a_t), eps, a_prev, sigma)
    torch.testing.assert_close(after, z, rtol=1e-13, atol=1e-13)
    assert torch.equal(schedule.renoise(z, noise, a_t, a_prev), z)


def test_tensors_keep_their_dtype():
    z = torch.ones(1, 2, dtype=torch.float32)
    for out in (
        schedule.tweedie(z, z, 0.5),
        schedule.ddim_mean(z, z, 0.5, 0.1),
        schedule.renoise(z, z, 0.4, 0.5),
        schedule.add_noise(z, z, 0.5),
    ):
        assert out.dtype == torch.float32
