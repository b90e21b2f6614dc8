"""Chapter 3, Tweedie's formula: how good its guess is, whether the client needs it, and a short attack with and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dragkit.attacks.reconstruction import Reconstruction
from dragkit.config import DragConfig
from dragkit.methods import METHODS
from dragkit.priors.prior import Prior
from draglab.pages.study import Line


@torch.no_grad()
def noisy_and_guessed(
    prior: Prior, noisy: Mapping[int, Tensor], guesses: Mapping[int, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Two rows for every photo named, its noisy latent and its guess decoded, `(timesteps, 3, H, W)`.

    Args:
        noisy, guesses: timestep -> latents `(B, C, h, w)`. names: of the first photos of these.
    """
    rows = {}
    for i, name in enumerate(names):
        rows[f"{name}, z_t"] = torch.cat([prior.decode(latents[i : i + 1]) for latents in noisy.values()])
        rows[f"{name}, guess"] = torch.cat([prior.decode(latents[i : i + 1]) for latents in guesses.values()])
    return rows


def worth_of_the_guess(times: Sequence[int], guessed: Tensor, scaled: Tensor) -> Line:
    """Up to which timestep the estimate beats guessing zero, and what it makes of the rescaled latent's error at t = 450.

    Args:
        times: timesteps. guessed, scaled: relative squared errors `(timesteps, photos)`.
    """
    useful = [t for t, error in zip(times, guessed.mean(1).tolist(), strict=True) if error < 1]
    if useful:
        text = f"The estimate is better than guessing zero up to t = {max(useful)} of those tried."
    else:
        text = (
            "At none of these timesteps is the estimate better than guessing zero: this noise predictor is of no use."
        )
    share = float((guessed / scaled).mean(1)[list(times).index(450)])
    return Line(f"{text} At t = 450 its error is {share:.2f} times that of the rescaled latent.")


def what_the_client_needs(times: Sequence[int], raw: Tensor, tweedied: Tensor, another: float) -> Line:
    """Where the estimate is closer to the message, and from where on the true photo looks foreign without it.

    Args:
        times: timesteps. raw, tweedied: IR distances `(timesteps, photos)` without and with the estimate.
        another: IR distance to another photo.
    """
    means = list(zip(times, raw.mean(1).tolist(), tweedied.mean(1).tolist(), strict=True))
    closer = [t for t, without, with_ in means if with_ < without]
    past = [t for t, without, _ in means if without >= another]
    lines = (
        f"Without it the true photo looks as foreign as another photo from t = {past[0]} on."
        if past
        else "Without it the true photo still looks nearer than another photo at every timestep tried."
    )
    listed = ", ".join(map(str, closer)) or "none"
    return Line(
        f"Tweedie's estimate is closer to the message at {len(closer)} of {len(times)} timesteps: {listed}. {lines}"
    )


def captions(runs: Mapping[str, Reconstruction], similarity: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Run -> a text under each of its photos: MS-SSIM and the IR distance that the attacker reached."""
    return {
        name: [
            f"{s:.2f}, distance {d:.3f}" for s, d in zip(similarity[name].tolist(), run.distance.tolist(), strict=True)
        ]
        for name, run in runs.items()
    }


def which_is_nearer(with_estimate: Reconstruction, without: Reconstruction, config: DragConfig) -> Line:
    """For how many photos the attack with Tweedie's estimate came closer to the message."""
    nearer = int((with_estimate.distance < without.distance).sum())
    return Line(
        f"{METHODS['drag'].shown(config)}, {config.num_steps * config.recurrence} turns. Closer to the message with the estimate: "
        f"{nearer} of {len(with_estimate.distance)} photos. "
        "Two photos are an illustration of how to switch it off, no evidence of what it is worth."
    )
