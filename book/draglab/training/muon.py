"""Muon for convolutions.

`torch.optim.Muon` orthogonalises the updates of matrices; a filter bank is one too, seen as `(out, in * k * k)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class FlatMuon(torch.optim.Muon):
    """`torch.optim.Muon` on parameters of two or more axes, each updated in place through its matrix view."""

    def __init__(self, params: list[nn.Parameter], lr: float, weight_decay: float):
        self._whole = params
        self._flat = [nn.Parameter(p.detach().view(p.shape[0], -1)) for p in params]  # shares the memory of p
        super().__init__(self._flat, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for flat, whole in zip(self._flat, self._whole, strict=True):
            flat.grad = None if whole.grad is None else whole.grad.reshape(flat.shape)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in (*self._flat, *self._whole):
            p.grad = None


def muon_and_adamw(
    model: nn.Module, lr: float, weight_decay: float, outside: tuple[str, ...]
) -> list[torch.optim.Optimizer]:
    """Muon for the weights of two or more axes, AdamW for the rest: biases, norms, and names that start with one of `outside`
    (first and last layers, embeddings)."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim >= 2 and min(p.shape[:2]) > 1 and not name.startswith(outside)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    return [FlatMuon(matrices, lr, weight_decay), torch.optim.AdamW(rest, lr=lr, weight_decay=0.0)]
