"""DRAG++: DRAG that starts from the answer of an inverse network (arXiv 2509.11724, section on initialisation).

The guess is encoded, noise is added up to the timestep that `config.strength` says (0.3 as published: 75 of 250 steps), and DRAG
runs the rest of the diffusion from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dragkit.attacks.drag import drag
from dragkit.attacks.inverse import inverse
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.run import Callback
from dragkit.attacks.threat import ThreatModel
from dragkit.config import DragConfig
from dragkit.images import resize_images
from dragkit.priors.inverse_network import InverseNetwork
from dragkit.priors.prior import Prior

NEEDS = ThreatModel(weights=True, public_data=True)


def drag_plus_plus(
    message: Message,
    prior: Prior,
    config: DragConfig | None = None,
    *,
    inverse_network: InverseNetwork,
    seeds: int | Sequence[int] = 3407,
    threat: ThreatModel = NEEDS,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> Reconstruction:
    """Rebuild photos with DRAG from the first guess of an inverse network.

    Args:
        message, prior, seeds, callback, checkpoint: as in `drag`.
        config: settings; `prior.recommended(guess=True)` when None.
        inverse_network: trained for this client and cut; its guess is resized to the prior's image size.
        threat: what the attacker is declared to have; the training of the network needs public photos.

    Returns:
        `Reconstruction`; `nfe` counts the noise predictor's calls, `seconds` includes the guess.

    Raises:
        ValueError, TypeError: as in `drag` and `inverse`. PermissionError: the threat model excludes DRAG++.
    """
    threat.require(NEEDS, "DRAG++")
    guess = inverse(message, inverse_network, threat=threat)
    start = resize_images(guess.images, (prior.image_size, prior.image_size)).clamp(0, 1)
    rebuilt = drag(
        message,
        prior,
        config or prior.recommended(guess=True),
        start=start,
        seeds=seeds,
        threat=threat,
        callback=callback,
        checkpoint=checkpoint,
    )
    return replace(rebuilt, seconds=rebuilt.seconds + guess.seconds)


def drag_from_grey(message: Message, prior: Prior, config: DragConfig, **rest: Any) -> Reconstruction:
    """DRAG from flat grey under noise in the place of a guess: as late a start as DRAG++ has, without what its guess knows.

    Args, returns, raises: as `drag`; `config.strength` says how much of the diffusion is run.
    """
    grey = torch.full((len(message), 3, prior.image_size, prior.image_size), 0.5, device=message.h.device)
    return drag(message, prior, config, start=grey, **rest)
