"""DDIM arithmetic (Song et al., arXiv 2010.02502) as pure functions.

Letters are the field's: `z_t` the noisy latent at timestep t, `eps` the predicted noise, `a_t` short for alpha_bar_t (the cumulated
signal power, in (0, 1]), `x0_hat` Tweedie's estimate of the clean latent. Tensors may have any shape and dtype; `a_*` and `sigma`
are plain floats, so that no rounding depends on where or in which precision the networks run.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor


def ddim_timesteps(num_inference_steps: int, num_train_timesteps: int = 1000) -> list[int]:
    """Timesteps from noisy to clean with "leading" spacing and offset 0: 250 of 1000 gives 996, 992, ..., 4, 0.

    Raises:
        ValueError: not 1 <= num_inference_steps <= num_train_timesteps.
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise ValueError(
            f"num_inference_steps is {num_inference_steps}; it must be between 1 and {num_train_timesteps}"
        )
    stride = num_train_timesteps // num_inference_steps
    return [i * stride for i in reversed(range(num_inference_steps))]


def previous_timestep(t: int, num_inference_steps: int, num_train_timesteps: int = 1000) -> int:
    """The timestep that a DDIM step from `t` arrives at; negative past the last step."""
    return t - num_train_timesteps // num_inference_steps


def alpha_bar_at(alpha_bar: Tensor, t: int) -> float:
    """alpha_bar_t of a table `(num_train_timesteps,)`; its first entry for negative `t` (`set_alpha_to_one=False`)."""
    return float(alpha_bar[max(t, 0)])


def scaled_linear_alpha_bar(beta_start: float, beta_end: float, num_train_timesteps: int = 1000) -> Tensor:
    """Table of alpha_bar, float64 `(num_train_timesteps,)`, for betas whose square roots are equally spaced (latent diffusion)."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def ddim_sigma(a_t: float, a_prev: float, eta: float = 1.0) -> float:
    """Standard deviation of the fresh noise in a DDIM step (eq. 16); 0 where both ends are the same."""
    return eta * sqrt((1 - a_prev) / (1 - a_t)) * sqrt(max(0.0, 1 - a_t / a_prev))


def tweedie(z_t: Tensor, eps: Tensor, a_t: float) -> Tensor:
    """Posterior mean of the clean latent, E[z_0 | z_t] = (z_t - sqrt(1 - a_t) eps) / sqrt(a_t). Shape of `z_t`."""
    return (z_t - sqrt(1 - a_t) * eps) / sqrt(a_t)


def ddim_mean(x0_hat: Tensor, eps: Tensor, a_prev: float, sigma: float) -> Tensor:
    """Mean of z_prev given the prediction (eq. 12): signal plus the part of the noise that is kept. Shape of `x0_hat`."""
    return sqrt(a_prev) * x0_hat + sqrt(max(0.0, 1 - a_prev - sigma**2)) * eps


def renoise(z_prev: Tensor, noise: Tensor, a_t: float, a_prev: float) -> Tensor:
    """Back from z_prev to timestep t by the forward process: one turn of self-recurrence (arXiv 2201.09865, 2302.07121)."""
    keep = a_t / a_prev
    return sqrt(keep) * z_prev + sqrt(max(0.0, 1 - keep)) * noise


def add_noise(z_0: Tensor, noise: Tensor, a_t: float) -> Tensor:
    """Forward process q(z_t | z_0): sqrt(a_t) z_0 + sqrt(1 - a_t) noise. Shape of `z_0`."""
    return sqrt(a_t) * z_0 + sqrt(1 - a_t) * noise
