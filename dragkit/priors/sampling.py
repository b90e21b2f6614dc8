"""Sampling from a prior without any guidance: what it believes photos look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dragkit import schedule
from dragkit.priors.prior import Prior
from dragkit.streams import SeededNoise


@torch.no_grad()
def ddim_sample(
    prior: Prior,
    seeds: Sequence[int],
    num_steps: int = 50,
    eta: float = 0.0,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502): one image per seed, `(len(seeds), 3, S, S)` in [0, 1].

    The last step decodes Tweedie's estimate, so no residual noise is left. `callback(t, z_t, x0_hat)` is called at every step.

    Raises:
        ValueError: no seeds, or num_steps outside 1..T.
    """
    if not seeds:
        raise ValueError("seeds is empty; give one seed per image")
    noise = SeededNoise(seeds, device=prior.device)
    z = noise.draw(prior.latent_shape)
    total = len(prior.alpha_bar)
    x0_hat = z
    for t in schedule.ddim_timesteps(num_steps, total):
        a_t = schedule.alpha_bar_at(prior.alpha_bar, t)
        a_prev = schedule.alpha_bar_at(prior.alpha_bar, schedule.previous_timestep(t, num_steps, total))
        eps = prior.predict_noise(z, t)
        x0_hat = schedule.tweedie(z, eps, a_t)
        if callback is not None:
            callback(t, z, x0_hat)
        sigma = schedule.ddim_sigma(a_t, a_prev, eta)
        z = schedule.ddim_mean(x0_hat, eps, a_prev, sigma)
        if sigma > 0:
            z = z + sigma * noise.draw(prior.latent_shape)
    return prior.decode(x0_hat).clamp(0, 1)
