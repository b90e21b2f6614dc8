"""Plain optimisation, shared by the attacks without a diffusion model: find parameters whose image causes the IR that was seen.

rMLE optimises pixels, LM the weights of a network that draws the image, GLASS the latent code of a GAN. They differ in how
parameters become an image and in what else is penalised; the loop is the same. Every parameter has the batch as its first axis and
every image its own norms, clips and Adam moments, so that B images together give what B runs of one image give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dragkit.attacks.guidance import AdamState, adam_direction, per_image
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.run import Callback, RunState, reconstruction, run, unfailed, unmeasured
from dragkit.attacks.threat import ThreatModel
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


@dataclass(kw_only=True, repr=False)
class DescentState(RunState):
    """What a callback sees after every iteration, and what a checkpoint holds.

    Attributes:
        parameters: the current ones. adam: moments of each, by name. best: those of smallest distance so far.
        images: of the last iteration, `(B, 3, S, S)`.
    """

    parameters: Parameters
    adam: dict[str, AdamState]
    best: Parameters
    images: Tensor | None = None

    @classmethod
    def begin(cls, parameters: Parameters, total: int) -> DescentState:
        first = next(iter(parameters.values()))
        return cls(
            parameters={name: p.detach().clone() for name, p in parameters.items()},
            adam={name: AdamState.zeros_like(p) for name, p in parameters.items()},
            best={name: p.detach().clone() for name, p in parameters.items()},
            total=total,
            best_distance=unmeasured(first),
            failed_at=unfailed(first),
        )

    def tensors(self) -> dict[str, Tensor]:
        out = super().tensors()
        for name, p in self.parameters.items():
            out |= {f"p.{name}": p, f"best.{name}": self.best[name]}
            out |= {f"m.{name}": self.adam[name].m, f"v.{name}": self.adam[name].v}
        return out

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, float]) -> None:
        super().restore(tensors, numbers)
        for name, p in self.parameters.items():
            m, v = tensors[f"m.{name}"].to(p), tensors[f"v.{name}"].to(p)
            self.adam[name] = AdamState(m, v, self.iteration)
            self.best[name], self.parameters[name] = tensors[f"best.{name}"].to(p), tensors[f"p.{name}"].to(p)


@torch.inference_mode(False)
@torch.enable_grad()
def descend(
    message: Message,
    start: Parameters,
    render: Render,
    pace: Pace,
    noise: NoiseSource,
    depends_on: Sequence[object],
    *,
    project: Callable[[Parameters], Parameters] | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> tuple[DescentState, bool]:
    """Minimise the IR distance plus the penalty of `render` over parameters.

    Args:
        start: first parameters, each `(B, ...)`. noise: what `render` draws from; kept in checkpoints.
        depends_on: all that the attack depends on beside the message, for its checkpoints.
        project: applied to the parameters after every step (such as clamping pixels).
        callback: called with the `DescentState` after every iteration; returning True stops.
        checkpoint: file to resume from, saved every minute and on Ctrl-C.

    Returns:
        the state, and whether it was stopped before its end.
    """
    state = DescentState.begin(start, pace.iterations)
    stopped = run(
        state,
        lambda: step(state, message, render, pace, project),
        noise,
        depends_on=(message, *depends_on),
        callback=callback,
        checkpoint=checkpoint,
    )
    return state, stopped


def step(
    state: DescentState,
    message: Message,
    render: Render,
    pace: Pace,
    project: Callable[[Parameters], Parameters] | None = None,
) -> None:
    """One step of Adam for every image; updates `state` by assignment, so that a snapshot taken before stays what it was."""
    images, d, grads = gradients(message, render, state.parameters, state.iteration)
    finite = torch.isfinite(d)
    for g in grads:
        finite = finite & torch.isfinite(g.flatten(1)).all(1)
    ok, better = state.note(d, finite)
    scale = _clip_scale(grads, pace.clip)
    moved: Parameters = {}
    for (name, p), g in zip(state.parameters.items(), grads, strict=True):
        g = torch.where(per_image(ok, g), g * per_image(scale, g), 0.0)
        state.adam[name] = adam = AdamState(state.adam[name].m, state.adam[name].v, state.adam[name].count)
        moved[name] = p - pace.lr * adam_direction(g, adam, pace.betas, pace.eps)
    moved = project(moved) if project is not None else moved
    state.best = {n: torch.where(per_image(better, p), state.parameters[n], p) for n, p in state.best.items()}
    state.parameters = {n: torch.where(per_image(ok, p), p, state.parameters[n]) for n, p in moved.items()}
    state.images = images


def gradients(
    message: Message, render: Render, parameters: Parameters, iteration: int
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Images, their IR distances, and the gradient of distance plus penalty by each parameter, all detached."""
    leaves = {name: p.detach().requires_grad_(True) for name, p in parameters.items()}
    images, penalty = render(leaves, iteration)
    d = message.measure(images)
    grads = torch.autograd.grad((d + penalty).sum(), list(leaves.values()))
    return images.detach(), d.detach(), grads


def _clip_scale(grads: tuple[Tensor, ...], limit: float | None) -> Tensor:
    """Factor per image that brings the norm of all its gradients together down to `limit`."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0)
    return torch.ones_like(squares) if limit is None else (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)


@torch.no_grad()
def finish(
    state: DescentState, message: Message, render: Render, interrupted: bool, threat: ThreatModel
) -> Reconstruction:
    """The image of the last parameters, or of the best so far after an interruption, measured once more, never under autocast."""
    parameters = state.parameters
    if interrupted:
        reached = torch.isfinite(state.best_distance)
        parameters = {n: torch.where(per_image(reached, p), state.best[n], p) for n, p in parameters.items()}
    with torch.autocast(state.failed_at.device.type, enabled=False):
        images, _ = render(parameters, state.total)
        distance = message.measure(images)
    return reconstruction(state, images, distance, nfe=state.iteration, interrupted=interrupted, threat=threat)
