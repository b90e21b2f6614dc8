"""Coordinates of latents: an invertible linear map of the channels changes the noise loss, but no decoded picture.

Noise of one size in every channel hides the channels of small variance first; what that costs depends on the coordinates. In
isometric coordinates, where a step of one size changes the decoded picture equally in every direction, the channels of small
variance are those that matter least for the squared error of the picture. An autoencoder's own coordinates need not be isometric
(arXiv 2502.14831 looks at the spectrum of latents).
"""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dragkit.priors.diffusion import LatentPrior


@torch.no_grad()
def decoder_metric(prior: LatentPrior, images: Tensor, places: int = 4, step: float = 0.2, seed: int = 0) -> Tensor:
    """How strongly, and how alike, unit changes of two latent channels change the decoded picture.

    Args:
        images: `(B, 3, S, S)` in [0, 1], around whose latents it is measured. places: positions per image, drawn by `seed`.
        step: size of the change, in standard deviations of latents.

    Returns:
        `(C, C)`, symmetric and positive: mean inner product of the changes of the picture per unit change at one position.
    """
    z = prior.encode(images)
    before, image = prior.decode(z), torch.arange(len(z))
    generator = torch.Generator().manual_seed(seed)
    metric = torch.zeros(z.shape[1], z.shape[1])
    for _ in range(places):
        row, column = (torch.randint(side, (len(z),), generator=generator) for side in z.shape[2:])
        changes = []
        for channel in range(z.shape[1]):
            moved = z.clone()
            moved[image, channel, row, column] += step
            changes.append(((prior.decode(moved) - before) / step).flatten(1))
        change = torch.stack(changes, 1)
        metric += (change @ change.transpose(1, 2)).mean(0) / places
    return metric


def root(metric: Tensor) -> Tensor:
    """Symmetric square root of `(C, C)`: the map into coordinates in which equal steps change the picture equally."""
    power, basis = torch.linalg.eigh(metric)
    return basis * power.clamp(min=0).sqrt() @ basis.T


@torch.no_grad()
def in_coordinates(vae: AutoencoderKL, matrix: Tensor) -> AutoencoderKL:
    """A copy whose latent means are `matrix` `(C, C)` times the old ones at every position, and which decodes to the same pictures.

    The deviations of the posterior keep their old coordinates, so only its mode is of use.

    Raises:
        ValueError: the autoencoder lacks the 1x1 convolutions beside its latents, or `matrix` is not invertible or of another size.
    """
    channels = vae.config.latent_channels
    if vae.quant_conv is None or vae.post_quant_conv is None:
        raise ValueError("the autoencoder has no 1x1 convolutions beside its latents, which take up the map")
    if matrix.shape != (channels, channels):
        raise ValueError(f"matrix is {tuple(matrix.shape)}; the latents have {channels} channels")
    if not matrix.isfinite().all() or not torch.linalg.cond(matrix) < 1e6:
        raise ValueError("matrix is not invertible, or too nearly so for float32")
    mapped = copy.deepcopy(vae)
    into, back = mapped.quant_conv, mapped.post_quant_conv
    into.weight[:channels] = torch.einsum("dc,cihw->dihw", matrix, into.weight[:channels])
    into.bias[:channels] = matrix @ into.bias[:channels]
    back.weight.copy_(torch.einsum("ochw,cd->odhw", back.weight, torch.linalg.inv(matrix)))
    return mapped
