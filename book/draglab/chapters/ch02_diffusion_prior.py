"""Chapter 2, the prior: round trips and samples in words, pictures that it expects more and less, its cards and its noise loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import fold, unfold

from dragkit import zoo
from dragkit.images import grid
from dragkit.measures import metrics
from dragkit.priors.prior import Prior
from draglab.pages import pages, plots
from draglab.pages.study import Line, Study
from draglab.pages.widgets import Stepper, stepper

Steps = Sequence[tuple[int, Tensor, Tensor]]  # timestep, noisy latents and guesses `(B, C, H, W)`


def roundtrip_in_words(photos: Tensor, latents: Tensor, psnr: Tensor, names: Sequence[str]) -> Line:
    """How much smaller a latent is than its photo, and which of the photos `(B, 3, H, W)` survives best and worst."""
    numbers, pixels = latents[0].numel(), photos[0].numel()
    return Line(
        f"A photo has {pixels:,} numbers, its latent {tuple(latents.shape[1:])} has {numbers:,}: "
        f"{pixels / numbers:.0f} times fewer. Best and worst round trip: {names[int(psnr.argmax())]} {psnr.max():.1f} dB, "
        f"{names[int(psnr.argmin())]} {psnr.min():.1f} dB."
    )


def latents_in_words(latents: Tensor) -> Line:
    """Mean, deviation and extreme of all numbers of some latents."""
    return Line(
        f"mean {latents.mean():+.2f}, standard deviation {latents.std():.2f}, "
        f"largest absolute value {latents.abs().max():.1f}"
    )


@torch.no_grad()
def on_their_way(prior: Prior, steps: Steps, seeds: Sequence[int]) -> tuple[dict[str, Tensor], list[str]]:
    """Two samples at six steps out of the noise, noisy latent and guess decoded: rows and columns for `plots.image_rows`."""
    shown = [steps[round(i * (len(steps) - 1) / 5)] for i in range(6)]
    rows = {}
    for i in range(2):
        rows[f"seed {seeds[i]}, z_t"] = torch.cat([prior.decode(z_t[i : i + 1]) for _, z_t, _ in shown])
        rows[f"seed {seeds[i]}, guess"] = torch.cat([prior.decode(guess[i : i + 1]) for _, _, guess in shown])
    return rows, [f"t = {t}" for t, _, _ in shown]


@torch.no_grad()
def guesses(prior: Prior, steps: Steps) -> Stepper:
    """About a dozen of the steps under a slider, with the guesses of the finished pictures decoded."""
    some = steps[:: max(1, len(steps) // 12)]
    frames = torch.stack([grid(prior.decode(guess).clamp(0, 1), columns=2).cpu() for _, _, guess in some])
    return stepper(frames, [f"t = {t}" for t, _, _ in some], title="The guess of four finished pictures")


def fresh_noise_in_words(samples: Tensor, again: Tensor, stochastic: Tensor) -> Line:
    """How much the same seeds differ: sampled twice without fresh noise, and without it and with it; `(B, 3, H, W)` each."""
    return Line(
        f"eta = 0 twice: largest difference of a pixel {float((again - samples).abs().max()):.1e}. "
        f"eta = 0 against eta = 1: mean MS-SSIM {float(metrics.ms_ssim(stochastic, samples).mean()):.2f}."
    )


def kinds_of_pictures(photos: Tensor, seed: int) -> dict[str, Tensor]:
    """Photos `(B, 3, 64, 64)`, the same upside down, with their tiles of 8 x 8 pixels in random order, and snow."""
    random = torch.Generator().manual_seed(seed)
    tiles = unfold(photos, 8, stride=8)
    return {
        "photos": photos,
        "upside down": photos.flip(-2),
        "tiles shuffled": fold(tiles[..., torch.randperm(64, generator=random)], 64, 8, stride=8),
        "snow": torch.rand(photos.shape, generator=random).to(photos.device),
    }


def what_it_expects(errors: Mapping[str, Sequence[float]]) -> Line:
    """Kinds of pictures in the order of the prior's relative error, and what photos against shuffled tiles say it knows."""
    means = {kind: sum(values) / len(values) for kind, values in errors.items()}
    order = ", ".join(f"{kind} ({means[kind]:.2f})" for kind in sorted(means, key=lambda kind: means[kind]))
    if means["photos"] > 0.95:
        known = "That is next to nothing: this noise predictor has hardly been trained."
    elif means["photos"] < 0.98 * means["tiles shuffled"]:
        known = "Photos fit better than the same tiles in another order: the prior knows more than textures."
    else:
        known = "Photos fit no better than the same tiles in another order: it knows textures, and little of whole pictures."
    return Line(f"From most to least expected: {order}. Relative error on photos: {means['photos']:.2f}. {known}")


def card_table() -> pages.Table:
    """What the cards of the prior's two parts say: how they were made, of what, and what they cannot do."""
    cards = [zoo.card(f"imagenette64/{part}") for part in ("vae", "unet")]
    facts: dict[str, Callable[[dict[str, Any]], str]] = {
        "parameters": lambda card: f"{card['parameters'] / 1e6:.1f} million",
        "made by": lambda card: card["command"],
        "training steps": lambda card: f"{card['steps']:,}",
        "training time": lambda card: f"{card['training_seconds'] / 60:.0f} minutes",
        "data": lambda card: card["data"],
        "measured": lambda card: _measured(card["measured"]) or "nothing yet",
        "limits": lambda card: card["limits"],
    }
    rows = [[name, *(fact(card) for card in cards)] for name, fact in facts.items()]
    return pages.table(["", "autoencoder", "noise predictor"], rows)


def _measured(values: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {value['value']:.4g} (n = {value['n']})" for name, value in values.items())


def kernel_distances(models: Study) -> Figure:
    """Kernel distance to validation photos of training photos, of samples, and of an untrained prior's samples."""
    distances = models.rows["kernel_distance"]
    margin = {name: 1.96 * of["standard_error"] for name, of in distances.items()}
    values = {
        name: (of["value"], of["value"] - margin[name], of["value"] + margin[name]) for name, of in distances.items()
    }
    return plots.intervals(values, "kernel distance")


def noise_loss_table(noise: Study) -> pages.Table:
    """Noise loss of the prior and of Gaussian predictors, over all timesteps and in three bands of them."""
    rows = [
        [name, *(f"{v['mean']:.4f} [{v['low']:.4f}, {v['high']:.4f}]" for v in bands.values())]
        for name, bands in noise.rows.items()
    ]
    return pages.table(["noise loss", *next(iter(noise.rows.values()))], rows)


def beyond_a_gaussian(noise: Study) -> Line:
    """At which noise levels the prior predicts better than one who knows only mean and covariance of latents."""
    ours, theirs = noise.rows["prior"], noise.rows["Gaussian predictor"]
    bands = [band for band in ours if band != "all"]
    better = [band for band in bands if ours[band]["mean"] < theirs[band]["mean"]]
    text = f"The prior knows more than mean and covariance at: {', '.join(better) or 'no noise level'}."
    if len(better) < len(bands):
        text += " Elsewhere it is no better than a Gaussian: large shapes, which are settled at strong noise, are what it lacks."
    return Line(text)


def other_coordinates(noise: Study) -> Line:
    """What mixing the channels of latents does to pictures (nothing) and to the Gaussian predictor's loss."""
    usual, other = (noise.rows[name]["all"]["mean"] for name in ("Gaussian predictor", list(noise.rows)[-1]))
    return Line(
        f"The pictures differ by {noise['pictures_differ_by']:.1e} at most, on a scale from 0 to 1. "
        f"The Gaussian predictor's loss changes by {other / usual - 1:+.0%}: from {usual:.3f} to {other:.3f}.\n\n"
        f"{pages.verdict('noise-loss-depends-on-coordinates')}"
    )
