"""Chapter 4, guidance: what is noted during its short attacks, the plane of one step, and its tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from dragkit.attacks import guidance
from dragkit.attacks.drag import DragState
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.measures import metrics
from dragkit.methods import METHODS
from dragkit.priors.diffusion import LatentPrior
from draglab.pages import pages
from draglab.pages.study import Line

DEFAULT_DECAYS = "Adam (0.9, 0.999)"

Kind = TypeVar("Kind")


class Notes:
    """A callback of `drag` that notes, after every turn, how long the latent is and what Adam remembers.

    Attributes:
        moments: Adam's first moment `(B, C, H, W)` after every turn.
    """

    def __init__(self) -> None:
        self.moments: list[Tensor] = []
        self._norms: list[Tensor] = []

    def __call__(self, state: DragState) -> None:
        self._norms.append(guidance.norm(state.z).flatten())
        self.moments.append(state.adam.m)

    @property
    def norms(self) -> Tensor:
        """Length of every photo's latent, `(turns, B)`."""
        return torch.stack(self._norms)

    def gradients(self, beta: float) -> list[Tensor]:
        """The clipped gradients that went into Adam's running mean, whose decay is `beta`."""
        moments = [torch.zeros_like(self.moments[0]), *self.moments]
        return [(now - beta * before) / (1 - beta) for before, now in pairwise(moments)]


def directions(gradients: Sequence[Tensor], betas: tuple[float, float]) -> list[Tensor]:
    """What an Adam with these decays makes of gradients `(B, C, H, W)`, turn by turn."""
    adam = guidance.AdamState.zeros_like(gradients[0])
    return [guidance.adam_direction(gradient, adam, betas) for gradient in gradients]


def captions(runs: Mapping[str, Reconstruction], photos: Tensor) -> dict[str, list[str]]:
    """Run -> a text under each of its pictures: MS-SSIM to the photo and IR distance to the message."""
    return {
        name: [
            f"{s:.2f}, distance {d:.2f}"
            for s, d in zip(metrics.ms_ssim(run.images, photos).tolist(), run.distance.tolist(), strict=True)
        ]
        for name, run in runs.items()
    }


def rows(runs: Mapping[str, Reconstruction]) -> dict[str, Tensor]:
    """Run -> its pictures, for `plots.image_rows`."""
    return {name: run.images for name, run in runs.items()}


def by_distance(ways: Mapping[str, Reconstruction], turns: int) -> Line:
    """Four ways to take the step, the one of smallest IR distance first."""
    reached = _distances(ways)
    order = ", ".join(f"{way} {reached[way]:.3f}" for way in sorted(reached, key=lambda way: reached[way]))
    return Line(
        f"By IR distance, after {turns} turns: {order}. "
        "Two photos and a coarse choice of rates: enough to see that all four steer, no ranking."
    )


def price_of_a_turn(ways: Mapping[str, Reconstruction], prior: LatentPrior, client: SplitClient, device: str) -> Line:
    """How long a turn of MPGD takes against the others, and how large the networks are that it goes through."""
    per_turn = {step: run.seconds / run.nfe for step, run in ways.items()}
    ratio = per_turn["mpgd"] / (sum(per_turn[step] for step in ("spherical", "dps", "ugd")) / 3)
    parts = {"noise predictor": prior.unet, "decoder": prior.vae.decoder}
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in parts.items()}
    millions["client's half"] = client.info()["client_parameters"] / 1e6
    listed = ", ".join(f"{name} {count:.1f} million" for name, count in millions.items())
    return Line(
        f"A turn of MPGD takes {ratio:.2f} times as long as a turn of the other three (mean), on {device}. "
        f"This is a time, measured once on a machine that may be doing other things: read one decimal. "
        f"Parameters: {listed}."
    )


def shell_table(spread: Mapping[int, float]) -> pages.Table:
    """Dimensions -> deviation of the length of Gaussian noise, in units of the radius, beside what theory says."""
    rows = [[f"n = {n:,}", deviation, 1 / math.sqrt(2 * n)] for n, deviation in spread.items()]
    return pages.table(["dimensions", "standard deviation of the radius", "1 / sqrt(2 n)"], rows)


class Plane:
    """The plane that holds the first photo's random point and guided point, seen from the mean of its step.

    Attributes:
        x: unit vector along the noise, `(n,)`. y: unit vector at right angles to it, towards the guided point.
        radius: of the shell, the unit of `place`.
    """

    def __init__(self, noise: Tensor, direction: Tensor, radius: float) -> None:
        self.x = noise[0].flatten() / noise[0].norm()
        self.downhill = -direction[0].flatten() / direction[0].norm()
        rest = self.downhill - (self.downhill @ self.x) * self.x
        self.y, self.radius = rest / rest.norm(), radius

    def place(self, steps: Iterable[Tensor]) -> Tensor:
        """Coordinates `(steps, 2)` of the first photo's steps `(B, C, H, W)`, in units of the radius."""
        points = [torch.stack([step[0].flatten() @ self.x, step[0].flatten() @ self.y]) for step in steps]
        return torch.stack(points).cpu() / self.radius

    def turned(self, step: Tensor) -> float:
        """How far the first photo's step is turned away from the noise, in degrees."""
        return _degrees(step[0].flatten() @ self.x / step[0].norm())

    @property
    def angle(self) -> float:
        """Between random and guided point, in degrees."""
        return _degrees(self.x @ self.downhill)


def radius_table(radii: Mapping[str, Sequence[float]], rates: Sequence[float], size: int) -> pages.Table:
    """Kind of step -> its distance from the mean at each rate, in radii, and how many deviations off the shell that is.

    Args:
        radii: kind -> distances, one per rate. rates: of the columns. size: numbers of a latent.
    """
    deviation = 1 / math.sqrt(2 * size)
    rows = [
        [name, *(f"{r:.3f} ({abs(r - 1) / deviation:.0f})" for r in distances)] for name, distances in radii.items()
    ]
    return pages.table(
        ["distance from the mean, in r (in deviations off the shell)", *(f"w = {w}" for w in rates)], rows
    )


def off_the_shell(plane: Plane, plain: Sequence[float]) -> Line:
    """The angle of the two points, and where plain steps of rates 0.2, 0.5 and 1 end, in radii."""
    return Line(
        f"Random point and guided point stand at {plane.angle:.0f} degrees: in so many dimensions nearly everything is "
        f"orthogonal. A plain step of the length that DSG uses at w = 0.2 ends {plain[0] - 1:.1%} outside the shell, "
        f"at w = 1 {plain[2] - 1:.0%}."
    )


def two_strengths(lerp: float, slerp: float) -> Line:
    """The angles in degrees that both turn at rate 0.2."""
    return Line(
        f"At w = 0.2: lerp turns by {lerp:.1f} degrees, slerp by {slerp:.1f}. "
        "So a comparison of the two at one rate compares two strengths of guidance. Nothing else separates them."
    )


def at_limits(images: Tensor) -> float:
    """Share of colour values that are black or white: what over-saturation looks like in numbers."""
    return float(((images < 1 / 255) | (images > 254 / 255)).float().mean())


def rate_table(
    attacks: Mapping[float, Reconstruction], similarity: Mapping[float, Tensor], photos: Tensor
) -> pages.Table:
    """Guidance rate -> IR distance, MS-SSIM and share of extreme colour values, means over the photos `(B, 3, H, W)`."""
    table: list[list[object]] = [
        [f"rate {rate}", float(run.distance.mean()), float(similarity[rate].mean()), f"{at_limits(run.images):.0%}"]
        for rate, run in attacks.items()
    ]
    table.append(["the photos", 0.0, 1.0, f"{at_limits(photos):.0%}"])
    return pages.table(["mean of two photos", "IR distance", "MS-SSIM", "values at black or white"], table)


def too_little_too_much(
    attacks: Mapping[float, Reconstruction], similarity: Mapping[float, Tensor], photos: Tensor, turns: int
) -> Line:
    """Which rate the attacker would choose and which we would, whether any is over-driven, and what rate 1 adds to 0.5.

    Args:
        attacks: rate -> the attack. similarity: rate -> MS-SSIM `(B,)`. photos: `(B, 3, H, W)`. turns: of every attack.
    """
    reached, similar = _distances(attacks), {rate: float(values.mean()) for rate, values in similarity.items()}
    best, nearest = min(reached, key=lambda rate: reached[rate]), max(similar, key=lambda rate: similar[rate])
    sentences = [
        f"Smallest IR distance, which the attacker sees: rate {best}. "
        f"Highest MS-SSIM, which only we see: rate {nearest}."
    ]
    if nearest != 0.2:
        sentences.append(
            f"The published rate is 0.2, for 4,000 turns. These {turns} turns do better with {nearest} on these photos."
        )
    driven = [str(rate) for rate, run in attacks.items() if at_limits(run.images) > 2 * at_limits(photos)]
    if driven:
        sentences.append(
            f"More than twice as many values at black or white as in the photos: rate {', '.join(driven)}. Over-driven."
        )
    if similar[1.0] < similar[0.5]:
        fits = (
            " although the IR distance falls: it fits the message, and not the photo."
            if reached[1.0] < reached[0.5]
            else ", and so does the IR distance."
        )
        sentences.append(f"From rate 0.5 to 1 the picture gets worse{fits}")
    return Line(" ".join(sentences))


def longest_table(longer: Mapping[float, Tensor]) -> pages.Table:
    """Guidance rate -> the greatest length of the latent, relative to the unguided one; lines `(turns,)`."""
    rows = [[f"rate {rate}", f"{float(line.max()):.2f}"] for rate, line in longer.items()]
    return pages.table(["guidance", "up to so many times as long as an unguided latent"], rows)


def known_lengths(longest: float) -> Line:
    """What the greatest relative length of a latent at the highest rate means for the noise predictor."""
    if longest > 1.5:
        return Line(
            "At the high rate the latent is nothing that the noise predictor was trained on, "
            "though no single step broke a rule."
        )
    return Line("The latents stay about as long as unguided ones, also at the highest rate.")


def stretched_in_words(factors: Sequence[int], stretched: Sequence[Tensor], similarity: Sequence[Tensor]) -> Line:
    """What the largest factor does to the decoded pictures `(B, 3, H, W)`, and whether the decoder forgives it."""
    kept = float(similarity[-1].mean())
    text = (
        f"Stretched {factors[-1]} times: MS-SSIM {kept:.2f}, values at black or white {at_limits(stretched[-1]):.0%} "
        f"instead of {at_limits(stretched[0]):.0%}."
    )
    if kept > 0.6:
        text += " This decoder forgives wrong lengths to a degree: the content survives, colours and contrast do not."
    return Line(text)


def cosines(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[float]:
    """Cosine between two directions `(B, C, H, W)`, turn by turn, means over the photos."""
    pairs = zip(first, second, strict=True)
    return [float(torch.cosine_similarity(a.flatten(1), b.flatten(1)).mean()) for a, b in pairs]


def decays_in_words(smoothing: Mapping[str, Reconstruction], config: DragConfig) -> Line:
    """Kinds of direction in the order of the IR distance reached, and whether the default decays are first.

    Args:
        smoothing: kind -> the attack. config: the settings that the default decays belong to.
    """
    reached = _distances(smoothing)
    order = sorted(reached, key=lambda kind: reached[kind])
    listed = ", ".join(f"{kind} {reached[kind]:.3f}" for kind in order)
    verdict = "are the best of the three" if order[0] == DEFAULT_DECAYS else "are not the best of the three"
    return Line(
        f"Smallest IR distance first: {listed}. At this budget, on two photos, "
        f"the default decays, {METHODS['drag'].shown(config)}, {verdict}."
    )


def clipping_in_words(clip: float, share: float, gap: float) -> Line:
    """How many gradients reached the limit `clip`, and the relative change `gap` of a raw step clipped ten times harder."""
    text = (
        f"The limit of {clip} was reached in {share:.0%} of the gradients of this run. "
        f"Clipped ten times harder, a spherical step with the raw gradient changes by {gap:.0e} of its size."
    )
    if share > 0.9:
        text += " So here clipping is a normalisation: nearly every turn enters Adam's means with the same length."
    return Line(text)


def _distances(runs: Mapping[Kind, Reconstruction]) -> dict[Kind, float]:
    return {kind: float(run.distance.mean()) for kind, run in runs.items()}


def _degrees(cosine: Tensor) -> float:
    return float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))
