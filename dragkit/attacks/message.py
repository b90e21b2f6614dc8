"""Checks that every attack makes on what it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from dragkit.client import SplitClient


def check_ir(h: Tensor, client: SplitClient) -> Tensor:
    """`h` in the precision of an attack's state: float64 stays, anything else becomes float32. Detached.

    Raises:
        TypeError: `h` is not a floating-point tensor.
        ValueError: it is empty, not `(B, *client.h_shape)`, or holds NaN or infinite values.
    """
    if not isinstance(h, Tensor) or not h.is_floating_point():
        given = h.dtype if isinstance(h, Tensor) else type(h).__name__
        raise TypeError(f"h is {given}; it must be a floating-point tensor")
    if h.ndim != len(client.h_shape) + 1 or tuple(h.shape[1:]) != tuple(client.h_shape):
        raise ValueError(
            f"h has shape {tuple(h.shape)}; client {client.split!r} sends (B, {', '.join(map(str, client.h_shape))})"
        )
    if len(h) == 0:
        raise ValueError("h holds no image; the batch must have at least one")
    if not torch.isfinite(h).all():
        raise ValueError("h holds NaN or infinite values; what the server received cannot be compared with anything")
    return h.detach().clone().to(torch.float64 if h.dtype == torch.float64 else torch.float32)
