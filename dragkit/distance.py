"""How far one intermediate representation is from another: the objective that every attack minimises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""`(tokens of an image, tokens that arrived, mask)` to one value per image, `(B,)`."""


def cosine_distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
    """Token-wise cosine distance, 1 - cos over the features of each token, averaged over tokens (DRAG's d_H).

    Args:
        h_hat, h: tokens `(B, N, D)` (`SplitClient.tokens` brings any layout into this form). CLS counts like every token.
        mask: which tokens of `h` the attacker has, bool `(B, N)`; None means all.

    Returns:
        one distance per image, `(B,)` in [0, 2].

    Raises:
        ValueError: shapes differ, or a mask that leaves an image without tokens.
    """
    if h_hat.shape != h.shape or h.ndim != 3:
        raise ValueError(f"h_hat is {tuple(h_hat.shape)} and h is {tuple(h.shape)}; both must be tokens (B, N, D)")
    per_token = 1 - torch.nn.functional.cosine_similarity(h_hat, h, dim=-1)
    if mask is None:
        return per_token.mean(1)
    if mask.shape != per_token.shape:
        raise ValueError(f"mask is {tuple(mask.shape)}; it must be {tuple(per_token.shape)}, one entry per token")
    kept = mask.sum(1)
    if (kept == 0).any():
        raise ValueError(f"mask leaves no token for image {int((kept == 0).nonzero()[0])}")
    return (per_token * mask).sum(1) / kept
