"""rMLE: regularised maximum likelihood estimation, plain optimisation of pixels (He et al., ACSAC 2019).

The settings are those of the comparison in arXiv 2509.11724: Adam 0.05, total variation 1.5, a patch prior of 0.001 (continuity
across patch borders, GradViT, arXiv 2203.11894), gradient norm clipped to 1, 20,000 iterations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from dragkit import guidance
from dragkit.attacks.problem import check_ir
from dragkit.client import SplitClient
from dragkit.distance import cosine_distance
from dragkit.reconstruction import Reconstruction
from dragkit.threat import ThreatModel

NEEDS = ThreatModel(weights=True)


@dataclass(frozen=True)
class RmleConfig:
    """Attributes: iterations; lr of Adam; weights of total variation and patch prior; largest gradient norm; side of a patch."""

    iterations: int = 20_000
    lr: float = 0.05
    tv: float = 1.5
    patch_prior: float = 1e-3
    patch: int = 8
    clip: float | None = 1.0
    image_size: int = 64

    def __post_init__(self) -> None:
        for name in ("iterations", "lr", "patch", "image_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")

    @classmethod
    def paper(cls) -> RmleConfig:
        return cls()

    @classmethod
    def fast(cls) -> RmleConfig:
        return cls(iterations=400)


def total_variation(x: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, `(B,)`, for images `(B, C, H, W)`."""
    rows = (x[..., 1:, :] - x[..., :-1, :]).square().flatten(1).mean(1)
    columns = (x[..., :, 1:] - x[..., :, :-1]).square().flatten(1).mean(1)
    return rows + columns


def patch_prior(x: Tensor, patch: int) -> Tensor:
    """Mean squared jump across the borders of `patch` x `patch` patches, `(B,)`; 0 where an image is a single patch."""
    jumps = x.new_zeros(len(x))
    for axis in (-2, -1):
        edges = torch.arange(patch, x.shape[axis], patch, device=x.device)
        if len(edges):
            jump = x.index_select(axis, edges) - x.index_select(axis, edges - 1)
            jumps = jumps + jump.square().flatten(1).mean(1)
    return jumps


def rmle(
    h: Tensor, client: SplitClient, config: RmleConfig | None = None, *, threat: ThreatModel = NEEDS
) -> Reconstruction:
    """Rebuild photos by optimising their pixels.

    Args:
        h: what the server received, `(B, *client.h_shape)`. client: the cut model. config: `RmleConfig.fast()` when None.

    Returns:
        `Reconstruction` with images `(B, 3, config.image_size, config.image_size)`.

    Raises:
        ValueError: `h` does not come from this client or is not finite. PermissionError: the threat model excludes the attack.
    """
    config = config or RmleConfig.fast()
    threat.require(NEEDS, "rMLE")
    h = check_ir(h, client)
    target = client.tokens(h)
    size = config.image_size
    x = torch.full(
        (len(h), 3, size, size), 0.5, dtype=h.dtype, device=h.device
    )  # zero in the client's normalised range, nearly
    adam = guidance.AdamState.zeros_like(x)
    best, best_distance, trace = x.clone(), torch.full((len(h),), torch.inf, dtype=h.dtype, device=h.device), []
    started, interrupted = time.perf_counter(), False
    try:
        for _ in range(config.iterations):
            leaf = x.requires_grad_(True)
            d = cosine_distance(client.tokens(client(leaf)), target)
            loss = d + config.tv * total_variation(leaf) + config.patch_prior * patch_prior(leaf, config.patch)
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
            d, x = d.detach(), leaf.detach()
            better = d < best_distance
            best, best_distance = torch.where(better.view(-1, 1, 1, 1), x, best), torch.where(better, d, best_distance)
            direction = guidance.adam_direction(guidance.clip_norm(grad, config.clip), adam)
            x = (x - config.lr * direction).clamp(0, 1)
            trace.append(d.cpu())
    except KeyboardInterrupt:
        interrupted = True
    with torch.no_grad():
        final = best if interrupted else x
        distance = cosine_distance(client.tokens(client(final)), target)
    failed = [None if bool(torch.isfinite(d)) else config.iterations for d in distance]
    return Reconstruction(
        final.nan_to_num(0.5),
        distance,
        len(trace),
        time.perf_counter() - started,
        threat,
        failed,
        interrupted,
        {"distance": torch.stack(trace)},
    )
