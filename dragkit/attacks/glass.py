"""GLASS: search the latent space of a GAN for the image that causes the IR that was seen (Li et al., NeurIPS 2023).

First in z: many random starts, a short descent from each, the one of smallest IR distance stays. A penalty keeps mean and deviation
of every z where a standard normal has them. Then in W+, with a style per layer, which reaches images that no z gives; noise
on the styles, fading out, keeps that search from settling at once. GLASS++ takes its first w+ from an encoder instead.
Settings of the comparison in arXiv 2509.11724; original code: https://github.com/L1ziang/GLASS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dragkit.attacks.descent import DescentState, Pace, Parameters, Render, descend, finish
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.rmle import total_variation
from dragkit.attacks.run import Callback
from dragkit.attacks.threat import ThreatModel
from dragkit.priors.gan import StyleGenerator, WEncoder
from dragkit.streams import NoiseSource, SeededNoise, image_seeds

NEEDS = ThreatModel(weights=True)

NEEDS_ENCODER = ThreatModel(weights=True, public_data=True)

AT_ONCE = 64  # images whose z are searched together: IRs times restarts


@dataclass(frozen=True)
class GlassConfig:
    """The defaults are the settings of the comparison in arXiv 2509.11724.

    Attributes:
        restarts: random z per IR. z_iterations: Adam steps for each of them. w_iterations: Adam steps in W+ afterwards.
        z_lr, w_lr: learning rates of the two searches.
        tv: weight of the total variation of the image, in both.
        kl: weight of the divergence of N(mean z, var z) from N(0, 1), in the search for z.
        psi: truncation of the styles of z, in (0, 1].
        noise: deviation of the noise on w+ at the start, in deviations of w; it is gone after three quarters of the iterations.
    """

    restarts: int = 1
    z_iterations: int = 10_000
    w_iterations: int = 10_000
    z_lr: float = 0.01
    w_lr: float = 0.01
    tv: float = 0.0
    kl: float = 1.0
    psi: float = 1.0
    noise: float = 0.02

    def __post_init__(self) -> None:
        for name in ("restarts", "z_iterations", "w_iterations"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
        for name in ("z_lr", "w_lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("tv", "kl", "noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not 0 < self.psi <= 1:
            raise ValueError(f"psi is {self.psi}; it must be above 0 and at most 1")

    @classmethod
    def paper(cls) -> GlassConfig:
        """One z, 10,000 steps; 10,000 steps in W+."""
        return cls()

    @classmethod
    def paper_plus(cls) -> GlassConfig:
        """GLASS++ as published: 8,000 steps in W+ from the encoder's answer, with twice the noise."""
        return cls(w_iterations=8_000, noise=0.04)

    @classmethod
    def fast(cls) -> GlassConfig:
        """32 z of 20 steps, 500 steps in W+; larger steps, because they are few."""
        return cls(restarts=32, z_iterations=20, w_iterations=500, z_lr=0.1, w_lr=0.05)

    @classmethod
    def small(cls, iterations: int = 400) -> GlassConfig:
        """For short comparisons: `iterations` calls of the client in all, half of them for four z, half in W+."""
        z = max(1, iterations // 8)
        return cls(restarts=4, z_iterations=z, w_iterations=max(1, iterations - 4 * z), z_lr=0.1, w_lr=0.05)

    @classmethod
    def small_plus(cls, iterations: int = 400) -> GlassConfig:
        """The same for GLASS++: all of them in W+, with twice the noise, as published."""
        return cls(w_iterations=iterations, w_lr=0.05, noise=0.04)

    def with_(self, **changes: object) -> GlassConfig:
        """A copy with some fields changed (checked like the constructor's)."""
        return replace(self, **changes)  # type: ignore[arg-type]


@torch.inference_mode(False)
@torch.enable_grad()
def glass(
    message: Message,
    prior: StyleGenerator,
    config: GlassConfig | None = None,
    *,
    encoder: WEncoder | None = None,
    seeds: int | Sequence[int] = 3407,
    threat: ThreatModel = NEEDS,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> Reconstruction:
    """Rebuild photos with a generator that knows what photos look like.

    Args:
        message: what the attacker holds. prior: the generator; frozen here.
        config: `GlassConfig.fast()` when None.
        encoder: trained for this client and cut; with it the search starts in W+ (GLASS++), and `threat` must grant
            public photos (`NEEDS_ENCODER`).
        seeds, threat: as in `drag`.
        callback: called after every iteration, first of the searches for z (in portions of IRs times restarts), then of that
            for w+; returning True ends the attack.
        checkpoint: file of the search in W+; those for z lie beside it, with endings .z0, .z1, ...

    Returns:
        `Reconstruction` with images `(B, 3, S, S)` at the generator's size. nfe counts calls of the client; the trace holds
        the `distance` of every iteration in W+ `(iterations, B)` and of every restart `(restarts, B)`. `failed_at` counts
        iterations in W+.

    Raises:
        ValueError, TypeError: what cannot work, before anything is computed. PermissionError: the threat model excludes GLASS.
    """
    config = config or GlassConfig.fast()
    threat.require(NEEDS if encoder is None else NEEDS_ENCODER, "GLASS" if encoder is None else "GLASS++")
    _check(message, encoder, prior)
    prior.eval().requires_grad_(False)
    drawn = image_seeds(seeds, len(message))
    noise = SeededNoise(drawn, message.h.dtype, message.h.device)
    weights = (prior.w_mean, prior.constant, None if encoder is None else encoder.queries)  # enough to tell them apart
    search = Search(message, prior, config, ("GLASS", config, drawn, *weights), callback, checkpoint)
    if encoder is None:
        first = search.in_z(noise)
    else:
        with torch.no_grad():
            first = FirstStyles(encoder.eval()(message.tokens), torch.empty(0, len(message)))
    return search.in_w_plus(first, noise, threat)


@dataclass
class FirstStyles:
    """Where the search in W+ begins, `(B, L, D)`; distances of the restarts `(restarts, B)`; and what it cost."""

    w_plus: Tensor
    restarts: Tensor
    nfe: int = 0
    seconds: float = 0.0
    stopped: bool = False


@dataclass
class Search:
    """Both searches for one batch of IRs."""

    message: Message
    prior: StyleGenerator
    config: GlassConfig
    depends_on: tuple[object, ...]
    callback: Callback | None
    checkpoint: str | Path | None

    def in_z(self, noise: NoiseSource) -> FirstStyles:
        """The styles of the best of all restarts. A portion that is already in its checkpoint is not searched again."""
        config, batch = self.config, len(self.message)
        starts = noise.draw((config.restarts, self.prior.latent_dim))
        portion = max(1, AT_ONCE // batch)
        best, best_distance = starts[:, 0], starts.new_full((batch,), torch.inf)
        found = FirstStyles(best, torch.empty(0, batch))
        for i, z in enumerate(starts.split(portion, dim=1)):
            state, found.stopped = self.descend_z(z, noise, f"z{i}")
            d, winner = state.best_distance.view(batch, -1).min(1)
            z = state.best["z"].view(batch, -1, self.prior.latent_dim)[torch.arange(batch, device=z.device), winner]
            best = torch.where((d < best_distance)[:, None], z, best)
            best_distance = torch.minimum(d, best_distance)
            found.restarts = torch.cat([found.restarts, state.best_distance.view(batch, -1).T.cpu()])
            found.nfe += state.iteration * (len(state.best_distance) // batch)
            found.seconds += state.seconds
            if found.stopped:
                break
        with torch.no_grad():
            found.w_plus = self.prior.broadcast(self.prior.mapping(best, config.psi))
        return found

    def descend_z(self, z: Tensor, noise: NoiseSource, name: str) -> tuple[DescentState, bool]:
        """Descend from `z` `(B, r, latent_dim)`, as a batch of B * r."""
        times = z.shape[1]
        message = self.message.rows(torch.arange(len(z)).repeat_interleave(times))

        def render(p: Parameters, iteration: int) -> tuple[Tensor, Tensor]:
            x = self.prior(p["z"], self.config.psi)
            return x, self.config.tv * total_variation(x) + self.config.kl * divergence(p["z"])

        pace = Pace(self.config.z_iterations, self.config.z_lr)
        file = None if self.checkpoint is None else f"{self.checkpoint}.{name}"
        return descend(
            message,
            {"z": z.flatten(0, 1)},
            render,
            pace,
            noise,
            (*self.depends_on, name),
            callback=self.callback,
            checkpoint=file,
        )

    def in_w_plus(self, first: FirstStyles, noise: NoiseSource, threat: ThreatModel) -> Reconstruction:
        """Descend from the styles found so far; none of it after an interruption."""
        render, start = self.render_w_plus(noise), {"w_plus": first.w_plus}
        if first.stopped:
            state, stopped = DescentState.begin(start, self.config.w_iterations), True
        else:
            pace = Pace(self.config.w_iterations, self.config.w_lr)
            state, stopped = descend(
                self.message,
                start,
                render,
                pace,
                noise,
                self.depends_on,
                callback=self.callback,
                checkpoint=self.checkpoint,
            )
        found = finish(state, self.message, render, stopped, threat)
        trace = found.trace | ({"restarts": first.restarts} if len(first.restarts) else {})
        return replace(found, nfe=found.nfe + first.nfe, seconds=found.seconds + first.seconds, trace=trace)

    def render_w_plus(self, noise: NoiseSource) -> Render:
        def render(p: Parameters, iteration: int) -> tuple[Tensor, Tensor]:
            w = p["w_plus"]
            strength = self.config.noise * max(0.0, 1 - iteration / (0.75 * self.config.w_iterations)) ** 2
            if strength > 0:
                w = w + strength * self.prior.w_std.to(w) * noise.draw(tuple(w.shape[1:]))
            x = self.prior.synthesis(w)
            return x, self.config.tv * total_variation(x)

        return render


def divergence(z: Tensor) -> Tensor:
    """KL divergence of N(m, s^2) from N(0, 1), `(B,)`, with m and s the mean and deviation of the coordinates of each z."""
    mean, variance = z.mean(1), z.var(1, unbiased=False)
    return 0.5 * (mean.square() + variance - 1 - variance.log())


def _check(message: Message, encoder: WEncoder | None, prior: StyleGenerator) -> None:
    if not isinstance(prior, StyleGenerator):
        raise TypeError(f"prior is a {type(prior).__name__}; GLASS searches a dragkit.priors.gan.StyleGenerator")
    if encoder is None:
        return
    client = message.client
    if message.mask is not None and not message.mask.all():
        raise ValueError("mask leaves tokens out, but the encoder was trained on whole IRs; leave encoder or mask out")
    if (encoder.config.client, encoder.config.at) != (client.name, client.at):
        raise ValueError(
            f"encoder was trained for {encoder.config.client!r} at {encoder.config.at!r}; the client is {client.name!r} "
            f"at {client.at!r}: train one for it with dragkit train gan-encoder"
        )
    made_for, needed = (encoder.num_layers, len(encoder.w_mean)), (prior.num_layers, prior.style_dim)
    if made_for != needed:
        raise ValueError(f"encoder gives w+ of {made_for}, the generator takes {needed} (layers, width)")
