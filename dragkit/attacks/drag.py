"""DRAG: data reconstruction by guided diffusion (arXiv 2509.11724, algorithm 1).

For every timestep t from noisy to clean, k times: estimate the clean image with Tweedie's formula, measure how far its intermediate
representation is from the target, smooth the gradient with Adam, take a spherically guided DDIM step, and (but for the last turn)
add noise again to come back to t. One call of the noise predictor per turn; nothing is shared between the images of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dragkit import schedule
from dragkit.attacks import guidance
from dragkit.attacks.checkpoint import Checkpoint, fingerprint
from dragkit.attacks.guidance import per_image
from dragkit.attacks.message import check_ir
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.threat import ThreatModel
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.distance import Distance, check_mask, cosine_distance
from dragkit.images import validate_images
from dragkit.priors.prior import Prior
from dragkit.streams import NoiseSource, SeededNoise, image_seeds

NEEDS = ThreatModel(weights=True)

SAVED = ("z", "best_x0", "best_distance", "failed_at")  # tensors of a state that a checkpoint keeps, beside Adam's


@dataclass
class DragState:
    """What a callback sees after every turn, and what a checkpoint holds. `B` images, latents `(B, C, H, W)`."""

    z: Tensor
    adam: guidance.AdamState
    best_x0: Tensor  # Tweedie's estimate with the smallest distance so far
    best_distance: Tensor  # (B,)
    failed_at: Tensor  # (B,), iteration of the first NaN, -1 for none
    iteration: int = 0
    total: int = 0
    t: int = 0
    turn: int = 0  # of the `turns` at this timestep
    turns: int = 1
    x0_hat: Tensor | None = None
    distance: Tensor | None = None  # (B,), of x0_hat
    trace: list[Tensor] = field(default_factory=list)  # distances of every turn so far
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        kept = {name: getattr(self, name) for name in SAVED}
        return kept | {"adam.m": self.adam.m, "adam.v": self.adam.v}

    def numbers(self) -> dict[str, float]:
        return {"iteration": self.iteration, "adam.count": self.adam.count, "seconds": self.seconds}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, float]) -> None:
        for name in SAVED:
            setattr(self, name, tensors[name].to(getattr(self, name)))
        self.adam.m, self.adam.v = tensors["adam.m"].to(self.z), tensors["adam.v"].to(self.z)
        self.adam.count, self.iteration = int(numbers["adam.count"]), int(numbers["iteration"])
        self.seconds = numbers["seconds"]


Callback = Callable[[DragState], "bool | None"]


@torch.inference_mode(False)
@torch.enable_grad()
def drag(
    h: Tensor,
    client: SplitClient,
    prior: Prior,
    config: DragConfig | None = None,
    *,
    start: Tensor | None = None,
    mask: Tensor | None = None,
    distance: Distance = cosine_distance,
    seeds: int | Sequence[int] = 3407,
    noise: NoiseSource | None = None,
    threat: ThreatModel = NEEDS,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> Reconstruction:
    """Rebuild photos from their intermediate representations.

    Args:
        h: what the server received, `(B, *client.h_shape)`. float64 makes the attack's state float64, anything else float32.
        client: the cut model, known to the attacker.
        prior: what the attacker knows about photos.
        config: settings; `DragConfig.fast()` when None.
        start: first guess `(B, 3, S, S)` in [0, 1] (DRAG++); `config.strength` says how much of the diffusion is then run.
        mask: which tokens of `h` arrived, bool `(B, N)`; None means all.
        distance: `(tokens of the estimate, tokens of h, mask)` to one value per image; adaptive attacks bring their own.
        seeds: one per image, or a number s for s, s + 1, ...
        noise: source of all randomness instead of `seeds`.
        threat: what the attacker is declared to have; refused if DRAG needs more.
        callback: called after every turn; returning True stops the attack.
        checkpoint: file to resume from when it exists, saved every minute and on Ctrl-C.

    Returns:
        `Reconstruction`; after Ctrl-C the estimates of smallest distance so far, marked `interrupted`.

    Raises:
        ValueError: an argument that cannot work, before anything is computed. PermissionError: the threat model excludes DRAG.
    """
    config = config or DragConfig.fast()
    threat.require(NEEDS, "DRAG")
    h = _check(h, client, prior, config, start, mask)
    problem = _Problem(client.tokens(h), client, prior, config, mask, distance)
    noise = noise or SeededNoise(image_seeds(seeds, len(h)), h.dtype, h.device)
    timesteps = schedule.ddim_timesteps(config.num_steps, len(prior.alpha_bar))
    timesteps = timesteps[len(timesteps) - max(1, int(config.strength * len(timesteps))) :]

    identity = fingerprint(config, client.split, prior.name, h, mask, start, *noise.state().values())
    saved = Checkpoint(checkpoint, identity)
    repeats = [config.turns_at(t, len(prior.alpha_bar)) for t in timesteps]
    plan = [(t, turn, k) for t, k in zip(timesteps, repeats, strict=True) for turn in range(k)]
    state = _begin(problem, noise, timesteps[0], len(plan), start, h.dtype)
    saved.load(state, noise)
    before, stopped = saved.snapshot(state, noise), False
    try:
        while state.iteration < state.total and (state.failed_at < 0).any() and not stopped:
            before = saved.snapshot(state, noise)
            state.t, state.turn, state.turns = plan[state.iteration]
            _turn(state, problem, noise)
            saved.save_if_due(state, noise)
            stopped = callback is not None and callback(state) is True
        if stopped:
            saved.save(saved.snapshot(state, noise))
    except KeyboardInterrupt:
        saved.save(before)  # the turn that was interrupted is done again
        stopped = True
    return _finish(state, problem, stopped and state.iteration < state.total, threat)


# -- one turn --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """Everything that stays the same during an attack."""

    tokens: Tensor
    client: SplitClient
    prior: Prior
    config: DragConfig
    mask: Tensor | None
    distance: Distance

    def measure(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Distance `(B,)` and regulariser `(B,)` of the image that clean latents `z` decode to."""
        image = self.client.resize(self.prior.decode(z))
        d = self.distance(self.client.tokens(self.client(image)), self.tokens, self.mask)
        return d, (image * 2 - 1).square().flatten(1).mean(1)


def _turn(state: DragState, problem: _Problem, noise: NoiseSource) -> None:
    """One gradient, one guided step to the previous timestep and, but for the last turn, the way back. Updates `state`."""
    started = time.perf_counter()
    config, prior = problem.config, problem.prior
    a_t = schedule.alpha_bar_at(prior.alpha_bar, state.t)
    before = schedule.previous_timestep(state.t, config.num_steps, len(prior.alpha_bar))
    a_prev = schedule.alpha_bar_at(prior.alpha_bar, before)
    sigma = schedule.ddim_sigma(a_t, a_prev, config.eta)
    rate = config.rate_at(state.t, len(prior.alpha_bar))

    grad, eps, x0_hat, d = _gradient(problem, state.z, state.t, a_t)
    failed = ~(torch.isfinite(d) & torch.isfinite(grad.flatten(1)).all(1))
    grad = torch.where(per_image(failed, grad), 0.0, guidance.clip_norm(grad, config.clip))
    direction = guidance.adam_direction(grad, state.adam, config.betas) if config.smoothing == "adam" else grad

    z = _guided_step(
        config, state.z, x0_hat, eps, direction, noise.draw(prior.latent_shape), (a_t, a_prev, sigma, rate)
    )
    if state.turn < state.turns - 1:
        z = schedule.renoise(z, noise.draw(prior.latent_shape), a_t, a_prev)

    z_t = state.z
    failed |= ~torch.isfinite(z.flatten(1)).all(1) | (state.failed_at >= 0)
    state.failed_at = torch.where(failed & (state.failed_at < 0), state.iteration, state.failed_at)
    state.z = torch.where(per_image(failed, z), state.z, z)
    better = ~failed & (d < state.best_distance)
    state.best_x0 = torch.where(per_image(better, z), x0_hat if config.tweedie else z_t, state.best_x0)
    state.best_distance = torch.where(better, d, state.best_distance)
    state.x0_hat, state.distance, state.iteration = x0_hat, d, state.iteration + 1
    state.trace.append(d.cpu())
    state.seconds += time.perf_counter() - started


def _gradient(problem: _Problem, z_t: Tensor, t: int, a_t: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient of the objective, predicted noise, Tweedie's estimate and IR distance, all detached.

    The gradient is taken at z_t, through the noise predictor; for MPGD at Tweedie's estimate, which spares that way.
    """
    config, prior = problem.config, problem.prior
    if config.step == "mpgd":
        with torch.no_grad():
            eps = prior.predict_noise(z_t, t)
        leaf = measured = x0_hat = schedule.tweedie(z_t, eps, a_t).requires_grad_(True)
    else:
        leaf = z_t.detach().requires_grad_(True)
        eps = prior.predict_noise(leaf, t)
        x0_hat = schedule.tweedie(leaf, eps, a_t)
        measured = x0_hat if config.tweedie else leaf
    d, size = problem.measure(measured)
    (grad,) = torch.autograd.grad((d + config.regularisation * size).sum(), leaf)
    return grad, eps.detach(), x0_hat.detach(), d.detach()


def _guided_step(
    config: DragConfig,
    z_t: Tensor,
    x0_hat: Tensor,
    eps: Tensor,
    direction: Tensor,
    noise: Tensor,
    at: tuple[float, float, float, float],
) -> Tensor:
    """The DDIM step to the previous timestep, with the direction worked in as `config.step` says."""
    a_t, a_prev, sigma, rate = at
    if config.step == "ugd":
        eps = guidance.guided_noise(eps, direction, a_t, rate)
        x0_hat = schedule.tweedie(z_t, eps, a_t)
    elif config.step == "mpgd":
        x0_hat = guidance.manifold_step(x0_hat, direction, a_t, rate)
    mean = schedule.ddim_mean(x0_hat, eps, a_prev, sigma)
    if config.step == "spherical":
        return mean + guidance.spherical_step(direction, noise, sigma, rate, config.interpolation)
    if config.step == "dps":
        return mean + guidance.gradient_step(direction, noise, sigma, rate)
    return mean + sigma * noise


# -- before and after ------------------------------------------------------------------------------------------------


def _check(
    h: Tensor, client: SplitClient, prior: Prior, config: DragConfig, start: Tensor | None, mask: Tensor | None
) -> Tensor:
    """`h` in the precision of the attack's state. Raises ValueError for whatever could not work."""
    h = check_ir(h, client)
    check_mask(mask, client.tokens(h))
    if start is None and config.strength < 1:
        raise ValueError(
            f"strength is {config.strength} but there is no start image; without one the diffusion must run whole (1.0)"
        )
    if start is not None:
        validate_images(start, "start")
        expected_start = (len(h), 3, prior.image_size, prior.image_size)
        if tuple(start.shape) != expected_start:
            raise ValueError(f"start is {tuple(start.shape)}; it must be {expected_start}")
    return h


@torch.no_grad()
def _begin(
    problem: _Problem, noise: NoiseSource, first: int, total: int, start: Tensor | None, dtype: torch.dtype
) -> DragState:
    """Pure noise, or the first guess with the noise of the first timestep added (never both)."""
    z = noise.draw(problem.prior.latent_shape).to(dtype)
    if start is not None:
        a_t = schedule.alpha_bar_at(problem.prior.alpha_bar, first)
        z = schedule.add_noise(problem.prior.encode(start.to(z)), z, a_t)
    batch = len(z)
    return DragState(
        z=z,
        adam=guidance.AdamState.zeros_like(z),
        best_x0=torch.zeros_like(z),
        best_distance=torch.full((batch,), torch.inf, dtype=dtype, device=z.device),
        failed_at=torch.full((batch,), -1, device=z.device),
        total=total,
    )


@torch.no_grad()
def _finish(state: DragState, problem: _Problem, interrupted: bool, threat: ThreatModel) -> Reconstruction:
    """Decode the last latent, or the best estimate of an interrupted run, and measure it once more; never under autocast."""
    z, nfe = state.z, state.iteration
    if interrupted:
        z = torch.where(per_image(torch.isfinite(state.best_distance), z), state.best_x0, z)
    elif problem.config.final_tweedie:
        a_0 = schedule.alpha_bar_at(problem.prior.alpha_bar, 0)
        z, nfe = schedule.tweedie(z, problem.prior.predict_noise(z, 0), a_0), nfe + 1
    with torch.autocast(z.device.type, enabled=False):
        images = problem.prior.decode(z)
        distance, _ = problem.measure(z)
    failed = [None if at < 0 else int(at) for at in state.failed_at]
    distance = torch.where(state.failed_at >= 0, torch.nan, distance)
    recorded = {"distance": torch.stack(state.trace)} if state.trace else {}
    images = images.nan_to_num(0.5).clamp(0, 1)
    return Reconstruction(images, distance, nfe, state.seconds, threat, failed, interrupted, recorded)
