"""Samplers against a Gaussian prior, where everything has a closed form.

With z_0 ~ N(mean, C) the best noise predictor is linear, so each DDIM step is a linear map plus noise and the moments of what a
sampler returns follow from a recursion (`sampler_moments`), discretisation included. Two things are tested: the code returns these
moments within Monte-Carlo error, and these moments are those of the prior (or posterior) but for a small discretisation error.
"""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor
from toys import SHAPE, SPAN, FreshNoise, GaussianPrior, LinearClient, N, standard_prior

from dragkit import schedule
from dragkit.attacks.drag import drag
from dragkit.attacks.guidance import spherical_step
from dragkit.attacks.message import Message
from dragkit.config import DragConfig
from dragkit.priors.sampling import ddim_sample

EYE = torch.eye(N, dtype=torch.float64)
MEASURED, NOISE = 3, 0.3
PLAIN = DragConfig(smoothing="none", clip=None, regularisation=0.0, recurrence=1)


def step_coefficients(prior: GaussianPrior, num_steps: int, eta: float = 1.0) -> list[tuple[int, float, float, float]]:
    """(t, a_t, a_prev, sigma) of every step."""
    found = []
    for t in schedule.ddim_timesteps(num_steps):
        a_t, a_prev = float(prior.alpha_bar[t]), float(prior.alpha_bar[max(0, t - 1000 // num_steps)])
        found.append((t, a_t, a_prev, schedule.ddim_sigma(a_t, a_prev, eta)))
    return found


def sampler_moments(
    prior: GaussianPrior, num_steps: int, eta: float = 1.0, recurrence: int = 1, tweedie: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a DDIM sampler with the exact predictor of N(prior.mean, prior.cov), started from N(0, I)."""
    mean, cov = torch.zeros(N, dtype=torch.float64), EYE
    for t, a, b, sigma in step_coefficients(prior, num_steps, eta):
        predict = sqrt(1 - a) * torch.linalg.inv(a * prior.cov + (1 - a) * EYE)  # eps = predict (z - sqrt(a) mu)
        clean = (EYE - sqrt(1 - a) * predict) / sqrt(a)
        offset = sqrt(1 - a) * predict @ prior.mean  # x0_hat = clean z + offset
        if t == 0 and tweedie:
            return clean @ mean + offset, clean @ cov @ clean.T
        kept = sqrt(max(0.0, 1 - b - sigma**2))
        step = sqrt(b) * clean + kept * predict
        shift = sqrt(b) * offset - kept * sqrt(a) * predict @ prior.mean
        for turn in range(recurrence):
            mean, cov = step @ mean + shift, step @ cov @ step.T + sigma**2 * EYE
            if turn < recurrence - 1:
                mean, cov = sqrt(a / b) * mean, a / b * cov + (1 - a / b) * EYE
    return mean, cov


def assert_moments(z: Tensor, mean: Tensor, cov: Tensor) -> None:
    """Sample moments within five standard errors of `mean` and `cov`, every entry."""
    z, n = z.flatten(1).double(), len(z)
    variance = cov.diagonal()
    off_mean = (z.mean(0) - mean).abs() / (variance / n).sqrt()
    off_cov = (z.T.cov() - cov).abs() / ((torch.outer(variance, variance) + cov.square()) / n).sqrt()
    assert off_mean.max() < 5, f"mean is off by {off_mean.max():.1f} standard errors"
    assert off_cov.max() < 5, f"covariance is off by {off_cov.max():.1f} standard errors"


def latents(images: Tensor) -> Tensor:
    return (images.double() - 0.5) * SPAN


# -- the toy itself


def test_exact_predictor_is_tweedies_posterior_mean():
    prior = standard_prior()
    z_t = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (996, 500, 4):
        a = float(prior.alpha_bar[t])
        gain = sqrt(a) * prior.cov @ torch.linalg.inv(a * prior.cov + (1 - a) * EYE)  # of conditioning z_0 on z_t
        expected = prior.mean + (z_t.flatten(1) - sqrt(a) * prior.mean) @ gain.T
        x0_hat = schedule.tweedie(z_t, prior.predict_noise(z_t, t), a).flatten(1)
        torch.testing.assert_close(x0_hat, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            prior.posterior_of_clean(t), prior.cov - sqrt(a) * gain @ prior.cov, rtol=1e-9, atol=1e-9
        )


# -- without guidance


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_have_the_moments_of_the_recursion(eta):
    prior = standard_prior()
    z = latents(ddim_sample(prior, range(1500), num_steps=25, eta=eta))
    assert_moments(z, *sampler_moments(prior, 25, eta, tweedie=True))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_recursion_tends_to_the_prior(eta):
    prior = standard_prior()
    mean, cov = sampler_moments(prior, 500, eta, tweedie=True)
    # The schedule stops short of pure noise (sqrt(a_996) = 0.07): a deterministic sampler keeps what N(0, I) lacks of the mean.
    assert (mean - prior.mean).norm() < (0.1 if eta == 0 else 0.02) * prior.mean.norm()
    assert (cov - prior.cov).norm() < 0.03 * prior.cov.norm()
    coarse = sampler_moments(prior, 10, eta, tweedie=True)[1]
    assert (cov - prior.cov).norm() < (coarse - prior.cov).norm()  # and finer steps are better


def test_the_moment_check_can_fail():
    prior = standard_prior()
    z = latents(ddim_sample(prior, range(1500), num_steps=25, eta=1.0))
    mean, cov = sampler_moments(prior, 25, 1.0, tweedie=True)
    with pytest.raises(AssertionError, match="mean is off"):
        assert_moments(z + 0.2, mean, cov)
    with pytest.raises(AssertionError, match="covariance is off"):
        assert_moments((z - z.mean(0)) * 1.1 + z.mean(0), mean, cov)


# -- guided by a measurement y = A z_0 + noise


def measurement() -> tuple[GaussianPrior, LinearClient, Tensor]:
    """Prior, client and one measured y `(1, 1, MEASURED)`."""
    prior, g = standard_prior(), torch.Generator().manual_seed(4)
    client = LinearClient(torch.randn(MEASURED, N, generator=g, dtype=torch.float64) / sqrt(3))
    z_0 = prior.mean + torch.linalg.cholesky(prior.cov) @ torch.randn(N, generator=g, dtype=torch.float64)
    y = client.matrix @ z_0 + NOISE * torch.randn(MEASURED, generator=g, dtype=torch.float64)
    return prior, client, y.view(1, 1, MEASURED)


def posterior(prior: GaussianPrior, client: LinearClient, y: Tensor) -> GaussianPrior:
    """What is left of the prior once y is known: z_0 given y is Gaussian too."""
    a = client.matrix
    gain = prior.cov @ a.T @ torch.linalg.inv(a @ prior.cov @ a.T + NOISE**2 * torch.eye(MEASURED, dtype=torch.float64))
    mean = prior.mean + gain @ (y.flatten() - a @ prior.mean)
    return GaussianPrior(mean, prior.cov - gain @ a @ prior.cov)


class ExactLikelihood:
    """-log p(y | z_t) up to a constant as an IR distance; it knows t from the prior, and may carry a factor per timestep."""

    def __init__(self, prior: GaussianPrior, client: LinearClient, factor: dict[int, float] | None = None):
        self.prior, self.client, self.factor = prior, client, factor or {}

    def __call__(self, h_hat: Tensor, h: Tensor, mask: Tensor | None) -> Tensor:
        a, t = self.client.matrix, self.prior.t
        spread = a @ self.prior.posterior_of_clean(t) @ a.T + NOISE**2 * torch.eye(MEASURED, dtype=torch.float64)
        residual = (h_hat - h).flatten(1)
        return 0.5 * (residual @ torch.linalg.inv(spread) * residual).sum(1) * self.factor.get(t, 1.0)


def dps_factors(prior: GaussianPrior, num_steps: int) -> dict[int, float]:
    """How far the mean of a DDIM step moves per unit of conditional score: DPS's step size, exact for each timestep."""
    return {
        t: sqrt(b / a) * (1 - a) - sqrt(max(0.0, 1 - b - sigma**2)) * sqrt(1 - a)
        for t, a, b, sigma in step_coefficients(prior, num_steps)
    }


@pytest.mark.parametrize(("step", "recurrence"), [("ugd", 1), ("ugd", 3), ("dps", 1)])
def test_exact_likelihood_samples_the_posterior(step, recurrence):
    """With the exact likelihood, UGD's forward guidance and DPS are the DDIM sampler of the posterior, moment for moment."""
    prior, client, y = measurement()
    target, batch, num_steps = posterior(prior, client, y), 2000, 25
    likelihood = ExactLikelihood(prior, client, dps_factors(prior, num_steps) if step == "dps" else None)
    config = PLAIN.with_(num_steps=num_steps, recurrence=recurrence, step=step, guidance_rate=1.0)
    result = drag(
        Message(y.expand(batch, -1, -1), client, distance=likelihood), prior, config, noise=FreshNoise(batch, seed=5)
    )
    assert_moments(latents(result.images), *sampler_moments(target, num_steps, recurrence=recurrence))


def test_the_recursion_tends_to_the_posterior():
    """At t = 0 the published output keeps noise of variance 1 - a_0 (0.00085)."""
    prior, client, y = measurement()
    target, a_0 = posterior(prior, client, y), float(prior.alpha_bar[0])
    mean, cov = sampler_moments(target, 500)
    assert (mean - sqrt(a_0) * target.mean).norm() < 0.02 * target.mean.norm()
    noisy = a_0 * target.cov + (1 - a_0) * EYE
    assert (cov - noisy).norm() < 0.03 * noisy.norm()
    assert (target.mean - prior.mean).norm() > 0.2 * prior.mean.norm()  # the measurement does say something
    assert target.cov.trace() < 0.9 * prior.cov.trace()


def test_spherical_guidance_is_approximate():
    """DSG fits the measurement and nearly keeps the prior elsewhere; it does not sample the posterior.

    Prior N(mean, I), the first coordinates measured. In the others nothing guides, so their mean must be the prior's and their
    variance that of a sampler whose noise gave up the share that went into the direction: too small, by 15 % in 12 dimensions.
    """
    mean = torch.linspace(-1, 1, N, dtype=torch.float64)
    prior, client, batch, num_steps = GaussianPrior(mean, EYE), LinearClient(EYE[:MEASURED]), 2000, 50
    y = torch.tensor([2.0, -2.0, 1.0], dtype=torch.float64)
    error = lambda h_hat, h, mask: (h_hat - h).square().mean((1, 2))  # noqa: E731
    h = y.view(1, 1, MEASURED).expand(batch, -1, -1)

    def run(rate: float) -> Tensor:
        config = PLAIN.with_(num_steps=num_steps, guidance_rate=rate)
        return latents(
            drag(Message(h, client, distance=error), prior, config, noise=FreshNoise(batch, seed=6)).images
        ).flatten(1)

    guided, free = run(0.2), run(0.0)
    misfit = [float((z[:, :MEASURED] - y).square().mean()) for z in (guided, free)]
    assert misfit[0] < 0.06  # from the prior's own distance down to the length of the last steps,
    assert misfit[1] > 1

    noise = torch.randn(20_000, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    direction = torch.zeros_like(noise)
    direction.flatten(1)[:, 0] = 1.0
    share = float(spherical_step(direction, noise, 1.0, 0.2).flatten(1)[:, MEASURED:].square().mean())
    assert 0.9 < share < 1
    variance = 1.0
    for _, a, b, sigma in step_coefficients(prior, num_steps):
        variance *= (
            sqrt(b * a) + sqrt(max(0.0, 1 - b - sigma**2)) * sqrt(1 - a)
        ) ** 2  # C = I: eps = sqrt(1-a) (z - ..)
        variance += share * sigma**2
    rest = guided[:, MEASURED:]
    spread = 5 * sqrt(2 / rest.numel())
    assert float(rest.var(0).mean()) == pytest.approx(variance, rel=spread + 0.01)  # `share` is itself an estimate
    assert 0.8 < variance < 1
    assert ((rest.mean(0) - mean[MEASURED:]).abs() < 5 / sqrt(batch) + 0.01).all()
