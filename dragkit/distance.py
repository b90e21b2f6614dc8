"""How far one intermediate representation is from another: the objective that every attack minimises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def check_mask(mask: Tensor | None, tokens: Tensor) -> None:
    """Which of `tokens` `(B, N, D)` arrived: None, or bool `(B, N)` with one token or more for every image.

    Raises:
        TypeError: not bool. ValueError: another shape, or an image without tokens.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        given = mask.dtype if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise TypeError(f"mask is {given}; it must be bool, True for tokens that arrived")
    if mask.shape != tokens.shape[:2]:
        raise ValueError(f"mask is {tuple(mask.shape)}; it must be {tuple(tokens.shape[:2])}, one entry per token")
    if not mask.any(1).all():
        raise ValueError(f"mask leaves no token for image {int((~mask.any(1)).nonzero()[0])}")


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


# -- what they share ----------------------------------------------------------------------------------------------------


def prepared(h_hat: Tensor, h: Tensor, mask: Tensor | None, prefix: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens in float32 (float64 stays), whatever autocast made of them, and a mask.

    Raises:
        ValueError: shapes that do not fit, or a mask that leaves an image without (patch) tokens.
    """
    if h_hat.shape != h.shape or h.ndim != 3:
        raise ValueError(f"h_hat is {tuple(h_hat.shape)} and h is {tuple(h.shape)}; both must be tokens (B, N, D)")
    if not 0 <= prefix < h.shape[1]:
        raise ValueError(f"prefix_tokens is {prefix}; h has {h.shape[1]} tokens, and one patch token must remain")
    mask = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask
    if mask.shape != h.shape[:2] or mask.dtype != torch.bool:
        raise ValueError(
            f"mask is {tuple(mask.shape)} of {mask.dtype}; it must be bool {tuple(h.shape[:2])}, one entry per token"
        )
    kept = mask[:, prefix:].any(1)
    if not kept.all():
        raise ValueError(f"mask leaves no {'patch ' * (prefix > 0)}token for image {int((~kept).nonzero()[0])}")
    dtype = torch.promote_types(torch.promote_types(h_hat.dtype, h.dtype), torch.float32)
    return h_hat.to(dtype), h.to(dtype), mask
