"""Plain optimisation, shared by the attacks without a diffusion model: find parameters whose image causes the IR that was seen.

rMLE optimises pixels, LM the weights of a network that draws the image, GLASS the latent code of a GAN. They differ in how
parameters become an image and in what else is penalised; the loop is the same. Every parameter has the batch as its first axis and
every image its own norms, clips and Adam moments, so that B images together give what B runs of one image give.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dragkit.attacks.checkpoint import Checkpoint
from dragkit.attacks.guidance import AdamState, adam_direction, per_image
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.threat import ThreatModel
from dragkit.client import SplitClient
from dragkit.distance import Distance, cosine_distance
from dragkit.streams import NoiseSource

Parameters = dict[str, Tensor]  # each (B, ...)

Render = Callable[[Parameters, int], tuple[Tensor, Tensor]]
"""`(parameters, iteration)` to images `(B, 3, S, S)` and what is added to the distance, `(B,)`."""


@dataclass(frozen=True)
class Pace:
    """How the parameters move: `iterations` steps of Adam with learning rate `lr`, each image's gradient clipped to norm `clip`."""

    iterations: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations!r}; it must be an integer of at least 1")
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; it must be positive")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; it must be positive, or None for no clipping")


@dataclass
class DescentState:
    """What a callback sees after every iteration, and what a checkpoint holds."""

    parameters: Parameters
    adam: dict[str, AdamState]
    best: Parameters  # with the smallest distance so far
    best_distance: Tensor  # (B,)
    failed_at: Tensor  # (B,), iteration of the first NaN, -1 for none
    iteration: int = 0
    total: int = 0
    images: Tensor | None = None
    distance: Tensor | None = None  # (B,), of `images`
    trace: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def begin(cls, parameters: Parameters, total: int) -> DescentState:
        first = next(iter(parameters.values()))
        return cls(
            {name: p.detach().clone() for name, p in parameters.items()},
            {name: AdamState.zeros_like(p) for name, p in parameters.items()},
            {name: p.detach().clone() for name, p in parameters.items()},
            torch.full((len(first),), torch.inf, dtype=first.dtype, device=first.device),
            torch.full((len(first),), -1, device=first.device),
            total=total,
        )

    def tensors(self) -> dict[str, Tensor]:
        out = {"best_distance": self.best_distance, "failed_at": self.failed_at}
        for name, p in self.parameters.items():
            out |= {f"p.{name}": p, f"best.{name}": self.best[name]}
            out |= {f"m.{name}": self.adam[name].m, f"v.{name}": self.adam[name].v}
        return out

    def numbers(self) -> dict[str, float]:
        return {"iteration": self.iteration, "seconds": self.seconds}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, float]) -> None:
        self.iteration, self.seconds = int(numbers["iteration"]), numbers["seconds"]
        self.best_distance = tensors["best_distance"].to(self.best_distance)
        self.failed_at = tensors["failed_at"].to(self.failed_at)
        for name, p in self.parameters.items():
            m, v = tensors[f"m.{name}"].to(p), tensors[f"v.{name}"].to(p)
            self.adam[name] = AdamState(m, v, self.iteration)
            self.best[name], self.parameters[name] = tensors[f"best.{name}"].to(p), tensors[f"p.{name}"].to(p)


Callback = Callable[[DescentState], "bool | None"]


@dataclass(frozen=True)
class Target:
    """What is to be matched: the tokens that arrived, and how to compare with them."""

    client: SplitClient
    tokens: Tensor
    mask: Tensor | None = None
    distance: Distance = cosine_distance

    def measure(self, images: Tensor) -> Tensor:
        """IR distance `(B,)` of images `(B, 3, S, S)`."""
        return self.distance(self.client.tokens(self.client(images)), self.tokens, self.mask)


@torch.inference_mode(False)
@torch.enable_grad()
def descend(
    target: Target,
    start: Parameters,
    render: Render,
    pace: Pace,
    noise: NoiseSource,
    identity: str,
    *,
    project: Callable[[Parameters], Parameters] | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> tuple[DescentState, bool]:
    """Minimise the IR distance plus the penalty of `render` over parameters.

    Args:
        start: first parameters, each `(B, ...)`. noise: what `render` draws from; kept in checkpoints.
        identity: `fingerprint` of all that the attack depends on.
        project: applied to the parameters after every step (such as clamping pixels).
        callback: called after every iteration; returning True stops.
        checkpoint: file to resume from, saved every minute and on Ctrl-C.

    Returns:
        the state, and whether it was stopped before its end.
    """
    saved = Checkpoint(checkpoint, identity)
    state = DescentState.begin(start, pace.iterations)
    saved.load(state, noise)
    before, stopped = saved.snapshot(state, noise), False
    try:
        while state.iteration < state.total and (state.failed_at < 0).any() and not stopped:
            before = saved.snapshot(state, noise)
            _step(state, target, render, pace, project)
            saved.save_if_due(state, noise)
            stopped = callback is not None and callback(state) is True
        if stopped:
            saved.save(saved.snapshot(state, noise))
    except KeyboardInterrupt:
        saved.save(before)  # the iteration that was interrupted is done again
        stopped = True
    return state, stopped and state.iteration < state.total


def _step(
    state: DescentState,
    target: Target,
    render: Render,
    pace: Pace,
    project: Callable[[Parameters], Parameters] | None,
) -> None:
    """One step of Adam for every image; updates `state` by assignment, so that a snapshot taken before stays what it was."""
    started = time.perf_counter()
    images, d, grads = _gradients(target, render, state.parameters, state.iteration)
    ok = torch.isfinite(d) & (state.failed_at < 0)
    for g in grads:
        ok = ok & torch.isfinite(g.flatten(1)).all(1)
    state.failed_at = torch.where(~ok & (state.failed_at < 0), state.iteration, state.failed_at)
    better = ok & (d < state.best_distance)
    scale = _clip_scale(grads, pace.clip)
    moved: Parameters = {}
    for (name, p), g in zip(state.parameters.items(), grads, strict=True):
        g = torch.where(per_image(ok, g), g * per_image(scale, g), 0.0)
        state.adam[name] = adam = AdamState(state.adam[name].m, state.adam[name].v, state.adam[name].count)
        moved[name] = p - pace.lr * adam_direction(g, adam, pace.betas, pace.eps)
    moved = project(moved) if project is not None else moved
    state.best = {n: torch.where(per_image(better, p), state.parameters[n], p) for n, p in state.best.items()}
    state.best_distance = torch.where(better, d, state.best_distance)
    state.parameters = {n: torch.where(per_image(ok, p), p, state.parameters[n]) for n, p in moved.items()}
    state.images, state.distance, state.iteration = images, d, state.iteration + 1
    state.trace.append(d.cpu())
    state.seconds += time.perf_counter() - started


def _gradients(
    target: Target, render: Render, parameters: Parameters, iteration: int
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Images, their IR distances, and the gradient of distance plus penalty by each parameter, all detached."""
    leaves = {name: p.detach().requires_grad_(True) for name, p in parameters.items()}
    images, penalty = render(leaves, iteration)
    d = target.measure(images)
    grads = torch.autograd.grad((d + penalty).sum(), list(leaves.values()))
    return images.detach(), d.detach(), grads


def _clip_scale(grads: tuple[Tensor, ...], limit: float | None) -> Tensor:
    """Factor per image that brings the norm of all its gradients together down to `limit`."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0)
    return torch.ones_like(squares) if limit is None else (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)


@torch.no_grad()
def finish(
    state: DescentState, target: Target, render: Render, interrupted: bool, threat: ThreatModel
) -> Reconstruction:
    """The image of the last parameters, or of the best so far after an interruption, measured once more, never under autocast."""
    parameters = state.parameters
    if interrupted:
        found = torch.isfinite(state.best_distance)
        parameters = {n: torch.where(per_image(found, p), state.best[n], p) for n, p in parameters.items()}
    with torch.autocast(state.failed_at.device.type, enabled=False):
        images, _ = render(parameters, state.total)
        distance = torch.where(state.failed_at >= 0, torch.nan, target.measure(images))
    return Reconstruction(
        images.nan_to_num(0.5).clamp(0, 1),
        distance,
        state.iteration,
        state.seconds,
        threat,
        [None if at < 0 else int(at) for at in state.failed_at],
        interrupted,
        {"distance": torch.stack(state.trace)} if state.trace else {},
    )
