"""rMLE: regularised maximum likelihood estimation, plain optimisation of pixels (He et al., ACSAC 2019).

The settings are those of the comparison in arXiv 2509.11724: Adam 0.05, total variation 1.5, a patch prior of 0.001 (continuity
across patch borders, GradViT, arXiv 2203.11894), gradient norm clipped to 1, 20,000 iterations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dragkit.attacks.descent import Pace, Parameters, descend, finish
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.run import Callback
from dragkit.attacks.threat import ThreatModel
from dragkit.streams import SeededNoise

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

    def with_(self, **changes: object) -> RmleConfig:
        """A copy with some fields changed (checked like the constructor's)."""
        return replace(self, **changes)  # type: ignore[arg-type]


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
    message: Message,
    config: RmleConfig | None = None,
    *,
    threat: ThreatModel = NEEDS,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> Reconstruction:
    """Rebuild photos by optimising their pixels, from grey.

    Args:
        message: what the attacker holds.
        config: `RmleConfig.fast()` when None.
        threat, callback, checkpoint: as in `drag`; the callback gets a `DescentState`.

    Returns:
        `Reconstruction` with images `(B, 3, config.image_size, config.image_size)`; its nfe counts calls of the client.

    Raises:
        ValueError: the checkpoint belongs to another attack. PermissionError: the threat model excludes this one.
    """
    config = config or RmleConfig.fast()
    threat.require(NEEDS, "rMLE")
    h, side = message.h, config.image_size
    grey = torch.full((len(h), 3, side, side), 0.5, dtype=h.dtype, device=h.device)  # nearly 0 after normalisation

    def render(p: Parameters, iteration: int) -> tuple[Tensor, Tensor]:
        x = p["pixels"]
        return x, config.tv * total_variation(x) + config.patch_prior * patch_prior(x, config.patch)

    state, stopped = descend(
        message,
        {"pixels": grey},
        render,
        Pace(config.iterations, config.lr, clip=config.clip),
        SeededNoise([]),
        ("rMLE", config),
        project=lambda p: {"pixels": p["pixels"].clamp(0, 1)},
        callback=callback,
        checkpoint=checkpoint,
    )
    return finish(state, message, render, stopped, threat)
