"""Gaussian noise with a shape: strong where the photo leaks, weak where the server needs the representation.

Two matrices say where. What leaks is K = E[J J^T], with J the derivative of the client with respect to the photo's pixels. What the
server needs is G, the Gauss-Newton matrix of KL(server(h) || server(h + delta)) in delta at 0, so that noise of covariance S costs
tr(G S) / 2 nats while it is small. The covariance of least leakage tr(K S^-1) at a given cost has a closed form (`least_leakage`).

A covariance of all 65 x 128 numbers would have 8,320 x 8,320 entries and would fix the order of the tokens. Here every prefix token
(CLS) has a covariance of its own and all patch tokens share one, so the noise also goes with shuffled tokens.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dragkit import cache
from dragkit.cache import digest, remember, weights_digest
from dragkit.client import Layout, SplitClient
from dragkit.defenses.base import Defence
from dragkit.defenses.public import public_photos, public_tokens, spread

VERSION = 1  # of what is stored; raise it when `estimate` changes

PHOTOS = 1024  # of Imagenette; fewer and the noise costs the server noticeably more on other photos than on these

RIDGE = 0.1  # of the mean eigenvalue of G, added to G; chosen among 0.01, 0.1 and 1 on training photos

BATCH = 64


@dataclass(frozen=True)
class Factors:
    """What shapes the noise of one client; `P` prefix tokens, then one entry for all patch tokens: `(P + 1, D, D)` each, float64.

    Attributes:
        leakage: K, the mean of J J^T per token.
        need: G, the mean Gauss-Newton matrix of the server per token, with its ridge.
        variation: covariance of the IR about the mean of its position.
        std: spread of the IR, the unit of `gaussian:scale`.
        tokens: how many tokens each entry stands for, `(P + 1,)`.
    """

    leakage: Tensor
    need: Tensor
    variation: Tensor
    std: float
    tokens: Tensor

    def leak(self, covariance: Tensor) -> float:
        """tr(K S^-1) of noise with this covariance `(P + 1, D, D)`: what an unbiased attacker learns, summed over tokens."""
        return self._sum(torch.linalg.solve(covariance, self.leakage))

    def cost(self, covariance: Tensor) -> float:
        """tr(G S): twice the nats that noise with this covariance costs the server, while it is small."""
        return self._sum(self.need @ covariance)

    def isotropic(self, scale: float) -> Tensor:
        """Covariance of what `gaussian:scale` adds."""
        return (scale * self.std) ** 2 * torch.eye(self.need.shape[-1], dtype=self.need.dtype).expand_as(self.need)

    def at_equal_cost(self, scale: float, covariance: Tensor) -> Tensor:
        """The covariance, multiplied so that it costs what `gaussian:scale` costs."""
        return covariance * (self.cost(self.isotropic(scale)) / self.cost(covariance))

    def _sum(self, matrices: Tensor) -> float:
        return float((self.tokens * matrices.diagonal(dim1=-2, dim2=-1).sum(-1)).sum())


# -- the shapes -------------------------------------------------------------------------------------------------------


def matrix_power(matrix: Tensor, power: float) -> Tensor:
    """Power of symmetric positive semi-definite matrices `(..., D, D)`; eigenvalues are kept above 1e-12 of the largest."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(values.amax(-1, keepdim=True) * 1e-12)
    return (vectors * values.pow(power).unsqueeze(-2)) @ vectors.mT


def least_leakage(leakage: Tensor, need: Tensor) -> Tensor:
    """The shape of the noise that leaks least for its cost: G^-1/2 (G^1/2 K G^1/2)^1/2 G^-1/2.

    Up to a factor it minimises tr(K S^-1) among all S of equal tr(G S): the derivative of the Lagrangian, S^-1 K S^-1 = lambda G,
    is solved by it. Where K and G commute it is K^1/2 G^-1/2. Blocks `(..., D, D)` share one factor, and so one budget.
    """
    root, inverse = matrix_power(need, 0.5), matrix_power(need, -0.5)
    return inverse @ matrix_power(root @ leakage @ root, 0.5) @ inverse


# -- where the factors come from --------------------------------------------------------------------------------------


def factors(client: SplitClient, photos: Tensor | None = None, seed: int = 0) -> Factors:
    """The factors of a client, from one random probe per photo; computed once for the same photos, then read from the cache.

    Args:
        client: sends tokens, and its server answers with scores.
        photos: public photos `(n, 3, H, W)` in [0, 1], more than a token has features; None means 1,024 of Imagenette.
        seed: of the probes, and of the choice from Imagenette.

    Raises:
        ValueError: an IR that is no tokens, a server whose output is no scores, or too few photos.
        FileNotFoundError: no photos are given, and Imagenette is not there.
    """
    prefix = _prefix(client)
    if photos is not None:  # before any long work; fewer do not determine the covariance of a single token
        public_photos(photos, PHOTOS, least=client.h_shape[1] + 1)
    spec = {
        "factors": VERSION,
        "weights": weights_digest(client.model),
        "client": [repr(client), *client.mean, *client.std],
        "photos": PHOTOS if photos is None else digest(photos),
        "seed": seed,
    }

    def work() -> dict[str, Tensor]:
        unit = torch.tensor(spread(public_tokens(client, photos)), dtype=torch.float64)
        return estimate(client, public_photos(photos, PHOTOS, seed=seed), seed) | {"std": unit}

    return assemble(remember(cache.cache_dir() / "probes", spec, work), prefix)


def assemble(estimated: dict[str, Tensor], prefix: int) -> Factors:
    """Factors from what `estimate` gives and the IR's `std`: patch tokens averaged, the ridge added."""
    leakage, need, variation = (_shared(estimated[name], prefix) for name in ("leakage", "need", "variation"))
    n, d = estimated["need"].shape[:2]
    tokens = torch.tensor([1.0] * prefix + [n - prefix], dtype=need.dtype)
    mean = (tokens * need.diagonal(dim1=-2, dim2=-1).sum(-1)).sum() / (n * d)
    need = need + RIDGE * mean * torch.eye(d, dtype=need.dtype)
    return Factors(leakage, need, variation, float(estimated["std"]), tokens)


def estimate(client: SplitClient, photos: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """K, G and the covariance of the IR per position ("leakage", "need", "variation"), `(N, D, D)` float64.

    K by forward mode: with v standard normal in pixels, J v has the covariance J J^T. G as the Fisher matrix, which it equals for
    softmax scores: gradients of log p(y | h) at answers y drawn from the server's own p.

    Args:
        photos: `(n, 3, H, W)` in [0, 1].

    Raises:
        ValueError: the server's output is not `(B, classes)`.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {name: torch.zeros(()).double() for name in ("leakage", "need")}
    seen = []
    for x in photos.to(client.device, client.dtype).split(BATCH):
        v = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        # The fused attention has no forward mode, and torch warns of a function that it calls itself.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            h, moved = torch.func.jvp(client, (x,), (v,))[:2]
        seen.append(h.cpu().double())
        sums["leakage"] = sums["leakage"] + _outer(moved)
        sums["need"] = sums["need"] + _outer(score_gradient(client, h, generator))
    h = torch.cat(seen)
    return {name: total / len(h) for name, total in sums.items()} | {"variation": _outer(h - h.mean(0)) / len(h)}


def score_gradient(client: SplitClient, h: Tensor, generator: torch.Generator) -> Tensor:
    """Gradient of log p(y | h) in h, `(B, N, D)`, with y drawn from the server's p."""
    with torch.enable_grad():
        h = h.detach().requires_grad_()
        scores = client.server(h)
        if scores.ndim != 2:
            raise ValueError(f"the server returns {tuple(scores.shape)}; shaped noise needs class scores (B, classes)")
        log_p = scores.log_softmax(1)
        y = torch.multinomial(log_p.detach().cpu().double().exp(), 1, generator=generator).to(h.device)
        return torch.autograd.grad(log_p.gather(1, y).sum(), h)[0]


def _outer(vectors: Tensor) -> Tensor:
    """Sum over images of the outer product of every token with itself: `(B, N, D)` to `(N, D, D)` float64, on the CPU."""
    by_token = vectors.detach().cpu().double().transpose(0, 1)
    return by_token.mT @ by_token


def _shared(matrices: Tensor, prefix: int) -> Tensor:
    return torch.cat([matrices[:prefix], matrices[prefix:].mean(0, keepdim=True)])


def _prefix(client: SplitClient) -> int:
    if client.layout.kind != "BND":
        raise ValueError(f"shaped noise needs an IR of tokens (B, N, D); this client has {client.layout}")
    return client.layout.prefix_tokens


# -- the defences -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CorrelatedNoise(Defence):
    """Gaussian noise with a covariance for every prefix token and one for all patch tokens.

    Attributes:
        scale: strength. The predicted cost tr(G S) is that of `gaussian:scale`, independent noise of `scale` times the IR's spread,
            so defences of equal scale may be compared.
        root, inverse: symmetric S^1/2 and S^-1/2, `(P + 1, D, D)` float32.
    """

    scale: float
    root: Tensor = field(repr=False, compare=False)
    inverse: Tensor = field(repr=False, compare=False)
    name: ClassVar[str] = "noise"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        scale = 1.0 if value is None else value
        if not (math.isfinite(scale) and scale > 0):  # before the factors, which take seconds
            raise ValueError(f"{cls.name} is given {scale}; its strength, as that of gaussian, is finite and above 0")
        return cls.from_factors(client.layout, factors(client, photos), scale)

    @classmethod
    def from_factors(cls, layout: Layout, factors: Factors, scale: float) -> Self:
        """The defence for factors that are at hand."""
        covariance = factors.at_equal_cost(scale, cls.shape(factors))
        return cls(layout, scale, *(matrix_power(covariance, power).float() for power in (0.5, -0.5)))

    @staticmethod
    @abstractmethod
    def shape(factors: Factors) -> Tensor:
        """Covariance `(P + 1, D, D)` up to a factor."""

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        return h + _each_token(torch.randn(h.shape, generator=generator).to(h), self.root)

    def whiten(self, delta: Tensor) -> Tensor:
        """S^-1/2 delta, `(B, N, D)`: noise becomes standard normal, so half its square is an attacker's negative log-likelihood."""
        return _each_token(delta, self.inverse)


class ShapedNoise(CorrelatedNoise):
    """Noise of least leakage at its cost: shaped by the derivative of the client and the curvature of the server."""

    name: ClassVar[str] = "shaped"

    @staticmethod
    def shape(factors: Factors) -> Tensor:
        return least_leakage(factors.leakage, factors.need)


class PacNoise(CorrelatedNoise):
    """Noise of PAC privacy (arXiv 2210.03458): variances in the ratio of the square roots of the IR's own, in its PCA basis.

    It bounds the information about the photo at the least noise, tr(S), and does not ask what the server needs.
    """

    name: ClassVar[str] = "pac"

    @staticmethod
    def shape(factors: Factors) -> Tensor:
        return matrix_power(factors.variation, 0.5)


def _each_token(tokens: Tensor, matrices: Tensor) -> Tensor:
    """Every token `(B, N, D)` times the (symmetric) matrix of its kind."""
    prefix, matrices = len(matrices) - 1, matrices.to(tokens)
    front = torch.einsum("bpd,pde->bpe", tokens[:, :prefix], matrices[:prefix])
    return torch.cat([front, tokens[:, prefix:] @ matrices[prefix]], 1)
