"""Inverse network: a decoder trained to turn intermediate representations back into photos (He et al., ACSAC 2019).

A network that minimises the squared error learns the posterior mean of the photo, E[x | h]: blurred where `h` leaves the photo
open, and the best there is in PSNR. The decoder is the one of the comparison in arXiv 2509.11724, a small transformer over the
tokens. It needs no gradient at attack time, and its answer is where DRAG++ starts (`dragkit.attacks.dragpp`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit.attacks.message import check_ir
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.threat import ThreatModel
from dragkit.client import SplitClient
from dragkit.distance import Distance, cosine_distance
from dragkit.priors.inverse_network import InverseNetwork

NEEDS = ThreatModel(weights=True, public_data=True)


@dataclass(frozen=True)
class InverseConfig:
    """The attack has no settings: all there is to choose was chosen when the network was trained."""


@torch.no_grad()
def inverse(
    h: Tensor,
    client: SplitClient,
    prior: InverseNetwork,
    config: InverseConfig | None = None,
    *,
    mask: Tensor | None = None,
    distance: Distance = cosine_distance,
    seeds: int | Sequence[int] = 3407,
    threat: ThreatModel = NEEDS,
    callback: Callable[[Any], bool | None] | None = None,
    checkpoint: str | Path | None = None,
) -> Reconstruction:
    """Rebuild photos by one pass through a network that was trained for this client.

    Args:
        h: what the server received, `(B, *client.h_shape)`. float64 gives float64 images, anything else float32.
        client: the cut model; it only measures how far the answer is from `h`.
        prior: what the attacker knows about photos: the trained network.
        config: `InverseConfig()` when None; there is nothing to set.
        mask: which tokens of `h` arrived, bool `(B, N)`; None means all.
        distance: what the result reports; the answer does not depend on it.
        threat: what the attacker is declared to have; refused without public photos, which the training needs.
        seeds, callback, checkpoint: unused, here for the keywords all attacks share: nothing is random, there are no steps.

    Returns:
        `Reconstruction` with images `(B, 3, S, S)` at the network's size; `nfe` is 1, the network itself.

    Raises:
        ValueError: `h` does not come from this client, the network was made for another one, or tokens are missing and the
            network has never seen that. PermissionError: the threat model excludes the attack.
    """
    threat.require(NEEDS, "the inverse network")
    h = check_ir(h, client)
    _check_network(prior, client, mask)
    started = time.perf_counter()
    target = client.tokens(h)
    images = prior(target, mask).to(h.dtype)
    seconds = time.perf_counter() - started
    measured = distance(client.tokens(client(images)).to(h.dtype), target, mask)
    fine = torch.isfinite(images.flatten(1)).all(1) & torch.isfinite(measured)
    failed = [None if ok else 0 for ok in fine.tolist()]
    return Reconstruction(images.nan_to_num(0.5), measured, 1, seconds, threat, failed)


def _check_network(network: InverseNetwork, client: SplitClient, mask: Tensor | None) -> None:
    shape = network.shape
    if (shape.client, shape.split) != (client.name, client.split):
        raise ValueError(
            f"prior is an inverse network for {shape.client} at {shape.split}, but the client is {client.name} at "
            f"{client.split}; train one for it: dragkit train inverse --client {client.name} --split {client.split}"
        )
    if mask is not None and shape.drop == 0 and not mask.all():
        raise ValueError(
            "mask says that tokens are missing, but this inverse network was trained on whole representations; train "
            "one with --drop above 0"
        )
