"""Configuration of the guided sampler: every ingredient of DRAG has its own switch, so that an ablation is a configuration."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Literal, get_args

StepKind = Literal["spherical", "dps", "ugd", "mpgd"]

Smoothing = Literal["adam", "none"]

RateSchedule = Literal["constant", "rising", "falling"]
Interpolation = Literal["lerp", "slerp"]


@dataclass(frozen=True)
class DragConfig:
    """The defaults are the published algorithm (arXiv 2509.11724).

    Attributes:
        num_steps: DDIM steps T.
        recurrence: turns k per step; k - 1 of them go back to the same timestep by adding noise.
        step: how a direction becomes a step: "spherical" (DSG), "dps", "ugd" or "mpgd" (see `dragkit.attacks.guidance`).
        guidance_rate: weight of the direction against the step's noise, 0 to 1 for "spherical"; a plain factor for the others.
        rate_schedule: "constant", "rising" (from 0 to the rate as the image gets clean) or "falling".
        guidance_window, recurrence_window: the part of the diffusion, as (from, to) in shares of the timesteps, 0 clean and 1
            noise, in which there is guidance, and in which there is more than one turn (FreeDoM, arXiv 2303.09833).
        interpolation: "lerp" or "slerp" between noise and direction on the sphere.
        smoothing: "adam" (moments kept over all iterations, never reset) or "none" (the raw gradient).
        betas: decay of Adam's moments.
        clip: largest gradient norm of an image before smoothing; None leaves gradients as they are.
        eta: share of fresh noise in a DDIM step; 1 is DDPM-like, 0 deterministic ("spherical" needs it above 0).
        tweedie: measure the distance at the estimate of the clean image; False measures it at the noisy latent itself.
        regularisation: weight of the mean square of the image in [-1, 1].
        final_tweedie: decode Tweedie's estimate at the last timestep; False decodes the latent itself, as published.
        strength: part of the diffusion that is run when the attack starts from a first guess, in (0, 1].
    """

    num_steps: int = 250
    recurrence: int = 16
    step: StepKind = "spherical"
    guidance_rate: float = 0.2
    rate_schedule: RateSchedule = "constant"
    guidance_window: tuple[float, float] = (0.0, 1.0)
    recurrence_window: tuple[float, float] = (0.0, 1.0)
    interpolation: Interpolation = "lerp"
    smoothing: Smoothing = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 0.02
    eta: float = 1.0
    tweedie: bool = True
    regularisation: float = 0.01
    final_tweedie: bool = False
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name, accepted in (
            ("step", get_args(StepKind)),
            ("smoothing", get_args(Smoothing)),
            ("rate_schedule", get_args(RateSchedule)),
            ("interpolation", get_args(Interpolation)),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(accepted)}")
        for name in ("num_steps", "recurrence"):
            if not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} is {getattr(self, name)!r}; it must be an integer")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; both must be at least 0 and below 1")
        if not 1 <= self.num_steps <= 1000:
            raise ValueError(f"num_steps is {self.num_steps}; it must be between 1 and 1000")
        if self.recurrence < 1:
            raise ValueError(f"recurrence is {self.recurrence}; one turn per step is the least")
        if self.guidance_rate < 0 or (self.step == "spherical" and self.guidance_rate > 1):
            raise ValueError(
                f"guidance_rate is {self.guidance_rate}; it must be at least 0, and at most 1 for spherical steps"
            )
        for name in ("guidance_window", "recurrence_window"):
            low, high = getattr(self, name)
            if not 0 <= low < high <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be (from, to) with 0 <= from < to <= 1")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must be between 0 and 1")
        if self.step == "spherical" and self.eta == 0 and self.guidance_rate > 0:
            raise ValueError(
                "spherical guidance replaces the step's noise and eta=0 has none; choose eta above 0 or another step"
            )
        if self.step == "mpgd" and not self.tweedie:
            raise ValueError("mpgd takes its gradient at Tweedie's estimate; tweedie must be True")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it must be in (0, 1]")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; it must be positive, or None for no clipping")

    @classmethod
    def paper(cls) -> DragConfig:
        """The published settings: 250 steps of 16 turns, 4,000 iterations."""
        return cls()

    @classmethod
    def published(cls, turns: int = 4000) -> DragConfig:
        """The published settings in about `turns` turns, with turns per step between those of `paper`, `fast` and `ci`."""
        recurrence = max(1, round(16 * (turns / 4000) ** 0.6))
        return cls(num_steps=max(1, min(1000, round(turns / recurrence))), recurrence=recurrence)

    @classmethod
    def published_plus(cls, turns: int = 1200) -> DragConfig:
        """The published settings of DRAG++ in about `turns` turns: those of `published` in the last 30 % of the diffusion."""
        return cls.published(ceil(turns / 0.3)).with_(strength=0.3)

    @classmethod
    def fast(cls) -> DragConfig:
        """One tenth of the iterations: 100 steps of 4 turns."""
        return cls(num_steps=100, recurrence=4)

    @classmethod
    def ci(cls) -> DragConfig:
        """Enough to see a photo appear on two CPU cores: 40 steps of 2 turns."""
        return cls(num_steps=40, recurrence=2)

    @classmethod
    def small(cls, turns: int = 100) -> DragConfig:
        """For the embedded prior: `turns` steps of one turn, chosen on training photos (`book/results/search.json`).

        Its latents have 1,024 numbers, those of Stable Diffusion 16,384; a shorter memory of Adam and a higher rate fit it better.
        There are 1,000 timesteps; from 1,001 turns on, every step gets several.
        """
        chosen = cls(guidance_rate=0.8, betas=(0.5, 0.9), clip=0.02, eta=0.7, final_tweedie=True)
        return chosen._spread(turns)

    @classmethod
    def small_plus(cls, turns: int = 100, strength: float = 0.05) -> DragConfig:
        """`small` from a first guess: about `turns` iterations in the last part of the diffusion, several per step where the part
        has fewer timesteps. The strength was chosen on training photos (`book/results/starts.json`).
        """
        return cls.small().with_(strength=strength)._spread(turns)

    def _spread(self, turns: int) -> DragConfig:
        """A copy with about `turns` iterations in its part of the 1,000 timesteps, as few per step as possible."""
        recurrence = max(1, ceil(turns / (self.strength * 1000) - 1e-9))
        steps = ceil(turns / (recurrence * self.strength) - 1e-9)
        return self.with_(num_steps=min(1000, steps), recurrence=recurrence)

    @classmethod
    def paper_plus(cls) -> DragConfig:
        """The published settings of DRAG++, from a first guess: the last 75 of 250 steps, 16 turns each, 1,200 iterations."""
        return cls.paper().with_(strength=0.3)

    @property
    def label(self) -> str:
        """What stands behind the method's name in tables and figures: "published", "published, k=4", "small, k=1", ...

        "small" are the settings of `small`; settings that are neither are "own settings".
        """
        budget = {"num_steps", "recurrence", "strength"}
        mine = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in budget}
        for name, preset in (("published", DragConfig()), ("small", DragConfig.small())):
            if all(getattr(preset, key) == value for key, value in mine.items()):
                return name if name == "published" and self.recurrence == 16 else f"{name}, k={self.recurrence}"
        return f"own settings, k={self.recurrence}"

    def describe(self) -> list[tuple[str, object, str]]:
        """Every field with its value here and what it means, in the words of this class's documentation."""
        attributes = (inspect.getdoc(DragConfig) or "").partition("Attributes:\n")[2]
        meanings: dict[str, str] = {}
        for entry in re.split(r"\n(?= {4}\w)", attributes):
            names, _, meaning = " ".join(entry.split()).partition(": ")
            meanings |= dict.fromkeys(names.split(", "), meaning)
        return [(f.name, getattr(self, f.name), meanings.get(f.name, "")) for f in fields(self)]

    def rate_at(self, t: int, num_train_timesteps: int) -> float:
        """Guidance rate at timestep `t`; 0 outside the window."""
        noisiness = t / num_train_timesteps
        if not self.guidance_window[0] <= noisiness <= self.guidance_window[1]:
            return 0.0
        return self.guidance_rate * {"constant": 1.0, "rising": 1 - noisiness, "falling": noisiness}[self.rate_schedule]

    def turns_at(self, t: int, num_train_timesteps: int) -> int:
        """Turns at timestep `t`; 1 outside the window."""
        low, high = self.recurrence_window
        return self.recurrence if low <= t / num_train_timesteps <= high else 1

    def with_(self, **changes: object) -> DragConfig:
        """A copy with some fields changed (checked like the constructor's)."""
        return replace(self, **changes)  # type: ignore[arg-type]
