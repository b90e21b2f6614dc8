"""The noise loss of the embedded prior, and what its size means: a measurement (`dragkit measure noise`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dragkit import data, zoo
from dragkit.measures import intervals
from dragkit.priors.diffusion import LatentPrior
from draglab.pages import claims
from draglab.studies.coordinates import decoder_metric, in_coordinates, root
from draglab.tables import claim

Guess = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(noisy latents, timesteps (B,), alpha_bar (B, 1, 1, 1))` to the noise in them."""


def noise(folder: Path | None = None) -> Path:
    """Noise loss of the prior on all validation latents, beside that of the best predictor that knows mean and covariance only.

    The size of a noise loss depends on the latents, so it means nothing alone; the Gaussian predictor is what it has to beat. The
    same autoencoder in other coordinates (`draglab.studies.coordinates`) makes the same pictures and shows how much it depends.
    """
    prior = zoo.load_prior()
    train, val = (_latents(prior, subset) for subset in ("train", "val"))
    t, eps = _draws(val)
    losses = {
        "prior": _losses(lambda z_t, steps, a: prior.unet(z_t, steps).sample, prior, val, t, eps),
        "Gaussian predictor": _losses(_wiener(train), prior, val, t, eps),
        "unit Gaussian predictor": _losses(lambda z_t, steps, a: (1 - a).sqrt() * z_t, prior, val, t, eps),
    }
    matrix, difference = _isometric(prior)
    train, val = (torch.einsum("dc,nchw->ndhw", matrix, z) for z in (train, val))
    size = train.std()
    other = "Gaussian predictor, isometric coordinates"
    losses[other] = _losses(_wiener(train / size), prior, val / size, t, eps)
    rows = _by_noise_level(t, losses)
    verdicts = [
        _lower(
            "prior-noise-loss",
            "The prior's noise loss on validation latents is lower than that of the best predictor that knows only their mean and "
            "covariance",
            losses["prior"],
            losses["Gaussian predictor"],
        ),
        _lower(
            "noise-loss-depends-on-coordinates",
            "The same autoencoder with its channels in isometric coordinates, which changes no picture, gives the best predictor "
            "that knows only mean and covariance a lower noise loss",
            losses[other],
            losses["Gaussian predictor"],
        ),
    ]
    measured = {"noise_loss": {"value": rows["prior"]["all"]["mean"], "n": len(t)}}
    zoo.update_card(f"{zoo.PRIOR}/unet", {"measured": measured})
    extra = {"rows": rows, "pictures_differ_by": difference}
    return claims.write("noise", "dragkit measure noise", [1], verdicts, extra, folder)


def _lower(id_: str, statement: str, a: Tensor, b: Tensor) -> claims.Claim:
    """The claim that the losses `a` are lower than `b` on the same latents."""
    gain, key = intervals.paired_difference(a, b), "noise loss difference"
    holds = gain.high < 0
    return claim(id_, statement, gain, len(a), holds, source="dragkit", key=key, notebook="02_diffusion_prior")


@torch.no_grad()
def _isometric(prior: LatentPrior, n: int = 64) -> tuple[Tensor, float]:
    """The map into isometric coordinates, and the largest difference of a pixel that it makes in `n` decoded training photos."""
    photos, _, _ = data.pick("train", n)
    matrix = root(decoder_metric(prior, photos))
    pictures = [
        vae.decode(vae.encode(photos * 2 - 1).latent_dist.mode()).sample / 2
        for vae in (prior.vae, in_coordinates(prior.vae, matrix))
    ]
    return matrix, float((pictures[0] - pictures[1]).abs().max())


def _by_noise_level(t: Tensor, losses: dict[str, Tensor]) -> dict[str, dict[str, dict[str, float]]]:
    """Predictor -> band of timesteps -> mean and interval of its losses."""
    bands = {"all": t >= 0, "t < 333": t < 333, "333 <= t < 667": (t >= 333) & (t < 667), "t >= 667": t >= 667}
    return {
        name: {band: intervals.bootstrap_ci(values[chosen])._asdict() for band, chosen in bands.items()}
        for name, values in losses.items()
    }


def _draws(val: Tensor) -> tuple[Tensor, Tensor]:
    """A timestep `(N,)` and noise for every validation latent; every timestep comes about as often."""
    generator = torch.Generator().manual_seed(1)
    t = torch.linspace(0, 999, len(val)).long()[torch.randperm(len(val), generator=generator)]
    return t, torch.randn(val.shape, generator=generator)


def _wiener(train: Tensor) -> Guess:
    """The best guess that knows mean and covariance of the training latents only."""
    mean, (power, basis) = train.mean(0), torch.linalg.eigh(torch.cov(train.flatten(1).T))

    def guess(z_t: Tensor, steps: Tensor, a: Tensor) -> Tensor:
        away = (z_t - a.sqrt() * mean).flatten(1) @ basis
        share = (1 - a).flatten(1)
        return (share.sqrt() * away / (a.flatten(1) * power + share) @ basis.T).view_as(z_t)

    return guess


@torch.no_grad()
def _losses(guess: Guess, prior: LatentPrior, latents: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Squared error `(N,)` of guesses of the noise `eps` that is in the latents at timesteps `t`."""
    losses = []
    for z, steps, e in zip(latents.split(128), t.split(128), eps.split(128), strict=True):
        a = prior.alpha_bar[steps].float().view(-1, 1, 1, 1)
        losses.append((guess(a.sqrt() * z + (1 - a).sqrt() * e, steps, a) - e).square().flatten(1).mean(1))
    return torch.cat(losses)


@torch.no_grad()
def _latents(prior: LatentPrior, subset: data.Subset) -> Tensor:
    """Clean latents of all photos of a part of the data, scaled: `(N, 16, 8, 8)`."""
    return torch.cat([prior.encode(x.float() / 255) for x in data.imagenette(subset)[0].split(128)])
