"""DRAG: data reconstruction by guided diffusion (arXiv 2509.11724, algorithm 1).

For every timestep t from noisy to clean, k times: estimate the clean image with Tweedie's formula, measure how far its intermediate
representation is from the message, smooth the gradient with Adam, take a spherically guided DDIM step, and (but for the last turn)
add noise again to come back to t. One call of the noise predictor per turn; nothing is shared between the images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dragkit import schedule
from dragkit.attacks import guidance
from dragkit.attacks.guidance import AdamState, per_image
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.run import Callback, RunState, reconstruction, run, unfailed, unmeasured
from dragkit.attacks.threat import ThreatModel
from dragkit.config import DragConfig
from dragkit.images import validate_images
from dragkit.priors.prior import Prior
from dragkit.streams import NoiseSource, SeededNoise, image_seeds

NEEDS = ThreatModel(weights=True)
SAVED = ("z", "best_x0")  # of a state, beside Adam's moments and what every attack keeps


@dataclass(kw_only=True, repr=False)
class DragState(RunState):
    """What a callback sees after every turn, and what a checkpoint holds; latents are `(B, C, H, W)`.

    Attributes:
        z: the latent that the next turn begins from. adam: its moments, never reset.
        best_x0: the estimate of smallest distance so far, for an attack that is interrupted.
        t, turn, turns: timestep of the last turn, its number there, and how many there are.
        x0_hat: Tweedie's estimate of the last turn.
    """

    z: Tensor
    adam: AdamState
    best_x0: Tensor
    t: int = 0
    turn: int = 0
    turns: int = 1
    x0_hat: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        kept = {name: getattr(self, name) for name in SAVED}
        return super().tensors() | kept | {"adam.m": self.adam.m, "adam.v": self.adam.v}

    def numbers(self) -> dict[str, float]:
        return super().numbers() | {"adam.count": self.adam.count}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, float]) -> None:
        super().restore(tensors, numbers)
        for name in SAVED:
            setattr(self, name, tensors[name].to(getattr(self, name)))
        m, v = tensors["adam.m"].to(self.z), tensors["adam.v"].to(self.z)
        self.adam = AdamState(m, v, int(numbers["adam.count"]))


@torch.inference_mode(False)
@torch.enable_grad()
def drag(
    message: Message,
    prior: Prior,
    config: DragConfig | None = None,
    *,
    start: Tensor | None = None,
    seeds: int | Sequence[int] = 3407,
    noise: NoiseSource | None = None,
    threat: ThreatModel = NEEDS,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> Reconstruction:
    """Rebuild photos from their intermediate representations.

    Args:
        message: what the attacker holds. A float64 message makes the attack's state float64, anything else float32.
        prior: what they know about photos.
        config: settings; `prior.recommended()` when None.
        start: first guess `(B, 3, S, S)` in [0, 1] (DRAG++); `config.strength` says how much of the diffusion is then run.
        seeds: one per image, or a number s for s, s + 1, ...
        noise: source of all randomness instead of `seeds`.
        threat: what the attacker is declared to have; refused if DRAG needs more.
        callback: called with the `DragState` after every turn; returning True stops the attack.
        checkpoint: file to resume from when it exists, saved every minute and on Ctrl-C.

    Returns:
        `Reconstruction`; after Ctrl-C the estimates of smallest distance so far, marked `interrupted`.

    Raises:
        ValueError: an argument that cannot work, before anything is computed. PermissionError: the threat model excludes DRAG.
    """
    if not isinstance(message, Message):
        raise TypeError(f"message is a {type(message).__name__}; it must be a Message(h, client)")
    config = config or prior.recommended()
    threat.require(NEEDS, "DRAG")
    _check_start(start, message, prior, config)
    noise = noise or SeededNoise(image_seeds(seeds, len(message)), message.h.dtype, message.h.device)
    depends_on = (message, config, prior.name, start, *noise.state().values())
    plan = turns_of(config, len(prior.alpha_bar))
    state = begin(message, prior, noise, len(plan), first=plan[0][0], start=start)

    def take_turn() -> None:
        state.t, state.turn, state.turns = plan[state.iteration]
        step, again = Step.at(state.t, config, prior.alpha_bar), state.turn < state.turns - 1
        z_t = state.z
        z, state.x0_hat, d = turn(z_t, step, message, prior, config, state.adam, noise, again)
        ok, better = state.note(d, torch.isfinite(d) & torch.isfinite(z.flatten(1)).all(1))
        state.z = torch.where(per_image(ok, z), z, z_t)
        state.best_x0 = torch.where(per_image(better, z), state.x0_hat if config.tweedie else z_t, state.best_x0)

    stopped = run(state, take_turn, noise, depends_on=depends_on, callback=callback, checkpoint=checkpoint)
    return finish(state, message, prior, config, stopped, threat)


# -- one turn --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of the sampler: from timestep `t` to the one before.

    Attributes:
        t: timestep. a_t, a_prev: alpha_bar there and where the step arrives. sigma: deviation of the step's fresh noise.
        rate: guidance rate, 0 outside the window.
    """

    t: int
    a_t: float
    a_prev: float
    sigma: float
    rate: float

    @classmethod
    def at(cls, t: int, config: DragConfig, alpha_bar: Tensor) -> Step:
        """The step from `t` with these settings; `alpha_bar`: the prior's table, `(num_train_timesteps,)`."""
        before = schedule.previous_timestep(t, config.num_steps, len(alpha_bar))
        a_t, a_prev = schedule.alpha_bar_at(alpha_bar, t), schedule.alpha_bar_at(alpha_bar, before)
        sigma = schedule.ddim_sigma(a_t, a_prev, config.eta)
        return cls(t, a_t, a_prev, sigma, config.rate_at(t, len(alpha_bar)))


def turn(
    z_t: Tensor,
    step: Step,
    message: Message,
    prior: Prior,
    config: DragConfig,
    adam: AdamState,
    noise: NoiseSource,
    again: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One gradient and one guided step, and with `again` the way back to the same timestep (algorithm 1). Updates `adam`.

    Returns:
        the next latent `(B, C, H, W)`, Tweedie's estimate and its distance `(B,)`, NaN where an image failed.
    """
    grad, eps, x0_hat, d = gradient(z_t, step, message, prior, config)
    direction = guidance.clip_norm(grad, config.clip)
    if config.smoothing == "adam":
        direction = guidance.adam_direction(direction, adam, config.betas)
    z = guided_step(z_t, x0_hat, eps, direction, noise.draw(prior.latent_shape), step, config)
    if again:
        z = schedule.renoise(z, noise.draw(prior.latent_shape), step.a_t, step.a_prev)
    return z, x0_hat, d


def gradient(
    z_t: Tensor, step: Step, message: Message, prior: Prior, config: DragConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient of the objective, predicted noise and Tweedie's estimate `(B, C, H, W)`, IR distance `(B,)`; all detached.

    The objective is the IR distance plus `config.regularisation` times the mean square of the image in [-1, 1]. The gradient is
    taken at z_t, through the noise predictor; for MPGD at Tweedie's estimate, which spares that way. Where it is not finite it
    becomes zero and the distance NaN.
    """
    if config.step == "mpgd":
        with torch.no_grad():
            eps = prior.predict_noise(z_t, step.t)
        leaf = x0_hat = schedule.tweedie(z_t, eps, step.a_t).requires_grad_(True)
    else:
        leaf = z_t.detach().requires_grad_(True)
        eps = prior.predict_noise(leaf, step.t)
        x0_hat = schedule.tweedie(leaf, eps, step.a_t)
    image = message.client.resize(prior.decode(x0_hat if config.tweedie else leaf))
    d, size = message.measure(image), (image * 2 - 1).square().flatten(1).mean(1)
    (grad,) = torch.autograd.grad((d + config.regularisation * size).sum(), leaf)
    ok = torch.isfinite(d) & torch.isfinite(grad.flatten(1)).all(1)
    d = torch.where(ok, d.detach(), torch.nan)
    return torch.where(per_image(ok, grad), grad, 0.0), eps.detach(), x0_hat.detach(), d


def guided_step(
    z_t: Tensor, x0_hat: Tensor, eps: Tensor, direction: Tensor, noise: Tensor, step: Step, config: DragConfig
) -> Tensor:
    """The DDIM step to the previous timestep, with the direction worked in as `config.step` says. All `(B, C, H, W)`."""
    if config.step == "ugd":
        eps = guidance.guided_noise(eps, direction, step.a_t, step.rate)
        x0_hat = schedule.tweedie(z_t, eps, step.a_t)
    elif config.step == "mpgd":
        x0_hat = guidance.manifold_step(x0_hat, direction, step.rate)
    mean = schedule.ddim_mean(x0_hat, eps, step.a_prev, step.sigma)
    if config.step == "spherical":
        return mean + guidance.spherical_step(direction, noise, step.sigma, step.rate, config.interpolation)
    if config.step == "dps":
        return mean + guidance.gradient_step(direction, noise, step.sigma, step.rate)
    return mean + step.sigma * noise


# -- before and after ------------------------------------------------------------------------------------------------


def turns_of(config: DragConfig, num_train_timesteps: int) -> list[tuple[int, int, int]]:
    """Every turn of an attack in order: its timestep, its number there from 0, and how many there are at that timestep."""
    timesteps = schedule.ddim_timesteps(config.num_steps, num_train_timesteps)
    timesteps = timesteps[len(timesteps) - max(1, int(config.strength * len(timesteps))) :]
    repeats = [config.turns_at(t, num_train_timesteps) for t in timesteps]
    return [(t, i, k) for t, k in zip(timesteps, repeats, strict=True) for i in range(k)]


def _check_start(start: Tensor | None, message: Message, prior: Prior, config: DragConfig) -> None:
    """Raises ValueError for a first guess that does not fit, or one that is missing."""
    if start is None:
        if config.strength < 1:
            raise ValueError(
                f"strength is {config.strength} but there is no start image; without one the diffusion must run whole (1.0)"
            )
        return
    validate_images(start, "start")
    expected = (len(message), 3, prior.image_size, prior.image_size)
    if tuple(start.shape) != expected:
        raise ValueError(f"start is {tuple(start.shape)}; it must be {expected}")


@torch.no_grad()
def begin(
    message: Message, prior: Prior, noise: NoiseSource, total: int, *, first: int, start: Tensor | None = None
) -> DragState:
    """The state before the first of `total` turns: pure noise, or a first guess `start` with the noise of timestep `first`."""
    z = noise.draw(prior.latent_shape).to(message.h.dtype)
    if start is not None:
        z = schedule.add_noise(prior.encode(start.to(z)), z, schedule.alpha_bar_at(prior.alpha_bar, first))
    return DragState(
        z=z,
        adam=AdamState.zeros_like(z),
        best_x0=torch.zeros_like(z),
        total=total,
        best_distance=unmeasured(z),
        failed_at=unfailed(z),
    )


@torch.no_grad()
def finish(
    state: DragState, message: Message, prior: Prior, config: DragConfig, interrupted: bool, threat: ThreatModel
) -> Reconstruction:
    """Decode the last latent, or the best estimate of an interrupted run, and measure it once more; never under autocast."""
    z, nfe = state.z, state.iteration
    if interrupted:
        z = torch.where(per_image(torch.isfinite(state.best_distance), z), state.best_x0, z)
    elif config.final_tweedie:
        a_0 = schedule.alpha_bar_at(prior.alpha_bar, 0)
        z, nfe = schedule.tweedie(z, prior.predict_noise(z, 0), a_0), nfe + 1
    with torch.autocast(z.device.type, enabled=False):
        images = prior.decode(z)
        distance = message.measure(message.client.resize(images))
    return reconstruction(state, images, distance, nfe=nfe, interrupted=interrupted, threat=threat)
