"""Where an attack's random numbers come from: one stream per image, so that a batch draws what single runs would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

USER_SEED = 2**31  # added to an attack's seed for the user's draws, which the attacker does not have


class NoiseSource(Protocol):
    """Standard normal noise, drawn in a fixed order. Inject your own to replay or to replace the randomness of an attack."""

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """The next `(B, *shape)` standard normal draw, one independent stream per image."""

    def state(self) -> dict[str, Tensor]:
        """All that `load` needs to go on from here (for checkpoints)."""

    def load(self, state: dict[str, Tensor]) -> None: ...


class SeededNoise:
    """One `torch.Generator` per image, always on the CPU and always drawing `dtype`: the same numbers on every device."""

    def __init__(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"):
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self._dtype, self._device = dtype, device

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        drawn = [torch.randn(shape, generator=g, dtype=self._dtype) for g in self._generators]
        return torch.stack(drawn).to(self._device)

    def state(self) -> dict[str, Tensor]:
        return {f"generator.{i}": g.get_state() for i, g in enumerate(self._generators)}

    def load(self, state: dict[str, Tensor]) -> None:
        for i, g in enumerate(self._generators):
            g.set_state(state[f"generator.{i}"])


def image_seeds(seeds: int | Sequence[int], batch: int) -> list[int]:
    """One seed per image: a number `s` means s, s + 1, ...; a list must have `batch` entries (ValueError)."""
    if isinstance(seeds, int | np.integer):
        return list(range(int(seeds), int(seeds) + batch))
    if len(seeds) != batch:
        raise ValueError(f"seeds has {len(seeds)} entries; the batch has {batch} images")
    return list(seeds)
