"""Toy problems with known answers: a Gaussian prior, a linear client and replayed noise, small enough to reason about."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from dragkit.schedule import scaled_linear_alpha_bar

SPAN = 40.0  # latents of +-20 fit into images of [0, 1], so that nothing is ever clamped
SHAPE = (3, 2, 2)
N = 12


class GaussianPrior:
    """Latents are N(mean, cov) in `N` dimensions, so the best noise predictor has a closed form. Decoding only rescales."""

    def __init__(self, mean: Tensor, cov: Tensor):
        self.name, self.image_size, self.latent_shape = "gaussian", 2, SHAPE
        self.device = torch.device("cpu")
        self.alpha_bar = scaled_linear_alpha_bar(0.00085, 0.012)
        self.mean, self.cov = mean.double(), cov.double()
        self.t = -1  # timestep of the last prediction
        self.calls = 0

    def encode(self, images: Tensor) -> Tensor:
        return (images - 0.5) * SPAN

    def decode(self, z: Tensor) -> Tensor:
        return z / SPAN + 0.5

    def predict_noise(self, z_t: Tensor, t: int) -> Tensor:
        self.t, self.calls = t, self.calls + 1
        a = float(self.alpha_bar[t])
        inverse = torch.linalg.inv(a * self.cov + (1 - a) * torch.eye(N, dtype=torch.float64)).to(z_t)
        away = z_t.flatten(1) - sqrt(a) * self.mean.to(z_t)
        return (sqrt(1 - a) * away @ inverse).view_as(z_t)

    def posterior_of_clean(self, t: int) -> Tensor:
        """Covariance of z_0 given z_t."""
        a = float(self.alpha_bar[t])
        return torch.linalg.inv(torch.linalg.inv(self.cov) + a / (1 - a) * torch.eye(N, dtype=torch.float64))


class LinearClient:
    """`h = A z`, as `tokens` tokens; the surface of `SplitClient` that attacks use."""

    def __init__(self, matrix: Tensor, tokens: int = 1):
        self.matrix, self.name, self.at, self.calls = matrix, "toy", "linear", 0
        self.h_shape = (tokens, matrix.shape[0] // tokens)

    @property
    def model(self) -> nn.Module:
        return nn.ParameterDict({"matrix": nn.Parameter(self.matrix, requires_grad=False)})

    def resize(self, images: Tensor) -> Tensor:
        return images

    def tokens(self, h: Tensor) -> Tensor:
        return h

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        z = (images - 0.5) * SPAN
        return (z.flatten(1) @ self.matrix.to(z).T).view(len(z), *self.h_shape)


class FreshNoise:
    """Standard normal draws for a whole batch from one generator: quick, for many independent images."""

    def __init__(self, batch: int, seed: int = 0, dtype: torch.dtype = torch.float64):
        self.batch, self.dtype, self.generator = batch, dtype, torch.Generator().manual_seed(seed)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn((self.batch, *shape), generator=self.generator, dtype=self.dtype)

    def state(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])


def standard_prior() -> GaussianPrior:
    """Correlated, not centred, reproducible."""
    g = torch.Generator().manual_seed(1)
    root = torch.randn(N, N, generator=g, dtype=torch.float64) / sqrt(N)
    mean = torch.randn(N, generator=g, dtype=torch.float64)
    return GaussianPrior(mean, root @ root.T + 0.1 * torch.eye(N, dtype=torch.float64))


def token_client() -> LinearClient:
    """An invertible mixture of all latents, in three tokens of four features."""
    g = torch.Generator().manual_seed(2)
    return LinearClient(torch.randn(N, N, generator=g, dtype=torch.float64), tokens=3)


def photos(batch: int, seed: int = 3) -> Tensor:
    """Float64 images `(B, 3, 2, 2)` of latents near the Gaussian prior's scale."""
    z = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z / SPAN + 0.5
