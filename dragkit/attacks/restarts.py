"""Restarts: the same attack from several random starts, and the choice among them that an attacker can make.

The choice uses the attack's own final distance only. Picking the sample that is nearest to the photo would need the photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.priors.prior import Prior
from dragkit.streams import image_seeds

STRIDE = 1_000_000  # between the seeds of two restarts of one image; does not depend on the batch

Config = TypeVar("Config", contravariant=True)


class Attack(Protocol[Config]):
    """An attack with random starts, such as `drag`; `functools.partial` fixes its other arguments."""

    def __call__(
        self, message: Message, prior: Prior, config: Config | None, *, seeds: Sequence[int]
    ) -> Reconstruction: ...


@dataclass(frozen=True)
class Samples:
    """All restarts of an attack.

    Attributes:
        best: per image the restart of smallest distance; its `nfe` and `seconds` are those of all restarts, it has no trace.
        images: `(S, B, 3, H, W)` in [0, 1].
        distance: the attacker's own, `(S, B)`; NaN where a restart failed.
        chosen: which restart `best` shows, `(B,)`; 0 where all have failed.
    """

    best: Reconstruction
    images: Tensor
    distance: Tensor
    chosen: Tensor


def restarts(
    attack: Attack[Config],
    message: Message,
    prior: Prior,
    config: Config | None = None,
    *,
    num_samples: int = 4,
    seeds: int | Sequence[int] = 3407,
    batch: int | None = None,
) -> Samples:
    """Run `attack` `num_samples` times on each image of a message and choose by its final distance.

    Restart 0 is what a plain run with `seeds` gives; restart s of an image has its seed plus `s * STRIDE`. If an extra argument
    fixed with `functools.partial` has a row per image (a first guess), repeat it: `start.repeat(num_samples, 1, 1, 1)`.

    Args:
        attack: called as `attack(message, prior, config, seeds=...)`.
        message: what the attacker holds, B images.
        prior, config: handed on.
        num_samples: restarts per image, S.
        seeds: one per image, or a number s for s, s + 1, ...
        batch: attacks run together; all S * B when None.

    Returns:
        `Samples`. After Ctrl-C the restarts that were not begun are grey with NaN distance, and `best.interrupted` is True.

    Raises:
        ValueError, TypeError: an argument that cannot work, before anything is computed; and whatever the attack raises.
    """
    for name, value in (("num_samples", num_samples), ("batch", batch)):
        if not isinstance(value, int) and not (name == "batch" and value is None):
            raise TypeError(f"{name} is {value!r}; it must be an integer")
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    first = image_seeds(seeds, len(message))
    all_seeds = [seed + s * STRIDE for s in range(num_samples) for seed in first]
    every = torch.arange(len(message)).repeat(num_samples)
    runs: list[Reconstruction] = []
    for start in range(0, len(every), batch or len(every)):
        part = slice(start, start + (batch or len(every)))
        runs.append(attack(message.rows(every[part]), prior, config, seeds=all_seeds[part]))
        if runs[-1].interrupted:
            break
    return _choose(runs, num_samples, len(message))


def _choose(runs: list[Reconstruction], num_samples: int, b: int) -> Samples:
    images, distance = (torch.cat([getattr(r, name) for r in runs]) for name in ("images", "distance"))
    failed = [at for r in runs for at in (r.failed_at or [None] * len(r.images))]
    missing = num_samples * b - len(images)  # after Ctrl-C
    images = torch.cat([images, images.new_full((missing, *images.shape[1:]), 0.5)]).unflatten(0, (num_samples, b))
    distance = torch.cat([distance, distance.new_full((missing,), torch.nan)]).unflatten(0, (num_samples, b))
    failed += [None] * missing
    chosen = torch.where(distance.isnan(), torch.inf, distance).argmin(0)
    rows = torch.arange(b, device=chosen.device)
    best = Reconstruction(
        images[chosen, rows],
        distance[chosen, rows],
        num_samples * max(r.nfe for r in runs),
        sum(r.seconds for r in runs),
        runs[0].threat,
        [failed[int(s) * b + i] for i, s in enumerate(chosen)],
        runs[-1].interrupted,
    )
    return Samples(best, images, distance, chosen)
