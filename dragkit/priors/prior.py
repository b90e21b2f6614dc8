"""What an attack needs of a prior."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dragkit.config import DragConfig


class Prior(Protocol):
    """What an attack needs of a prior. State is float32; each method casts to the networks' precision and back."""

    name: str
    image_size: int
    latent_shape: tuple[int, int, int]
    alpha_bar: Tensor  # (num_train_timesteps,), float64, on the CPU

    @property
    def device(self) -> torch.device: ...

    def encode(self, images: Tensor) -> Tensor:
        """Images `(B, 3, S, S)` in [0, 1] to clean latents `(B, *latent_shape)` (the posterior's mode), scaled to unit variance."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Latents `(B, *latent_shape)` to images `(B, 3, S, S)`, about [0, 1] but not clamped; differentiable."""
        ...

    def predict_noise(self, z_t: Tensor, t: int) -> Tensor:
        """Noise predicted in `z_t` `(B, *latent_shape)` at timestep `t`; differentiable."""
        ...

    def recommended(self, turns: int = 400, *, guess: bool = False) -> DragConfig:
        """Settings of DRAG that suit this prior, for about `turns` turns; with `guess` those of DRAG++, from a first guess."""
        ...
